//! `q8_0`: 32 signed bytes under one f16 scale. Source: `block_q8_0` in ggml-common.h, `dequantize_row_q8_0` in
//! ggml-quants.c.
//!
//! ```text
//! byte   0  1 | 2 ... 33
//!        f16 d| i8 q[32]          x[j] = d * q[j]
//! ```
//!
//! Encoding weighs all elements alike, as ggml does for this type: importance is ignored.

use crate::float16::{F16_MAX, f16_to_f32, f32_to_f16};
use crate::grid::{Codes, Factor, Float, Grid, Scales};
use crate::lanes::{Lanes, load, store};
use crate::search::{Grid as _, Levels, refine, start_scale};
use crate::simd::dispatch;
use crate::vector::Vector as _;

pub(crate) const BLOCK_LEN: usize = 32;
pub(crate) const BLOCK_BYTES: usize = 34;

const LANES: usize = 16;
const LEVELS: Levels = Levels { low: -128.0, high: 127.0 };

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
        for (x, q) in out.iter_mut().zip(&block[2..]) {
            *x = *q as i8 as f32 * d;
        }
    }
}

#[inline(always)]
fn encode_body(values: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    for (values, out) in values.chunks(LANES * BLOCK_LEN).zip(out.chunks_mut(LANES * BLOCK_BYTES)) {
        let x = load::<LANES, BLOCK_LEN>(values, F16_MAX * 127.0);
        let w = [Lanes::splat(1.0); BLOCK_LEN];
        let d = refine(&x, &w, LEVELS, Float::F16, start_scale(&x, -128.0), 1);
        let inverse = Lanes::splat(1.0).div_or_zero(d);
        let q = store(&x, |x| LEVELS.nearest(x, inverse));
        for (l, block) in out.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            block[..2].copy_from_slice(&f32_to_f16(d.0[l]).to_le_bytes());
            for (byte, q) in block[2..].iter_mut().zip(q[l]) {
                *byte = q as u8;
            }
        }
    }
}

fn read_block(block: &[u8]) -> Scales {
    Scales::single(f16_to_f32(u16::from_le_bytes([block[0], block[1]])), 0.0)
}

fn write_block(scales: &Scales, codes: &[i8], block: &mut [u8]) {
    block[..2].copy_from_slice(&f32_to_f16(scales.scale[0]).to_le_bytes());
    for (byte, q) in block[2..].iter_mut().zip(codes) {
        *byte = *q as u8;
    }
}
