//! The mixers of the family, one file each: dimensions and tensors. Their math is in the runtime.

mod attention;
mod cross_attention;
mod differential_attention;
mod gated_memory;
mod gla;
mod headed_mamba;
mod mamba;
mod mega;
mod retention;
mod swiglu;

pub use attention::{Attention, QK_NORM_EPS, Rope, RopeTable};
pub use cross_attention::CrossAttention;
pub use differential_attention::{Differential, DifferentialAttention, SUB_NORM_EPS};
pub use gated_memory::GatedMemory;
pub use gla::Gla;
pub use headed_mamba::HeadedMamba;
pub use mamba::{Mamba, SelectiveScan};
pub use mega::Mega;
pub use retention::Retention;
pub use swiglu::SwiGlu;

use crate::tensor::{Role, View};

/// One branch of the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Selective state space model.
    Mamba(Mamba),
    /// Softmax attention, in a sliding window or over everything.
    Attention(Attention),
    /// Gated MLP.
    SwiGlu(SwiGlu),
    /// Multi-scale retention.
    Retention(Retention),
    /// Gated linear attention.
    Gla(Gla),
    /// Mega with an S6 in the place of its moving average.
    Mega(Mega),
    /// Differential attention over keys and values of its own.
    DifferentialAttention(DifferentialAttention),
    /// Differential attention over the keys and values of a block below.
    CrossAttention(CrossAttention),
    /// A gate on what a Mamba below handed out.
    GatedMemory(GatedMemory),
    /// Selective state space model whose A, D and dt are one number a head.
    HeadedMamba(HeadedMamba),
}

/// A mixer's tensor, before it knows its block: one row of a mixer's table.
pub(crate) struct Part {
    pub role: Role,
    /// Canonical (GGUF) name below `blk.N.`.
    pub name: &'static str,
    pub shape: Vec<usize>,
    /// Key below the mixer's prefix in the training code's naming, and how it is stored there.
    pub lit: Option<(&'static str, View)>,
    /// The same in Hugging Face's naming.
    pub hf: Option<(&'static str, View)>,
}

/// A part named and stored alike in both namings.
pub(crate) fn part(role: Role, name: &'static str, key: &'static str, shape: &[usize]) -> Part {
    Part { role, name, shape: shape.to_vec(), lit: Some((key, View::Whole)), hf: Some((key, View::Whole)) }
}

/// A part of mixers that only families with a table of names have (`crate::naming`).
pub(crate) fn tabled(role: Role, name: &'static str, shape: &[usize]) -> Part {
    Part { role, name, shape: shape.to_vec(), lit: None, hf: None }
}

impl Part {
    pub fn stored_as(mut self, view: View) -> Part {
        self.hf = self.hf.map(|(k, _)| (k, view.clone()));
        self.lit = self.lit.map(|(k, _)| (k, view));
        self
    }

    pub fn hf(mut self, key: &'static str) -> Part {
        self.hf = Some((key, View::Whole));
        self
    }

    pub fn lit_only(mut self) -> Part {
        self.hf = None;
        self
    }
}

impl Mixer {
    /// The mixer in a word, as in GGUF's `samba.block.mixers` and in diagrams.
    pub fn word(&self) -> &'static str {
        match self {
            Mixer::Mamba(_) => "mamba",
            Mixer::Attention(_) => "attention",
            Mixer::SwiGlu(_) => "swiglu",
            Mixer::Retention(_) => "retention",
            Mixer::Gla(_) => "gla",
            Mixer::Mega(_) => "mega",
            Mixer::DifferentialAttention(_) => "differential_attention",
            Mixer::CrossAttention(_) => "cross_attention",
            Mixer::GatedMemory(_) => "gated_memory",
            Mixer::HeadedMamba(_) => "headed_mamba",
        }
    }

    /// The mixer and its dimensions, for people.
    pub fn describe(&self) -> String {
        match self {
            Mixer::Mamba(m) => m.describe(),
            Mixer::Attention(a) => a.describe(),
            Mixer::SwiGlu(s) => s.describe(),
            Mixer::Retention(r) => r.describe(),
            Mixer::Gla(g) => g.describe(),
            Mixer::Mega(m) => m.describe(),
            Mixer::DifferentialAttention(a) => a.describe(),
            Mixer::CrossAttention(a) => a.describe(),
            Mixer::GatedMemory(m) => m.describe(),
            Mixer::HeadedMamba(m) => m.describe(),
        }
    }

    /// The mixer's tensors. `is_mlp`: it is the MLP half of a block, not its mixer.
    pub(crate) fn parts(&self, d_model: usize, is_mlp: bool) -> Vec<Part> {
        match self {
            Mixer::Mamba(m) => m.parts(d_model),
            Mixer::Attention(a) => a.parts(d_model),
            Mixer::SwiGlu(s) => s.parts(d_model, is_mlp),
            Mixer::Retention(r) => r.parts(d_model),
            Mixer::Gla(g) => g.parts(d_model),
            Mixer::Mega(m) => m.parts(d_model),
            Mixer::DifferentialAttention(a) => a.parts(d_model),
            Mixer::CrossAttention(a) => a.parts(d_model),
            Mixer::GatedMemory(m) => m.parts(d_model),
            Mixer::HeadedMamba(m) => m.parts(d_model),
        }
    }

    /// Whether it carries anything from token to token. What comes after the last one that does can be computed for the last
    /// token alone where only that one's logits are wanted.
    pub fn has_state(&self) -> bool {
        !matches!(self, Mixer::SwiGlu(_) | Mixer::CrossAttention(_) | Mixer::GatedMemory(_))
    }

    /// Whether it uses what a mixer below has left behind beside the residual stream.
    pub fn looks_below(&self) -> bool {
        matches!(self, Mixer::CrossAttention(_) | Mixer::GatedMemory(_))
    }
}
