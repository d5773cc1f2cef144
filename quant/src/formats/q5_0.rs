//! `q5_0`: 32 elements of 5 bits under one f16 scale. Source: `block_q5_0` in ggml-common.h, `dequantize_row_q5_0` and
//! `quantize_row_q5_0_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0  1 | 2 ... 5 | 6 ... 21
//!        f16 d| u32 qh  | u8 q[16]    low nibble: element j, high nibble: element j + 16;  bit i of qh: fifth bit of
//!                                     element i;  x = d * (q - 16)
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
pub(crate) const BLOCK_BYTES: usize = 22;

const LANES: usize = 16;
const LEVELS: Levels = Levels { low: -16.0, high: 15.0 };
const LIMIT: f32 = F16_MAX * 16.0;
/// Levels to which the element of largest magnitude may go.
const TRIES: [f32; 8] = [-17.0, -16.5, -16.1, -15.7, -15.3, -14.9, 15.0, 15.5];
/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
const FINE_TRIES: [f32; 24] = steps(-17.6, 0.15);

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
        let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        let (low, high) = out.split_at_mut(16);
        for j in 0..16 {
            let level = |four: u8, fifth: u32| ((four as u32 | (fifth & 1) << 4) as i32 - 16) as f32;
            low[j] = level(block[6 + j] & 15, fifth >> j) * d;
            high[j] = level(block[6 + j] >> 4, fifth >> (j + 16)) * d;
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
            let q = q[l].map(|q| (q + 16) as u8);
            let fifth = (0..BLOCK_LEN).fold(0, |bits, i| bits | ((q[i] >> 4) as u32) << i);
            block[..2].copy_from_slice(&f32_to_f16(d.0[l]).to_le_bytes());
            block[2..6].copy_from_slice(&fifth.to_le_bytes());
            for j in 0..16 {
                block[6 + j] = q[j] & 15 | q[j + 16] << 4;
            }
        }
    }
}

fn read_block(block: &[u8]) -> Scales {
    Scales::single(f16_to_f32(u16::from_le_bytes([block[0], block[1]])), 0.0)
}

fn write_block(scales: &Scales, codes: &[i8], block: &mut [u8]) {
    let q = |j: usize| (codes[j] + 16) as u8;
    let fifth = (0..BLOCK_LEN).fold(0, |bits, i| bits | ((q(i) >> 4) as u32) << i);
    block[..2].copy_from_slice(&f32_to_f16(scales.scale[0]).to_le_bytes());
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
    for j in 0..16 {
        block[6 + j] = q(j) & 15 | q(j + 16) << 4;
    }
}
