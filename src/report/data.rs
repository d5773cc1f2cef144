//! What a report says, as `verify --json` and `report.json` have it. Field by field in `docs/report.md`;
//! `docs/report.schema.json` is made of these types.

use serde::Serialize;
use tamborim_kernels::parity::{Bin, Summary};

/// One of the two models.
#[derive(Serialize, Clone)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ModelFacts {
    pub path: String,
    /// The container in words.
    pub format: String,
    /// All tensor bytes times 8 over all parameters, each counted once.
    pub bits_per_weight: f64,
    /// Of the file.
    pub bytes: u64,
}

/// What intervals and standard errors come from: the text is drawn anew, block by block.
#[derive(Serialize, Clone)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Statistics {
    /// Whole documents, or pieces of documents where there are too few of them.
    pub unit: BlockUnit,
    /// Documents or pieces.
    pub blocks: usize,
    /// Times that the text was drawn anew.
    pub resamples: usize,
    /// Share of the redrawn texts that an interval holds.
    pub confidence: f64,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum BlockUnit {
    Document,
    Piece,
}

/// KL(reference || candidate) over all positions, in nats.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Kld {
    pub mean: f64,
    /// Standard error of the mean.
    pub stderr: f64,
    /// Interval of the mean: lower end, upper end.
    pub interval: [f64; 2],
    pub median: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Perplexity {
    pub reference: f64,
    pub candidate: f64,
    /// Candidate over reference: exp of the mean difference of log likelihoods.
    pub ratio: f64,
    pub ratio_stderr: f64,
    pub ratio_interval: [f64; 2],
}

/// Positions with a KL divergence from `from` (included) to `to` (excluded).
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KldBin {
    pub from: f64,
    pub to: f64,
    pub positions: usize,
}

/// Positions whose text comes from one set of SlimPajama.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Domain {
    pub name: String,
    pub positions: usize,
    pub kld_mean: f64,
    /// Of sets with at least five blocks of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_interval: Option<[f64; 2]>,
    pub top1_agreement: f64,
    pub perplexity_ratio: f64,
}

/// Positions `from` to `to` (excluded) of their window.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PositionBucket {
    pub from: usize,
    pub to: usize,
    pub kld_mean: f64,
    /// Of buckets with at least five blocks of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_interval: Option<[f64; 2]>,
    pub top1_agreement: f64,
}

/// Perplexity over the first `tokens` positions of every window.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ContextPerplexity {
    pub tokens: usize,
    pub reference: f64,
    pub candidate: f64,
}

/// How far the residual streams are apart after a block, both models on the same tokens.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LayerDistance {
    /// From 0.
    pub block: usize,
    /// What the block mixes tokens with.
    pub mixer: String,
    /// Root of the summed squared differences over the reference's summed squares.
    pub relative_distance: f64,
}

/// One linear map of the candidate.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// How far the runtime is from itself when it computes the candidate another way: differences between the models that are
/// as small mean nothing.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NoiseFloor {
    pub between: NoiseSource,
    pub positions: usize,
    /// KL(as measured || the other way) in nats.
    pub kld_mean: f64,
    pub kld_max: f64,
    pub top1_agreement: f64,
    pub rms_logit_difference: f64,
}

/// The two ways of computing that are compared.
#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum NoiseSource {
    /// A GPU's exact float32 and its fast bfloat16.
    ExactAndFast,
    /// The GPU and the CPU.
    GpuAndCpu,
    /// ONNX Runtime and our own runtime.
    OnnxRuntimeAndOwn,
    /// Many tokens together, as a prompt is read, and one by one, as text is generated.
    TogetherAndOneByOne,
}

/// A token, as likely as a model thinks it is.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LikelyToken {
    pub token: u32,
    /// Its text, where there is a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub probability: f64,
}

