//! `bf16`: the upper half of an `f32` (bfloat16), little-endian, 2 bytes an element.
//!
//! Encoding rounds to nearest, ties to even. Finite values beyond the largest finite bf16 become that value: ggml would
//! store an infinity.

use crate::float16::{bf16_to_f32, f32_to_bf16};
use crate::grid::Grid;
use crate::simd::dispatch;

pub(crate) const BLOCK_LEN: usize = 1;
pub(crate) const GRID: Option<&Grid> = None;
pub(crate) const BLOCK_BYTES: usize = 2;

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (bytes, x) in bytes.as_chunks().0.iter().zip(out) {
        *x = bf16_to_f32(u16::from_le_bytes(*bytes));
    }
}

#[inline(always)]
fn encode_body(values: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, bytes) in values.iter().zip(out.as_chunks_mut().0) {
        *bytes = f32_to_bf16(*x).to_le_bytes();
    }
}
