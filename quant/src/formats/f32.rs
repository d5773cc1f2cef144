//! `f32`: IEEE 754 single precision, little-endian, 4 bytes an element.

use crate::grid::Grid;
use crate::simd::dispatch;

pub(crate) const BLOCK_LEN: usize = 1;
pub(crate) const GRID: Option<&Grid> = None;
pub(crate) const BLOCK_BYTES: usize = 4;

dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]));
dispatch!(pub(crate) fn encode = encode_body(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

#[inline(always)]
fn decode_body(bytes: &[u8], out: &mut [f32]) {
    for (bytes, x) in bytes.as_chunks().0.iter().zip(out) {
        *x = f32::from_le_bytes(*bytes);
    }
}

#[inline(always)]
fn encode_body(values: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, bytes) in values.iter().zip(out.as_chunks_mut().0) {
        *bytes = x.to_le_bytes();
    }
}
