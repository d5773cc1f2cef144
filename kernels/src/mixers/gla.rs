//! Gated linear attention: the recurrence of retention with a decay computed from the input.

use super::Pass;
use super::linear_attention::LinearAttention;
use crate::Result;
use crate::backend::{Backend, Decay, Heads, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers;

/// The mixer.
pub struct Gla<'a, B: Backend> {
    attention: LinearAttention<'a, B>,
    decay: B::Linear<'a>,
}

impl<'a, B: Backend> Gla<'a, B> {
    pub fn load(dims: &mixers::Gla, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let heads = Heads { count: dims.heads, keys: dims.key_dim, values: dims.value_dim };
        Ok(Gla {
            attention: LinearAttention::load(heads, &["attn_decay_a"], loader)?,
            decay: loader.linear("attn_decay_b")?,
        })
    }

    pub fn start(&self, ops: &B) -> Result<B::Vector> {
        self.attention.start(ops)
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        _: &mut Pass<'_, B>,
        state: &mut B::Vector,
    ) -> Result<()> {
        let x = self.attention.project(ops, norm, r)?;
        let gate = ops.linear(&self.decay, &x.rest)?;
        self.attention.mix(ops, &x, Decay::Gate(&gate), r, state)
    }
}
