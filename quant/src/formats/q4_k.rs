//! `q4_k`: 256 elements of 4 bits in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum, under two f16 scales.
//! Source: `block_q4_K` in ggml-common.h, `dequantize_row_q4_K` and `quantize_row_q4_K_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0  1  | 2   3   | 4 ... 15      | 16 ... 143
//!        f16 d | f16 dmin| u8 scales[12] | u8 qs[128]       x[i] = d * s[i / 32] * q[i] - dmin * m[i / 32]
//!
//! scales[j]      j = 0..4    bits 0-5: s[j]                 bits 6-7: bits 4-5 of s[j + 4]
//! scales[j + 4]              bits 0-5: m[j]                 bits 6-7: bits 4-5 of m[j + 4]
//! scales[j + 8]              bits 0-3: bits 0-3 of s[j + 4] bits 4-7: bits 0-3 of m[j + 4]
//!
//! qs[32 g + l]   g = 0..4    bits 0-3: element 64 g + l     bits 4-7: element 64 g + 32 + l
//! ```
//!
//! With importance `a` element errors weigh `a * sqrt(2 * mean of x^2 over the super-block + x^2)`, as in ggml.

use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::lanes::{Lanes, load, store};
use crate::search::{mean_square, scale_and_minimum, steps, weights};
use crate::simd::dispatch;

pub(crate) const BLOCK_LEN: usize = 256;
pub(crate) const BLOCK_BYTES: usize = 144;

/// Sub-blocks, and elements of each.
const SUBS: usize = 8;
const SUB_LEN: usize = 32;
const LIMIT: f32 = F16_MAX * 63.0 * 15.0;
/// What is added to 15, the highest level, over the range of the elements.
const OFFSETS: [f32; 12] = [-1.8, -1.4, -1.1, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8];

/// Tried around the nearest integer scale and minimum. A larger scale reaches as far down with a larger minimum, so the
/// two corners where one grows and the other shrinks are left out.
const STEPS: [[f32; 2]; 7] = [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -1.0]];

/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
const FINE_OFFSETS: [f32; 32] = steps(-2.2, 0.1);

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

/// Scales and minimums of the 8 sub-blocks from their 12 bytes.
#[inline(always)]
fn unpack_scales(packed: &[u8]) -> ([u8; SUBS], [u8; SUBS]) {
    let (mut scales, mut minimums) = ([0; SUBS], [0; SUBS]);
    for j in 0..4 {
        let (s, m, both) = (packed[j], packed[j + 4], packed[j + 8]);
        (scales[j], minimums[j]) = (s & 63, m & 63);
        (scales[j + 4], minimums[j + 4]) = ((both & 15) | (s >> 6) << 4, (both >> 4) | (m >> 6) << 4);
    }
    (scales, minimums)
}

#[inline(always)]
fn pack_scales(scales: [i32; SUBS], minimums: [i32; SUBS], packed: &mut [u8]) {
    for j in 0..4 {
        let ([s, s4], [m, m4]) = ([scales[j], scales[j + 4]], [minimums[j], minimums[j + 4]]);
        packed[j] = (s | (s4 >> 4) << 6) as u8;
        packed[j + 4] = (m | (m4 >> 4) << 6) as u8;
        packed[j + 8] = ((s4 & 15) | (m4 & 15) << 4) as u8;
    }
}

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        let dmin = f16_to_f32(u16::from_le_bytes([block[2], block[3]]));
        let (scales, minimums) = unpack_scales(&block[4..16]);
        let (scale, minimum) = (scales.map(|s| d * s as f32), minimums.map(|m| dmin * m as f32));
        for (g, (qs, out)) in block[16..].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<64>().0).enumerate() {
            let (low, high) = out.split_at_mut(32);
            for l in 0..32 {
                low[l] = scale[2 * g] * (qs[l] & 15) as f32 - minimum[2 * g];
                high[l] = scale[2 * g + 1] * (qs[l] >> 4) as f32 - minimum[2 * g + 1];
            }
        }
    }
}

type Group = [Lanes<SUBS>; SUB_LEN];

/// A super-block's scales as stored: x = d * scale * q - dmin * minimum.
#[derive(Copy, Clone)]
struct Scales {
    d: f32,
    dmin: f32,
    scale: Lanes<SUBS>,
    minimum: Lanes<SUBS>,
    error: Lanes<SUBS>,
}

#[inline(always)]
fn nearest(x: Lanes<SUBS>, minimum: Lanes<SUBS>, inverse: Lanes<SUBS>) -> Lanes<SUBS> {
    ((x + minimum) * inverse).clamp(0.0, 15.0).round()
}

