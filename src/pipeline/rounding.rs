//! Linear maps rounded for what their inputs are. Where the calibration has its text, the model runs over it beside what has
//! been quantized of it so far, and each map makes up for part of what those before it have lost.

use super::quantize::LastHessian;
use super::replaced::Replaced;
use super::sensitivity::first_tokens;
use crate::Result;
use crate::device::{Device, on_device};
use crate::progress::Progress;
use crate::source::OpenModel;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tamborim_converters::gguf::CalibrationFile;
use tamborim_kernels::{Backend, Cpu, Gap, Model, Succession};
use tamborim_model::{Role, TensorSpec};
use tamborim_quant::{Hessian, Lack, NBitsMatrix, RowInputs, Tensor, TensorSource};

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

/// A rounded map, as it will be stored.
pub trait Rounded {
    /// The same as a model runs with it.
    fn to_tensor(&self) -> Result<Tensor<'static>>;
}

impl Rounded for Tensor<'static> {
    fn to_tensor(&self) -> Result<Tensor<'static>> {
        Ok(self.clone())
    }
}

impl Rounded for NBitsMatrix<'static> {
    fn to_tensor(&self) -> Result<Tensor<'static>> {
        Ok(self.decoded())
    }
}

/// Rounds a map's numbers for inputs of this Hessian; `None` where it is not to be rounded.
pub type Round<'r, T> = dyn Fn(&TensorSpec, &[f32], &Hessian) -> Result<Option<T>> + 'r;

/// Gives `job` a function that has every map rounded, each to be asked for once; `None` where `round` says so, or where the
/// calibration knows nothing of its input.
pub fn with_rounded<T: Rounded, R>(
    model: &OpenModel,
    calibrated: Calibrated<'_>,
    round: &Round<'_, T>,
    job: impl FnOnce(&dyn Fn(&TensorSpec) -> Result<Option<T>>) -> Result<R>,
) -> Result<R> {
    let maps = Maps { model, calibration: calibrated.file, round, last: LastHessian::default() };
    match calibrated.run {
        Some((device, tokens)) if tokens > 0 && Succession::<Cpu>::is_possible(model.source().plan()) => {
            on_device!(device, |backend| {
                let successive = Successive::new(maps, backend, tokens)?;
                job(&|spec| successive.rounded(spec))
            })
        }
        _ => job(&|spec| maps.rounded(spec)),
    }
}

/// The maps of a model, one by one.
struct Maps<'m, T> {
    model: &'m OpenModel,
    calibration: &'m CalibrationFile,
    round: &'m Round<'m, T>,
    last: LastHessian,
}

impl<T> Maps<'_, T> {
    fn hessian(&self, spec: &TensorSpec) -> Result<Option<Rc<Hessian>>> {
        self.last.hessian(self.calibration, self.model, spec)
    }

    fn numbers(&self, spec: &TensorSpec) -> Result<Vec<f32>> {
        Ok(self.model.source().read(spec)?.to_f32())
    }

    fn rounded(&self, spec: &TensorSpec) -> Result<Option<T>> {
        self.rounded_for(spec, None)
    }

    /// The same, where it is the head each row for the inputs that matter to it.
    fn rounded_for(&self, spec: &TensorSpec, row_inputs: Option<Arc<RowInputs>>) -> Result<Option<T>> {
        let Some(mut hessian) = self.hessian(spec)? else { return Ok(None) };
        if let Some(row_inputs) = row_inputs {
            hessian = Rc::new(Hessian::clone(&hessian).with_row_inputs(row_inputs));
        }
        (self.round)(spec, &self.numbers(spec)?, &hessian)
    }

    /// The maps of one input, each made up for its part of what they lack.
    fn corrected(&self, specs: &[TensorSpec], gap: &Gap) -> Result<Vec<(String, T)>> {
        let specs: Vec<_> = specs.iter().filter(|spec| gap.maps.contains(&spec.name)).collect();
        let Some(hessian) = specs.first().map(|spec| self.hessian(spec)).transpose()?.flatten() else {
            return Ok(Vec::new());
        };
        let lack = if gap.is_added { Lack::Output(&gap.means) } else { Lack::Input(&gap.means) };
        let outputs: usize = specs.iter().map(|spec| spec.shape[0]).sum();
        let is_shared = gap.is_added || outputs >= gap.width;
        let shared = is_shared.then(|| hessian.correction(lack)).transpose()?;
        let share = (SHARE / (1.0 + NOISE * gap.width as f64 / gap.tokens as f64)) as f32;
        let round = |spec: &TensorSpec| {
            let mut weights = self.numbers(spec)?;
            match &shared {
                Some(correction) => correction.add_to(&mut weights, gap.width, share)?,
                None => {
                    let outputs = lack.of_outputs(&weights, gap.width)?;
                    hessian.correction(Lack::Output(&outputs))?.add_to(&mut weights, gap.width, share)?
                }
            };
            Ok((self.round)(spec, &weights, &hessian)?.map(|rounded| (spec.name.clone(), rounded)))
        };
        specs.into_iter().filter_map(|spec| round(spec).transpose()).collect()
    }
}

