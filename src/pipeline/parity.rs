//! Two models side by side over the same tokens: logits are compared as they come and forgotten.

use super::report::*;
use crate::Result;
use crate::data::Tokens;
use crate::pipeline::runner::{Runner, Sequence, devices};
use crate::progress::Progress;
use crate::source::OpenModel;
use tamborim_converters::gguf::CalibrationFile;
use tamborim_kernels::parity::{Distance, summarize};
use tamborim_kernels::{Backend, Logits};
use tamborim_quant::{Calibration, Hessian, TensorSource};

/// Runs both models over windows of `context` tokens and sums up. `tokens` holds one more than there are positions.
pub fn compare<B: Backend>(
    backend: &B,
    reference: &OpenModel,
    candidate: &OpenModel,
    tokens: &Tokens,
    context: usize,
    thresholds: Thresholds,
    calibration: Option<&CalibrationFile>,
) -> Result<Report> {
    let vocab_size = shared_vocabulary(reference, candidate)?;
    let positions = tokens.ids.len().saturating_sub(1);
    if positions == 0 {
        return Err("data: expected at least two tokens, found fewer".into());
    }
    if let Some(i) = tokens.ids.iter().position(|t| *t as usize >= vocab_size) {
        let token = tokens.ids[i];
        return Err(format!("data: token {token} at {i}: expected one of the vocabulary's {vocab_size}").into());
    }
    let progress = Progress::tokens("verify", positions as u64);
    let models = [Runner::load(backend, reference)?, Runner::load(backend, candidate)?];
    let all = side_by_side(&models[0], &models[1], &tokens.ids, context, |n| progress.advance(n as u64))?;
    let seconds = progress.finish();
    let device = devices(&models)?;
    let [_, model] = models;
    let fast_mode = mode_distance(model, candidate, &tokens.ids, context)?;
    let summary = summarize(&all);
    let missed = thresholds.missed(&summary);
    Ok(Report {
        reference: reference.facts()?,
        candidate: candidate.facts()?,
        device,
        positions,
        context,
        seconds,
        kld: summary.kld,
        top1_agreement: summary.top1_agreement,
        top5_agreement: summary.top5_agreement,
        perplexity: Perplexity {
            reference: summary.reference_perplexity,
            candidate: summary.candidate_perplexity,
            ratio: summary.perplexity_ratio,
            ratio_stderr: summary.perplexity_ratio_stderr,
        },
        max_abs_logit_difference: summary.max_difference,
        rms_logit_difference: summary.rms_difference,
        fast_mode,
        by_domain: by_domain(&all, tokens),
        by_position: by_position(&all, context),
        by_tensor: by_tensor(reference.source(), candidate.source(), calibration)?,
        thresholds,
        verdict: if missed.is_empty() { Verdict::Pass } else { Verdict::Fail },
        missed,
    })
}

/// How far two models' predictions of `ids[1..]` are apart, over windows of `context` tokens with fresh states.
fn side_by_side<B: Backend>(
    reference: &Runner<'_, B>,
    candidate: &Runner<'_, B>,
    ids: &[u32],
    context: usize,
    mut advanced: impl FnMut(usize),
) -> Result<Vec<Distance>> {
    let backend = reference.backend();
    let step = backend.chunk().min(candidate.backend().chunk());
    let vocab_size = reference.plan().vocab_size;
    let mut all = Vec::with_capacity(ids.len() - 1);
    while all.len() + 1 < ids.len() {
        let (mut first, mut second) = (reference.start()?, candidate.start()?);
        let window = &ids[all.len()..ids.len().min(all.len() + context + 1)];
        let mut at = 0;
        while at + 1 < window.len() {
            let to = (at + step).min(window.len() - 1);
            let a = chunk_logits(&mut first, &window[at..to])?;
            let b = chunk_logits(&mut second, &window[at..to])?;
            let found = backend.distances(&a, &b, vocab_size, &window[at + 1..=to])?;
            if let Some(i) = found.iter().position(|d| !(d.kld.is_finite() && d.mean_square_difference.is_finite())) {
                let position = all.len() + i;
                return Err(format!(
                    "position {position}: expected finite logits of both models, found NaN or infinity"
                )
                .into());
            }
            all.extend(found);
            advanced(to - at);
            at = to;
        }
    }
    Ok(all)
}

/// The logits of all of a chunk's tokens.
fn chunk_logits<B: Backend>(sequence: &mut Sequence<'_, '_, B>, tokens: &[u32]) -> Result<B::Rows> {
    let mut rows = None;
    sequence.forward(tokens, Logits::All, |r| {
        rows = Some(r);
        Ok(())
    })?;
    rows.ok_or_else(|| "a chunk gave no logits".into())
}

