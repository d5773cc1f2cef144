//! A model and others that differ from it in one tensor, on the same text: what comes before the difference is computed once.

use super::{Ends, LoadedBranch, Model, Tensors, branches_of};
use crate::backend::Backend;
use crate::{Error, Result};
use tamborim_model::{Branch, Role, TensorSpec};
use tamborim_quant::TensorSource;

/// Text, and what a model has made of it on the way. As large as the residual stream in front of every branch.
pub struct Trace<B: Backend> {
    windows: Vec<Vec<Step<B>>>,
}

/// A chunk of a window.
struct Step<B: Backend> {
    tokens: Vec<u32>,
    /// The residual stream in front of every branch, and behind the last one.
    residuals: Vec<B::Rows>,
}

/// The part of a model that a tensor belongs to, as another source has it. The model itself stays as it is.
pub struct Variant<'v, B: Backend> {
    /// The first branch that finds another residual stream in front of it, or is another; all of them.
    first: usize,
    part: Part<'v, B>,
}

enum Part<'v, B: Backend> {
    Ends(Ends<'v, B>),
    Branch(LoadedBranch<'v, B>),
}

impl<B: Backend> Model<'_, B> {
    /// Loads the part that tensor `spec` belongs to from `source`, whose plan is the model's.
    ///
    /// # Errors
    /// Those of [`Model::load`].
    pub fn variant<'v>(&self, source: &'v dyn TensorSource, spec: &TensorSpec) -> Result<Variant<'v, B>> {
        let tensors = Tensors::of(source, self.backend);
        let mut branches = branches_of(self.plan).enumerate();
        let holds = |block: usize, branch: &Branch| {
            Some(block) == spec.block && branch.tensors(block, self.plan.d_model).contains(spec)
        };
        Ok(match branches.find(|(_, (block, branch))| holds(*block, branch)) {
            Some((first, (block, branch))) => {
                Variant { first, part: Part::Branch(LoadedBranch::load(block, branch, &tensors)?) }
            }
            None => {
                let first = if spec.role == Role::Embedding { 0 } else { self.branches.len() };
                Variant { first, part: Part::Ends(Ends::load(self.plan, &tensors)?) }
            }
        })
    }

    /// Walks `windows`, each from a fresh state.
    ///
    /// # Errors
    /// [`Error::Token`]; those of the device.
    pub fn trace(&self, windows: &[&[u32]]) -> Result<Trace<B>> {
        let traced = windows.iter().map(|window| {
            let mut state = self.start()?;
            self.check(window, &state)?;
            let step = |tokens: &[u32]| {
                self.prepare(tokens, &mut state)?;
                let Some(place) = &state.place else { unreachable!("it was just set") };
                let (mut r, mut memory) = (self.backend.embed(&self.ends.embedding, place)?, None);
                let mut residuals = Vec::with_capacity(self.branches.len() + 1);
                for i in 0..self.branches.len() {
                    residuals.push(self.backend.copied(&r)?);
                    self.walk(i..i + 1, &mut r, place, &mut memory, &mut state.mixers)?;
                }
                residuals.push(r);
                Ok(Step { tokens: tokens.to_vec(), residuals })
            };
            window.chunks(self.backend.chunk()).map(step).collect()
        });
        Ok(Trace { windows: traced.collect::<Result<_>>()? })
    }

    /// Walks the text of `trace`, which is this model's, on from where `variant` differs, and hands every chunk with the
    /// logits of all its tokens to `sink`. Without a variant they are the model's own.
    ///
    /// # Errors
    /// Those of the device and of `sink`.
    pub fn retrace<E: From<Error>>(
        &self,
        trace: &Trace<B>,
        variant: Option<&Variant<'_, B>>,
        mut sink: impl FnMut(&[u32], B::Rows) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (backend, end) = (self.backend, self.branches.len());
        let differs = variant.map_or(end, |v| v.first);
        // What mixers find beside the residual stream is not in the trace.
        let alone = differs == end || !branches_of(self.plan).any(|(_, branch)| branch.mixer.looks_below());
        let first = if alone { differs } else { 0 };
        for window in &trace.windows {
            let mut state = self.start()?;
            for Step { tokens, residuals } in window {
                self.prepare(tokens, &mut state)?;
                let Some(place) = &state.place else { unreachable!("it was just set") };
                let (mut r, mut memory, states) = (backend.copied(&residuals[first])?, None, &mut state.mixers[..]);
                let logits = match variant.map(|v| &v.part) {
                    None => self.ends.logits(backend, &r),
                    Some(Part::Branch(branch)) => {
                        self.walk(first..differs, &mut r, place, &mut memory, states)?;
                        branch.forward(backend, differs, &mut r, place, &mut memory, states)?;
                        self.walk(differs + 1..end, &mut r, place, &mut memory, states)?;
                        self.ends.logits(backend, &r)
                    }
                    Some(Part::Ends(ends)) => {
                        if first < end {
                            r = backend.embed(&ends.embedding, place)?;
                        }
                        self.walk(first..end, &mut r, place, &mut memory, states)?;
                        ends.logits(backend, &r)
                    }
                };
                sink(tokens, logits?)?;
            }
        }
        Ok(())
    }
}
