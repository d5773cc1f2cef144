//! Depthwise causal convolution over time, SiLU after it, the last inputs carried along.

use super::Rows;
use super::elementwise::silu_slice;
use super::simd::dispatch;
use crate::backend::Conv;
use rayon::prelude::*;

/// Convolves `x` (tokens, channels), continuing after `past`.
pub fn apply(conv: &Conv<Vec<f32>>, x: &Rows, past: &mut Vec<f32>) -> Rows {
    let (c, tokens) = (x.cols, x.rows());
    let mut line = std::mem::take(past);
    line.extend_from_slice(&x.data);
    let mut y = Rows::zeros(tokens, c);
    y.data.par_chunks_mut(c).enumerate().for_each(|(t, out)| {
        if let Some(bias) = &conv.bias {
            out.copy_from_slice(bias);
        }
        for (j, tap) in conv.taps.chunks_exact(c).enumerate() {
            multiply_add(out, tap, &line[(t + j) * c..][..c]);
        }
        silu_slice(out);
    });
    *past = line[tokens * c..].to_vec();
    y
}

dispatch! {
    fn multiply_add(out: &mut [f32], a: &[f32], b: &[f32]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o += a * b;
        }
    }
}
