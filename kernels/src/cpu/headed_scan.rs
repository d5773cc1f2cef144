//! The selective scan with heads: `h = exp(dt a) h + dt B u`, `y = <h, C> + d u`, a step size for each head.

use super::Rows;
use super::fused::{EVERYWHERE, softplus};
use super::simd::dispatch;
use crate::backend::HeadedScan;
use rayon::prelude::*;

/// y (tokens, heads * head_dim), continuing after h = `state`: (heads, d_state, head_dim).
pub fn apply(scan: &HeadedScan<Vec<f32>>, u: &Rows, [dt, b, c]: [&Rows; 3], state: &mut [f32]) -> Rows {
    let HeadedScan { head_dim, d_state, .. } = *scan;
    let tokens = u.rows();
    let per_head: Vec<Rows> = state
        .par_chunks_mut(d_state * head_dim)
        .enumerate()
        .map(|(head, h)| {
            let mut y = Rows::zeros(tokens, head_dim);
            for (t, y) in y.data.chunks_exact_mut(head_dim).enumerate() {
                let u = &u.row(t)[head * head_dim..][..head_dim];
                let dt = softplus::<EVERYWHERE>(dt.row(t)[head] + scan.dt_bias[head]);
                y.iter_mut().zip(u).for_each(|(y, u)| *y = scan.d[head] * u);
                step(h, y, u, b.row(t), c.row(t), (dt * scan.a[head]).exp(), dt);
            }
            y
        })
        .collect();
    let mut y = Rows::zeros(tokens, u.cols);
    y.data.par_chunks_mut(u.cols).enumerate().for_each(|(t, row)| {
        for (head, part) in per_head.iter().zip(row.chunks_exact_mut(head_dim)) {
            part.copy_from_slice(head.row(t));
        }
    });
    y
}

dispatch! {
    /// One token of one head. h: (d_state, head_dim).
    fn step(h: &mut [f32], y: &mut [f32], u: &[f32], b: &[f32], c: &[f32], decay: f32, dt: f32) {
        for ((h, b), c) in h.chunks_exact_mut(u.len()).zip(b).zip(c) {
            let driven = dt * b;
            for ((h, y), u) in h.iter_mut().zip(y.iter_mut()).zip(u) {
                *h = decay * *h + driven * u;
                *y += *h * c;
            }
        }
    }
}
