//! Multi-scale retention: a decayed outer-product recurrence with RoPE, a norm per head and an output gate.

use super::Pass;
use super::linear_attention::LinearAttention;
use crate::Result;
use crate::backend::{Backend, Decay, Heads, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers::{self, Rope, RopeTable};

/// The mixer.
pub struct Retention<'a, B: Backend> {
    attention: LinearAttention<'a, B>,
    rope: B::Rope,
    decay: B::Vector,
}

impl<'a, B: Backend> Retention<'a, B> {
    pub fn load(dims: &mixers::Retention, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let heads = Heads { count: dims.heads, keys: dims.key_dim, values: dims.value_dim };
        let rope = Rope { dims: dims.key_dim, base: 10000.0, condense: 1.0, table: RopeTable::F32 };
        // gamma = 1 - 2^-(5 + head), the same for all channels of a head.
        let decay = (0..heads.count).flat_map(|h| std::iter::repeat_n(1.0 - (-5.0 - h as f32).exp2(), heads.keys));
        Ok(Retention {
            attention: LinearAttention::load(heads, &[], loader)?,
            rope: loader.backend.load_rope(&rope)?,
            decay: loader.backend.vector(decay.collect())?,
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
        pass: &mut Pass<'_, B>,
        state: &mut B::Vector,
    ) -> Result<()> {
        let mut x = self.attention.project(ops, norm, r)?;
        x.q = ops.rotate(&self.rope, &x.q, self.attention.heads.keys, pass.place)?;
        x.k = ops.rotate(&self.rope, &x.k, self.attention.heads.keys, pass.place)?;
        self.attention.mix(ops, &x, Decay::Constant(&self.decay), r, state)
    }
}
