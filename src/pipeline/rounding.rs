//! Linear maps rounded for what their inputs are. Where the calibration has its text, the model runs over it beside what has
//! been quantized of it so far, and each map makes up for part of what those before it have lost.

use super::quantize::LastHessian;
use super::replaced::Replaced;
use super::sensitivity::first_tokens;
use crate::Result;
use crate::device::{Device, on_device};
use crate::output::note;
use crate::progress::Progress;
use crate::source::OpenModel;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tamborim_converters::gguf::CalibrationFile;
use tamborim_kernels::{Backend, Cpu, Gap, Model, Succession};
use tamborim_model::{Role, TensorSpec};
use tamborim_quant::{Effort, Format, Hessian, Lack, NBits, NBitsMatrix, RowInputs, Tensor, TensorSource};

/// What of a map's lack its rounding makes up for (measured: docs/quantization.md): a share of it, less of it the more a
/// finite text leaves to chance, which grows with the channels.
const SHARE: f64 = 0.5;
const NOISE: f64 = 16.0;

/// A calibration to round for, and what to run the model on.
pub struct Calibrated<'c> {
    pub file: &'c CalibrationFile,
    /// With the number of its tokens to run; `None`: every map is rounded by itself.
    pub run: Option<(Device, usize)>,
}

/// What maps are rounded to.
pub trait Target: Copy {
    /// A rounded map, as it will be stored.
    type Rounded;

    /// Elements of a block.
    fn block_len(self) -> usize;

    /// Rounds a map's numbers for inputs of this Hessian.
    fn round(self, spec: &TensorSpec, numbers: &[f32], hessian: &Hessian) -> Result<Self::Rounded>;

    /// The same as a model runs with it.
    fn tensor(rounded: &Self::Rounded) -> Tensor<'static>;
}

impl Target for Format {
    type Rounded = Tensor<'static>;

    fn block_len(self) -> usize {
        self.block_len()
    }

    fn round(self, spec: &TensorSpec, numbers: &[f32], hessian: &Hessian) -> Result<Tensor<'static>> {
        Ok(Tensor::quantize_calibrated(numbers, spec.shape.clone(), self, hessian, Effort::default())?)
    }

    fn tensor(rounded: &Tensor<'static>) -> Tensor<'static> {
        rounded.clone()
    }
}

impl Target for NBits {
    type Rounded = NBitsMatrix<'static>;

    fn block_len(self) -> usize {
        self.block_len()
    }

    fn round(self, spec: &TensorSpec, numbers: &[f32], hessian: &Hessian) -> Result<NBitsMatrix<'static>> {
        let extent = [spec.shape[0], spec.shape[1]];
        Ok(NBitsMatrix::quantize_calibrated(numbers, extent, self, hessian, Effort::default())?)
    }

    fn tensor(rounded: &NBitsMatrix<'static>) -> Tensor<'static> {
        rounded.decoded()
    }
}

/// Gives `job` a function that has every map of `targets`, by name, rounded to its own, each to be asked for once; `None` of
/// others, and where the calibration knows nothing of the input.
pub fn with_rounded<T: Target, R>(
    model: &OpenModel,
    calibrated: Calibrated<'_>,
    targets: HashMap<String, T>,
    job: impl FnOnce(&dyn Fn(&TensorSpec) -> Result<Option<T::Rounded>>) -> Result<R>,
) -> Result<R> {
    let run = calibrated.run.filter(|(_, tokens)| {
        *tokens > 0 && !targets.is_empty() && Succession::<Cpu>::is_possible(model.source().plan())
    });
    let maps = Maps { model, calibration: calibrated.file, targets, last: LastHessian::default() };
    match run {
        Some((device, tokens)) => on_device!(device, |backend| {
            let successive = Successive::new(maps, backend, tokens)?;
            job(&|spec| successive.rounded(spec))
        }),
        None => job(&|spec| maps.rounded(spec)),
    }
}

