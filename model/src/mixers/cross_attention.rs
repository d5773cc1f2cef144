use super::{Differential, Part, tabled};
use crate::tensor::Role;

/// Differential attention over the keys and values of the nearest [`DifferentialAttention`](super::DifferentialAttention)
/// below, which is full and of the same heads. It carries nothing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrossAttention {
    /// Heads and what becomes of them.
    pub differential: Differential,
}

impl CrossAttention {
    pub(crate) fn describe(&self) -> String {
        format!("differential cross attention on the keys below, {}", self.differential.describe())
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let Differential { heads, head_dim, qkv_bias, .. } = self.differential;
        let mut parts = vec![tabled(Role::AttnQ, "attn_q.weight", &[heads * head_dim, d_model])];
        parts.extend(qkv_bias.then(|| tabled(Role::Bias, "attn_q.bias", &[heads * head_dim])));
        parts.extend(self.differential.parts(d_model));
        parts
    }
}