impl Scales {
    /// Integer scales and minimums nearest to what is wanted, or beside that where it turns out better.
    #[inline(always)]
    fn choose(x: &Group, w: &Group, [d, dmin]: [f32; 2], wanted: (Lanes<SUBS>, Lanes<SUBS>)) -> Scales {
        let (d, dmin) = (Lanes::<SUBS>::splat(d).to_f16_grid(), Lanes::<SUBS>::splat(dmin).to_f16_grid());
        let scale = wanted.0.div_or_zero(d).clamp(0.0, 63.0).round();
        let minimum = wanted.1.div_or_zero(dmin).clamp(0.0, 63.0).round();
        let mut best = Scales { d: d.0[0], dmin: dmin.0[0], scale, minimum, error: Lanes::splat(f32::INFINITY) };
        for [ds, dm] in STEPS {
            let scale = (scale + Lanes::splat(ds)).clamp(0.0, 63.0);
            let minimum = (minimum + Lanes::splat(dm)).clamp(0.0, 63.0);
            let error = error(x, w, d * scale, dmin * minimum);
            best.scale = Lanes::if_less(error, best.error, scale, best.scale);
            best.minimum = Lanes::if_less(error, best.error, minimum, best.minimum);
            best.error = best.error.min(error);
        }
        best
    }

    /// The same after a least-squares refit of `d` and `dmin` to the levels, if that is better.
    #[inline(always)]
    fn refit(self, x: &Group, w: &Group) -> Scales {
        let (scale, minimum) = (Lanes::splat(self.d) * self.scale, Lanes::splat(self.dmin) * self.minimum);
        let inverse = Lanes::splat(1.0).div_or_zero(scale);
        let zero = Lanes::<SUBS>::ZERO;
        let (mut w1, mut x1, mut q1, mut q2, mut qx) = (zero, zero, zero, zero, zero);
        for i in 0..SUB_LEN {
            let q = nearest(x[i], minimum, inverse);
            let wq = w[i] * q;
            w1 = w1 + w[i];
            x1 = x1 + w[i] * x[i];
            q1 = q1 + wq;
            q2 = q2 + wq * q;
            qx = qx + wq * x[i];
        }
        // Normal equations of x = d a - dmin b, where a = scale q and b = minimum.
        let (s, m) = (self.scale, self.minimum);
        let (aa, ab, bb) = ((s * s * q2).sum(), (s * m * q1).sum(), (m * m * w1).sum());
        let (ax, bx) = ((s * qx).sum(), (m * x1).sum());
        let determinant = aa * bb - ab * ab;
        let [d, dmin] = if determinant > 1e-6 * aa * bb {
            [(ax * bb - bx * ab) / determinant, (ax * ab - bx * aa) / determinant]
        } else {
            [ax / aa.max(f32::MIN_POSITIVE), 0.0]
        };
        // The sub-blocks' own best scales and minimums for these levels.
        let determinant = w1 * q2 - q1 * q1;
        let own = ((w1 * qx - x1 * q1).div_or_zero(determinant), (q1 * qx - q2 * x1).div_or_zero(determinant));
        let other = Scales::choose(x, w, [d, dmin], own);
        if other.error.sum() < self.error.sum() { other } else { self }
    }
}

#[inline(always)]
fn error(x: &Group, w: &Group, scale: Lanes<SUBS>, minimum: Lanes<SUBS>) -> Lanes<SUBS> {
    let inverse = Lanes::splat(1.0).div_or_zero(scale);
    let mut error = Lanes::ZERO;
    for i in 0..SUB_LEN {
        let e = x[i] - (scale * nearest(x[i], minimum, inverse) - minimum);
        error = error + w[i] * e * e;
    }
    error
}

#[inline(always)]
fn encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let offsets = if importance.is_some() { &FINE_OFFSETS[..] } else { &OFFSETS[..] };
    for (b, (values, block)) in
        values.as_chunks::<BLOCK_LEN>().0.iter().zip(out.as_chunks_mut::<BLOCK_BYTES>().0).enumerate()
    {
        let x = load::<SUBS, SUB_LEN>(values, LIMIT);
        let spread = Lanes::splat(2.0 * mean_square(values, LIMIT));
        let w = weights(&x, importance.map(|a| &a[b * BLOCK_LEN..(b + 1) * BLOCK_LEN]), Some(spread));
        let wanted = scale_and_minimum(&x, &w, 15.0, offsets);
        let start = [wanted.0.largest() / 63.0, wanted.1.largest() / 63.0];
        let scales = Scales::choose(&x, &w, start, wanted).refit(&x, &w);
        pack(&x, &scales, block);
    }
}

#[inline(always)]
fn pack(x: &Group, scales: &Scales, block: &mut [u8; BLOCK_BYTES]) {
    let minimum = Lanes::splat(scales.dmin) * scales.minimum;
    let inverse = Lanes::splat(1.0).div_or_zero(Lanes::splat(scales.d) * scales.scale);
    let q = store(x, |x| nearest(x, minimum, inverse));
    block[..2].copy_from_slice(&f32_to_f16(scales.d).to_le_bytes());
    block[2..4].copy_from_slice(&f32_to_f16(scales.dmin).to_le_bytes());
    pack_scales(scales.scale.to_ints(), scales.minimum.to_ints(), &mut block[4..16]);
    for g in 0..4 {
        for l in 0..SUB_LEN {
            block[16 + 32 * g + l] = (q[2 * g][l] | q[2 * g + 1][l] << 4) as u8;
        }
    }
}
