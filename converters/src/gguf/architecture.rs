//! The architectures that a plan can be written as, so that llama.cpp runs what it has a graph for.
//!
//! | architecture | plans | differences from `samba` |
//! |---|---|---|
//! | `mamba` | pure Mamba, RMSNorm | none |
//! | `llama` | full attention and SwiGLU, RMSNorm, RoPE on whole heads | rows of q and k interleaved |
//! | `granite_swa` | the same with sliding windows, in all or some blocks | as `llama`, and attention sinks of no weight |
//! | `plamo2` | PLaMo-2 | none |
//! | `phi4flash` | differential attention, gated memory | none |
//! | `samba` | everything else | |
//!
//! llama.cpp's RoPE of the two in the middle turns neighbouring channels (2i, 2i+1) where the family turns (i, i + half):
//! the rows of each head of q and k are interleaved to make up for it. `granite_swa` adds an attention sink to each head's
//! softmax, exp(sink) in the denominator; with [`NO_SINK`] that is 0 in float32, and the graph is exactly a windowed LLaMA's.
//!
//! Source: `src/models/{mamba,llama,granite-swa}.cpp` and `llama_model_rope_type` of llama.cpp.

use crate::{Error, Result};
use std::path::Path;
use tamborim_model::mixers::Attention;
use tamborim_model::{Branch, Mixer, Naming, NormKind, Place, Plan, Role, TensorSpec};
use tamborim_quant::{Format, Tensor};

/// A sink whose exponential is 0 next to any score.
pub(super) const NO_SINK: f32 = -1e30;
const SINKS: &str = "attn_sinks.weight";

/// One of llama.cpp's graphs, or ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Ours; llama.cpp has no graph for it.
    Samba,
    /// llama.cpp's Mamba.
    Mamba,
    /// llama.cpp's LLaMA.
    Llama,
    /// llama.cpp's Granite with sliding windows.
    GraniteSwa,
    /// llama.cpp's PLaMo-2.
    Plamo2,
    /// Phi-4-mini-flash-reasoning's; llama.cpp has no graph for it.
    Phi4Flash,
}

impl Architecture {
    const ALL: [Architecture; 6] = [
        Architecture::Samba,
        Architecture::Mamba,
        Architecture::Llama,
        Architecture::GraniteSwa,
        Architecture::Plamo2,
        Architecture::Phi4Flash,
    ];

    /// The architecture that fits `plan`.
    pub fn of(plan: &Plan) -> Architecture {
        match Naming::of(plan) {
            Naming::Phi4Flash => return Architecture::Phi4Flash,
            Naming::Plamo2 => return Architecture::Plamo2,
            Naming::Lit | Naming::HuggingFace => {}
        }
        if plan.final_norm.kind != NormKind::Rms {
            return Architecture::Samba;
        }
        let llamas: Option<Vec<&Attention>> = plan.blocks.iter().map(|b| llama_block(&b.branches)).collect();
        if let Some(attention) = llamas {
            let windowed = attention.iter().any(|a| a.window.is_some());
            return if windowed { Architecture::GraniteSwa } else { Architecture::Llama };
        }
        let is_mamba = |branches: &[Branch]| match branches {
            [Branch { mixer: Mixer::Mamba(m), .. }] => {
                !m.proj_bias && m.scan.conv_bias && m.scan.d_inner == 2 * plan.d_model
            }
            _ => false,
        };
        if plan.blocks.iter().all(|b| is_mamba(&b.branches)) { Architecture::Mamba } else { Architecture::Samba }
    }

