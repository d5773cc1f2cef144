//! The mixers of the family, one file each: dimensions and tensors. Their math is in the runtime.

mod attention;
mod gla;
mod mamba;
mod mega;
mod retention;
mod swiglu;

pub use attention::{Attention, Rope, RopeTable};
pub use gla::Gla;
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
}

/// A mixer's tensor, before it knows its block: one row of a mixer's table.
pub(crate) struct Part {
    pub role: Role,
    /// Canonical (GGUF) name below `blk.N.`.
    pub name: &'static str,
    pub shape: Vec<usize>,
    /// Key below the mixer's prefix in the training code's naming, and how it is stored there.
    pub lit: (&'static str, View),
    /// The same in Hugging Face's naming.
    pub hf: Option<(&'static str, View)>,
}

/// A part named and stored alike in both namings.
pub(crate) fn part(role: Role, name: &'static str, key: &'static str, shape: &[usize]) -> Part {
    Part { role, name, shape: shape.to_vec(), lit: (key, View::Whole), hf: Some((key, View::Whole)) }
}

impl Part {
    pub fn stored_as(mut self, view: View) -> Part {
        self.hf = self.hf.map(|(k, _)| (k, view.clone()));
        self.lit.1 = view;
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
        }
    }
}
