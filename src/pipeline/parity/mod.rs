//! How far candidates are from their reference: all models side by side over the same tokens, and what the report adds.

mod by_group;
mod by_layer;
mod by_tensor;
mod continuations;
mod noise;
mod passkey;
mod side_by_side;
mod text;
mod worst;

use crate::Result;
use crate::data::Tokens;
use crate::pipeline::runner::{Runner, devices};
use crate::progress::Progress;
use crate::report::*;
use crate::source::OpenModel;
use side_by_side::{Found, side_by_side};
use tamborim_converters::gguf::CalibrationFile;
use tamborim_kernels::Backend;
use tamborim_kernels::parity::{Blocks, CONFIDENCE, RESAMPLES, log_histogram, summarize};
use tamborim_model::tokenizer::Tokenizer;

/// What is measured.
#[derive(Default)]
pub struct Settings<'s> {
    /// Tokens in a window; states start anew with each.
    pub context: usize,
    pub thresholds: Thresholds,
    /// Of the reference.
    pub calibration: Option<&'s CalibrationFile>,
    /// Whether to look closer than the numbers need: the worst positions, distances by layer, continuations, all of the
    /// runtime's noise.
    pub closely: bool,
    /// Prompts to continue; where there are none, beginnings of documents.
    pub prompts: &'s [String],
    /// Lengths of text to hide a number in.
    pub passkey: &'s [usize],
}

/// Runs all models over windows of `context` tokens, the reference once for all candidates, and reports on each candidate.
/// `tokens` holds one more than there are positions.
pub fn compare<B: Backend>(
    backend: &B,
    reference: &OpenModel,
    candidates: &[OpenModel],
    tokens: &Tokens,
    settings: &Settings<'_>,
) -> Result<Vec<Report>> {
    let vocab_size = shared_vocabulary(reference, candidates)?;
    let positions = tokens.ids.len().saturating_sub(1);
    if positions == 0 {
        return Err("data: expected at least two tokens, found fewer".into());
    }
    if let Some(i) = tokens.ids.iter().position(|t| *t as usize >= vocab_size) {
        let token = tokens.ids[i];
        return Err(format!("data: token {token} at {i}: expected one of the vocabulary's {vocab_size}").into());
    }
    // A position belongs to the document of the token that it predicts.
    let starts: Vec<usize> = tokens.documents.iter().map(|start| start.saturating_sub(1)).collect();
    let blocks = Blocks::new(positions, &starts);

    let progress = Progress::tokens("verify", positions as u64);
    let first = Runner::load(backend, reference)?;
    let others = candidates.iter().map(|c| Runner::load(backend, c)).collect::<Result<Vec<_>>>()?;
    let keep = if settings.closely { worst::KEPT } else { 0 };
    let found = side_by_side(&first, &others, &tokens.ids, settings.context, keep, |n| progress.advance(n as u64))?;
    let seconds = progress.finish();

    let wants_text = settings.closely || !settings.passkey.is_empty();
    let tokenizer = if wants_text { find_tokenizer(reference, candidates)? } else { None };
    let mut reports = Vec::new();
    for ((candidate, runner), Found { distances, worst }) in candidates.iter().zip(&others).zip(found) {
        let summary = summarize(&distances, &blocks.of);
        let mut report = Report {
            reference: reference.facts()?,
            candidate: candidate.facts()?,
            device: devices([&first, runner])?,
            positions,
            context: settings.context,
            seconds,
            statistics: Statistics {
                unit: if blocks.whole_documents { BlockUnit::Document } else { BlockUnit::Piece },
                blocks: blocks.count,
                resamples: RESAMPLES,
                confidence: CONFIDENCE,
            },
            kld: Kld::new(&summary),
            top1_agreement: summary.top1_agreement,
            top1_interval: summary.top1_uncertainty.interval,
            top5_agreement: summary.top5_agreement,
            perplexity: Perplexity {
                reference: summary.reference_perplexity,
                candidate: summary.candidate_perplexity,
                ratio: summary.perplexity_ratio,
                ratio_stderr: summary.perplexity_ratio_uncertainty.stderr,
                ratio_interval: summary.perplexity_ratio_uncertainty.interval,
            },
            max_abs_logit_difference: summary.max_difference,
            rms_logit_difference: summary.rms_difference,
            noise_floor: Vec::new(),
            kld_histogram: log_histogram(distances.iter().map(|d| d.kld)).iter().map(KldBin::from).collect(),
            by_domain: by_group::by_domain(&distances, &blocks.of, tokens),
            by_position: by_group::by_position(&distances, &blocks.of, settings.context),
            by_context: by_group::by_context(&distances, settings.context),
            by_layer: Vec::new(),
            by_tensor: by_tensor::by_tensor(reference.source(), candidate.source(), settings.calibration)?,
            worst: worst::describe(worst, tokens, settings.context, tokenizer.as_ref()),
            generation: Vec::new(),
            passkey: Vec::new(),
            thresholds: settings.thresholds,
            missed: Vec::new(),
            verdict: Verdict::Pass,
        };
        report.judge();
        reports.push(report);
    }
    if settings.closely {
        let layers = by_layer::by_layer(&first, &others, &tokens.ids, settings.context)?;
        reports.iter_mut().zip(layers).for_each(|(report, layers)| report.by_layer = layers);
    }
    if settings.closely
        && let Some(tokenizer) = &tokenizer
    {
        let written = continuations::continuations(&first, &others, tokenizer, tokens, settings.prompts)?;
        reports.iter_mut().zip(written).for_each(|(report, written)| report.generation = written);
    }
    if !settings.passkey.is_empty() {
        let tokenizer = tokenizer.as_ref().ok_or("--passkey: expected a tokenizer, found none")?;
        let answers = passkey::passkey(&first, &others, tokenizer, settings.passkey)?;
        reports.iter_mut().zip(answers).for_each(|(report, answers)| report.passkey = answers);
    }
    // What the runtime's noise is measured with may need the room.
    drop(first);
    for ((report, candidate), runner) in reports.iter_mut().zip(candidates).zip(others) {
        report.noise_floor = noise::noise_floor(runner, candidate, &tokens.ids, settings)?;
    }
    Ok(reports)
}

/// The number of true tokens, which all must agree on.
fn shared_vocabulary(reference: &OpenModel, candidates: &[OpenModel]) -> Result<usize> {
    let expected = reference.source().plan().vocab_size;
    for candidate in candidates {
        let found = candidate.source().plan().vocab_size;
        if found != expected {
            return Err(format!(
                "{}: expected the reference's vocabulary of {expected} tokens, found {found}",
                candidate.path().display()
            )
            .into());
        }
    }
    Ok(expected)
}

/// The tokenizer of the first model that has one.
fn find_tokenizer(reference: &OpenModel, candidates: &[OpenModel]) -> Result<Option<Tokenizer>> {
    for model in std::iter::once(reference).chain(candidates) {
        if let Some(tokenizer) = model.find_tokenizer()? {
            return Ok(Some(tokenizer));
        }
    }
    Ok(None)
}
