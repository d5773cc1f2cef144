use super::attention::fused_parts;
use super::{Part, tabled};
use crate::tensor::Role;

/// Epsilon of the norm of every pair of heads; fixed, whatever the configuration says of others.
pub const SUB_NORM_EPS: f32 = 1e-5;

/// What all differential attention (arXiv 2410.05258) has: heads `2 j` and `2 j + 1` form pair j, of queries, keys and values
/// alike, and query pair j uses key/value pair `j / (heads / groups)`. Both heads attend to the values of the whole pair side
/// by side; the second result is subtracted, `lambda` times, and the difference normalized:
///
/// `o_j = rms(P_2j - lambda P_2j+1) * weight * (1 - l0)`,
/// `lambda = exp(<q1, k1>) - exp(<q2, k2>) + l0`, `l0 = 0.8 - 0.6 exp(-0.3 layer)`. No position embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differential {
    /// Query heads; even.
    pub heads: usize,
    /// Key/value heads; even.
    pub groups: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// The block's number, which l0 depends on.
    pub layer: usize,
    /// Biases of q, and of k and v where it has those.
    pub qkv_bias: bool,
    /// Bias of the output projection.
    pub output_bias: bool,
}

impl Differential {
    /// `l0`.
    pub fn lambda_init(&self) -> f64 {
        0.8 - 0.6 * (-0.3 * self.layer as f64).exp()
    }

    pub(super) fn describe(&self) -> String {
        format!("{} heads / {} kv x {}, no position embedding", self.heads, self.groups, self.head_dim)
    }

    /// Tensors after the projection.
    pub(super) fn parts(&self, d_model: usize) -> Vec<Part> {
        let head = [self.head_dim];
        let mut parts = vec![
            tabled(Role::AttnLambda, "attn_lambda_q1.weight", &head),
            tabled(Role::AttnLambda, "attn_lambda_k1.weight", &head),
            tabled(Role::AttnLambda, "attn_lambda_q2.weight", &head),
            tabled(Role::AttnLambda, "attn_lambda_k2.weight", &head),
            tabled(Role::Norm, "attn_subln.weight", &[2 * self.head_dim]),
            tabled(Role::AttnOutput, "attn_output.weight", &[d_model, self.heads * self.head_dim]),
        ];
        parts.extend(self.output_bias.then(|| tabled(Role::Bias, "attn_output.bias", &[d_model])));
        parts
    }
}

/// Differential attention over keys and values of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferentialAttention {
    /// Heads and what becomes of them.
    pub differential: Differential,
    /// Keys a token sees, itself included; `None`: all before it.
    pub window: Option<usize>,
}

impl DifferentialAttention {
    pub(crate) fn describe(&self) -> String {
        let span = self.window.map_or("full".to_owned(), |w| format!("window {w}"));
        format!("differential attention, {span}, {}", self.differential.describe())
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let Differential { heads, groups, head_dim, qkv_bias, .. } = self.differential;
        let mut parts = fused_parts((heads + 2 * groups) * head_dim, d_model, qkv_bias);
        parts.extend(self.differential.parts(d_model));
        parts
    }
}