/// Positions that the device's two modes are compared on.
const MODE_POSITIONS: usize = 16384;

/// How far the device's two modes are apart on a model.
fn mode_distance<B: Backend>(
    model: Runner<'_, B>,
    opened: &OpenModel,
    ids: &[u32],
    context: usize,
) -> Result<Option<ModeDistance>> {
    let Some(backend) = model.other_mode()? else { return Ok(None) };
    let other = Runner::load(&backend, opened)?;
    let ids = &ids[..ids.len().min(MODE_POSITIONS + 1)];
    let found = match model.backend().is_exact() {
        true => side_by_side(&model, &other, ids, context, |_| ())?,
        false => side_by_side(&other, &model, ids, context, |_| ())?,
    };
    let summary = summarize(&found);
    Ok(Some(ModeDistance {
        positions: ids.len() - 1,
        kld_mean: summary.kld.mean,
        kld_max: summary.kld.max,
        top1_agreement: summary.top1_agreement,
        rms_logit_difference: summary.rms_difference,
    }))
}

/// The number of true tokens, which both must agree on.
fn shared_vocabulary(reference: &OpenModel, candidate: &OpenModel) -> Result<usize> {
    let (a, b) = (reference.source().plan().vocab_size, candidate.source().plan().vocab_size);
    if a != b {
        return Err(format!(
            "{}: expected the reference's vocabulary of {a} tokens, found {b}",
            candidate.path().display()
        )
        .into());
    }
    Ok(a)
}

fn by_domain(all: &[Distance], tokens: &Tokens) -> Vec<Domain> {
    let of_domain = |domain: usize| {
        let inside = all.iter().zip(&tokens.domains[1..]).filter(|(_, d)| **d as usize == domain);
        inside.map(|(distance, _)| *distance).collect::<Vec<_>>()
    };
    let groups = tokens.domain_names.iter().enumerate().map(|(i, name)| (name, of_domain(i)));
    groups
        .filter(|(_, group)| !group.is_empty())
        .map(|(name, group)| {
            let s = summarize(&group);
            Domain {
                name: name.clone(),
                positions: group.len(),
                kld_mean: s.kld.mean,
                top1_agreement: s.top1_agreement,
                perplexity_ratio: s.perplexity_ratio,
            }
        })
        .collect()
}

/// Buckets that double in size: whether error grows along the sequence shows over orders of magnitude.
fn by_position(all: &[Distance], context: usize) -> Vec<PositionBucket> {
    let mut buckets = Vec::new();
    let (mut from, mut to) = (0, 64.min(context));
    while from < context {
        let inside: Vec<Distance> = all
            .iter()
            .enumerate()
            .filter(|(i, _)| (from..to).contains(&(i % context)))
            .map(|(_, distance)| *distance)
            .collect();
        if !inside.is_empty() {
            let s = summarize(&inside);
            buckets.push(PositionBucket { from, to, kld_mean: s.kld.mean, top1_agreement: s.top1_agreement });
        }
        (from, to) = (to, context.min(to * 2));
    }
    buckets
}

/// Relative error of every linear map that both models have.
fn by_tensor(
    reference: &dyn TensorSource,
    candidate: &dyn TensorSource,
    calibration: Option<&CalibrationFile>,
) -> Result<Vec<TensorError>> {
    let mut rows = Vec::new();
    let (specs, twins) = (candidate.plan().tensors(), reference.plan().tensors());
    for spec in specs.iter().filter(|s| s.role.is_linear()) {
        let Some(twin) = twins.iter().find(|t| t.name == spec.name && t.shape == spec.shape) else {
            continue;
        };
        let (b, stored) = (candidate.read(spec)?, candidate.stored_as(spec)?);
        let a = reference.read(twin)?.to_f32();
        let (mut error, mut total) = (0.0f64, 0.0f64);
        let rounded = b.to_f32();
        for (a, b) in a.iter().zip(&rounded) {
            error += (f64::from(*a) - f64::from(*b)).powi(2);
            total += f64::from(*a).powi(2);
        }
        let moments = calibration.map(|c| c.moments(&spec.name)).transpose()?.flatten();
        let output_error = moments.map(|m| Hessian::damped(&m, 0.0).output_error(&a, &rounded).max(0.0).sqrt());
        rows.push(TensorError {
            name: spec.name.clone(),
            r#type: stored.name,
            bits_per_weight: stored.bits_per_weight,
            relative_error: if error == 0.0 { 0.0 } else { (error / total).sqrt() },
            output_error,
        });
    }
    Ok(rows)
}
