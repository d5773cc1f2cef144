//! The selective scan: `h = exp(dt A) h + dt B u`, `y = <h, C> + D u`, per channel with a state of N.

use super::Rows;
use super::linear::Linear;
use super::simd::{LANES, dispatch, exp};
use rayon::prelude::*;

/// The `dt` projection, and A and D, laid out for blocks of [`LANES`] channels side by side.
///
/// ```text
/// A, h:  block 0: n = 0: LANES channels | n = 1: LANES channels | ... | block 1: ...
/// ```
/// Channels beyond the last are padding: A = 0 and u = 0 keep their state at 0.
pub struct Scan<'a> {
    dt: Linear<'a>,
    a: Vec<f32>,
    d: Vec<f32>,
    d_state: usize,
}

/// What drives a block of channels.
struct Inputs<'r> {
    /// (tokens, channels)
    u: &'r Rows,
    /// Step sizes, after softplus: (tokens, channels)
    dt: Rows,
    /// (tokens, d_state)
    b: Rows,
    /// (tokens, d_state)
    c: Rows,
}

impl<'a> Scan<'a> {
    /// From A (channels, d_state) and D (channels).
    pub fn new(dt: Linear<'a>, a: &[f32], d: Vec<f32>) -> Scan<'a> {
        let d_state = a.len().checked_div(d.len()).unwrap_or(0);
        let blocks = d.len().div_ceil(LANES);
        let mut blocked = vec![0.0; blocks * d_state * LANES];
        for (c, row) in a.chunks_exact(d_state.max(1)).enumerate() {
            for (n, value) in row.iter().enumerate() {
                blocked[(c / LANES * d_state + n) * LANES + c % LANES] = *value;
            }
        }
        Scan { dt, a: blocked, d, d_state }
    }

    /// h before the first token, in the layout of A.
    pub fn start(&self) -> Vec<f32> {
        vec![0.0; self.a.len()]
    }

    /// y (tokens, channels), continuing after h = `state`.
    pub fn apply(&self, u: &Rows, driven: &Rows, state: &mut [f32]) -> Rows {
        let (rank, n) = (self.dt.inputs(), self.d_state);
        let mut dt = self.dt.apply(&driven.columns(0..rank));
        dt.data.par_chunks_mut(1 << 12).for_each(|chunk| chunk.iter_mut().for_each(|x| *x = softplus(*x)));
        let (b, c) = (driven.columns(rank..rank + n), driven.columns(rank + n..rank + 2 * n));
        let inputs = Inputs { u, dt, b, c };
        let (tokens, channels) = (u.rows(), u.cols);
        let block = n * LANES;
        // Each task owns the output of a block of channels; they are woven into rows afterwards.
        let outputs: Vec<Vec<f32>> = state
            .par_chunks_mut(block)
            .zip(self.a.par_chunks(block))
            .enumerate()
            .map(|(i, (h, a))| {
                let first = i * LANES;
                let width = LANES.min(channels - first);
                let mut y = vec![0.0f32; tokens * LANES];
                scan_block(h, a, &inputs, first, width, &mut y);
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
    fn scan_block(h: &mut [f32], a: &[f32], inputs: &Inputs<'_>, first: usize, width: usize, y: &mut [f32]) {
        let Inputs { u, dt, b, c } = inputs;
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

/// `ln(1 + e^x)`, the identity above 20 (as torch and llama.cpp have it).
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
