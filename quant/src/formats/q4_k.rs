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
use crate::grid::{Codes, Factor, Grid, MAX_GROUPS, Scales as Stored};
use crate::lanes::{Lanes, load};
use crate::search::minimums::{SUB_LEN, SUBS, Scales};
use crate::search::{Levels, mean_square, steps, weights};
use crate::simd::dispatch;
use crate::vector::Vector as _;

pub(crate) const BLOCK_LEN: usize = 256;
pub(crate) const BLOCK_BYTES: usize = 144;

/// The highest level.
const HIGH: u8 = 15;
const LIMIT: f32 = F16_MAX * 63.0 * HIGH as f32;
/// What is added to 15, the highest level, over the range of the elements.
const OFFSETS: [f32; 12] = [-1.8, -1.4, -1.1, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8];

/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
const FINE_OFFSETS: [f32; 32] = steps(-2.2, 0.1);

pub(crate) const GRID: Option<&Grid> = Some(&Grid {
    group_len: SUB_LEN,
    codes: Codes::Integers(Levels { low: 0.0, high: HIGH as f32 }),
    scale: SIX_BITS,
    minimum: SIX_BITS,
    read: read_block,
    write: write_block,
});

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

/// The integer scales and minimums of a super-block.
pub(super) const SIX_BITS: Factor = Factor::Under(Levels { low: 0.0, high: 63.0 });

/// Scales and minimums of the 8 sub-blocks, `d * s` and `dmin * m`, from the 16 bytes that hold them.
#[inline(always)]
pub(super) fn read_scales(bytes: &[u8]) -> ([f32; SUBS], [f32; SUBS]) {
    let ([d, dmin], scales, minimums) = read_integers(bytes);
    (scales.map(|s| d * s as f32), minimums.map(|m| dmin * m as f32))
}

/// `d` and `dmin`, and the integers under them.
#[inline(always)]
fn read_integers(bytes: &[u8]) -> ([f32; 2], [u8; SUBS], [u8; SUBS]) {
    let d = f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
    let dmin = f16_to_f32(u16::from_le_bytes([bytes[2], bytes[3]]));
    let (mut scales, mut minimums) = ([0u8; SUBS], [0u8; SUBS]);
    for j in 0..4 {
        let (s, m, both) = (bytes[4 + j], bytes[8 + j], bytes[12 + j]);
        (scales[j], minimums[j]) = (s & 63, m & 63);
        (scales[j + 4], minimums[j + 4]) = ((both & 15) | (s >> 6) << 4, (both >> 4) | (m >> 6) << 4);
    }
    ([d, dmin], scales, minimums)
}

/// The same for calibrated rounding.
pub(super) fn read_block(block: &[u8]) -> Stored {
    let ([d, dmin], scales, minimums) = read_integers(block);
    let widen = |integers: [u8; SUBS]| std::array::from_fn(|i| if i < SUBS { integers[i] as f32 } else { 0.0 });
    Stored { d, dmin, scale: widen(scales), minimum: widen(minimums) }
}

/// The way back.
#[inline(always)]
pub(super) fn write_scales<const HIGH: u8>(from: &Scales<HIGH>, bytes: &mut [u8]) {
    write_integers([from.d, from.dmin], from.scale.to_ints(), from.minimum.to_ints(), bytes);
}

/// The same from calibrated rounding.
pub(super) fn write_stored(from: &Stored, bytes: &mut [u8]) {
    let narrow = |factors: &[f32; MAX_GROUPS]| std::array::from_fn(|i| factors[i] as i32);
    write_integers([from.d, from.dmin], narrow(&from.scale), narrow(&from.minimum), bytes);
}

#[inline(always)]
fn write_integers([d, dmin]: [f32; 2], scales: [i32; SUBS], minimums: [i32; SUBS], bytes: &mut [u8]) {
    bytes[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
    bytes[2..4].copy_from_slice(&f32_to_f16(dmin).to_le_bytes());
    for j in 0..4 {
        let ([s, s4], [m, m4]) = ([scales[j], scales[j + 4]], [minimums[j], minimums[j + 4]]);
        bytes[4 + j] = (s | (s4 >> 4) << 6) as u8;
        bytes[8 + j] = (m | (m4 >> 4) << 6) as u8;
        bytes[12 + j] = ((s4 & 15) | (m4 & 15) << 4) as u8;
    }
}

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let (scale, minimum) = read_scales(&block[..16]);
        for (g, (qs, out)) in block[16..].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<64>().0).enumerate() {
            let (low, high) = out.split_at_mut(32);
            for l in 0..32 {
                low[l] = scale[2 * g] * (qs[l] & 15) as f32 - minimum[2 * g];
                high[l] = scale[2 * g + 1] * (qs[l] >> 4) as f32 - minimum[2 * g + 1];
            }
        }
    }
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
        let scales = Scales::<HIGH>::search(&x, &w, offsets);
        write_scales(&scales, &mut block[..16]);
        let q = scales.levels(&x);
        for g in 0..4 {
            for l in 0..SUB_LEN {
                block[16 + 32 * g + l] = (q[2 * g][l] | q[2 * g + 1][l] << 4) as u8;
            }
        }
    }
}

fn write_block(scales: &Stored, codes: &[i8], block: &mut [u8]) {
    write_stored(scales, &mut block[..16]);
    for (qs, q) in block[16..].as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for l in 0..SUB_LEN {
            qs[l] = (q[l] | q[l + 32] << 4) as u8;
        }
    }
}
