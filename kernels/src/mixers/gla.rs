//! Gated linear attention: the recurrence of retention with a decay computed from the input.

use super::Chunk;
use super::gated_output::GatedOutput;
use crate::Result;
use crate::cpu::recurrence::{Heads, OuterState, decayed_outer_scan};
use crate::cpu::{Rows, linear::Linear};
use crate::loader::Loader;
use rayon::prelude::*;
use tamborim_model::mixers;

/// `a = sigmoid(gate)^(1 / NORMALIZER)`.
const NORMALIZER: f32 = 16.0;

/// The mixer.
pub struct Gla<'a> {
    heads: Heads,
    qkv: [Linear<'a>; 3],
    decay: [Linear<'a>; 2],
    output: GatedOutput<'a>,
}

impl<'a> Gla<'a> {
    pub fn load(dims: &mixers::Gla, loader: &Loader<'a, '_>) -> Result<Self> {
        Ok(Gla {
            heads: Heads { count: dims.heads, keys: dims.key_dim, values: dims.value_dim },
            qkv: [loader.linear("attn_q")?, loader.linear("attn_k")?, loader.linear("attn_v")?],
            decay: [loader.linear("attn_decay_a")?, loader.linear("attn_decay_b")?],
            output: GatedOutput::load(loader)?,
        })
    }

    pub fn start(&self) -> OuterState {
        OuterState::start(self.heads)
    }

    pub fn forward(&self, x: &Rows, _: Chunk<'_>, state: &mut OuterState) -> Rows {
        let [mut q, k, v] = self.qkv.each_ref().map(|w| w.apply(x));
        let mut decay = self.decay[1].apply(&self.decay[0].apply(x));
        decay.data.par_chunks_mut(1 << 12).for_each(|chunk| {
            for gate in chunk {
                // log sigmoid(g) = min(g, 0) - ln(1 + e^-|g|), exact at both ends
                let log_sigmoid = gate.min(0.0) - (-gate.abs()).exp().ln_1p();
                *gate = (log_sigmoid / NORMALIZER).exp();
            }
        });
        let scale = 1.0 / (self.heads.keys as f32).sqrt();
        q.data.iter_mut().for_each(|q| *q *= scale);
        let o = decayed_outer_scan(&q, &k, &v, &decay, self.heads, state);
        self.output.apply(o, x)
    }
}
