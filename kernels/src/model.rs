//! A model that runs: weights by the layer plan, and the walk over them.

mod succession;
mod variant;

pub use succession::{Gap, Succession};
pub use variant::{Trace, Variant};

use crate::backend::{Backend, NormWeights};
use crate::cpu::exp;
use crate::loader::Loader;
use crate::mixers::{MixerState, Pass, Weights};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use tamborim_model::{Branch, Plan, TensorSpec};
use tamborim_quant::TensorSource;

struct LoadedBranch<'a, B: Backend> {
    norm: NormWeights<B::Vector>,
    mixer: Weights<'a, B>,
}

impl<'a, B: Backend> LoadedBranch<'a, B> {
    fn load(block: usize, branch: &Branch, tensors: &Tensors<'a, '_, B>) -> Result<Self> {
        let loader = tensors.loader(format!("blk.{block}."), Some(branch));
        let norm = loader.norm(branch.norm_name(), branch.norm)?;
        Ok(LoadedBranch { norm, mixer: Weights::load(&branch.mixer, &loader)? })
    }

    /// Adds to `r` as branch `index` of all.
    fn forward(
        &self,
        backend: &B,
        index: usize,
        r: &mut B::Rows,
        place: &B::Place,
        memory: &mut Option<B::Rows>,
        states: &mut [MixerState<B>],
    ) -> Result<()> {
        let (below, state) = states.split_at_mut(index);
        let Some(state) = state.first_mut() else { unreachable!("a state of another model") };
        self.mixer.forward(backend, &self.norm, r, &mut Pass { place, memory, below }, state)
    }
}

/// What is in front of the branches and behind them.
struct Ends<'a, B: Backend> {
    embedding: B::Linear<'a>,
    final_norm: NormWeights<B::Vector>,
    /// `None`: the embedding.
    head: Option<B::Linear<'a>>,
}

impl<'a, B: Backend> Ends<'a, B> {
    fn load(plan: &Plan, tensors: &Tensors<'a, '_, B>) -> Result<Self> {
        let loader = tensors.loader(String::new(), None);
        Ok(Ends {
            embedding: loader.linear("token_embd")?,
            final_norm: loader.norm("output_norm", plan.final_norm)?,
            head: loader.head(plan)?,
        })
    }

    fn logits(&self, backend: &B, r: &B::Rows) -> Result<B::Rows> {
        backend.project_logits(&self.final_norm, self.head.as_ref().unwrap_or(&self.embedding), r)
    }
}

/// A source's tensors on their way to a backend.
struct Tensors<'a, 'l, B: Backend> {
    backend: &'l B,
    source: &'a dyn TensorSource,
    specs: HashMap<String, TensorSpec>,
}

impl<'a, 'l, B: Backend> Tensors<'a, 'l, B> {
    fn of(source: &'a dyn TensorSource, backend: &'l B) -> Self {
        let specs = source.plan().tensors().into_iter().map(|t| (t.name.clone(), t)).collect();
        Tensors { backend, source, specs }
    }

    /// Of those whose names begin with `prefix`, for `branch` or the ends.
    fn loader<'s>(&'s self, prefix: String, branch: Option<&'s Branch>) -> Loader<'a, 's, B> {
        Loader { backend: self.backend, source: self.source, specs: &self.specs, prefix, branch }
    }
}

/// A model with its weights, which the CPU borrows from where they are stored wherever possible.
pub struct Model<'a, B: Backend> {
    backend: &'a B,
    plan: &'a Plan,
    ends: Ends<'a, B>,
    branches: Vec<LoadedBranch<'a, B>>,
    /// The first branch after all that carry something from token to token.
    tail: usize,
}

