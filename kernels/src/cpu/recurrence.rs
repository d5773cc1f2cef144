//! The matrix-valued recurrence of linear attention: `S = diag(decay) S + k v^T`, `o = S^T q / sqrt(keys)`, per head.

use super::simd::dispatch;
use super::{Cpu, Rows};
use crate::backend::{Decay, Heads};
use rayon::prelude::*;

/// Gated linear attention forgets by `sigmoid(gate)^(1 / NORMALIZER)`.
const NORMALIZER: f32 = 16.0;

/// The decay of every token and key channel.
pub fn decays(decay: Decay<'_, Cpu>, tokens: usize) -> Rows {
    match decay {
        Decay::Constant(row) => Rows { data: row.repeat(tokens), cols: row.len() },
        Decay::Gate(gate) => {
            let mut decay = gate.clone();
            decay.data.par_chunks_mut(1 << 12).for_each(|chunk| {
                for gate in chunk {
                    // log sigmoid(g) = min(g, 0) - ln(1 + e^-|g|), exact at both ends
                    let log_sigmoid = gate.min(0.0) - (-gate.abs()).exp().ln_1p();
                    *gate = (log_sigmoid / NORMALIZER).exp();
                }
            });
            decay
        }
    }
}

/// o (tokens, heads * values) for q, k and decay (tokens, heads * keys) and v (tokens, heads * values).
pub fn outer_scan(heads: Heads, [q, k, v]: [&Rows; 3], decay: &Rows, state: &mut [f32]) -> Rows {
    let tokens = q.rows();
    let Heads { keys, values, .. } = heads;
    let scale = 1.0 / (keys as f32).sqrt();
    let per_head: Vec<Rows> = state
        .par_chunks_mut(keys * values)
        .enumerate()
        .map(|(h, s)| {
            let mut out = Rows::zeros(tokens, values);
            for (t, o) in out.data.chunks_exact_mut(values).enumerate() {
                let at = h * keys..(h + 1) * keys;
                let v = &v.row(t)[h * values..(h + 1) * values];
                step(s, o, &q.row(t)[at.clone()], &k.row(t)[at.clone()], v, &decay.row(t)[at], scale);
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
    fn step(s: &mut [f32], o: &mut [f32], q: &[f32], k: &[f32], v: &[f32], decay: &[f32], scale: f32) {
        for (i, s) in s.chunks_exact_mut(v.len()).enumerate() {
            let q = q[i] * scale;
            for ((s, o), v) in s.iter_mut().zip(o.iter_mut()).zip(v) {
                *s = *s * decay[i] + k[i] * v;
                *o += q * *s;
            }
        }
    }
}
