//! Depthwise causal convolution over time, SiLU after it, the last inputs carried along.

use super::Rows;
use super::elementwise::silu_slice;
use super::simd::dispatch;
use rayon::prelude::*;

/// `y[t, c] = silu(sum_j w[c, j] x[t - width + 1 + j, c] + b[c])`; a correlation, with zeros before the start.
pub struct CausalConv {
    /// One row of channels per tap, oldest first.
    taps: Vec<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

/// The last `width - 1` inputs, oldest first; empty before the first token.
#[derive(Clone, Debug, Default)]
pub struct ConvState {
    past: Vec<f32>,
}

impl CausalConv {
    /// From a kernel of (channels, width).
    pub fn new(kernel: &[f32], width: usize, bias: Option<Vec<f32>>) -> CausalConv {
        let taps = (0..width).map(|j| kernel.iter().skip(j).step_by(width).copied().collect()).collect();
        CausalConv { taps, bias }
    }

    /// Convolves `x` (tokens, channels), continuing after `state`.
    pub fn apply(&self, x: &Rows, state: &mut ConvState) -> Rows {
        let (width, c, tokens) = (self.taps.len(), x.cols, x.rows());
        let mut line = std::mem::take(&mut state.past);
        line.resize((width - 1) * c, 0.0);
        line.extend_from_slice(&x.data);
        let mut y = Rows::zeros(tokens, c);
        y.data.par_chunks_mut(c).enumerate().for_each(|(t, out)| {
            if let Some(bias) = &self.bias {
                out.copy_from_slice(bias);
            }
            for (j, tap) in self.taps.iter().enumerate() {
                multiply_add(out, tap, &line[(t + j) * c..][..c]);
            }
            silu_slice(out);
        });
        state.past = line[tokens * c..].to_vec();
        y
    }
}

dispatch! {
    fn multiply_add(out: &mut [f32], a: &[f32], b: &[f32]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o += a * b;
        }
    }
}