/// What a sequence has left behind: the position and every mixer's state. Its size does not grow with the sequence, full
/// attention excepted.
pub struct State<B: Backend> {
    position: u64,
    mixers: Vec<MixerState<B>>,
    place: Option<B::Place>,
    /// Of a chunk's last token alone.
    last_place: Option<B::Place>,
    /// Of a step that leaves logits, and of one that chooses the next token.
    recordings: [B::Recording; 2],
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
        let tensors = Tensors::of(source, backend);
        let branches = branches_of(plan).map(|(block, branch)| LoadedBranch::load(block, branch, &tensors));
        let stateful = branches_of(plan).enumerate().filter(|(_, (_, branch))| branch.mixer.has_state());
        Ok(Model {
            backend,
            plan,
            branches: branches.collect::<Result<_>>()?,
            tail: stateful.map(|(i, _)| i + 1).last().unwrap_or(0),
            ends: Ends::load(plan, &tensors)?,
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
        Ok(State { position: 0, mixers, place: None, last_place: None, recordings: Default::default() })
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
        self.check(tokens, state)?;
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

    /// Runs `token` after `state`, then the likeliest token after it, and so on, `count` of them; the likeliest after each.
    /// The device goes from token to token by itself.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn continue_greedily(&self, token: u32, count: usize, state: &mut State<B>) -> Result<Vec<u32>> {
        self.check(&[token], state)?;
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let steps = (count - chosen.len()).min(self.backend.chunk());
            self.backend.set_place(&mut state.place, &[*chosen.last().unwrap_or(&token)], state.position)?;
            for _ in 0..steps {
                self.reserve(state, 1)?;
                let State { position, mixers, place: Some(place), recordings: [_, recording], .. } = &mut *state else {
                    unreachable!("it was just set")
                };
                self.backend.repeat(recording, || {
                    let (mut memory, mut r) = (None, self.backend.embed(&self.ends.embedding, place)?);
                    self.walk(0..self.branches.len(), &mut r, place, &mut memory, mixers)?;
                    let logits = self.ends.logits(self.backend, &r)?;
                    self.backend.take_likeliest(&logits, self.plan.vocab_size, place)?;
                    Ok(logits)
                })?;
                *position += 1;
            }
            let Some(place) = &state.place else { unreachable!("it was just set") };
            chosen.extend(self.backend.taken(place, steps, state.position)?);
        }
        Ok(chosen)
    }

