//! Looking for NaN and infinities in stored numbers (and for float64 beyond float32), and narrowing float64.

use crate::checkpoint::Scalar;
use half::{bf16, f16};
use rayon::prelude::*;

/// Bytes per task; a multiple of every element size.
const GRAIN: usize = 1 << 18;

/// The first NaN or infinity of little-endian numbers, with its index.
pub fn first_nonfinite(scalar: Scalar, bytes: &[u8]) -> Option<(usize, f64)> {
    let size = scalar.size();
    bytes.par_chunks(GRAIN).enumerate().find_map_first(|(i, chunk)| {
        // The exponent field is all ones in NaN and infinities, and in nothing else. Every number is looked at, without
        // an early end, so that the loops become vectors.
        let suspicious = match scalar {
            Scalar::F64 => any(chunk.as_chunks::<8>().0, |b| !(f64::from_le_bytes(*b) as f32).is_finite()),
            Scalar::F32 => any(chunk.as_chunks::<4>().0, |b| u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000),
            Scalar::F16 => any(chunk.as_chunks::<2>().0, |b| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00),
            Scalar::Bf16 => any(chunk.as_chunks::<2>().0, |b| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80),
        };
        if !suspicious {
            return None;
        }
        let values = chunk.chunks_exact(size).map(|b| value(scalar, b)).enumerate();
        values.into_iter().find(|(_, v)| !(*v as f32).is_finite()).map(|(j, v)| (i * GRAIN / size + j, v))
    })
}

fn any<T>(items: &[T], test: impl Fn(&T) -> bool) -> bool {
    items.iter().fold(false, |found, item| found | test(item))
}

fn value(scalar: Scalar, b: &[u8]) -> f64 {
    match (scalar, b) {
        (Scalar::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (Scalar::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        (Scalar::F16, &[a, b]) => f16::from_le_bytes([a, b]).into(),
        (Scalar::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).into(),
        _ => 0.0,
    }
}

/// float64 to float32, little-endian both.
pub fn narrow_f64(bytes: &[u8]) -> Vec<u8> {
    bytes.as_chunks::<8>().0.iter().flat_map(|b| (f64::from_le_bytes(*b) as f32).to_le_bytes()).collect()
}
