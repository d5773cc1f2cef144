//! What each tensor's error costs: the model's divergence from itself with one tensor in few bits, and how the error grows
//! with the format.

use super::replaced::Replaced;
use crate::Result;
use std::collections::HashMap;
use tamborim_kernels::{Backend, Model, Trace, Variant};
use tamborim_model::TensorSpec;
use tamborim_quant::{Calibration, Candidate, Format, Tensor, TensorSource};

/// Stored in this, a tensor is far enough from itself to measure and near enough for its loss to grow with the error's
/// square.
const PROBE: Format = Format::Q4_0;
/// Rows whose errors speak for all.
const ROWS: usize = 192;

/// Every linear map of `source`, in the plan's order, with its candidates: the size in each format, and the divergence that
/// it is expected to cost. Measured on the first `tokens` tokens of the calibration. `formats` gives the candidates of a
/// tensor; `done` hears of every tensor.
pub fn measure<B: Backend>(
    backend: &B,
    source: &dyn TensorSource,
    calibration: &dyn Calibration,
    tokens: usize,
    formats: impl Fn(&TensorSpec) -> Vec<Format>,
    mut done: impl FnMut(),
) -> Result<Vec<(TensorSpec, Vec<Candidate>)>> {
    let windows = first_tokens(calibration, tokens);
    if windows.is_empty() {
        return Err("calibration: expected the tokens it was made of, which measuring needs, found none".into());
    }
    let model = Model::load(backend, source)?;
    let trace = model.trace(&windows)?;
    let mut reference = Vec::new();
    model.retrace(&trace, None, |_, logits| -> Result<()> {
        reference.push(logits);
        Ok(())
    })?;
    let mut by_tensor = Vec::new();
    for spec in source.plan().tensors().into_iter().filter(|s| s.role.is_linear()) {
        let tensor = source.read(&spec)?;
        let importance = calibration.importance(&spec.name)?;
        let candidates = formats(&spec);
        let losses = match PROBE.fits(tensor.cols()) {
            // Floats are its only candidates.
            false => vec![0.0; candidates.len()],
            true => {
                let errors = |format: Format| sampled_error(&tensor, format, importance.as_deref());
                let unit = errors(PROBE)?.max(f64::MIN_POSITIVE);
                let replaced = tensor.recode(PROBE, importance.as_deref())?;
                let replaced = Replaced { source, tensors: HashMap::from([(spec.name.clone(), replaced)]) };
                let kld = divergence(&model, &trace, &model.variant(&replaced, &spec)?, &reference)?;
                candidates.iter().map(|f| Ok(kld * errors(*f)? / unit)).collect::<Result<Vec<_>>>()?
            }
        };
        let cost = |(format, loss): (&Format, f64)| {
            let bytes = format.row_bytes(spec.elements()).unwrap_or(usize::MAX) as u64;
            Candidate { format: *format, bytes, loss }
        };
        let costs = candidates.iter().zip(losses).map(cost).collect();
        by_tensor.push((spec, costs));
        source.release();
        done();
    }
    Ok(by_tensor)
}

/// The calibration's windows up to so many tokens.
pub fn first_tokens(calibration: &dyn Calibration, tokens: usize) -> Vec<&[u32]> {
    let mut left = tokens;
    let mut windows = Vec::new();
    for window in calibration.windows() {
        let window = &window[..window.len().min(left)];
        left -= window.len();
        if window.len() > 1 {
            windows.push(window);
        }
    }
    windows
}

/// Mean KL divergence of a variant from the model, whose own logits are `reference`, chunk by chunk.
fn divergence<B: Backend>(
    model: &Model<'_, B>,
    trace: &Trace<B>,
    variant: &Variant<'_, B>,
    reference: &[B::Rows],
) -> Result<f64> {
    let (mut sum, mut n) = (0.0, 0usize);
    let mut expected = reference.iter();
    model.retrace(trace, Some(variant), |tokens, logits| -> Result<()> {
        if let Some(reference) = expected.next() {
            let found = model.backend().distances(reference, &logits, model.plan().vocab_size, tokens)?;
            sum += found.iter().map(|d| d.kld).sum::<f64>();
            n += found.len();
        }
        Ok(())
    })?;
    Ok(sum / n.max(1) as f64)
}

/// Importance-weighted squared error of some rows in `format`.
fn sampled_error(tensor: &Tensor<'_>, format: Format, importance: Option<&[f32]>) -> Result<f64> {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let step = rows.div_ceil(ROWS).max(1);
    let mut numbers = vec![0.0; rows.div_ceil(step) * cols];
    for (i, out) in numbers.chunks_exact_mut(cols).enumerate() {
        tensor.format.decode(tensor.row(i * step), out);
    }
    let rounded = Tensor::quantize(&numbers, vec![rows.div_ceil(step), cols], format, importance)?.to_f32();
    let weight = |i: usize| importance.map_or(1.0, |a| f64::from(a[i % cols]));
    let errors = numbers.iter().zip(rounded).enumerate();
    Ok(errors.map(|(i, (a, b))| weight(i) * (f64::from(*a) - f64::from(b)).powi(2)).sum())
}
