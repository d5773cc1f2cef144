//! `q5_k`: 256 elements of 5 bits in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum, under two f16 scales.
//! Source: `block_q5_K` in ggml-common.h, `dequantize_row_q5_K` and `quantize_row_q5_K_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0  1  | 2   3   | 4 ... 15      | 16 ... 47 | 48 ... 175
//!        f16 d | f16 dmin| u8 scales[12] | u8 qh[32] | u8 qs[128]    x[i] = d * s[i / 32] * q[i] - dmin * m[i / 32]
//!
//! d, dmin, scales                    as in q4_k
//! qs[32 g + l]   g = 0..4            bits 0-3: low bits of element 64 g + l    bits 4-7: of element 64 g + 32 + l
//! qh[l]          bit i, i = 0..8     fifth bit of element 32 i + l
//! ```
//!
//! With importance `a` element errors weigh `a * sqrt(2 * mean of x^2 over the super-block + x^2)`, as in ggml.

use super::q4_k::{SIX_BITS, read_block, read_scales, write_scales, write_stored};
use crate::float16::F16_MAX;
use crate::grid::{Codes, Grid, Scales as Stored};
use crate::lanes::{Lanes, load};
use crate::search::minimums::{SUB_LEN, SUBS, Scales};
use crate::search::{Levels, mean_square, steps, weights};
use crate::simd::dispatch;
use crate::vector::Vector as _;

pub(crate) const BLOCK_LEN: usize = 256;
pub(crate) const BLOCK_BYTES: usize = 176;

/// The highest level.
const HIGH: u8 = 31;
const LIMIT: f32 = F16_MAX * 63.0 * HIGH as f32;
/// What is added to 31, the highest level, over the range of the elements.
const OFFSETS: [f32; 10] = [-2.6, -1.8, -1.4, -1.0, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9];

/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
const FINE_OFFSETS: [f32; 32] = steps(-2.8, 0.125);

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

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let (scale, minimum) = read_scales(&block[..16]);
        let (high_bits, qs) = block[16..].split_at(32);
        for (g, (qs, out)) in qs.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<64>().0).enumerate() {
            let (low, high) = out.split_at_mut(32);
            for l in 0..32 {
                let fifth = high_bits[l] >> (2 * g);
                low[l] = scale[2 * g] * (qs[l] & 15 | (fifth & 1) << 4) as f32 - minimum[2 * g];
                high[l] = scale[2 * g + 1] * (qs[l] >> 4 | (fifth & 2) << 3) as f32 - minimum[2 * g + 1];
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
        for l in 0..SUB_LEN {
            block[16 + l] = (0..SUBS).fold(0, |bits, i| bits | (q[i][l] as u8 >> 4) << i);
        }
        for g in 0..4 {
            for l in 0..SUB_LEN {
                block[48 + 32 * g + l] = (q[2 * g][l] & 15 | q[2 * g + 1][l] << 4) as u8;
            }
        }
    }
}

fn write_block(scales: &Stored, codes: &[i8], block: &mut [u8]) {
    write_stored(scales, &mut block[..16]);
    for l in 0..SUB_LEN {
        block[16 + l] = (0..SUBS).fold(0, |bits, i| bits | (codes[SUB_LEN * i + l] as u8 >> 4) << i);
        for g in 0..4 {
            block[48 + 32 * g + l] = (codes[64 * g + l] & 15 | (codes[64 * g + 32 + l] & 15) << 4) as u8;
        }
    }
}
