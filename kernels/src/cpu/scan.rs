//! The selective scan: `h = exp(dt A) h + dt B u`, `y = <h, C> + D u`, per channel with a state of N.

use super::linear::Linear;
use super::rows::{Columns, Rows};
use super::simd::{LANES, dispatch, exp2, lanes, silu, softplus};
use rayon::prelude::*;

/// The `dt` projection, `A log2(e)` and D, laid out for blocks of [`LANES`] channels side by side.
///
/// ```text
/// rates, h:  block 0: n = 0: LANES channels | n = 1: LANES channels | ... | block 1: ...
/// ```
/// Channels beyond the last are padding: they begin at 0, have rates of 0, and u = 0 leaves them there.
pub struct Scan<'a> {
    dt: Linear<'a>,
    rates: Vec<f32>,
    d: Vec<f32>,
    d_state: usize,
}

/// One sequence on its way through a selective scan, in rows of one token each.
pub struct ScanInputs<'r> {
    /// (tokens, channels)
    pub u: &'r [f32],
    /// Step sizes before bias and softplus: (tokens, channels)
    pub delta: &'r [f32],
    /// Added to delta: (channels)
    pub delta_bias: Option<&'r [f32]>,
    /// How u enters the state: (tokens, d_state)
    pub b: &'r [f32],
    /// How the state is read: (tokens, d_state)
    pub c: &'r [f32],
    /// Weights of the skip connection: (channels)
    pub d: Option<&'r [f32]>,
    /// Gate, before SiLU: (tokens, channels)
    pub z: Option<&'r [f32]>,
    /// Channels.
    pub channels: usize,
    /// Numbers in the state of a channel.
    pub d_state: usize,
}