/// The maps of a model, one by one.
struct Maps<'m, T> {
    model: &'m OpenModel,
    calibration: &'m CalibrationFile,
    targets: HashMap<String, T>,
    last: LastHessian,
}

impl<T: Target> Maps<'_, T> {
    fn hessian(&self, spec: &TensorSpec) -> Result<Option<Rc<Hessian>>> {
        self.last.hessian(self.calibration, self.model, spec)
    }

    fn numbers(&self, spec: &TensorSpec) -> Result<Vec<f32>> {
        Ok(self.model.source().read(spec)?.to_f32())
    }

    /// What a map is rounded to, and for inputs of which Hessian; none where it is not.
    fn target(&self, spec: &TensorSpec) -> Result<Option<(T, Rc<Hessian>)>> {
        let Some(target) = self.targets.get(&spec.name) else { return Ok(None) };
        Ok(self.hessian(spec)?.map(|hessian| (*target, hessian)))
    }

    fn rounded(&self, spec: &TensorSpec) -> Result<Option<T::Rounded>> {
        let Some((target, hessian)) = self.target(spec)? else { return Ok(None) };
        target.round(spec, &self.numbers(spec)?, &hessian).map(Some)
    }

    /// The maps of one input, each made up for its part of what they lack.
    fn corrected(&self, specs: &[TensorSpec], gap: &Gap) -> Result<Vec<(String, T::Rounded)>> {
        let here = specs.iter().filter(|spec| gap.maps.contains(&spec.name));
        let maps: Vec<_> = here.filter_map(|spec| Some((spec, *self.targets.get(&spec.name)?))).collect();
        let Some(hessian) = maps.first().map(|(spec, _)| self.hessian(spec)).transpose()?.flatten() else {
            return Ok(Vec::new());
        };
        let lack = if gap.is_added { Lack::Output(&gap.means) } else { Lack::Input(&gap.means) };
        let outputs: usize = maps.iter().map(|(spec, _)| spec.shape[0]).sum();
        let is_shared = gap.is_added || outputs >= gap.width;
        let shared = is_shared.then(|| hessian.correction(lack)).transpose()?;
        let share = (SHARE / (1.0 + NOISE * gap.width as f64 / gap.tokens as f64)) as f32;
        let round = |(spec, target): (&TensorSpec, T)| {
            let mut weights = self.numbers(spec)?;
            match &shared {
                Some(correction) => correction.add_to(&mut weights, gap.width, share)?,
                None => {
                    let outputs = lack.of_outputs(&weights, gap.width)?;
                    hessian.correction(Lack::Output(&outputs))?.add_to(&mut weights, gap.width, share)?
                }
            };
            Ok((spec.name.clone(), target.round(spec, &weights, &hessian)?))
        };
        maps.into_iter().map(round).collect()
    }
}

/// The same, branch by branch.
struct Successive<'m, B: Backend, T: Target> {
    maps: Maps<'m, T>,
    /// The linear maps of every branch.
    branches: Vec<Vec<TensorSpec>>,
    state: RefCell<State<'m, B, T>>,
}

struct State<'m, B: Backend, T: Target> {
    succession: Succession<'m, B>,
    /// Branches done.
    done: usize,
    /// Maps nobody has asked for yet.
    ready: HashMap<String, T::Rounded>,
}

