//! `iq4_nl`: 32 elements of 4 bits under one f16 scale, as `q4_0`, but a nibble indexes a table of levels (`codebook.rs`).
//! Source: `block_iq4_nl` in ggml-common.h, `dequantize_row_iq4_nl` and `quantize_row_iq4_nl_impl` in ggml-quants.c.
//!
//! ```text
//! byte   0  1 | 2 ... 17
//!        f16 d| u8 q[16]          low nibble: element j, high nibble: element j + 16;  x = d * table[nibble]
//! ```
//!
//! With importance `a` element errors weigh `a * sqrt(2 * mean of x^2 over the block + x^2)`, as in ggml.

use crate::codebook::{Codebook, FINE_TRIES, TRIES, VALUES};
use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::grid::{Codes, Factor, Float, Grid, Scales};
use crate::lanes::{Lanes, load, store};
use crate::search::{refine, scale, weights};
use crate::simd::dispatch;
use crate::vector::Vector as _;

pub(crate) const BLOCK_LEN: usize = 32;
pub(crate) const BLOCK_BYTES: usize = 18;

const LANES: usize = 16;
const LIMIT: f32 = F16_MAX * 113.0;

pub(crate) const GRID: Option<&Grid> = Some(&Grid {
    group_len: BLOCK_LEN,
    codes: Codes::Table,
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
            low[j] = d * VALUES[(block[2 + j] & 15) as usize] as f32;
            high[j] = d * VALUES[(block[2 + j] >> 4) as usize] as f32;
        }
    }
}

#[inline(always)]
fn encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let tries = if importance.is_some() { &FINE_TRIES[..] } else { &TRIES[..] };
    let step = LANES * BLOCK_LEN;
    for (batch, out) in out.chunks_mut(LANES * BLOCK_BYTES).enumerate() {
        let here = batch * step..values.len().min((batch + 1) * step);
        let x = load::<LANES, BLOCK_LEN>(&values[here.clone()], LIMIT);
        let spread = x.iter().fold(Lanes::ZERO, |sum, x| sum + *x * *x) * Lanes::splat(2.0 / BLOCK_LEN as f32);
        let w = weights(&x, importance.map(|a| &a[here]), Some(spread));
        let d = refine(&x, &w, Codebook, Float::F16, scale(&x, &w, Codebook, tries), 1);
        let inverse = Lanes::splat(1.0).div_or_zero(d);
        let q = store(&x, |x| Codebook.index(x, inverse));
        for (l, block) in out.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            block[..2].copy_from_slice(&f32_to_f16(d.0[l]).to_le_bytes());
            for j in 0..16 {
                block[2 + j] = (q[l][j] | q[l][j + 16] << 4) as u8;
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
        block[2 + j] = (codes[j] | codes[j + 16] << 4) as u8;
    }
}
