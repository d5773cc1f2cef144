use super::{Part, part};
use crate::tensor::Role;

/// Multi-scale retention (arXiv 2307.08621): `S = gamma_h S + k v^T`, `o = S^T q / sqrt(dk)`, `gamma_h = 1 - 2^-(5+h)`,
/// normalized per head, gated. RoPE on q and k, float32 table, base 10000.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Heads.
    pub heads: usize,
    /// Key channels of a head.
    pub key_dim: usize,
    /// Value channels of a head.
    pub value_dim: usize,
}

impl Retention {
    pub(crate) fn describe(&self) -> String {
        format!("retention, {} heads x {} keys x {} values", self.heads, self.key_dim, self.value_dim)
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let (keys, values) = (self.heads * self.key_dim, self.heads * self.value_dim);
        [
            part(Role::AttnQ, "attn_q.weight", "q_proj.weight", &[keys, d_model]),
            part(Role::AttnK, "attn_k.weight", "k_proj.weight", &[keys, d_model]),
            part(Role::AttnV, "attn_v.weight", "v_proj.weight", &[values, d_model]),
            part(Role::AttnGate, "attn_gate.weight", "g_proj.weight", &[values, d_model]),
            part(Role::Norm, "attn_sub_norm.weight", "g_norm_swish_gate.weight", &[self.value_dim]),
            part(Role::AttnOutput, "attn_output.weight", "o_proj.weight", &[d_model, values]),
        ]
        .map(Part::lit_only)
        .into()
    }
}
