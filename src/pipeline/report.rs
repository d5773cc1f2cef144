//! The parity report, as `verify --json` and `report.json` have it.

use serde::Serialize;
use tamborim_kernels::parity::{Spread, Summary};

/// One of the two models.
#[derive(Serialize, Clone)]
pub struct ModelFacts {
    pub path: String,
    pub format: String,
    /// All tensor bytes times 8 over all parameters, each counted once.
    pub bits_per_weight: f64,
    /// Of the file.
    pub bytes: u64,
}

#[derive(Serialize)]
pub struct Perplexity {
    pub reference: f64,
    pub candidate: f64,
    pub ratio: f64,
    pub ratio_stderr: f64,
}

/// Positions whose text comes from one set of SlimPajama.
#[derive(Serialize)]
pub struct Domain {
    pub name: String,
    pub positions: usize,
    pub kld_mean: f64,
    pub top1_agreement: f64,
    pub perplexity_ratio: f64,
}

/// Positions `from` to `to` (excluded) of their window.
#[derive(Serialize)]
pub struct PositionBucket {
    pub from: usize,
    pub to: usize,
    pub kld_mean: f64,
    pub top1_agreement: f64,
}

/// One linear map of the candidate.
#[derive(Serialize)]
pub struct TensorError {
    pub name: String,
    pub r#type: String,
    pub bits_per_weight: f64,
    /// Root of the summed squared difference over the reference's summed squares.
    pub relative_error: f64,
    /// Root of the share of the output's energy, over the calibration's inputs, that the difference takes away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
}

/// How far the device's fast mode is from its exact one, on the candidate and the same text: what is not quantization's
/// fault when fast mode is used.
#[derive(Serialize)]
pub struct ModeDistance {
    pub positions: usize,
    /// KL(exact || fast) in nats.
    pub kld_mean: f64,
    pub kld_max: f64,
    pub top1_agreement: f64,
    pub rms_logit_difference: f64,
}

/// What was asked for; a report without thresholds always passes.
#[derive(Serialize, Clone, Copy)]
pub struct Thresholds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kld: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_top1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ppl_ratio: Option<f64>,
}

impl Thresholds {
    /// One line for each threshold that was missed, and by how much.
    pub fn missed(&self, summary: &Summary) -> Vec<String> {
        let above = |name: &str, value: f64, limit: Option<f64>| {
            limit.filter(|l| value.is_nan() || value > *l).map(|l| format!("{name} {value:.6} is above {l}"))
        };
        let below = |name: &str, value: f64, limit: Option<f64>| {
            limit.filter(|l| value.is_nan() || value < *l).map(|l| format!("{name} {value:.6} is below {l}"))
        };
        [
            above("mean KLD", summary.kld.mean, self.max_kld),
            below("top-1 agreement", summary.top1_agreement, self.min_top1),
            above("perplexity ratio", summary.perplexity_ratio, self.max_ppl_ratio),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
}

/// The whole report. Field by field in `docs/report.md`.
#[derive(Serialize)]
pub struct Report {
    pub reference: ModelFacts,
    pub candidate: ModelFacts,
    pub device: String,
    pub positions: usize,
    pub context: usize,
    pub seconds: f64,
    /// KL(reference || candidate) in nats.
    pub kld: Spread,
    pub top1_agreement: f64,
    pub top5_agreement: f64,
    pub perplexity: Perplexity,
    pub max_abs_logit_difference: f64,
    pub rms_logit_difference: f64,
    /// Only where the device has two modes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_mode: Option<ModeDistance>,
    pub by_domain: Vec<Domain>,
    pub by_position: Vec<PositionBucket>,
    pub by_tensor: Vec<TensorError>,
    pub thresholds: Thresholds,
    pub missed: Vec<String>,
    pub verdict: Verdict,
}
