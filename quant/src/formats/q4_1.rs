//! `q4_1`: 32 elements of 4 bits under one f16 scale and an f16 minimum. Source: `block_q4_1` in ggml-common.h,
//! `dequantize_row_q4_1` and `quantize_row_q4_1_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0  1 | 2  3 | 4 ... 19
//!        f16 d| f16 m| u8 q[16]   low nibble: element j, high nibble: element j + 16;  x = d * nibble + m
//! ```
//!
//! With importance `a` (one value a column) element errors weigh `a * sqrt(mean of x^2 over the row + x^2)`, as in ggml.
//! The minimum may have any sign, with importance too, where ggml keeps it at or below zero.

use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::grid::{Codes, Factor, Float, Grid, Scales};
use crate::lanes::{Lanes, load, store};
use crate::search::{Grid as _, Levels, mean_square, refine, scale_and_minimum, steps, weights};
use crate::simd::dispatch;
use crate::vector::Vector as _;

pub(crate) const BLOCK_LEN: usize = 32;
pub(crate) const BLOCK_BYTES: usize = 20;

const LANES: usize = 16;
const LEVELS: Levels = Levels { low: 0.0, high: 15.0 };
/// What the minimum can hold.
const LIMIT: f32 = F16_MAX;
/// What is added to 15, the highest level, over the range of the elements.
const OFFSETS: [f32; 8] = [-1.8, -1.2, -0.8, -0.4, -0.1, 0.2, 0.5, 0.8];
/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
const FINE_OFFSETS: [f32; 48] = steps(-2.6, 0.08);

pub(crate) const GRID: Option<&Grid> = Some(&Grid {
    group_len: BLOCK_LEN,
    codes: Codes::Integers(LEVELS),
    scale: Factor::Float(Float::F16),
    minimum: Factor::Float(Float::F16),
    read: read_block,
    write: write_block,
});

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        let m = f16_to_f32(u16::from_le_bytes([block[2], block[3]]));
        let (low, high) = out.split_at_mut(16);
        for j in 0..16 {
            low[j] = (block[4 + j] & 15) as f32 * d + m;
            high[j] = (block[4 + j] >> 4) as f32 * d + m;
        }
    }
}

#[inline(always)]
fn encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let row_mean = importance.map_or(0.0, |_| mean_square(values, LIMIT));
    let offsets = if importance.is_some() { &FINE_OFFSETS[..] } else { &OFFSETS[..] };
    let step = LANES * BLOCK_LEN;
    for (batch, out) in out.chunks_mut(LANES * BLOCK_BYTES).enumerate() {
        let here = batch * step..values.len().min((batch + 1) * step);
        let mut x = load::<LANES, BLOCK_LEN>(&values[here.clone()], LIMIT);
        let w = weights(&x, importance.map(|a| &a[here]), Some(Lanes::splat(row_mean)));
        // The search is exact where numbers begin at zero: their common part then takes no digits.
        let least = x.iter().fold(x[0], |least, x| least.min(*x));
        x = x.map(|x| x - least);
        let (d, above) = scale_and_minimum(&x, &w, LEVELS.high, true, offsets);
        let m = (least - above).to_f16_grid();
        x = x.map(|x| x + (least - m));
        let d = refine(&x, &w, LEVELS, Float::F16, d, 1);
        let inverse = Lanes::splat(1.0).div_or_zero(d);
        let q = store(&x, |x| LEVELS.nearest(x, inverse));
        for (l, block) in out.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            block[..2].copy_from_slice(&f32_to_f16(d.0[l]).to_le_bytes());
            block[2..4].copy_from_slice(&f32_to_f16(m.0[l]).to_le_bytes());
            for j in 0..16 {
                block[4 + j] = (q[l][j] | q[l][j + 16] << 4) as u8;
            }
        }
    }
}

fn read_block(block: &[u8]) -> Scales {
    let [d, m] = [0, 2].map(|i| f16_to_f32(u16::from_le_bytes([block[i], block[i + 1]])));
    Scales::single(d, -m)
}

fn write_block(scales: &Scales, codes: &[i8], block: &mut [u8]) {
    block[..2].copy_from_slice(&f32_to_f16(scales.scale[0]).to_le_bytes());
    block[2..4].copy_from_slice(&f32_to_f16(-scales.minimum[0]).to_le_bytes());
    for j in 0..16 {
        block[4 + j] = (codes[j] | codes[j + 16] << 4) as u8;
    }
}
