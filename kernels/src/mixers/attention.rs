//! Softmax attention with grouped keys and values, RoPE and an optional sliding window.

use super::{Output, Pass};
use crate::Result;
use crate::backend::{AttentionShape, Backend, Conv, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers::{self, QK_NORM_EPS};
use tamborim_model::{Norm, NormKind};

/// The mixer. The short convolutions or norms of q and k, where there are any, come between projection and RoPE.
pub struct Attention<'a, B: Backend> {
    shape: AttentionShape,
    rope: Option<B::Rope>,
    qkv: B::Linear<'a>,
    conv: Option<Conv<B::Vector>>,
    /// Of all heads of q, then of k.
    qk_norm: Option<NormWeights<B::Vector>>,
    output: Output<'a, B>,
}

/// Keys and values that later tokens see, and the short convolutions' inputs.
pub struct AttentionState<B: Backend> {
    kv: B::KeyValues,
    conv: B::Vector,
}

impl<'a, B: Backend> Attention<'a, B> {
    pub fn load(dims: &mixers::Attention, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let mixers::Attention { heads, groups, head_dim, window, .. } = *dims;
        let conv =
            dims.short_conv.map(|width| loader.conv(&["attn_q_conv1d", "attn_k_conv1d", "attn_v_conv1d"], width));
        Ok(Attention {
            shape: AttentionShape { heads, groups, head_dim, window },
            rope: dims.rope.as_ref().map(|r| loader.backend.load_rope(r)).transpose()?,
            qkv: loader.stack(if dims.fused { &["attn_qkv"] } else { &["attn_q", "attn_k", "attn_v"] })?,
            conv: conv.transpose()?,
            qk_norm: dims.qk_norm.then(|| qk_norm(loader)).transpose()?,
            output: loader.output("attn_output")?,
        })
    }

    pub fn start(&self, ops: &B) -> Result<AttentionState<B>> {
        let AttentionShape { heads, groups, head_dim, .. } = self.shape;
        let channels = (heads + 2 * groups) * head_dim;
        Ok(AttentionState {
            kv: ops.key_values(&self.shape)?,
            conv: ops.zeros(self.conv.as_ref().map_or(0, |c| c.past_len(channels)))?,
        })
    }

    pub fn reserve(&self, ops: &B, state: &mut AttentionState<B>, end: u64) -> Result<bool> {
        ops.reserve(&mut state.kv, &self.shape, end)
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        pass: &mut Pass<'_, B>,
        state: &mut AttentionState<B>,
    ) -> Result<()> {
        let mut qkv = ops.project(norm, &self.qkv, r)?;
        if let Some(conv) = &self.conv {
            qkv = ops.conv(conv, &qkv, &mut state.conv)?;
        }
        if let Some(norm) = &self.qk_norm {
            qkv = ops.norm_heads(norm, self.shape.head_dim, &qkv)?;
        }
        let mixed = ops.attend(&self.shape, self.rope.as_ref(), &qkv, pass.place, &mut state.kv)?;
        self.output.add(ops, &mixed, r)
    }
}

fn qk_norm<B: Backend>(loader: &Loader<'_, '_, B>) -> Result<NormWeights<B::Vector>> {
    let weight = [loader.numbers("attn_q_norm.weight")?, loader.numbers("attn_k_norm.weight")?].concat();
    NormWeights::new(loader.backend, Norm { kind: NormKind::Rms, eps: QK_NORM_EPS }, weight, Vec::new())
}
