use super::{Part, part, tabled};
use crate::tensor::{Role, View};

/// Epsilon of the norms of queries and keys; fixed where such models come from, whatever their configuration says of others.
pub const QK_NORM_EPS: f32 = 1e-6;

/// Precision of the cos/sin table. It is part of the trained function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeTable {
    /// Computed in float32, rounded to bfloat16 (the training code).
    Bf16,
    /// float32 (flash-linear-attention, llama.cpp).
    F32,
}

/// Rotary position embedding, rotate-half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Leading channels of each head that are turned; even.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are divided by this.
    pub condense: f32,
    /// Precision of the table.
    pub table: RopeTable,
}

/// Causal softmax attention with grouped keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head h uses `h / (heads / groups)`.
    pub groups: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Keys a token sees, itself included; `None`: all before it.
    pub window: Option<usize>,
    /// Position embedding, if any.
    pub rope: Option<Rope>,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of the output projection.
    pub output_bias: bool,
    /// Width of the causal convolution on q, k and v, if any. SiLU follows it.
    pub short_conv: Option<usize>,
    /// q, k and v come from one matrix: all heads of q, then of k, then of v.
    pub fused: bool,
    /// RMSNorm of every head of q and k before the position embedding, with weights of its own for each.
    pub qk_norm: bool,
}

impl Attention {
    pub(crate) fn describe(&self) -> String {
        let span = match self.window {
            Some(w) => format!("sliding window {w}"),
            None => "full attention".to_owned(),
        };
        let kv = if self.groups == self.heads { String::new() } else { format!(" / {} kv", self.groups) };
        let rope = match &self.rope {
            None => ", no position embedding".to_owned(),
            Some(r) if r.dims < self.head_dim => format!(", RoPE on {}", r.dims),
            Some(_) => String::new(),
        };
        let conv = if self.short_conv.is_some() { ", short convolutions" } else { "" };
        let norm = if self.qk_norm { ", q and k normalized" } else { "" };
        format!("{span}, {} heads{kv} x {}{rope}{norm}{conv}", self.heads, self.head_dim)
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let Self { heads, groups, head_dim: head, .. } = *self;
        let mut parts = match self.fused {
            true => fused_parts((heads + 2 * groups) * head, d_model, self.qkv_bias),
            false => self.separate_parts(d_model),
        };
        if self.qk_norm {
            parts.push(tabled(Role::Norm, "attn_q_norm.weight", &[heads, head]));
            parts.push(tabled(Role::Norm, "attn_k_norm.weight", &[groups, head]));
        }
        let output = &[d_model, heads * head];
        parts.push(part(Role::AttnOutput, "attn_output.weight", "proj.weight", output).hf("o_proj.weight"));
        if self.output_bias {
            parts.push(part(Role::Bias, "attn_output.bias", "proj.bias", &[d_model]).hf("o_proj.bias"));
        }
        parts
    }

    fn separate_parts(&self, d_model: usize) -> Vec<Part> {
        let Self { heads, groups, head_dim: head, .. } = *self;
        let per_group = heads / groups + 2;
        let fused = |first, count| View::HeadsOfGroups { groups, per_group, first, count, head };
        let streams = [
            (Role::AttnQ, heads, fused(0, per_group - 2)),
            (Role::AttnK, groups, fused(per_group - 2, 1)),
            (Role::AttnV, groups, fused(per_group - 1, 1)),
        ];
        let names = [
            ["attn_q.weight", "attn_q.bias", "attn_q_conv1d.weight", "q_proj.weight", "q_proj.bias", "q_conv1d.weight"],
            ["attn_k.weight", "attn_k.bias", "attn_k_conv1d.weight", "k_proj.weight", "k_proj.bias", "k_conv1d.weight"],
            ["attn_v.weight", "attn_v.bias", "attn_v_conv1d.weight", "v_proj.weight", "v_proj.bias", "v_conv1d.weight"],
        ];
        let mut parts = Vec::new();
        for ((role, n, view), [weight, bias, conv, hf_weight, hf_bias, lit_conv]) in streams.into_iter().zip(names) {
            parts.push(part(role, weight, "attn.weight", &[n * head, d_model]).stored_as(view.clone()).hf(hf_weight));
            if self.qkv_bias {
                parts.push(part(Role::Bias, bias, "attn.bias", &[n * head]).stored_as(view).hf(hf_bias));
            }
            if let Some(width) = self.short_conv {
                let conv = part(Role::AttnConv, conv, lit_conv, &[n * head, width]);
                parts.push(conv.stored_as(View::Squeeze).lit_only());
            }
        }
        parts
    }
}

/// Queries, keys and values as one matrix of `rows`.
pub(super) fn fused_parts(rows: usize, d_model: usize, bias: bool) -> Vec<Part> {
    let mut parts = vec![tabled(Role::AttnQkv, "attn_qkv.weight", &[rows, d_model])];
    if bias {
        parts.push(tabled(Role::Bias, "attn_qkv.bias", &[rows]));
    }
    parts
}
