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
        let Self { heads, key_dim, value_dim } = *self;
        linear_attention(heads * key_dim, heads * value_dim, value_dim, d_model).map(Part::lit_only).into()
    }
}

/// Tensors of every linear attention: projections, output gate, norm per head. `keys` and `values`: channels of all heads.
pub(super) fn linear_attention(keys: usize, values: usize, value_dim: usize, d_model: usize) -> [Part; 6] {
    [
        part(Role::AttnQ, "attn_q.weight", "q_proj.weight", &[keys, d_model]),
        part(Role::AttnK, "attn_k.weight", "k_proj.weight", &[keys, d_model]),
        part(Role::AttnV, "attn_v.weight", "v_proj.weight", &[values, d_model]),
        part(Role::AttnGate, "attn_gate.weight", "g_proj.weight", &[values, d_model]),
        part(Role::Norm, "attn_sub_norm.weight", "g_norm_swish_gate.weight", &[value_dim]),
        part(Role::AttnOutput, "attn_output.weight", "o_proj.weight", &[d_model, values]),
    ]
}
