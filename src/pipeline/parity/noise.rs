//! The runtime's own noise, measured: one model computed two ways. What is smaller says nothing about the models.

use super::Settings;
use super::side_by_side::{chunk_logits, side_by_side};
use crate::Result;
use crate::pipeline::runner::Runner;
use crate::report::{NoiseFloor, NoiseSource};
use crate::source::OpenModel;
use tamborim_kernels::parity::{Distance, summarize};
use tamborim_kernels::{Backend, Cpu};

/// Positions that a GPU's two modes are compared on.
const MODE_POSITIONS: usize = 16384;
/// Positions that are computed one by one, or by another runtime or device.
const SLOW_POSITIONS: usize = 256;

/// How far the model is from itself: a GPU's two modes always, where there are two; with [`Settings::closely`] also one
/// token at a time, a GPU beside the CPU, and ONNX Runtime beside our own.
pub fn noise_floor<B: Backend>(
    model: Runner<'_, B>,
    opened: &OpenModel,
    ids: &[u32],
    settings: &Settings<'_>,
) -> Result<Vec<NoiseFloor>> {
    let mut floors = Vec::new();
    let few = &ids[..ids.len().min(SLOW_POSITIONS + 1)];
    if settings.closely {
        floors.push(describe(NoiseSource::TogetherAndOneByOne, &one_by_one(&model, few)?));
    }
    if settings.closely && model.model().is_none() {
        let own = Runner::own(model.backend(), opened.source())?;
        floors.push(describe(NoiseSource::OnnxRuntimeAndOwn, &across(&model, &own, few)?));
    }
    // Only a GPU has two modes.
    let Some(other) = model.other_mode()? else { return Ok(floors) };
    if settings.closely {
        let cpu = Runner::own(&Cpu, opened.source())?;
        floors.push(describe(NoiseSource::GpuAndCpu, &across(&model, &cpu, few)?));
    }
    let other = Runner::own(&other, opened.source())?;
    let many = &ids[..ids.len().min(MODE_POSITIONS + 1)];
    let found = match model.backend().is_exact() {
        true => side_by_side(&model, &[other], many, settings.context, 0, |_| ())?,
        false => side_by_side(&other, &[model], many, settings.context, 0, |_| ())?,
    };
    floors.push(describe(NoiseSource::ExactAndFast, &found[0].distances));
    Ok(floors)
}

/// A model's logits of many tokens together, and of the same one by one.
fn one_by_one<B: Backend>(model: &Runner<'_, B>, ids: &[u32]) -> Result<Vec<Distance>> {
    let backend = model.backend();
    let (mut together, mut alone) = (model.start()?, model.start()?);
    let mut found = Vec::new();
    let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
    for (inputs, targets) in inputs.chunks(backend.chunk()).zip(targets.chunks(backend.chunk())) {
        let many = chunk_logits(&mut together, inputs)?;
        for (i, target) in targets.iter().enumerate() {
            let one = chunk_logits(&mut alone, &inputs[i..=i])?;
            let row = backend.row(&many, i);
            found.extend(backend.distances(&row, &one, model.plan().vocab_size, &[*target])?);
        }
    }
    Ok(found)
}

/// A model's logits on two devices.
fn across<A: Backend, B: Backend>(a: &Runner<'_, A>, b: &Runner<'_, B>, ids: &[u32]) -> Result<Vec<Distance>> {
    let (mut first, mut second) = (a.start()?, b.start()?);
    let step = a.backend().chunk().min(b.backend().chunk());
    let mut found = Vec::new();
    for (inputs, targets) in ids[..ids.len() - 1].chunks(step).zip(ids[1..].chunks(step)) {
        let numbers = a.backend().read(&chunk_logits(&mut first, inputs)?)?;
        let here = b.backend().rows(numbers.len() / inputs.len(), numbers)?;
        let there = chunk_logits(&mut second, inputs)?;
        found.extend(b.backend().distances(&here, &there, a.plan().vocab_size, targets)?);
    }
    Ok(found)
}

fn describe(between: NoiseSource, distances: &[Distance]) -> NoiseFloor {
    let summary = summarize(distances, &vec![0; distances.len()]);
    NoiseFloor {
        between,
        positions: distances.len(),
        kld_mean: summary.kld.mean,
        kld_max: summary.kld.max,
        top1_agreement: summary.top1_agreement,
        rms_logit_difference: summary.rms_difference,
    }
}
