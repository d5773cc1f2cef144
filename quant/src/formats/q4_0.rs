//! `q4_0`: 32 elements of 4 bits under one f16 scale. Source: `block_q4_0` in ggml-common.h, `dequantize_row_q4_0` and
//! `quantize_row_q4_0_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0  1 | 2 ... 17
//!        f16 d| u8 q[16]          low nibble: element j, high nibble: element j + 16;  x = d * (nibble - 8)
//! ```
//!
//! With importance `a` (one value a column) element errors weigh `a * sqrt(mean of x^2 over the row + x^2)`, as in ggml.

use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::grid::{Codes, Factor, Float, Grid, Scales};
use crate::lanes::{Lanes, load, store};
use crate::search::{Grid as _, Levels, mean_square, refine, scale, steps, weights};
use crate::simd::dispatch;
use crate::vector::Vector as _;

pub(crate) const BLOCK_LEN: usize = 32;
pub(crate) const BLOCK_BYTES: usize = 18;

const LANES: usize = 16;
const LEVELS: Levels = Levels { low: -8.0, high: 7.0 };
const LIMIT: f32 = F16_MAX * 8.0;
/// Levels to which the element of largest magnitude may go.
const TRIES: [f32; 8] = [-9.0, -8.5, -8.1, -7.7, -7.3, -6.9, 7.0, 7.5];
/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
const FINE_TRIES: [f32; 24] = steps(-9.4, 0.13);

pub(crate) const GRID: Option<&Grid> = Some(&Grid {
    group_len: BLOCK_LEN,
    codes: Codes::Integers(LEVELS),
    scale: Factor::Float(Float::F16),
    minimum: Factor::None,
    read: read_block,
    write: write_block,
});

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        let (low, high) = out.split_at_mut(16);
        for j in 0..16 {
            low[j] = ((block[2 + j] & 15) as i8 - 8) as f32 * d;
            high[j] = ((block[2 + j] >> 4) as i8 - 8) as f32 * d;
        }
    }
}

#[inline(always)]
fn encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let row_mean = importance.map_or(0.0, |_| mean_square(values, LIMIT));
    let tries = if importance.is_some() { &FINE_TRIES[..] } else { &TRIES[..] };
    let step = LANES * BLOCK_LEN;
    for (batch, out) in out.chunks_mut(LANES * BLOCK_BYTES).enumerate() {
        let here = batch * step..values.len().min((batch + 1) * step);
        let x = load::<LANES, BLOCK_LEN>(&values[here.clone()], LIMIT);
        let w = weights(&x, importance.map(|a| &a[here]), Some(Lanes::splat(row_mean)));
        let d = refine(&x, &w, LEVELS, Float::F16, scale(&x, &w, LEVELS, tries), 1);
        let inverse = Lanes::splat(1.0).div_or_zero(d);
        let q = store(&x, |x| LEVELS.nearest(x, inverse));
        for (l, block) in out.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            block[..2].copy_from_slice(&f32_to_f16(d.0[l]).to_le_bytes());
            for j in 0..16 {
                block[2 + j] = (q[l][j] + 8) as u8 | ((q[l][j + 16] + 8) as u8) << 4;
            }
        }
    }
}

fn read_block(block: &[u8]) -> Scales {
    Scales::single(f16_to_f32(u16::from_le_bytes([block[0], block[1]])), 0.0)
}

fn write_block(scales: &Scales, codes: &[i8], block: &mut [u8]) {
    block[..2].copy_from_slice(&f32_to_f16(scales.scale[0]).to_le_bytes());
    for j in 0..16 {
        block[2 + j] = (codes[j] + 8) as u8 | ((codes[j + 16] + 8) as u8) << 4;
    }
}
