//! A model that runs: weights by the layer plan, and the walk over them.

use crate::cpu::linear::Linear;
use crate::cpu::norm::NormWeights;
use crate::cpu::{Rows, elementwise};
use crate::loader::Loader;
use crate::mixers::{Chunk, MixerState, Weights};
use crate::{Error, Result};
use std::collections::HashMap;
use tamborim_model::{Branch, Plan, TensorSpec};
use tamborim_quant::TensorSource;

/// Tokens that go through the layers together.
const CHUNK: usize = 256;

struct LoadedBranch<'a> {
    norm: NormWeights,
    mixer: Weights<'a>,
}

/// A model with its weights, which are borrowed from where they are stored wherever possible.
pub struct Model<'a> {
    plan: &'a Plan,
    embedding: Linear<'a>,
    /// `None`: the embedding.
    head: Option<Linear<'a>>,
    branches: Vec<LoadedBranch<'a>>,
    final_norm: NormWeights,
}

/// What a sequence has left behind: the position and every mixer's state. Its size does not grow with the sequence, full
/// attention excepted.
#[derive(Clone, Debug)]
pub struct State {
    position: u64,
    mixers: Vec<MixerState>,
}

impl State {
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

impl<'a> Model<'a> {
    /// Loads every tensor of the source's plan.
    ///
    /// # Errors
    /// [`Error::Source`] where a tensor cannot be read.
    pub fn load(source: &'a dyn TensorSource) -> Result<Model<'a>> {
        let plan = source.plan();
        let specs: HashMap<String, TensorSpec> = plan.tensors().into_iter().map(|t| (t.name.clone(), t)).collect();
        let loader = |prefix, place| Loader::new(source, &specs, prefix, place);
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

    /// The state before the first token.
    pub fn start(&self) -> State {
        State { position: 0, mixers: self.branches.iter().map(|b| b.mixer.start()).collect() }
    }

    /// Runs `tokens` after `state`, which moves on, and hands logits to `sink` chunk by chunk: rows of `padded_vocab_size`
    /// numbers, of every token or of the last one only.
    ///
    /// # Errors
    /// [`Error::Token`] before anything is computed.
    pub fn forward(
        &self,
        tokens: &[u32],
        state: &mut State,
        logits: Logits,
        mut sink: impl FnMut(&[f32]),
    ) -> Result<()> {
        let vocab_size = self.plan.padded_vocab_size;
        if let Some(i) = tokens.iter().position(|t| *t as usize >= vocab_size) {
            return Err(Error::Token { token: tokens[i], position: state.position + i as u64, vocab_size });
        }
        let chunks = tokens.len().div_ceil(CHUNK);
        for (i, chunk) in tokens.chunks(CHUNK).enumerate() {
            let mut r = self.residual(chunk, state);
            if logits == Logits::Last {
                if i + 1 < chunks {
                    continue;
                }
                r = Rows { data: r.row(r.rows() - 1).to_vec(), cols: r.cols };
            }
            let head = self.head.as_ref().unwrap_or(&self.embedding);
            sink(&head.apply(&self.final_norm.apply(&r)).data);
        }
        Ok(())
    }

    /// The residual stream after the last block.
    fn residual(&self, tokens: &[u32], state: &mut State) -> Rows {
        let mut r = Rows::zeros(tokens.len(), self.plan.d_model);
        for (token, row) in tokens.iter().zip(r.data.chunks_exact_mut(self.plan.d_model)) {
            self.embedding.decode_row(*token as usize, row);
        }
        for (branch, mixer) in self.branches.iter().zip(&mut state.mixers) {
            let x = branch.norm.apply(&r);
            let y = branch.mixer.forward(&x, Chunk { position: state.position, residual: &r }, mixer);
            elementwise::add(&mut r, &y);
        }
        state.position += tokens.len() as u64;
        r
    }
}
