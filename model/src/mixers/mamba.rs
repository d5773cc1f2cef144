use super::{Part, part};
use crate::tensor::{Role, View};

/// The selective scan and the convolution before it (Mamba's S6, arXiv 2312.00752).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectiveScan {
    /// Channels.
    pub d_inner: usize,
    /// State size N per channel.
    pub d_state: usize,
    /// Width of the causal convolution.
    pub d_conv: usize,
    /// Rank of dt.
    pub dt_rank: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
}

impl SelectiveScan {
    /// Tensors shared by every mixer with a selective scan inside.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let Self { d_inner, d_state, d_conv, dt_rank, conv_bias } = *self;
        let mut parts = vec![
            part(Role::SsmConv, "ssm_conv1d.weight", "conv1d.weight", &[d_inner, d_conv]).stored_as(View::Squeeze),
        ];
        if conv_bias {
            parts.push(part(Role::SsmConv, "ssm_conv1d.bias", "conv1d.bias", &[d_inner]));
        }
        parts.extend([
            part(Role::SsmX, "ssm_x.weight", "x_proj.weight", &[dt_rank + 2 * d_state, d_inner]),
            part(Role::SsmDt, "ssm_dt.weight", "dt_proj.weight", &[d_inner, dt_rank]),
            part(Role::SsmDtBias, "ssm_dt.bias", "dt_proj.bias", &[d_inner]),
            part(Role::SsmA, "ssm_a", "A_log", &[d_inner, d_state]).stored_as(View::NegExp),
            part(Role::SsmD, "ssm_d", "D", &[d_inner]),
        ]);
        parts
    }
}

/// A Mamba mixer: `out(scan(silu(conv(x))) * silu(z))` with `[x, z] = in(u)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mamba {
    /// What happens between the projections.
    pub scan: SelectiveScan,
    /// Biases of the two projections (Hugging Face's `use_bias`; never in the training code).
    pub proj_bias: bool,
    /// Whether what the scan gives, before the gate, is the memory of [`GatedMemory`](super::GatedMemory) above.
    pub shares_memory: bool,
}

impl Mamba {
    pub(crate) fn describe(&self) -> String {
        let shares = if self.shares_memory { ", hands out its memory" } else { "" };
        let Self { scan: s, .. } = self;
        format!(
            "Mamba, {} channels x {} states, conv {}, dt rank {}{shares}",
            s.d_inner, s.d_state, s.d_conv, s.dt_rank
        )
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let d_inner = self.scan.d_inner;
        let mut parts = vec![part(Role::SsmIn, "ssm_in.weight", "in_proj.weight", &[2 * d_inner, d_model])];
        if self.proj_bias {
            parts.push(part(Role::Bias, "ssm_in.bias", "in_proj.bias", &[2 * d_inner]));
        }
        parts.extend(self.scan.parts());
        parts.push(part(Role::SsmOut, "ssm_out.weight", "out_proj.weight", &[d_model, d_inner]));
        if self.proj_bias {
            parts.push(part(Role::Bias, "ssm_out.bias", "out_proj.bias", &[d_model]));
        }
        parts
    }
}
