//! The command line: every flag with its words, once.

use crate::device::DeviceArgs;
use crate::{Outcome, Result, commands};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use tamborim_quant::Recipe;

/// Convert, quantize and verify Samba-family language models (Mamba + sliding-window attention + SwiGLU).
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a model file holds
    Inspect(Inspect),
    /// Convert a checkpoint to GGUF, ONNX or safetensors
    Convert(Convert),
    /// Gather what quantize should preserve: second moments of the inputs of a model's linear maps, on text
    Calibrate(Calibrate),
    /// Store a model in fewer bits
    Quantize(Quantize),
    /// Measure how far a candidate is from its reference, on text
    Verify(Verify),
    /// Continue a prompt
    Generate(Generate),
    /// Write the logits of every position
    Logits(LogitsArgs),
    /// Measure prefill and decode speed
    Bench(Bench),
    /// Convert, quantize and verify the small model that ships with tamborim
    Demo(Demo),
}

impl Cli {
    /// Reads the process's arguments. Help and version are printed and end the process; a wrong argument is one line, as
    /// every other error, where the parser would add its usage.
    pub fn from_arguments() -> Result<Cli> {
        Cli::try_parse().map_err(|error| {
            let asks_for_words = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            if asks_for_words || !error.use_stderr() {
                error.exit();
            }
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let words: Vec<&str> = first.split_whitespace().collect();
            format!("{} (tamborim --help says more)", words.join(" ")).into()
        })
    }

    pub fn run(self) -> Result<Outcome> {
        match self.command {
            Command::Inspect(a) => commands::inspect::run(&a),
            Command::Convert(a) => commands::convert::run(&a),
            Command::Calibrate(a) => commands::calibrate::run(&a),
            Command::Quantize(a) => commands::quantize::run(&a),
            Command::Verify(a) => commands::verify::run(&a),
            Command::Generate(a) => commands::generate::run(&a),
            Command::Logits(a) => commands::logits::run(&a),
            Command::Bench(a) => commands::bench::run(&a),
            Command::Demo(a) => commands::demo::run(&a),
        }
    }
}

/// How to open a model.
#[derive(Args, Clone, Default)]
pub struct Open {
    /// The configuration, where the checkpoint does not say: an official name (Samba_421M, ...) or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub config: Option<String>,
    /// SentencePiece model, `tokenizer.json` or PLaMo's `tokenizer.jsonl`; by default the one inside the file, or beside the
    /// checkpoint
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Accept weights that are NaN or infinite
    #[arg(long)]
    pub allow_nonfinite: bool,
}

#[derive(Args)]
pub struct Inspect {
    /// Checkpoint, safetensors file, Hugging Face folder, GGUF or ONNX of ours
    pub model: PathBuf,
    #[command(flatten)]
    pub open: Open,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
}

/// Type of the linear maps in a converted file; all other tensors are float32.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// As stored
    Source,
    F32,
    F16,
    Bf16,
}

#[derive(Args)]
pub struct Convert {
    /// Checkpoint, safetensors file, Hugging Face folder, GGUF or ONNX of ours
    pub source: PathBuf,
    /// File to write: .gguf, .onnx or .safetensors
    #[arg(short, long, value_name = "FILE", required_unless_present = "genai")]
    pub output: Option<PathBuf>,
    /// Write a folder that onnxruntime-genai runs, with the model as ONNX
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub genai: Option<PathBuf>,
    #[command(flatten)]
    pub open: Open,
    /// Type of the linear maps
    #[arg(long, value_enum, default_value = "source")]
    pub dtype: Dtype,
    /// ONNX: only standard operators, none of ONNX Runtime's own
    #[arg(long)]
    pub pure_onnx: bool,
}

/// How calibration text is drawn.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// From each set of SlimPajama as large a share as it has there, at most a window of a document
    Proportional,
    /// From the start of the data, as it comes
    Sequential,
}

