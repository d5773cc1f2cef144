//! A model that runs: weights by the layer plan, and the walk over them.

use crate::backend::{Backend, NormWeights};
use crate::loader::Loader;
use crate::mixers::{MixerState, Weights};
use crate::{Error, Result};
use std::collections::HashMap;
use tamborim_model::{Branch, Plan, TensorSpec};
use tamborim_quant::TensorSource;

struct LoadedBranch<'a, B: Backend> {
    norm: NormWeights<B::Vector>,
    mixer: Weights<'a, B>,
}

/// A model with its weights, which the CPU borrows from where they are stored wherever possible.
pub struct Model<'a, B: Backend> {
    backend: &'a B,
    plan: &'a Plan,
    embedding: B::Linear<'a>,
    /// `None`: the embedding.
    head: Option<B::Linear<'a>>,
    branches: Vec<LoadedBranch<'a, B>>,
    final_norm: NormWeights<B::Vector>,
}

/// What a sequence has left behind: the position and every mixer's state. Its size does not grow with the sequence, full
/// attention excepted.
pub struct State<B: Backend> {
    position: u64,
    mixers: Vec<MixerState<B>>,
    place: Option<B::Place>,
    recording: B::Recording,
}

impl<B: Backend> State<B> {
    /// Tokens seen.
    pub fn position(&self) -> u64 {
        self.position
    }
}

/// Which logits to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Of every token.
    All,
    /// Of the last token only.
    Last,
}

impl<'a, B: Backend> Model<'a, B> {
    /// Loads every tensor of the source's plan.
    ///
    /// # Errors
    /// [`Error::Source`] where a tensor cannot be read, [`Error::Device`] where the device cannot take it.
    pub fn load(backend: &'a B, source: &'a dyn TensorSource) -> Result<Model<'a, B>> {
        let plan = source.plan();
        let specs: HashMap<String, TensorSpec> = plan.tensors().into_iter().map(|t| (t.name.clone(), t)).collect();
        let loader = |prefix, place| Loader { backend, source, specs: &specs, prefix, place };
        let top = loader(String::new(), None);
        let mut branches = Vec::new();
        for (i, block) in plan.blocks.iter().enumerate() {
            for branch in &block.branches {
                let Branch { place, norm, mixer } = branch;
                let loader = loader(format!("blk.{i}."), Some(*place));
                let norm = loader.norm(branch.norm_name(), *norm)?;
                branches.push(LoadedBranch { norm, mixer: Weights::load(mixer, &loader)? });
            }
        }
        Ok(Model {
            backend,
            plan,
            embedding: top.linear("token_embd")?,
            head: if plan.tied { None } else { Some(top.linear("output")?) },
            final_norm: top.norm("output_norm", plan.final_norm)?,
            branches,
        })
    }

    /// The plan it follows.
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// What it runs on.
    pub fn backend(&self) -> &'a B {
        self.backend
    }

    /// The state before the first token.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no room for it.
    pub fn start(&self) -> Result<State<B>> {
        let mixers = self.branches.iter().map(|b| b.mixer.start(self.backend)).collect::<Result<_>>()?;
        Ok(State { position: 0, mixers, place: None, recording: B::Recording::default() })
    }

    /// Runs `tokens` after `state`, which moves on, and hands logits to `sink` chunk by chunk: rows of `padded_vocab_size`
    /// numbers, of every token or of the last one only.
    ///
    /// # Errors
    /// [`Error::Token`] before anything is computed; those of the device and of `sink`.
    pub fn forward<E: From<Error>>(
        &self,
        tokens: &[u32],
        state: &mut State<B>,
        logits: Logits,
        mut sink: impl FnMut(B::Rows) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let vocab_size = self.plan.padded_vocab_size;
        if let Some(i) = tokens.iter().position(|t| *t as usize >= vocab_size) {
            return Err(Error::Token { token: tokens[i], position: state.position + i as u64, vocab_size }.into());
        }
        let mut chunks = tokens.chunks(self.backend.chunk()).peekable();
        while let Some(chunk) = chunks.next() {
            let wanted = match logits {
                Logits::Last if chunks.peek().is_some() => None,
                which => Some(which),
            };
            if let Some(rows) = self.advance(chunk, state, wanted)? {
                sink(rows)?;
            }
        }
        Ok(())
    }

    /// One chunk, and its logits where they are wanted.
    fn advance(&self, tokens: &[u32], state: &mut State<B>, logits: Option<Logits>) -> Result<Option<B::Rows>> {
        let State { position, mixers, place, recording } = state;
        let end = *position + tokens.len() as u64;
        let mut moved = false;
        for (branch, mixer) in self.branches.iter().zip(mixers.iter_mut()) {
            moved |= branch.mixer.reserve(self.backend, mixer, end)?;
        }
        if moved {
            *recording = B::Recording::default();
        }
        self.backend.set_place(place, tokens, *position)?;
        let Some(place) = place else { unreachable!("it was just set") };
        let mut walk = || {
            let r = self.residual(place, mixers)?;
            logits.map(|which| self.logits(&r, which)).transpose()
        };
        *position = end;
        match (tokens.len(), logits) {
            (1, Some(_)) => {
                let one = || walk().map(|rows| rows.unwrap_or_else(|| unreachable!("logits were asked for")));
                self.backend.repeat(recording, one).map(Some)
            }
            _ => walk(),
        }
    }

    /// The residual stream after the last block.
    fn residual(&self, place: &B::Place, mixers: &mut [MixerState<B>]) -> Result<B::Rows> {
        let mut r = self.backend.embed(&self.embedding, place)?;
        for (branch, mixer) in self.branches.iter().zip(mixers) {
            branch.mixer.forward(self.backend, &branch.norm, &mut r, place, mixer)?;
        }
        Ok(r)
    }

    fn logits(&self, r: &B::Rows, which: Logits) -> Result<B::Rows> {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        match which {
            Logits::All => self.backend.project_logits(&self.final_norm, head, r),
            Logits::Last => self.backend.project_logits(&self.final_norm, head, &self.backend.last_row(r)),
        }
    }
}