/// The same, branch by branch.
struct Successive<'m, B: Backend, T> {
    maps: Maps<'m, T>,
    /// The linear maps of every branch.
    branches: Vec<Vec<TensorSpec>>,
    state: RefCell<State<'m, B, T>>,
}

struct State<'m, B: Backend, T> {
    succession: Succession<'m, B>,
    /// Branches done.
    done: usize,
    /// Maps nobody has asked for yet.
    ready: HashMap<String, T>,
}

impl<'m, B: Backend, T: Rounded> Successive<'m, B, T> {
    /// Embedding and head are rounded, all else when it is asked for.
    fn new(maps: Maps<'m, T>, backend: B, tokens: usize) -> Result<Self> {
        let source = maps.model.source();
        let plan = source.plan();
        let windows = first_tokens(maps.calibration, tokens);
        let begin = first_tokens(maps.calibration, tokens.min(HEAD_TOKENS));
        let head_inputs = Arc::new(head_inputs(&backend, source, &begin)?);
        let head = if plan.tied { Role::Embedding } else { Role::Head };
        let mut ready = HashMap::new();
        let mut ends = Replaced { source, tensors: HashMap::new() };
        for spec in plan.tensors().into_iter().filter(|s| matches!(s.role, Role::Embedding | Role::Head)) {
            let row_inputs = (spec.role == head).then(|| head_inputs.clone());
            if let Some(rounded) = maps.rounded_for(&spec, row_inputs)? {
                ends.tensors.insert(spec.name.clone(), rounded.to_tensor()?);
                ready.insert(spec.name, rounded);
            }
        }
        // As large as the streams that come now.
        drop(head_inputs);
        let succession = Succession::new(backend, source, &ends, &windows)?;
        let branches = plan.blocks.iter().enumerate().flat_map(|(i, block)| {
            let linear = move |b: &tamborim_model::Branch| b.tensors(i, plan.d_model);
            block.branches.iter().map(move |b| linear(b).into_iter().filter(|s| s.role.is_linear()).collect())
        });
        Ok(Successive { branches: branches.collect(), maps, state: RefCell::new(State { succession, done: 0, ready }) })
    }

    fn rounded(&self, spec: &TensorSpec) -> Result<Option<T>> {
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
        let mut keep = |branch: &mut Replaced<'_>, name: String, rounded: T| -> Result<()> {
            branch.tensors.insert(name.clone(), rounded.to_tensor()?);
            state.ready.insert(name, rounded);
            Ok(())
        };
        for at_end in [false, true] {
            let gaps = match at_end {
                false => state.succession.gaps_inside(index, &branch)?,
                true => state.succession.gaps_at_end(index, &branch)?,
            };
            for gap in gaps {
                for (name, rounded) in self.maps.corrected(&self.branches[index], &gap)? {
                    keep(&mut branch, name, rounded)?;
                }
                seen.extend(gap.maps);
            }
        }
        // Of an empty text.
        for spec in self.branches[index].iter().filter(|spec| !seen.contains(&spec.name)) {
            if let Some(rounded) = self.maps.rounded(spec)? {
                keep(&mut branch, spec.name.clone(), rounded)?;
            }
        }
        state.succession.advance(index, &branch)?;
        state.done += 1;
        Ok(())
    }
}

/// Tokens after which a head's rows are looked at, at most: after each the host reads a row of logits.
const HEAD_TOKENS: usize = 1 << 17;

/// The inputs of the head that matter to its rows, on this text.
fn head_inputs<B: Backend>(backend: &B, source: &dyn TensorSource, windows: &[&[u32]]) -> Result<RowInputs> {
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
    progress.finish();
    Ok(row_inputs)
}
