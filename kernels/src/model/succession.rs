//! A model beside what becomes of it while its branches are quantized one after the other: how the second falls short of the
//! first, on the same text, in front of every branch.

use super::{Ends, LoadedBranch, Tensors, branches_of, check_tokens};
use crate::Result;
use crate::backend::Backend;
use crate::mixers::MixerState;
use crate::observe::{Input, Latest, Observed};
use rayon::prelude::*;
use tamborim_quant::{Sums, TensorSource};

/// Two residual streams: of a model, and of the same as far as it is quantized.
pub struct Succession<'a, B: Backend> {
    backend: Observed<B, Latest>,
    source: &'a dyn TensorSource,
    windows: Vec<Vec<Step<B>>>,
}

/// A chunk of a window.
struct Step<B: Backend> {
    tokens: Vec<u32>,
    own: B::Rows,
    quantized: B::Rows,
}

/// What the maps of one input lack in the quantized model.
///
/// With x the input in the model and q in the quantized one, r and s the residual streams there and W the maps as they are,
/// this is `E[g q^T]`: of maps whose output is added to the residual stream g is what the stream then lacks,
/// `(r + W x) - (s + W q)`, and of others what the input lacks, `x - q`.
pub struct Gap {
    /// Canonical names of the maps.
    pub maps: Vec<String>,
    /// Whether their output is added to the residual stream.
    pub is_added: bool,
    /// `E[g q^T]`: (channels of g, channels of q).
    pub means: Vec<f64>,
    /// Channels of q.
    pub width: usize,
    /// Tokens that the means are over.
    pub tokens: u64,
}

/// Which maps of a branch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maps {
    /// Those that something else inside the branch follows.
    Inner,
    /// Those whose output is added to the residual stream.
    Added,
}

impl<'a, B: Backend> Succession<'a, B> {
    /// Of the model of `source`, on `windows`, each from a fresh state. Of `quantized`, which has the same plan, only the
    /// embedding is read.
    ///
    /// # Errors
    /// [`crate::Error::Token`]; [`crate::Error::Source`] where a tensor cannot be read; those of the device.
    pub fn new(
        backend: B,
        source: &'a dyn TensorSource,
        quantized: &dyn TensorSource,
        windows: &[&[u32]],
    ) -> Result<Succession<'a, B>> {
        let (backend, plan) = (Observed::latest(backend), source.plan());
        windows.iter().try_for_each(|window| check_tokens(plan, window, 0))?;
        let own = Ends::load(plan, &Tensors::of(source, &backend))?;
        let ends = Ends::load(plan, &Tensors::of(quantized, &backend))?;
        let mut place = None;
        let mut step = |(i, tokens): (usize, &[u32])| {
            backend.set_place(&mut place, tokens, (i * backend.chunk()) as u64)?;
            let Some(place) = &place else { unreachable!("it was just set") };
            let own = backend.embed(&own.embedding, place)?;
            Ok(Step { tokens: tokens.to_vec(), own, quantized: backend.embed(&ends.embedding, place)? })
        };
        let mut steps = |window: &&[u32]| window.chunks(backend.chunk()).enumerate().map(&mut step).collect();
        let windows = windows.iter().map(&mut steps).collect::<Result<_>>()?;
        backend.forget();
        Ok(Succession { backend, source, windows })
    }

    /// Whether branches of this plan can be looked at one by one: none looks at what others have left behind.
    pub fn is_possible(plan: &tamborim_model::Plan) -> bool {
        !branches_of(plan).any(|(_, branch)| branch.mixer.looks_below())
    }

    /// Moves the model's own stream beyond branch `index` and says what maps inside the branch lack, whose tensors are all
    /// those of `quantized`.
    ///
    /// # Errors
    /// Those of [`Succession::new`].
    ///
    /// # Panics
    /// If there is no such branch.
    pub fn gaps_inside(&mut self, index: usize, quantized: &dyn TensorSource) -> Result<Vec<Gap>> {
        self.gaps(index, quantized, Maps::Inner)
    }

    /// Says what maps lack whose output is added to the residual stream, after [`Succession::gaps_inside`] for the same
    /// branch. In `quantized` these maps are the model's own.
    ///
    /// # Errors
    /// Those of [`Succession::new`].
    ///
    /// # Panics
    /// If there is no such branch.
    pub fn gaps_at_end(&mut self, index: usize, quantized: &dyn TensorSource) -> Result<Vec<Gap>> {
        self.gaps(index, quantized, Maps::Added)
    }

    /// Moves the quantized model's stream beyond branch `index`.
    ///
    /// # Errors
    /// Those of [`Succession::new`].
    ///
    /// # Panics
    /// If there is no such branch.
    pub fn advance(&mut self, index: usize, quantized: &dyn TensorSource) -> Result<()> {
        let branch = self.load(index, quantized)?;
        for window in &mut self.windows {
            let mut walk = Walk::new(&self.backend, &branch)?;
            window.iter_mut().try_for_each(|step| walk.forward(&step.tokens, &mut step.quantized))?;
        }
        self.backend.forget();
        Ok(())
    }

    fn load<'s>(&self, index: usize, source: &'s dyn TensorSource) -> Result<LoadedBranch<'s, Observed<B, Latest>>> {
        let Some((block, branch)) = branches_of(self.source.plan()).nth(index) else { panic!("no branch {index}") };
        LoadedBranch::load(block, branch, &Tensors::of(source, &self.backend))
    }

    fn gaps(&mut self, index: usize, quantized: &dyn TensorSource, maps: Maps) -> Result<Vec<Gap>> {
        let own = if maps == Maps::Inner { Some(self.load(index, self.source)?) } else { None };
        let branch = self.load(index, quantized)?;
        let (backend, mut grams) = (&self.backend, Vec::new());
        for window in &mut self.windows {
            let mut own = own.as_ref().map(|branch| Walk::new(backend, branch)).transpose()?;
            let mut walk = Walk::new(backend, &branch)?;
            for Step { tokens, own: r, quantized } in window {
                let mut expected = Vec::new();
                if let Some(own) = &mut own {
                    own.forward(tokens, r)?;
                    expected = backend.take();
                }
                let mut s = backend.copied(quantized)?;
                walk.forward(tokens, &mut s)?;
                for (input, q) in backend.take() {
                    let beside = match (maps, input.is_added) {
                        (Maps::Inner, false) => match expected.iter().find(|(e, _)| e.maps == input.maps) {
                            Some((_, x)) => backend.beside_difference(&q, [x, &q])?,
                            None => continue,
                        },
                        (Maps::Added, true) => backend.beside_difference(&q, [r, &s])?,
                        _ => continue,
                    };
                    add(backend, &mut grams, input, self.source.plan().d_model, &beside)?;
                }
            }
        }
        let tokens = self.windows.iter().flatten().map(|step| step.tokens.len() as u64).sum();
        let read = |(input, gram): (Input, B::Gram)| {
            let sums = backend.read_gram_end(&gram, input.width * (input.width + 1) / 2)?;
            Ok(Gap::new(input, &sums, tokens))
        };
        let gaps = grams.into_iter().map(read).collect();
        backend.forget();
        gaps
    }
}

