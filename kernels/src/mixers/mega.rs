//! Mega-S6: features of a selective scan give queries, keys and gates of a single-head attention inside fixed chunks.

use super::Chunk;
use super::mamba::{ScanMixer, ScanMixerState};
use crate::Result;
use crate::cpu::simd::{dot, sigmoid, silu};
use crate::cpu::{Rows, elementwise, linear::Linear};
use crate::loader::Loader;
use rayon::prelude::*;
use tamborim_model::mixers;

/// The mixer. All vectors have `z_dim` channels.
pub struct Mega<'a> {
    dims: mixers::Mega,
    value: Linear<'a>,
    scan: ScanMixer<'a>,
    mix: Linear<'a>,
    /// Scale and offset of queries, then of keys.
    gamma: Vec<f32>,
    beta: Vec<f32>,
    output: Linear<'a>,
    /// Vectors whose products are the position bias: of queries, of keys, by place in the chunk.
    positions: [Rows; 2],
}

/// The scan's state, and keys and values of the current chunk.
#[derive(Clone, Debug)]
pub struct MegaState {
    scan: ScanMixerState,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl<'a> Mega<'a> {
    pub fn load(dims: &mixers::Mega, loader: &Loader<'a, '_>) -> Result<Self> {
        let alpha = loader.vector("mega_position_alpha")?;
        let beta = loader.vector("mega_position_beta")?;
        Ok(Mega {
            value: loader.linear("mega_v")?,
            scan: ScanMixer::load(&dims.scan, loader)?,
            mix: loader.linear("mega_mix")?,
            gamma: loader.vector("mega_gamma")?,
            beta: loader.vector("mega_beta")?,
            output: loader.linear("mega_output")?,
            positions: [turned(&alpha, dims.chunk), turned(&beta, dims.chunk)],
            dims: dims.clone(),
        })
    }

    pub fn start(&self) -> MegaState {
        MegaState { scan: self.scan.start(), keys: Vec::new(), values: Vec::new() }
    }

    /// `u * (h - r)`, what the gated residual adds to r.
    pub fn forward(&self, n: &Rows, chunk: Chunk<'_>, state: &mut MegaState) -> Rows {
        let (d, z, tokens) = (n.cols, self.dims.z_dim, n.rows());
        let mut v = self.value.apply(n);
        elementwise::silu_in_place(&mut v);
        let mut features = self.scan.forward(n, &mut state.scan);
        elementwise::silu_in_place(&mut features);
        // Rows of [u (d), z (128), r (d), h (d)].
        let mixed = self.mix.apply(&features);
        let scaled = |which: usize| {
            let (gamma, beta) = (&self.gamma[which * z..][..z], &self.beta[which * z..][..z]);
            let mut rows = mixed.columns(d..d + z);
            for row in rows.data.chunks_exact_mut(z) {
                for ((x, g), b) in row.iter_mut().zip(gamma).zip(beta) {
                    *x = silu(*x) * g + b;
                }
            }
            rows
        };
        let (q, k) = (scaled(0), scaled(1));
        let mut attended = Rows::zeros(tokens, d);
        let mut from = 0;
        while from < tokens {
            let start = ((chunk.position + from as u64) % self.dims.chunk as u64) as usize;
            let to = tokens.min(from + self.dims.chunk - start);
            if start == 0 {
                state.keys.clear();
                state.values.clear();
            }
            state.keys.extend_from_slice(&k.data[from * z..to * z]);
            state.values.extend_from_slice(&v.data[from * d..to * d]);
            attended.data[from * d..to * d].par_chunks_mut(d).enumerate().for_each(|(i, out)| {
                self.attend(q.row(from + i), start + i, state, out);
            });
            from = to;
        }
        for (t, row) in attended.data.chunks_exact_mut(d).enumerate() {
            for (x, r) in row.iter_mut().zip(&mixed.row(t)[d + z..2 * d + z]) {
                *x *= silu(*r);
            }
        }
        let mut h = self.output.apply(&attended);
        h.data.par_chunks_mut(d).enumerate().for_each(|(t, row)| {
            let m = mixed.row(t);
            for (i, x) in row.iter_mut().enumerate() {
                *x = sigmoid(m[i]) * (silu(*x + m[2 * d + z + i]) - chunk.residual.row(t)[i]);
            }
        });
        h
    }

    /// Softmax attention of the query at `place` of its chunk over the chunk's keys up to itself.
    fn attend(&self, q: &[f32], place: usize, state: &MegaState, out: &mut [f32]) {
        let (z, d) = (self.dims.z_dim, out.len());
        let scale = 1.0 / (z as f32).sqrt();
        let [queries, keys] = &self.positions;
        let bias = |s: usize| dot(queries.row(place), keys.row(s));
        let keys = state.keys.chunks_exact(z).take(place + 1).enumerate();
        let mut scores: Vec<f32> = keys.map(|(s, k)| dot(q, k) * scale + bias(s)).collect();
        let max = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        scores.iter_mut().for_each(|s| *s = (*s - max).exp());
        let norm = 1.0 / scores.iter().sum::<f32>();
        for (p, v) in scores.iter().zip(state.values.chunks_exact(d)) {
            out.iter_mut().zip(v).for_each(|(o, v)| *o += p * norm * v);
        }
    }
}

/// R(p) v for every place p of a chunk: rotate-half with frequencies `10000^(-i / half)`. Frequencies and angles are
/// float32 as trained, so a bias depends on both places, if only in its last bits.
fn turned(v: &[f32], chunk: usize) -> Rows {
    let half = v.len() / 2;
    let step = -(10000f64.ln() / half as f64) as f32;
    let freq: Vec<f32> = (0..half).map(|i| (i as f32 * step).exp()).collect();
    let mut rows = Rows::zeros(chunk, v.len());
    rows.data.par_chunks_mut(v.len()).enumerate().for_each(|(place, row)| {
        let (low, high) = row.split_at_mut(half);
        for i in 0..half {
            let (sin, cos) = f64::from(place as f32 * freq[i]).sin_cos();
            let (sin, cos) = (sin as f32, cos as f32);
            low[i] = v[i] * cos - v[half + i] * sin;
            high[i] = v[half + i] * cos + v[i] * sin;
        }
    });
    rows
}
