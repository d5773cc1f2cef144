//! Operations on single numbers.

use super::Rows;
use super::simd::{dispatch, silu};
use rayon::prelude::*;

/// Numbers per task.
const GRAIN: usize = 1 << 14;

dispatch! {
    fn silu_times_slice(gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = silu(*g) * u;
        }
    }
}

dispatch! {
    /// `x = silu(x)`, on this thread.
    pub fn silu_slice(x: &mut [f32]) {
        for x in x {
            *x = silu(*x);
        }
    }
}

/// `silu(gate) * up`.
pub fn silu_times(mut gate: Rows, up: &Rows) -> Rows {
    gate.data.par_chunks_mut(GRAIN).zip(up.data.par_chunks(GRAIN)).for_each(|(g, u)| silu_times_slice(g, u));
    gate
}

/// `[x, a - b]` in every row.
pub fn beside_difference(x: &Rows, [a, b]: [&Rows; 2]) -> Rows {
    let mut out = Rows::zeros(x.rows(), x.cols + a.cols);
    out.data.par_chunks_exact_mut(x.cols + a.cols).enumerate().for_each(|(t, out)| {
        let (left, right) = out.split_at_mut(x.cols);
        left.copy_from_slice(x.row(t));
        right.iter_mut().zip(a.row(t).iter().zip(b.row(t))).for_each(|(out, (a, b))| *out = a - b);
    });
    out
}

/// `silu(gate) * up` of rows `[gate, up]`.
pub fn gated_halves(x: &Rows) -> Rows {
    let half = x.cols / 2;
    let mut y = Rows::zeros(x.rows(), half);
    y.data.par_chunks_mut(half).zip(x.data.par_chunks(x.cols)).for_each(|(y, x)| {
        y.copy_from_slice(&x[..half]);
        silu_times_slice(y, &x[half..]);
    });
    y
}

/// `x = silu(x)`.
pub fn silu_in_place(x: &mut Rows) {
    x.data.par_chunks_mut(GRAIN).for_each(silu_slice);
}

/// `x += y`.
pub fn add(x: &mut Rows, y: &Rows) {
    x.data.par_chunks_mut(GRAIN).zip(y.data.par_chunks(GRAIN)).for_each(|(x, y)| {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    });
}
