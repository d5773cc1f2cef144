//! `q6_k`: 256 elements of 6 bits in 16 sub-blocks of 16, each with an 8-bit scale, under one f16 scale. Source:
//! `block_q6_K` in ggml-common.h, `dequantize_row_q6_K` and `quantize_row_q6_K_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0 ... 127 | 128 ... 191 | 192 ... 207    | 208 209
//!        u8 ql[128]| u8 qh[64]   | i8 scales[16]  | f16 d        x[i] = d * scales[i / 16] * (q[i] - 32)
//!
//! q[i] = 4 low bits in ql, 2 high bits in qh; in half h of 128 elements, for l = 0 .. 31:
//!   element 128 h + l        ql[64 h + l]      bits 0-3    qh[32 h + l] bits 0-1
//!   element 128 h + l + 32   ql[64 h + l + 32] bits 0-3    qh[32 h + l] bits 2-3
//!   element 128 h + l + 64   ql[64 h + l]      bits 4-7    qh[32 h + l] bits 4-5
//!   element 128 h + l + 96   ql[64 h + l + 32] bits 4-7    qh[32 h + l] bits 6-7
//! ```
//!
//! With importance, element errors weigh exactly that, as in ggml.

use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::lanes::{Lanes, load, store};
use crate::search::{Fit, Levels, fit, scale, weights};
use crate::simd::dispatch;

pub(crate) const BLOCK_LEN: usize = 256;
pub(crate) const BLOCK_BYTES: usize = 210;

/// Sub-blocks, and elements of each.
const SUBS: usize = 16;
const SUB_LEN: usize = 16;
const LEVELS: Levels = Levels { low: -32.0, high: 31.0 };
const LIMIT: f32 = F16_MAX * 128.0 * 32.0;
/// Levels to which the element of largest magnitude may go.
const TRIES: [f32; 8] = [-33.2, -32.6, -32.0, -31.5, -31.0, -30.5, 31.0, 31.5];

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let d = f16_to_f32(u16::from_le_bytes([block[208], block[209]]));
        let mut scale = [0.0; SUBS];
        for s in 0..SUBS {
            scale[s] = d * block[192 + s] as i8 as f32;
        }
        for (h, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (low, high) = (&block[64 * h..][..64], &block[128 + 32 * h..][..32]);
            let scale = &scale[8 * h..][..8];
            for part in 0..2 {
                for l in 16 * part..16 * (part + 1) {
                    let (a, b, high) = (low[l], low[l + 32], high[l]);
                    let level = |low: u8, high: u8| ((low | high) as i8 - 32) as f32;
                    out[l] = scale[part] * level(a & 15, (high & 3) << 4);
                    out[l + 32] = scale[part + 2] * level(b & 15, (high & 12) << 2);
                    out[l + 64] = scale[part + 4] * level(a >> 4, high & 48);
                    out[l + 96] = scale[part + 6] * level(b >> 4, (high & 192) >> 2);
                }
            }
        }
    }
}

/// A super-block's scale (as stored), its sub-blocks' integer scales, and what they amount to.
#[derive(Copy, Clone)]
struct Scales {
    d: f32,
    sub: Lanes<SUBS>,
    fit: Fit<SUBS>,
}

type Group = [Lanes<SUBS>; SUB_LEN];

impl Scales {
    /// Integer scales under `d` nearest to `wanted`, or one beside it where that turns out better.
    #[inline(always)]
    fn choose(x: &Group, w: &Group, d: f32, wanted: Lanes<SUBS>) -> Scales {
        let d = Lanes::<SUBS>::splat(d).to_f16_grid();
        let nearest = wanted.div_or_zero(d).clamp(-128.0, 127.0).round();
        let mut best = Scales { d: d.0[0], sub: nearest, fit: fit(x, w, LEVELS, d * nearest) };
        for step in [-1.0, 1.0] {
            let sub = (nearest + Lanes::splat(step)).clamp(-128.0, 127.0);
            let other = fit(x, w, LEVELS, d * sub);
            let (old, new) = (best.fit.error, other.error);
            best.sub = Lanes::if_less(new, old, sub, best.sub);
            best.fit.qx = Lanes::if_less(new, old, other.qx, best.fit.qx);
            best.fit.qq = Lanes::if_less(new, old, other.qq, best.fit.qq);
            best.fit.error = new.min(old);
        }
        best
    }

    /// The same after a least-squares refit of `d` to the levels, if that is better.
    #[inline(always)]
    fn refit(self, x: &Group, w: &Group) -> Scales {
        let d = Lanes([(self.sub * self.fit.qx).sum()]).div_or_zero(Lanes([(self.sub * self.sub * self.fit.qq).sum()]));
        let wanted = self.fit.qx.div_or_zero(self.fit.qq);
        let other = Scales::choose(x, w, d.0[0], wanted);
        if other.fit.error.sum() < self.fit.error.sum() { other } else { self }
    }
}

#[inline(always)]
fn encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (b, (values, block)) in
        values.as_chunks::<BLOCK_LEN>().0.iter().zip(out.as_chunks_mut::<BLOCK_BYTES>().0).enumerate()
    {
        let x = load::<SUBS, SUB_LEN>(values, LIMIT);
        let w = weights(&x, importance.map(|a| &a[b * BLOCK_LEN..(b + 1) * BLOCK_LEN]), None);
        let wanted = scale(&x, &w, LEVELS, &TRIES);
        let scales = Scales::choose(&x, &w, wanted.largest() / -128.0, wanted).refit(&x, &w);
        pack(&x, &scales, block);
    }
}

#[inline(always)]
fn pack(x: &Group, scales: &Scales, block: &mut [u8; BLOCK_BYTES]) {
    let inverse = Lanes::splat(1.0).div_or_zero(Lanes::splat(scales.d) * scales.sub);
    let q = store(x, |x| LEVELS.nearest(x, inverse));
    let q = q.as_flattened();
    for h in 0..2 {
        for l in 0..32 {
            let [a, b, c, e] = [0, 32, 64, 96].map(|part| (q[128 * h + part + l] + 32) as u8);
            block[64 * h + l] = (a & 15) | (c & 15) << 4;
            block[64 * h + l + 32] = (b & 15) | (e & 15) << 4;
            block[128 + 32 * h + l] = (a >> 4) | (b >> 4) << 2 | (c >> 4) << 4 | (e >> 4) << 6;
        }
    }
    for (byte, sub) in block[192..208].iter_mut().zip(scales.sub.to_ints()) {
        *byte = sub as u8;
    }
    block[208..].copy_from_slice(&f32_to_f16(scales.d).to_le_bytes());
}
