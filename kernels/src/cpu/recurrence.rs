//! The matrix-valued recurrence of linear attention: `S = diag(decay) S + k v^T`, `o = S^T q`, per head.

use super::Rows;
use super::simd::dispatch;
use rayon::prelude::*;

/// Dimensions of [`decayed_outer_scan`].
#[derive(Clone, Copy)]
pub struct Heads {
    /// Heads.
    pub count: usize,
    /// Key channels of a head.
    pub keys: usize,
    /// Value channels of a head.
    pub values: usize,
}

/// S of every head: (keys, values) each.
#[derive(Clone, Debug)]
pub struct OuterState {
    s: Vec<f32>,
}

impl OuterState {
    /// Zeros.
    pub fn start(heads: Heads) -> OuterState {
        OuterState { s: vec![0.0; heads.count * heads.keys * heads.values] }
    }
}

/// o (tokens, heads * values) for q, k and decay (tokens, heads * keys) and v (tokens, heads * values).
pub fn decayed_outer_scan(q: &Rows, k: &Rows, v: &Rows, decay: &Rows, heads: Heads, state: &mut OuterState) -> Rows {
    let tokens = q.rows();
    let Heads { keys, values, .. } = heads;
    let per_head: Vec<Rows> = state
        .s
        .par_chunks_mut(keys * values)
        .enumerate()
        .map(|(h, s)| {
            let mut out = Rows::zeros(tokens, values);
            for (t, o) in out.data.chunks_exact_mut(values).enumerate() {
                let at = h * keys..(h + 1) * keys;
                let v = &v.row(t)[h * values..(h + 1) * values];
                step(s, o, &q.row(t)[at.clone()], &k.row(t)[at.clone()], v, &decay.row(t)[at]);
            }
            out
        })
        .collect();
    let mut o = Rows::zeros(tokens, heads.count * values);
    for (t, row) in o.data.chunks_exact_mut(heads.count * values).enumerate() {
        for (head, part) in per_head.iter().zip(row.chunks_exact_mut(values)) {
            part.copy_from_slice(head.row(t));
        }
    }
    o
}

dispatch! {
    fn step(s: &mut [f32], o: &mut [f32], q: &[f32], k: &[f32], v: &[f32], decay: &[f32]) {
        for (i, s) in s.chunks_exact_mut(v.len()).enumerate() {
            for ((s, o), v) in s.iter_mut().zip(o.iter_mut()).zip(v) {
                *s = *s * decay[i] + k[i] * v;
                *o += q[i] * *s;
            }
        }
    }
}
