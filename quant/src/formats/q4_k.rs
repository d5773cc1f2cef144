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
use crate::lanes::{Lanes, load};
use crate::search::minimums::{SUB_LEN, SUBS, Scales};
use crate::search::{mean_square, steps, weights};
use crate::simd::dispatch;

pub(crate) const BLOCK_LEN: usize = 256;
pub(crate) const BLOCK_BYTES: usize = 144;

/// The highest level.
const HIGH: u8 = 15;
const LIMIT: f32 = F16_MAX * 63.0 * HIGH as f32;
/// What is added to 15, the highest level, over the range of the elements.
const OFFSETS: [f32; 12] = [-1.8, -1.4, -1.1, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8];

/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
const FINE_OFFSETS: [f32; 32] = steps(-2.2, 0.1);

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

/// Scales and minimums of the 8 sub-blocks, `d * s` and `dmin * m`, from the 16 bytes that hold them.
#[inline(always)]
pub(super) fn read_scales(bytes: &[u8]) -> ([f32; SUBS], [f32; SUBS]) {
    let d = f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
    let dmin = f16_to_f32(u16::from_le_bytes([bytes[2], bytes[3]]));
    let (mut scales, mut minimums) = ([0; SUBS], [0; SUBS]);
    for j in 0..4 {
        let (s, m, both) = (bytes[4 + j], bytes[8 + j], bytes[12 + j]);
        (scales[j], minimums[j]) = (s & 63, m & 63);
        (scales[j + 4], minimums[j + 4]) = ((both & 15) | (s >> 6) << 4, (both >> 4) | (m >> 6) << 4);
    }
    (scales.map(|s| d * s as f32), minimums.map(|m| dmin * m as f32))
}

/// The way back.
#[inline(always)]
pub(super) fn write_scales<const HIGH: u8>(from: &Scales<HIGH>, bytes: &mut [u8]) {
    bytes[..2].copy_from_slice(&f32_to_f16(from.d).to_le_bytes());
    bytes[2..4].copy_from_slice(&f32_to_f16(from.dmin).to_le_bytes());
    let (scales, minimums) = (from.scale.to_ints(), from.minimum.to_ints());
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
