use super::{Part, tabled};
use crate::tensor::Role;

/// Mamba with heads, as PLaMo-2 has it: one A, one D and one step size a head, and norms on B, C and dt.
///
/// `[gate, x] = in(u)`, head by head, `x = silu(conv(x))`, `[B, C, dt] = x_proj(x)`, each normalized,
/// `dt = softplus(dt_proj(dt) + bias)`, `h = exp(dt A) h + dt B x`, `out((<h, C> + D x) * silu(gate))`.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadedMamba {
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// State size N per channel.
    pub d_state: usize,
    /// Width of the causal convolution, which has no bias.
    pub d_conv: usize,
    /// Rank of dt.
    pub dt_rank: usize,
    /// Of the norms of B, C and dt.
    pub eps: f32,
}

impl HeadedMamba {
    /// Channels of all heads.
    pub fn d_inner(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(crate) fn describe(&self) -> String {
        let Self { heads, head_dim, d_state, d_conv, dt_rank, .. } = self;
        format!("Mamba, {heads} heads x {head_dim} x {d_state} states, conv {d_conv}, dt rank {dt_rank}")
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let Self { heads, d_state, d_conv, dt_rank, .. } = *self;
        let d_inner = self.d_inner();
        vec![
            tabled(Role::SsmIn, "ssm_in.weight", &[2 * d_inner, d_model]),
            tabled(Role::SsmConv, "ssm_conv1d.weight", &[d_inner, d_conv]),
            tabled(Role::SsmX, "ssm_x.weight", &[2 * d_state + dt_rank, d_inner]),
            tabled(Role::Norm, "ssm_dt_norm", &[dt_rank]),
            tabled(Role::Norm, "ssm_b_norm", &[d_state]),
            tabled(Role::Norm, "ssm_c_norm", &[d_state]),
            tabled(Role::SsmDt, "ssm_dt.weight", &[heads, dt_rank]),
            tabled(Role::SsmDtBias, "ssm_dt.bias", &[heads]),
            tabled(Role::SsmA, "ssm_a", &[heads]),
            tabled(Role::SsmD, "ssm_d", &[heads]),
            tabled(Role::SsmOut, "ssm_out.weight", &[d_model, d_inner]),
        ]
    }
}
