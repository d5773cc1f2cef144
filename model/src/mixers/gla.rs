use super::{Part, part};
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
        let (keys, values) = (self.heads * self.key_dim, self.heads * self.value_dim);
        [
            part(Role::AttnQ, "attn_q.weight", "q_proj.weight", &[keys, d_model]),
            part(Role::AttnK, "attn_k.weight", "k_proj.weight", &[keys, d_model]),
            part(Role::AttnV, "attn_v.weight", "v_proj.weight", &[values, d_model]),
            part(Role::AttnGate, "attn_gate.weight", "g_proj.weight", &[values, d_model]),
            part(Role::AttnDecay, "attn_decay_a.weight", "gk_proj.0.weight", &[self.decay_rank, d_model]),
            part(Role::AttnDecay, "attn_decay_b.weight", "gk_proj.1.weight", &[keys, self.decay_rank]),
            part(Role::Bias, "attn_decay_b.bias", "gk_proj.1.bias", &[keys]),
            part(Role::Norm, "attn_sub_norm.weight", "g_norm_swish_gate.weight", &[self.value_dim]),
            part(Role::AttnOutput, "attn_output.weight", "o_proj.weight", &[d_model, values]),
        ]
        .map(Part::lit_only)
        .into()
    }
}
