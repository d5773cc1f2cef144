//! A model that runs, whatever runs it: logits come as the rows of a backend either way.

use crate::Result;
use crate::source::OpenModel;
use tamborim_kernels::{Backend, Logits, Model, State};
use tamborim_model::Plan;
use tamborim_quant::TensorSource;

/// A loaded model.
pub enum Runner<'a, B: Backend> {
    /// Our own runtime, on the backend.
    Own(Model<'a, B>),
}

/// A sequence under way: what its tokens so far have left behind.
pub enum Sequence<'r, 'a, B: Backend> {
    Own(&'r Model<'a, B>, Box<State<B>>),
}

impl<'a, B: Backend> Runner<'a, B> {
    /// Loads a model for what its file is meant to be run by.
    pub fn load(backend: &'a B, opened: &'a OpenModel) -> Result<Self> {
        Self::own(backend, opened.source())
    }

    /// Loads a model for our own runtime.
    pub fn own(backend: &'a B, source: &'a dyn TensorSource) -> Result<Self> {
        Ok(Runner::Own(Model::load(backend, source)?))
    }

    /// What its logits are rows of.
    pub fn backend(&self) -> &'a B {
        match self {
            Runner::Own(model) => model.backend(),
        }
    }

    /// The plan of the model.
    pub fn plan(&self) -> &Plan {
        match self {
            Runner::Own(model) => model.plan(),
        }
    }

    /// A sequence before its first token.
    pub fn start(&self) -> Result<Sequence<'_, 'a, B>> {
        match self {
            Runner::Own(model) => Ok(Sequence::Own(model, Box::new(model.start()?))),
        }
    }
}

impl<B: Backend> Sequence<'_, '_, B> {
    /// Runs `tokens` after those before, and hands logits to `sink` chunk by chunk: rows of the padded vocabulary's size, of
    /// every token or of the last one only.
    pub fn forward(&mut self, tokens: &[u32], logits: Logits, sink: impl FnMut(B::Rows) -> Result<()>) -> Result<()> {
        match self {
            Sequence::Own(model, state) => model.forward(tokens, state, logits, sink),
        }
    }
}