impl<'a> Scan<'a> {
    /// From A (channels, d_state) and D (channels).
    pub fn new(dt: Linear<'a>, a: &[f32], d: Vec<f32>) -> Scan<'a> {
        let d_state = a.len().checked_div(d.len()).unwrap_or(0);
        let mut rates = vec![0.0; d.len().div_ceil(LANES) * d_state * LANES];
        let matrices = a.chunks(d_state.max(1) * LANES);
        for (matrix, block) in matrices.zip(rates.chunks_exact_mut(d_state.max(1) * LANES)) {
            to_rates(matrix, block, d_state);
        }
        Scan { dt, rates, d, d_state }
    }

    /// h before the first token, in the layout of the rates.
    pub fn start(&self) -> Vec<f32> {
        vec![0.0; self.rates.len()]
    }

    /// y (tokens, channels), times `silu(gate)` where there is one, continuing after h = `state`.
    pub fn apply(&self, u: &Rows, driven: &Rows, gate: Option<&Rows>, state: &mut [f32]) -> Rows {
        let (rank, n) = (self.dt.inputs(), self.d_state);
        let delta = self.dt.apply(&driven.columns(0..rank));
        let (b, c) = (driven.columns(rank..rank + n), driven.columns(rank + n..rank + 2 * n));
        let inputs = ScanInputs {
            u: &u.data,
            delta: &delta.data,
            delta_bias: None,
            b: &b.data,
            c: &c.data,
            d: Some(&self.d),
            z: gate.map(|g| g.data.as_slice()),
            channels: u.cols,
            d_state: n,
        };
        let mut y = Rows::zeros(u.rows(), u.cols);
        let outputs: Vec<Columns<'_>> = Columns::split(&mut y.data, u.cols, LANES).collect();
        let states = state.par_chunks_mut(n * LANES).zip(self.rates.par_chunks(n * LANES));
        outputs.into_par_iter().zip(states).enumerate().for_each(|(i, (mut y, (h, rates)))| {
            scan_block(&inputs, i * LANES, rates, h, &mut y);
        });
        y
    }
}

/// Tokens that go through a block together: enough that no chain of additions waits for another.
const TILE: usize = 4;

dispatch! {
    /// Channels `first ..` (at most [`LANES`]), which are those of `y`, over all tokens. rates: `A log2(e)`, (d_state, LANES). h,
    /// of the same shape, is the state before the first token, then after the last one.
    pub fn scan_block(inputs: &ScanInputs<'_>, first: usize, rates: &[f32], h: &mut [f32], y: &mut Columns<'_>) {
        let (rates, h) = (rates.as_chunks::<LANES>().0, h.as_chunks_mut::<LANES>().0);
        let tokens = inputs.u.len() / inputs.channels;
        let tiled = tokens - tokens % TILE;
        // Loops, since a closure would be compiled for the baseline.
        for t in (0..tiled).step_by(TILE) {
            scan_tile::<TILE>(inputs, first, t, rates, h, y);
        }
        for t in tiled..tokens {
            scan_tile::<1>(inputs, first, t, rates, h, y);
        }
    }
}

/// Tokens `t .. t + TOKENS` of [`scan_block`].
#[inline(always)]
fn scan_tile<const TOKENS: usize>(
    inputs: &ScanInputs<'_>,
    first: usize,
    t: usize,
    rates: &[[f32; LANES]],
    h: &mut [[f32; LANES]],
    y: &mut Columns<'_>,
) {
    let ScanInputs { channels, d_state, .. } = *inputs;
    let bias = block_of(inputs.delta_bias, 0, first, channels);
    let skip = block_of(inputs.d, 0, first, channels);
    let mut steps = [[0.0f32; LANES]; TOKENS];
    let mut driven = [[0.0f32; LANES]; TOKENS];
    let mut sums = [[0.0f32; LANES]; TOKENS];
    for i in 0..TOKENS {
        let u = block_of(Some(inputs.u), t + i, first, channels);
        let delta = block_of(Some(inputs.delta), t + i, first, channels);
        for l in 0..LANES {
            steps[i][l] = softplus(delta[l] + bias[l]);
            driven[i][l] = steps[i][l] * u[l];
        }
    }
    let (b, c) = (&inputs.b[t * d_state..][..TOKENS * d_state], &inputs.c[t * d_state..][..TOKENS * d_state]);
    for (n, (h, rate)) in h.iter_mut().zip(rates).enumerate().take(d_state) {
        let mut state = *h;
        for i in 0..TOKENS {
            let (b, c) = (b[i * d_state + n], c[i * d_state + n]);
            for l in 0..LANES {
                state[l] = exp2(steps[i][l] * rate[l]) * state[l] + driven[i][l] * b;
                sums[i][l] += state[l] * c;
            }
        }
        *h = state;
    }
    for i in 0..TOKENS {
        let (sum, u) = (&mut sums[i], block_of(Some(inputs.u), t + i, first, channels));
        for l in 0..LANES {
            sum[l] += skip[l] * u[l];
        }
        if inputs.z.is_some() {
            let gate = block_of(inputs.z, t + i, first, channels);
            for l in 0..LANES {
                sum[l] *= silu(gate[l]);
            }
        }
        let y = y.row(t + i);
        match y.first_chunk_mut() {
            Some(y) => *y = *sum,
            None => y.copy_from_slice(&sum[..y.len()]),
        }
    }
}

/// A block's channels of row `t`; zeros where there are no rows.
#[inline(always)]
fn block_of(rows: Option<&[f32]>, t: usize, first: usize, channels: usize) -> [f32; LANES] {
    match rows {
        Some(rows) => lanes(&rows[t * channels..][first..channels]),
        None => [0.0; LANES],
    }
}

/// A block's rows of A (channels, d_state), at most [`LANES`], to rates: [`to_block`] times log2(e).
pub fn to_rates(a: &[f32], rates: &mut [f32], d_state: usize) {
    to_block(a, rates, d_state);
    rates.iter_mut().for_each(|rate| *rate *= std::f32::consts::LOG2_E);
}

/// A block's rows of a matrix (channels, d_state), at most [`LANES`], to (d_state, LANES); zeros where there are fewer.
pub fn to_block(matrix: &[f32], block: &mut [f32], d_state: usize) {
    let columns = block.as_chunks_mut::<LANES>().0;
    if matrix.len() < d_state * LANES {
        columns.fill([0.0; LANES]);
    }
    for (l, row) in (0..LANES).zip(matrix.chunks_exact(d_state.max(1))) {
        columns.iter_mut().zip(row).for_each(|(column, x)| column[l] = *x);
    }
}

/// The opposite of [`to_block`].
pub fn from_block(block: &[f32], matrix: &mut [f32], d_state: usize) {
    let columns = block.as_chunks::<LANES>().0;
    for (l, row) in (0..LANES).zip(matrix.chunks_exact_mut(d_state.max(1))) {
        columns.iter().zip(row).for_each(|(column, x)| *x = column[l]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_a_matrix_and_give_it_back() {
        for (channels, d_state) in [(16, 16), (1, 1), (5, 16), (16, 3), (7, 33), (16, 64)] {
            let matrix: Vec<f32> = (1..=channels * d_state).map(|i| i as f32).collect();
            let mut block = vec![f32::NAN; d_state * LANES];
            to_block(&matrix, &mut block, d_state);
            for (at, found) in block.iter().enumerate() {
                let (n, l) = (at / LANES, at % LANES);
                assert_eq!(*found, if l < channels { matrix[l * d_state + n] } else { 0.0 });
            }
            let mut back = vec![0.0; matrix.len()];
            from_block(&block, &mut back, d_state);
            assert_eq!(back, matrix);
        }
    }
}
