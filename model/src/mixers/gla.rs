use super::{Part, part, retention::linear_attention};
use crate::tensor::Role;

/// Gated linear attention (arXiv 2312.06635): `S = diag(a) S + k v^T`, `o = S^T q / sqrt(dk)`,
/// `a = sigmoid(decay)^(1/16)` per key channel, normalized per head, gated. No position embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gla {
    /// Heads.
    pub heads: usize,
    /// Key channels of a head.
    pub key_dim: usize,
    /// Value channels of a head.
    pub value_dim: usize,
    /// Rank of the decay's projection.
    pub decay_rank: usize,
}

impl Gla {
    pub(crate) fn describe(&self) -> String {
        format!("gated linear attention, {} heads x {} keys x {} values", self.heads, self.key_dim, self.value_dim)
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let Self { heads, key_dim, value_dim, decay_rank } = *self;
        let keys = heads * key_dim;
        let mut parts = Vec::from(linear_attention(keys, heads * value_dim, value_dim, d_model));
        parts.extend([
            part(Role::AttnDecay, "attn_decay_a.weight", "gk_proj.0.weight", &[decay_rank, d_model]),
            part(Role::AttnDecay, "attn_decay_b.weight", "gk_proj.1.weight", &[keys, decay_rank]),
            part(Role::Bias, "attn_decay_b.bias", "gk_proj.1.bias", &[keys]),
        ]);
        parts.into_iter().map(Part::lit_only).collect()
    }
}