/// Adds the products of rows `[q, g]` to those of the same input.
fn add<B: Backend>(
    backend: &B,
    grams: &mut Vec<(Input, B::Gram)>,
    input: Input,
    d_model: usize,
    rows: &B::Rows,
) -> Result<()> {
    let known = grams.iter().position(|(known, _)| known.maps == input.maps);
    let index = match known {
        Some(index) => index,
        None => {
            let width = input.width + if input.is_added { d_model } else { input.width };
            let gram = backend.load_gram(Sums::new(input.maps.clone(), width, width))?;
            grams.push((input, gram));
            grams.len() - 1
        }
    };
    backend.add_gram(rows, &mut grams[index].1)
}

impl Gap {
    /// From the sums of `[q, g]`, of the lower triangle the rows of g.
    fn new(input: Input, sums: &[f64], tokens: u64) -> Gap {
        let Input { maps, width, is_added, .. } = input;
        let mut rest = sums;
        let mut rows = Vec::new();
        while !rest.is_empty() {
            let (row, below) = rest.split_at(width + rows.len() + 1);
            rows.push(&row[..width]);
            rest = below;
        }
        let count = tokens.max(1) as f64;
        let mut means = vec![0.0; rows.len() * width];
        means.par_chunks_exact_mut(width).zip(rows).for_each(|(means, row)| {
            means.iter_mut().zip(row).for_each(|(mean, sum)| *mean = sum / count);
        });
        Gap { maps, is_added, means, width, tokens }
    }
}

/// A branch and its state on the way through a window.
struct Walk<'w, 'a, B: Backend> {
    backend: &'w B,
    branch: &'w LoadedBranch<'a, B>,
    state: MixerState<B>,
    place: Option<B::Place>,
    position: u64,
}

impl<'w, 'a, B: Backend> Walk<'w, 'a, B> {
    fn new(backend: &'w B, branch: &'w LoadedBranch<'a, B>) -> Result<Self> {
        Ok(Walk { backend, branch, state: branch.mixer.start(backend)?, place: None, position: 0 })
    }

    fn forward(&mut self, tokens: &[u32], r: &mut B::Rows) -> Result<()> {
        let end = self.position + tokens.len() as u64;
        self.branch.mixer.reserve(self.backend, &mut self.state, end)?;
        self.backend.set_place(&mut self.place, tokens, self.position)?;
        self.position = end;
        let Some(place) = &self.place else { unreachable!("it was just set") };
        self.branch.forward(self.backend, 0, r, place, &mut None, std::slice::from_mut(&mut self.state))
    }
}