impl<'m, B: Backend, T: Target> Successive<'m, B, T> {
    /// Embedding and head are rounded, all else when it is asked for.
    fn new(maps: Maps<'m, T>, backend: B, tokens: usize) -> Result<Self> {
        let source = maps.model.source();
        let plan = source.plan();
        let windows = first_tokens(maps.calibration, tokens);
        let begin = first_tokens(maps.calibration, tokens.min(HEAD_TOKENS));
        let head = if plan.tied { Role::Embedding } else { Role::Head };
        let mut ready = HashMap::new();
        let mut ends = Replaced { source, tensors: HashMap::new() };
        for spec in plan.tensors().into_iter().filter(|s| matches!(s.role, Role::Embedding | Role::Head)) {
            let Some((target, mut hessian)) = maps.target(&spec)? else { continue };
            if spec.role == head && !begin.is_empty() && hessian.takes_row_inputs(target.block_len()) {
                let row_inputs = row_inputs(&backend, source, &begin, &spec.name)?;
                hessian = Rc::new(Hessian::clone(&hessian).with_row_inputs(Arc::new(row_inputs)));
            }
            let rounded = target.round(&spec, &maps.numbers(&spec)?, &hessian)?;
            ends.tensors.insert(spec.name.clone(), T::tensor(&rounded));
            ready.insert(spec.name, rounded);
        }
        let succession = Succession::new(backend, source, &ends, &windows)?;
        let branches = plan.blocks.iter().enumerate().flat_map(|(i, block)| {
            let linear = move |b: &tamborim_model::Branch| b.tensors(i, plan.d_model);
            block.branches.iter().map(move |b| linear(b).into_iter().filter(|s| s.role.is_linear()).collect())
        });
        Ok(Successive { branches: branches.collect(), maps, state: RefCell::new(State { succession, done: 0, ready }) })
    }

    fn rounded(&self, spec: &TensorSpec) -> Result<Option<T::Rounded>> {
        if !self.maps.targets.contains_key(&spec.name) {
            return Ok(None);
        }
        let state = &mut *self.state.borrow_mut();
        if let Some(index) = self.branches.iter().position(|maps| maps.iter().any(|m| m.name == spec.name)) {
            while state.done <= index {
                self.round_branch(state)?;
            }
        }
        Ok(state.ready.remove(&spec.name))
    }

    /// Rounds the next branch: first the maps inside, then, for what these have lost as well, those at its end.
    fn round_branch(&self, state: &mut State<'m, B, T>) -> Result<()> {
        let (index, source) = (state.done, self.maps.model.source());
        let mut branch = Replaced { source, tensors: HashMap::new() };
        let mut seen = Vec::new();
        let mut keep = |branch: &mut Replaced<'_>, name: String, rounded: T::Rounded| {
            branch.tensors.insert(name.clone(), T::tensor(&rounded));
            state.ready.insert(name, rounded);
        };
        for at_end in [false, true] {
            let gaps = match at_end {
                false => state.succession.gaps_inside(index, &branch)?,
                true => state.succession.gaps_at_end(index, &branch)?,
            };
            for gap in gaps {
                for (name, rounded) in self.maps.corrected(&self.branches[index], &gap)? {
                    keep(&mut branch, name, rounded);
                }
                seen.extend(gap.maps);
            }
        }
        // Of an empty text.
        for spec in self.branches[index].iter().filter(|spec| !seen.contains(&spec.name)) {
            if let Some(rounded) = self.maps.rounded(spec)? {
                keep(&mut branch, spec.name.clone(), rounded);
            }
        }
        state.succession.advance(index, &branch)?;
        state.done += 1;
        Ok(())
    }
}

/// Tokens after which a head's rows are looked at, at most: after each the host reads a row of logits.
const HEAD_TOKENS: usize = 1 << 17;

/// The inputs of `head`, the output matrix, that matter to its rows, on this text.
fn row_inputs<B: Backend>(backend: &B, source: &dyn TensorSource, windows: &[&[u32]], head: &str) -> Result<RowInputs> {
    let (model, plan) = (Model::load(backend, source)?, source.plan());
    let count = windows.iter().map(|window| window.len()).sum();
    let progress = Progress::tokens("predict", count as u64);
    let mut row_inputs = RowInputs::new(count, plan.d_model, plan.vocab_size);
    for window in windows {
        model.predictions(window, &mut model.start()?, |inputs, probabilities| -> Result<()> {
            row_inputs.add(inputs, probabilities);
            Ok(())
        })?;
        progress.advance(window.len() as u64);
    }
    note(format!("{head}: rows rounded for their own inputs, {count} tokens in {:.2} s", progress.finish()));
    Ok(row_inputs)
}