#[derive(Args)]
pub struct Calibrate {
    /// Checkpoint, safetensors file, Hugging Face folder, GGUF or ONNX of ours, at full precision
    #[arg(required_unless_present = "merge")]
    pub model: Option<PathBuf>,
    /// Text: .jsonl, .jsonl.zst, .parquet, .txt, packed tokens .bin, or token lists .json
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "merge")]
    pub data: Vec<PathBuf>,
    /// File to write: .gguf
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Instead of running a model, add up calibrations of one: of several runs or machines
    #[arg(long, value_name = "FILE", num_args = 2.., conflicts_with_all = ["model", "data", "tokens", "context", "sampling"])]
    pub merge: Vec<PathBuf>,
    /// Tokens to run
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = at_least_one)]
    pub tokens: usize,
    /// Tokens in a window; states start anew with each
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = at_least_one)]
    pub context: usize,
    /// How the text is drawn
    #[arg(long, value_enum, default_value = "proportional")]
    pub sampling: Sampling,
    /// Widest input whose second moments are gathered whole; of wider ones only diagonal blocks
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_one)]
    pub widest: usize,
    /// Save what is gathered this often; the same command goes on from there
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub checkpoint: u64,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub open: Open,
}

#[derive(Args)]
pub struct Quantize {
    /// Checkpoint, safetensors file, Hugging Face folder, GGUF or ONNX of ours
    pub model: PathBuf,
    /// File to write: .gguf or .onnx
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["dry_run", "genai"])]
    pub output: Option<PathBuf>,
    /// Write a folder that onnxruntime-genai runs, with the model as ONNX
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub genai: Option<PathBuf>,
    /// int4 and int8 are recommended mixes, measured where there is a calibration; or one format: q8_0, q6_k, q5_k, q4_k,
    /// q5_0, q4_1, q4_0, iq4_nl, iq4_xs, f16, bf16, f32 (ONNX: int4, int8 and the floats)
    #[arg(long, value_name = "TYPE", required_unless_present = "target_bpw", conflicts_with = "target_bpw")]
    pub to: Option<Recipe>,
    /// Choose each tensor's type by what it was measured to cost, so that the whole file takes at most this many bits per
    /// weight; needs a calibration
    #[arg(long, value_name = "X")]
    pub target_bpw: Option<f64>,
    /// Round for the inputs that the model's maps have: a file of `tamborim calibrate`; of an importance matrix of llama.cpp
    /// the weights count
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Tokens of the calibration on which the model is run beside what has been quantized of it so far, so that each layer
    /// makes up for what those before it have lost; 0: not at all [default: all on a GPU, 32768 on the CPU, none if
    /// there are fewer than 16 for each channel of the residual stream]
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// ONNX: weights that share a scale [default: 32]
    #[arg(long, value_name = "16|32|64|128", value_parser = block)]
    pub block: Option<usize>,
    /// ONNX: no zero points
    #[arg(long)]
    pub symmetric: bool,
    /// ONNX: only standard operators, none of ONNX Runtime's own
    #[arg(long)]
    pub pure_onnx: bool,
    /// Give the tensors whose name matches another type; the first rule that matches wins
    #[arg(long = "rule", value_name = "REGEX=TYPE")]
    pub rules: Vec<String>,
    /// Print the plan, write nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub open: Open,
}

