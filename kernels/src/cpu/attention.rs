//! Causal softmax attention over carried keys and values, in a sliding window or over everything.

use super::Rows;
use super::matmul::{Matrix, product};
use super::simd::{LANES, dispatch, exp};
use crate::backend::AttentionShape;
use rayon::prelude::*;

/// Queries handled by one task.
const QUERIES: usize = 64;

/// Keys and values of the tokens that later ones may still see: rows of (groups * head_dim), oldest first.
#[derive(Clone, Debug, Default)]
pub struct KeyValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KeyValues {
    /// Appends a chunk.
    pub fn push(&mut self, keys: &Rows, values: &Rows) {
        self.keys.extend_from_slice(&keys.data);
        self.values.extend_from_slice(&values.data);
    }

    /// Forgets what no later token can see. Moves memory only once as much is dead as alive, so that a token costs no
    /// copy of the window.
    pub fn trim(&mut self, window: Option<usize>, cols: usize) {
        let Some(window) = window else { return };
        let alive = (window - 1).saturating_mul(cols);
        if self.keys.len() > alive.saturating_mul(2) {
            for line in [&mut self.keys, &mut self.values] {
                line.drain(..line.len() - alive);
            }
        }
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v` for the queries `q` (tokens, heads * head_dim), whose own keys and values are the
/// last rows of `kv`.
pub fn attend(q: &Rows, kv: &KeyValues, shape: AttentionShape) -> Rows {
    let AttentionShape { heads, groups, head_dim, window } = shape;
    let (tokens, kv_cols) = (q.rows(), groups * head_dim);
    let total = kv.keys.len() / kv_cols;
    let before = total - tokens;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut out = Rows::zeros(tokens, heads * head_dim);
    out.data.par_chunks_mut(QUERIES * q.cols).enumerate().for_each(|(tile, out)| {
        let first = tile * QUERIES;
        let count = QUERIES.min(tokens - first);
        // Keys that any query of this tile sees.
        let oldest = window.map_or(0, |w| (before + first + 1).saturating_sub(w));
        let keys = before + first + count - oldest;
        let mut scores = vec![0.0f32; count * keys];
        for head in 0..heads {
            let kv_at = oldest * kv_cols + head / (heads / groups) * head_dim;
            let q_at = first * q.cols + head * head_dim;
            let (k, v) = (Matrix::new(&kv.keys[kv_at..], kv_cols), Matrix::new(&kv.values[kv_at..], kv_cols));
            product(&mut scores, keys, Matrix::new(&q.data[q_at..], q.cols), k.transposed(), [count, keys, head_dim]);
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let last = before + first + i + 1 - oldest;
                let begin = window.map_or(0, |w| last.saturating_sub(w));
                row[..begin].fill(0.0);
                row[last..].fill(0.0);
                softmax(&mut row[begin..last], scale);
            }
            product(&mut out[head * head_dim..], q.cols, Matrix::new(&scores, keys), v, [count, head_dim, keys]);
        }
    });
    out
}

dispatch! {
    /// `exp(scale (x - max)) / sum`, in place; never of an empty slice, since a token sees itself.
    fn softmax(x: &mut [f32], scale: f32) {
        let mut max = [f32::NEG_INFINITY; LANES];
        for chunk in x.chunks(LANES) {
            for (m, x) in max.iter_mut().zip(chunk) {
                *m = m.max(*x);
            }
        }
        let max = max.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let mut sums = [0.0f32; LANES];
        for chunk in x.chunks_mut(LANES) {
            for (s, x) in sums.iter_mut().zip(chunk) {
                *x = exp((*x - max) * scale);
                *s += *x;
            }
        }
        let norm = 1.0 / sums.iter().sum::<f32>();
        for x in x {
            *x *= norm;
        }
    }
}
