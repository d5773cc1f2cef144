//! Mega's attention: one head, inside fixed chunks, with a position bias.

use super::Rows;
use super::elementwise::silu_slice;
use super::simd::{dot, sigmoid, silu};
use crate::backend::{MegaMemory, MegaWeights};
use rayon::prelude::*;

/// [`Backend::mega_attend`](crate::Backend::mega_attend).
pub fn attend(
    mega: &MegaWeights<Vec<f32>>,
    mixed: &Rows,
    v: &Rows,
    position: u64,
    memory: &mut MegaMemory<Vec<f32>>,
) -> Rows {
    let (d, z, tokens) = (mega.d_model, mega.z_dim, mixed.rows());
    let affine = |which: usize| {
        let (gamma, beta) = (&mega.gamma[which * z..][..z], &mega.beta[which * z..][..z]);
        let mut rows = mixed.columns(d..d + z);
        for row in rows.data.chunks_exact_mut(z) {
            for ((x, g), b) in row.iter_mut().zip(gamma).zip(beta) {
                *x = silu(*x) * g + b;
            }
        }
        rows
    };
    let (q, k) = (affine(0), affine(1));
    let mut attended = Rows::zeros(tokens, d);
    let mut from = 0;
    while from < tokens {
        let start = ((position + from as u64) % mega.chunk as u64) as usize;
        let count = (tokens - from).min(mega.chunk - start);
        memory.keys[start * z..][..count * z].copy_from_slice(&k.data[from * z..][..count * z]);
        let values = &mut memory.values[start * d..][..count * d];
        values.copy_from_slice(&v.data[from * d..][..count * d]);
        silu_slice(values);
        attended.data[from * d..][..count * d].par_chunks_mut(d).enumerate().for_each(|(i, out)| {
            attend_one(mega, q.row(from + i), start + i, memory, out);
            for (x, r) in out.iter_mut().zip(&mixed.row(from + i)[d + z..2 * d + z]) {
                *x *= silu(*r);
            }
        });
        from += count;
    }
    attended
}

/// Softmax attention of the query at `place` of its chunk over the chunk's keys up to itself.
fn attend_one(mega: &MegaWeights<Vec<f32>>, q: &[f32], place: usize, memory: &MegaMemory<Vec<f32>>, out: &mut [f32]) {
    let (z, d) = (mega.z_dim, out.len());
    let scale = 1.0 / (z as f32).sqrt();
    let [queries, keys] = &mega.positions;
    let bias = |s: usize| dot(&queries[place * z..][..z], &keys[s * z..][..z]);
    let keys = memory.keys.chunks_exact(z).take(place + 1).enumerate();
    let mut scores: Vec<f32> = keys.map(|(s, k)| dot(q, k) * scale + bias(s)).collect();
    let max = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
    let norm = 1.0 / scores.iter().sum::<f32>();
    for (p, v) in scores.iter().zip(memory.values.chunks_exact(d)) {
        out.iter_mut().zip(v).for_each(|(o, v)| *o += p * norm * v);
    }
}

/// [`Backend::mega_update`](crate::Backend::mega_update).
pub fn update(mega: &MegaWeights<Vec<f32>>, mixed: &Rows, y: &Rows, r: &mut Rows) {
    let (d, z) = (mega.d_model, mega.z_dim);
    r.data.par_chunks_mut(d).enumerate().for_each(|(t, r)| {
        let (m, y) = (mixed.row(t), y.row(t));
        for (i, r) in r.iter_mut().enumerate() {
            *r += sigmoid(m[i]) * (silu(y[i] + m[2 * d + z + i]) - *r);
        }
    });
}