#[derive(Args)]
pub struct Verify {
    /// The model to be true to
    pub reference: PathBuf,
    /// The model to judge; of several, one report compares them
    #[arg(required = true, value_name = "CANDIDATE")]
    pub candidates: Vec<PathBuf>,
    /// Text: .jsonl, .jsonl.zst, .parquet, .txt, packed tokens .bin, or token lists .json
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Positions to score, from the start of the data; 0: all
    #[arg(long, value_name = "N", default_value_t = 16384)]
    pub tokens: usize,
    /// Tokens in a window; states start anew with each
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = at_least_one)]
    pub context: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub open: Open,
    /// Look closer, and write report.html, report.md and report.json into this folder
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Text that both models continue in the report, any number of them; default: beginnings of documents of the data
    #[arg(long = "prompt", value_name = "TEXT", requires = "report")]
    pub prompts: Vec<String>,
    /// Hide a number at five depths of texts of so many tokens, and ask both models for it: 4096,65536,262144
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = at_least_one)]
    pub passkey: Vec<usize>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Report what of each map's output rounding takes away, by this calibration
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Fail (exit code 1) if the mean KL divergence is above this, in nats
    #[arg(long, value_name = "X")]
    pub max_kld: Option<f64>,
    /// Fail if the share of positions with the same likeliest token is below this (0 to 1)
    #[arg(long, value_name = "X")]
    pub min_top1: Option<f64>,
    /// Fail if the candidate's perplexity over the reference's is above this
    #[arg(long, value_name = "X")]
    pub max_ppl_ratio: Option<f64>,
}

fn block(s: &str) -> std::result::Result<usize, String> {
    match s.parse() {
        Ok(n @ (16 | 32 | 64 | 128)) => Ok(n),
        _ => Err("expected 16, 32, 64 or 128".to_owned()),
    }
}

fn at_least_one(s: &str) -> std::result::Result<usize, String> {
    match s.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1".to_owned()),
        Ok(n) => Ok(n),
    }
}

#[derive(Args)]
pub struct Generate {
    /// The model
    pub model: PathBuf,
    /// Text to continue
    #[arg(long, short)]
    pub prompt: String,
    /// Tokens to generate
    #[arg(short, default_value_t = 128)]
    pub n: usize,
    /// 0 takes the likeliest token; higher is more random
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    pub temperature: f32,
    /// Consider only the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 0.95, value_parser = not_negative)]
    pub top_p: f32,
    /// Seed of the random choices
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub open: Open,
}

fn not_negative(s: &str) -> std::result::Result<f32, String> {
    match s.parse::<f32>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("expected a number from 0".to_owned()),
    }
}

#[derive(Args)]
pub struct LogitsArgs {
    /// The model
    pub model: PathBuf,
    /// `{"tokens": [..]}`, or a batch of equal lengths `{"tokens": [[..], [..]]}`
    #[arg(long, value_name = "FILE.json")]
    pub tokens: PathBuf,
    /// File to write: float32 `logits`, (tokens, vocab) or (batch, tokens, vocab), vocab padded
    #[arg(short, long, value_name = "FILE.safetensors")]
    pub output: PathBuf,
    /// Tokens given to the model at a time, states carried; default: as many as are fastest
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub context: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub open: Open,
}

#[derive(Args)]
pub struct Bench {
    /// The model
    #[arg(required_unless_present_any = ["random", "kernels"], conflicts_with = "random")]
    pub model: Option<PathBuf>,
    /// Time single GPU kernels at the sizes of Samba_1.3B instead
    #[arg(long, conflicts_with_all = ["random", "model"])]
    pub kernels: bool,
    /// Measure a model of random weights instead: an official name (Samba_1.3B, ...), a JSON file of config fields or a
    /// Hugging Face config.json
    #[arg(long, value_name = "NAME|FILE")]
    pub random: Option<String>,
    /// Type of the random weights: as for quantize
    #[arg(long, value_name = "TYPE", default_value = "bf16", requires = "random")]
    pub to: Recipe,
    /// Tokens of prefill
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub prefill: usize,
    /// Tokens decoded one by one
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub decode: usize,
    /// Tokens that the model has seen before those
    #[arg(long, default_value_t = 0)]
    pub depth: usize,
    /// Times each is repeated; the median counts
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub repeat: usize,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub open: Open,
}

#[derive(Args)]
pub struct Demo {
    /// Folder to write into
    #[arg(long, value_name = "DIR", default_value = "tamborim-demo")]
    pub out: PathBuf,
}