/// One of the positions with the largest KL divergence.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WorstPosition {
    /// In the whole text.
    pub position: usize,
    /// Tokens of its window that both models had seen before the one predicted here.
    pub context: usize,
    pub domain: String,
    pub kld: f64,
    /// The text before; token ids where there is no tokenizer.
    pub before: String,
    /// The token that follows in the text, which both models were to predict.
    pub next: String,
    /// The text after that.
    pub after: String,
    /// The reference's five likeliest tokens.
    pub reference: Vec<LikelyToken>,
    /// The candidate's.
    pub candidate: Vec<LikelyToken>,
}

/// Both models' continuations of a prompt.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Continuation {
    pub prompt: String,
    /// 0: greedy.
    pub temperature: f32,
    pub top_p: f32,
    /// Tokens generated by the reference.
    pub tokens: usize,
    /// Tokens that both begin with.
    pub shared_tokens: usize,
    /// What both begin with.
    pub shared: String,
    /// How the reference goes on from there.
    pub reference: String,
    /// How the candidate does.
    pub candidate: String,
}

/// A number hidden in a long text, and what the models say when asked for it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Passkey {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Where the number is: 0 at the start, 1 at the end.
    pub depth: f64,
    pub key: String,
    pub reference: PasskeyAnswer,
    pub candidate: PasskeyAnswer,
}

#[derive(Serialize, Clone)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PasskeyAnswer {
    pub answer: String,
    pub correct: bool,
}

/// What was asked for; a report without thresholds always passes.
#[derive(Serialize, Clone, Copy, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Thresholds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kld: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_top1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ppl_ratio: Option<f64>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Verdict {
    Pass,
    Fail,
}

/// How far a candidate is from its reference.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    pub reference: ModelFacts,
    pub candidate: ModelFacts,
    /// What was computed on, in words.
    pub device: String,
    pub positions: usize,
    /// Tokens in a window.
    pub context: usize,
    /// That running all models side by side took.
    pub seconds: f64,
    pub statistics: Statistics,
    pub kld: Kld,
    /// Share of positions where both rank the same token first.
    pub top1_agreement: f64,
    pub top1_interval: [f64; 2],
    /// Mean share of the reference's five likeliest tokens that are among the candidate's five.
    pub top5_agreement: f64,
    pub perplexity: Perplexity,
    pub max_abs_logit_difference: f64,
    pub rms_logit_difference: f64,
    pub noise_floor: Vec<NoiseFloor>,
    pub kld_histogram: Vec<KldBin>,
    pub by_domain: Vec<Domain>,
    pub by_position: Vec<PositionBucket>,
    pub by_context: Vec<ContextPerplexity>,
    /// With `--report` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_layer: Vec<LayerDistance>,
    pub by_tensor: Vec<TensorError>,
    /// With `--report` only; largest divergence first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<WorstPosition>,
    /// With `--report` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generation: Vec<Continuation>,
    /// With `--passkey` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passkey: Vec<Passkey>,
    pub thresholds: Thresholds,
    /// One line for each threshold that was missed, and by how much.
    pub missed: Vec<String>,
    pub verdict: Verdict,
}

impl Kld {
    pub fn new(summary: &Summary) -> Kld {
        let (kld, uncertainty) = (summary.kld, summary.kld_uncertainty);
        Kld {
            mean: kld.mean,
            stderr: uncertainty.stderr,
            interval: uncertainty.interval,
            median: kld.median,
            p90: kld.p90,
            p99: kld.p99,
            p999: kld.p999,
            max: kld.max,
        }
    }
}

impl From<&Bin> for KldBin {
    fn from(bin: &Bin) -> KldBin {
        KldBin { from: bin.from, to: bin.to, positions: bin.count }
    }
}

/// What the command prints: the report of one candidate, or those of several against the same reference.
#[derive(Serialize)]
#[serde(untagged)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Reports {
    One(Box<Report>),
    Several { reports: Vec<Report>, verdict: Verdict },
}