    /// `general.architecture`, and the prefix of keys.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Samba => "samba",
            Architecture::Mamba => "mamba",
            Architecture::Llama => "llama",
            Architecture::GraniteSwa => "granite_swa",
            Architecture::Plamo2 => "plamo2",
            Architecture::Phi4Flash => "phi4flash",
        }
    }

    /// By [`Architecture::name`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for others, naming `path`.
    pub fn from_name(path: &Path, name: &str) -> Result<Architecture> {
        Architecture::ALL.into_iter().find(|a| a.name() == name).ok_or_else(|| {
            let names = Architecture::ALL.map(Architecture::name).join(", ");
            Error::Unsupported {
                path: path.to_owned(),
                reason: format!("architecture {name:?} cannot be read: only {names}"),
            }
        })
    }

    /// A canonical tensor as this architecture stores it.
    pub fn store<'t>(self, plan: &Plan, spec: &TensorSpec, tensor: Tensor<'t>) -> Tensor<'t> {
        match self.turned_head(plan, spec) {
            Some(head) => permute(tensor, head, |row| (row % 2) * (head / 2) + row / 2),
            None => tensor,
        }
    }

    /// The inverse of [`Architecture::store`].
    pub fn restore<'t>(self, plan: &Plan, spec: &TensorSpec, tensor: Tensor<'t>) -> Tensor<'t> {
        match self.turned_head(plan, spec) {
            Some(head) => permute(tensor, head, |row| (row % (head / 2)) * 2 + row / (head / 2)),
            None => tensor,
        }
    }

    /// Tensors that the graph wants beside the plan's: name and numbers.
    pub fn additions(self, plan: &Plan) -> Vec<(String, Vec<f32>)> {
        if self != Architecture::GraniteSwa {
            return Vec::new();
        }
        let heads = |b: &tamborim_model::Block| llama_block(&b.branches).map_or(0, |a| a.heads);
        plan.blocks.iter().enumerate().map(|(i, b)| (format!("blk.{i}.{SINKS}"), vec![NO_SINK; heads(b)])).collect()
    }

    /// Channels of a head, for the tensors whose rows RoPE turns.
    fn turned_head(self, plan: &Plan, spec: &TensorSpec) -> Option<usize> {
        let turned = match spec.role {
            Role::AttnQ | Role::AttnK => true,
            Role::Bias => spec.name.ends_with("attn_q.bias") || spec.name.ends_with("attn_k.bias"),
            _ => false,
        };
        if !turned || !matches!(self, Architecture::Llama | Architecture::GraniteSwa) {
            return None;
        }
        plan.blocks.get(spec.block?).and_then(|b| llama_block(&b.branches)).map(|a| a.head_dim)
    }
}

/// The attention of a block that llama.cpp's LLaMA graphs can express.
fn llama_block(branches: &[Branch]) -> Option<&Attention> {
    let [Branch { place: Place::Mixer, mixer: Mixer::Attention(a), .. }, Branch { mixer: Mixer::SwiGlu(_), .. }] =
        branches
    else {
        return None;
    };
    let rope = a.rope.as_ref()?;
    (rope.dims == a.head_dim && a.short_conv.is_none()).then_some(a)
}

/// Rows of every head of `head` rows rearranged: row i comes from row `from(i)` of the same head.
fn permute(tensor: Tensor<'_>, head: usize, from: impl Fn(usize) -> usize) -> Tensor<'static> {
    // A bias is a vector, whose rows are its numbers; vectors are always stored as float32.
    let rows = tensor.shape.first().copied().unwrap_or(1).max(1);
    let row_bytes = tensor.bytes.len() / rows;
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for row in 0..rows {
        let source = row / head * head + from(row % head);
        bytes.extend_from_slice(&tensor.bytes[source * row_bytes..][..row_bytes]);
    }
    Tensor { format: tensor.format, shape: tensor.shape, bytes: bytes.into() }
}

/// Whether `name` is a tensor of [`Architecture::additions`] that does nothing, as ours do.
pub(super) fn is_inert(name: &str, format: Option<Format>, bytes: &[u8]) -> bool {
    let numbers = bytes.as_chunks::<4>().0;
    name.ends_with(SINKS) && format == Some(Format::F32) && numbers.iter().all(|b| f32::from_le_bytes(*b) <= NO_SINK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_interleaved_and_back() {
        let rows: Vec<u8> = (0..12).flat_map(|r| [r as f32; 1]).flat_map(f32::to_le_bytes).collect();
        let tensor = Tensor { format: Format::F32, shape: vec![12, 1], bytes: rows.into() };
        let head = 6;
        let stored = permute(tensor.clone(), head, |row| (row % 2) * (head / 2) + row / 2);
        assert_eq!(stored.to_f32(), [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
        let back = permute(stored, head, |row| (row % (head / 2)) * 2 + row / (head / 2));
        assert_eq!(back.to_f32(), tensor.to_f32());
    }
}
