//! The matrix-valued recurrence of linear attention: `S = diag(decay) S + k v^T`, `o = S^T q / sqrt(keys)`, per head.

use super::Cpu;
use super::rows::{Columns, Rows};
use super::simd::{dispatch, exp};
use crate::backend::{Decay, Heads};
use rayon::prelude::*;

/// Gated linear attention forgets by `sigmoid(gate)^(1 / NORMALIZER)`.
const NORMALIZER: f32 = 16.0;

/// One sequence on its way through the recurrence, in rows of one token each.
pub struct OuterInputs<'r> {
    /// Dimensions.
    pub heads: Heads,
    /// Queries: (tokens, heads * keys)
    pub q: &'r [f32],
    /// Keys: (tokens, heads * keys)
    pub k: &'r [f32],
    /// Values: (tokens, heads * values)
    pub v: &'r [f32],
    /// What is kept of the state.
    pub decay: OuterDecay<'r>,
}

/// The decay of an outer-product recurrence.
pub enum OuterDecay<'r> {
    /// The same for every token: (heads * keys)
    Constant(&'r [f32]),
    /// Its natural logarithm: (tokens, heads * keys)
    Logarithm(&'r [f32]),
}

/// o (tokens, heads * values) for q, k and decay (tokens, heads * keys) and v (tokens, heads * values).
pub fn outer_scan(heads: Heads, [q, k, v]: [&Rows; 3], decay: Decay<'_, Cpu>, state: &mut [f32]) -> Rows {
    let logarithms;
    let decay = match decay {
        Decay::Constant(row) => OuterDecay::Constant(row),
        Decay::Gate(gate) => {
            logarithms = log_decays(gate.clone());
            OuterDecay::Logarithm(&logarithms.data)
        }
    };
    let inputs = OuterInputs { heads, q: &q.data, k: &k.data, v: &v.data, decay };
    let mut o = Rows::zeros(q.rows(), heads.count * heads.values);
    let outputs: Vec<Columns<'_>> = Columns::split(&mut o.data, heads.count * heads.values, heads.values).collect();
    let states = state.par_chunks_mut(heads.keys * heads.values);
    outputs.into_par_iter().zip(states).enumerate().for_each(|(head, (mut o, s))| outer_head(&inputs, head, s, &mut o));
    o
}

/// Logarithms of the decays of gated linear attention.
fn log_decays(mut gate: Rows) -> Rows {
    gate.data.par_chunks_mut(1 << 12).for_each(|chunk| {
        for gate in chunk {
            // log sigmoid(g) = min(g, 0) - ln(1 + e^-|g|), exact at both ends
            *gate = (gate.min(0.0) - (-gate.abs()).exp().ln_1p()) / NORMALIZER;
        }
    });
    gate
}

dispatch! {
    /// One head over all tokens, whose o must begin as zeros. s: (keys, values), before the first token, then after the last
    /// one.
    pub fn outer_head(inputs: &OuterInputs<'_>, head: usize, s: &mut [f32], o: &mut Columns<'_>) {
        let Heads { count, keys, values } = inputs.heads;
        let scale = 1.0 / (keys as f32).sqrt();
        for t in 0..inputs.q.len() / (count * keys) {
            let at = (t * count + head) * keys..(t * count + head + 1) * keys;
            let (q, k) = (&inputs.q[at.clone()], &inputs.k[at.clone()]);
            let v = &inputs.v[(t * count + head) * values..][..values];
            let o = o.row(t);
            for (i, s) in s.chunks_exact_mut(values).enumerate() {
                let q = q[i] * scale;
                let decay = match inputs.decay {
                    OuterDecay::Constant(decay) => decay[head * keys + i],
                    OuterDecay::Logarithm(log) => exp(log[at.start + i]),
                };
                for ((s, o), v) in s.iter_mut().zip(o.iter_mut()).zip(v) {
                    *s = *s * decay + k[i] * v;
                    *o += q * *s;
                }
            }
        }
    }
}