    /// Runs `tokens` after `state`, which moves on, without logits, and hands the residual stream (tokens, d_model) after
    /// each block of the plan to `sink`, chunk by chunk.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn hidden<E: From<Error>>(
        &self,
        tokens: &[u32],
        state: &mut State<B>,
        mut sink: impl FnMut(usize, &B::Rows) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.check(tokens, state)?;
        for chunk in tokens.chunks(self.backend.chunk()) {
            self.prepare(chunk, state)?;
            let State { mixers, place: Some(place), .. } = &mut *state else { unreachable!("it was just set") };
            let (mut memory, mut r) = (None, self.backend.embed(&self.ends.embedding, place)?);
            let mut from = 0;
            for (i, block) in self.plan.blocks.iter().enumerate() {
                let to = from + block.branches.len();
                self.walk(from..to, &mut r, place, &mut memory, mixers)?;
                sink(i, &r)?;
                from = to;
            }
        }
        Ok(())
    }

    /// Runs `tokens` after `state`, which moves on, and hands what goes into the head (tokens, d_model) and the probabilities
    /// (tokens, vocab_size) of the next token to `sink`, chunk by chunk.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn predictions<E: From<Error>>(
        &self,
        tokens: &[u32],
        state: &mut State<B>,
        mut sink: impl FnMut(&[f32], &[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.hidden(tokens, state, |block, r| {
            if block + 1 < self.plan.blocks.len() {
                return Ok(());
            }
            let inputs = self.backend.read(&self.backend.norm(&self.ends.final_norm, r)?)?;
            let logits = self.backend.read(&self.ends.logits(self.backend, r)?)?;
            sink(&inputs, &probabilities(&logits, self.plan.padded_vocab_size, self.plan.vocab_size))
        })
    }

    fn check(&self, tokens: &[u32], state: &State<B>) -> Result<()> {
        check_tokens(self.plan, tokens, state.position)
    }

    /// Makes room for so many tokens more.
    fn reserve(&self, state: &mut State<B>, tokens: usize) -> Result<()> {
        let (end, mut moved) = (state.position + tokens as u64, false);
        for (branch, mixer) in self.branches.iter().zip(state.mixers.iter_mut()) {
            moved |= branch.mixer.reserve(self.backend, mixer, end)?;
        }
        if moved {
            state.recordings = Default::default();
        }
        Ok(())
    }

    /// Moves `state` beyond a chunk: makes room for its tokens and puts them in their place.
    fn prepare(&self, tokens: &[u32], state: &mut State<B>) -> Result<()> {
        self.reserve(state, tokens.len())?;
        self.backend.set_place(&mut state.place, tokens, state.position)?;
        state.position += tokens.len() as u64;
        Ok(())
    }

    /// One chunk, and its logits where they are wanted.
    fn advance(&self, tokens: &[u32], state: &mut State<B>, logits: Option<Logits>) -> Result<Option<B::Rows>> {
        self.prepare(tokens, state)?;
        let State { position, mixers, place, last_place, recordings: [recording, _] } = state;
        let Some(place) = place else { unreachable!("it was just set") };
        let last = match (logits, tokens) {
            (Some(Logits::Last), [_, .., last]) => {
                self.backend.set_place(last_place, &[*last], *position - 1)?;
                last_place.as_ref()
            }
            _ => None,
        };
        let mut walk = || {
            let (states, tail) = (&mut mixers[..], self.tail);
            let (mut memory, mut r) = (None, self.backend.embed(&self.ends.embedding, place)?);
            self.walk(0..tail, &mut r, place, &mut memory, states)?;
            if logits.is_none() {
                return Ok(None);
            }
            // Nothing of what follows is of use to later tokens.
            if last.is_some() {
                let row = tokens.len() - 1;
                r = self.backend.row(&r, row);
                memory = memory.map(|rows| self.backend.row(&rows, row));
            }
            self.walk(tail..self.branches.len(), &mut r, last.unwrap_or(place), &mut memory, states)?;
            self.ends.logits(self.backend, &r).map(Some)
        };
        match (tokens.len(), logits) {
            (1, Some(_)) => {
                let one = || walk().map(|rows| rows.unwrap_or_else(|| unreachable!("logits were asked for")));
                self.backend.repeat(recording, one).map(Some)
            }
            _ => walk(),
        }
    }

    /// The residual stream and the memory through some of the branches.
    fn walk(
        &self,
        branches: Range<usize>,
        r: &mut B::Rows,
        place: &B::Place,
        memory: &mut Option<B::Rows>,
        states: &mut [MixerState<B>],
    ) -> Result<()> {
        for i in branches {
            self.branches[i].forward(self.backend, i, r, place, memory, states)?;
        }
        Ok(())
    }
}

/// Softmax over the first `vocab_size` of each `stride` logits.
fn probabilities(logits: &[f32], stride: usize, vocab_size: usize) -> Vec<f32> {
    let mut p = vec![0.0; logits.len() / stride * vocab_size];
    p.par_chunks_exact_mut(vocab_size).zip(logits.par_chunks_exact(stride)).for_each(|(p, logits)| {
        let logits = &logits[..vocab_size];
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        p.iter_mut().zip(logits).for_each(|(p, x)| *p = exp(x - largest));
        let inverse = (1.0 / p.iter().map(|p| f64::from(*p)).sum::<f64>()) as f32;
        p.iter_mut().for_each(|p| *p *= inverse);
    });
    p
}

/// Every token, of which the first is at `position`, is one that the model knows.
fn check_tokens(plan: &Plan, tokens: &[u32], position: u64) -> Result<()> {
    let vocab_size = plan.padded_vocab_size;
    match tokens.iter().position(|t| *t as usize >= vocab_size) {
        Some(i) => Err(Error::Token { token: tokens[i], position: position + i as u64, vocab_size }),
        None => Ok(()),
    }
}

/// Every branch of a plan, with the number of its block.
fn branches_of(plan: &Plan) -> impl Iterator<Item = (usize, &Branch)> {
    plan.blocks.iter().enumerate().flat_map(|(i, block)| block.branches.iter().map(move |branch| (i, branch)))
}
