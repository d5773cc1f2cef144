//! The selective scan: `h = exp(dt A) h + dt B u`, `y = <h, C> + D u`, per channel with a state of N.

use super::Rows;
use super::simd::{LANES, dispatch, exp};
use rayon::prelude::*;

/// A and D, laid out for blocks of [`LANES`] channels side by side.
///
/// ```text
/// A, h:  block 0: n = 0: LANES channels | n = 1: LANES channels | ... | block 1: ...
/// ```
/// Channels beyond the last are padding: A = 0 and u = 0 keep their state at 0.
pub struct ScanWeights {
    a: Vec<f32>,
    d: Vec<f32>,
    d_state: usize,
}

/// h, in the layout of [`ScanWeights`].
#[derive(Clone, Debug)]
pub struct ScanState {
    h: Vec<f32>,
}

/// What drives the scan.
pub struct ScanInputs {
    /// (tokens, channels)
    pub u: Rows,
    /// Step sizes, after softplus: (tokens, channels)
    pub dt: Rows,
    /// (tokens, d_state)
    pub b: Rows,
    /// (tokens, d_state)
    pub c: Rows,
}

impl ScanWeights {
    /// From A (channels, d_state) and D (channels).
    pub fn new(a: &[f32], d: Vec<f32>, d_state: usize) -> ScanWeights {
        let blocks = d.len().div_ceil(LANES);
        let mut blocked = vec![0.0; blocks * d_state * LANES];
        for (c, row) in a.chunks_exact(d_state).enumerate() {
            for (n, value) in row.iter().enumerate() {
                blocked[(c / LANES * d_state + n) * LANES + c % LANES] = *value;
            }
        }
        ScanWeights { a: blocked, d, d_state }
    }

    /// A state of zeros.
    pub fn start(&self) -> ScanState {
        ScanState { h: vec![0.0; self.a.len()] }
    }

    /// y (tokens, channels), continuing after `state`.
    pub fn apply(&self, inputs: &ScanInputs, state: &mut ScanState) -> Rows {
        let u = &inputs.u;
        let (tokens, channels) = (u.rows(), u.cols);
        let block = self.d_state * LANES;
        // Each task owns the output of a block of channels; they are woven into rows afterwards.
        let outputs: Vec<Vec<f32>> = state
            .h
            .par_chunks_mut(block)
            .zip(self.a.par_chunks(block))
            .enumerate()
            .map(|(i, (h, a))| {
                let first = i * LANES;
                let width = LANES.min(channels - first);
                let mut y = vec![0.0f32; tokens * LANES];
                scan_block(h, a, inputs, first, width, &mut y);
                y
            })
            .collect();
        let mut y = Rows::zeros(tokens, channels);
        y.data.par_chunks_mut(channels).zip(u.data.par_chunks(channels)).enumerate().for_each(|(t, (row, u))| {
            for (i, out) in outputs.iter().enumerate() {
                let first = i * LANES;
                let width = LANES.min(channels - first);
                for l in 0..width {
                    row[first + l] = out[t * LANES + l] + self.d[first + l] * u[first + l];
                }
            }
        });
        y
    }
}

dispatch! {
    /// Channels `first .. first + width` over all tokens. h and a: (d_state, LANES); y: (tokens, LANES).
    fn scan_block(h: &mut [f32], a: &[f32], inputs: &ScanInputs, first: usize, width: usize, y: &mut [f32]) {
        let ScanInputs { u, dt, b, c } = inputs;
        for (t, y) in y.chunks_exact_mut(LANES).enumerate() {
            let (mut x, mut step, mut sum) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
            step[..width].copy_from_slice(&dt.row(t)[first..first + width]);
            x[..width].copy_from_slice(&u.row(t)[first..first + width]);
            for l in 0..LANES {
                x[l] *= step[l];
            }
            let states = h.chunks_exact_mut(LANES).zip(a.chunks_exact(LANES));
            for ((h, a), (b, c)) in states.zip(b.row(t).iter().zip(c.row(t))) {
                for l in 0..LANES {
                    let next = exp(step[l] * a[l]) * h[l] + x[l] * b;
                    h[l] = next;
                    sum[l] += next * c;
                }
            }
            y.copy_from_slice(&sum);
        }
    }
}

/// `softplus(x + bias)` in place: `ln(1 + e^x)`, the identity above 20 (as torch and llama.cpp have it).
pub fn softplus(x: &mut Rows) {
    x.data.par_chunks_mut(1 << 12).for_each(|chunk| {
        for x in chunk {
            *x = if *x > 20.0 { *x } else { x.exp().ln_1p() };
        }
    });
}
