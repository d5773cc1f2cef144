//! Logits are those of the training code.

use crate::common::*;
use crate::tamborim;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tamborim_converters::CheckpointModel;
use tamborim_kernels::sample::{Sampler, Sampling};
use tamborim_kernels::{Backend, Cpu, Error, Logits, Model};

/// The goldens come from float64 runs of the official code; its own float32 is up to 2.1e-5 away from them.
const EXACT: f64 = 1e-4;

/// Of the golden of transformers' Mamba: that one was computed in float32, by a scan that rounds; a float64 run of the same
/// weights is 3e-4 away from it. Differences found: 2.5e-4 to 4.7e-4.
const HF_MAMBA: f64 = 1e-3;

/// Of the trained models' goldens, float32 runs themselves: the largest differences found are 2.1e-5 (7M) and 2.5e-5 (61M),
/// as far as two float32 runs with other orders of summation are apart.
const TRAINED: f64 = 1e-4;

/// A checkpoint of the training code, or a Hugging Face folder, with its tokens and what the logits should be.
pub struct Case {
    pub model: PathBuf,
    tokens: Value,
    golden: Tensors,
    tolerance: f64,
}

impl Case {
    fn lit(folder: &Path) -> Case {
        let tokens = std::fs::read(folder.join("tokens.json")).expect("tokens");
        Case {
            model: folder.join("checkpoint.pth"),
            tokens: serde_json::from_slice(&tokens).expect("JSON"),
            golden: Tensors::read(&folder.join("golden.safetensors")),
            tolerance: EXACT,
        }
    }

    /// A Hugging Face folder.
    pub fn hf(folder: &Path, tolerance: f64) -> Case {
        let golden = Tensors::read(&folder.join("golden.safetensors"));
        let ids = golden.integers("input_ids");
        let rows: Vec<&[usize]> = ids.chunks(golden.shape("input_ids")[1]).collect();
        Case { model: folder.to_owned(), tokens: json!({ "tokens": rows }), golden, tolerance }
    }

    /// The first `count` tokens of its first sequence, where the golden has logits of every position.
    pub fn beginning(&self, count: usize) -> Case {
        let vocab = *self.golden.shape("logits").last().expect("a shape");
        let logits = self.golden.numbers("logits")[..count * vocab].to_vec();
        Case {
            model: self.model.clone(),
            tokens: json!({ "tokens": [self.tokens["tokens"][0].as_array().expect("a sequence")[..count]] }),
            golden: Tensors::of("logits", vec![1, count, vocab], logits),
            tolerance: self.tolerance,
        }
    }

    /// What is wrong with the logits that `model`, a form of this case's model, gives.
    pub fn problem(&self, model: &Path, context: Option<usize>, more: &[&Path]) -> Option<String> {
        let dir = temp();
        let [tokens, out] = ["tokens.json", "out.safetensors"].map(|n| dir.path().join(n));
        std::fs::write(&tokens, self.tokens.to_string()).expect("a file");
        let mut args = vec!["logits".into(), model.into(), "--tokens".into(), tokens, "-o".into(), out.clone()];
        if let Some(context) = context {
            args.extend(["--context".into(), context.to_string().into()]);
        }
        args.extend(more.iter().map(|p| p.to_path_buf()));
        Tamborim::new(&args).run().succeeds();
        let out = Tensors::read(&out);
        let (shape, vocab) = (out.shape("logits"), *out.shape("logits").last().expect("a shape"));
        let golden = self.golden.numbers("logits");
        let found = match self.golden.has("positions") {
            false => {
                assert_eq!(shape, self.golden.shape("logits"), "{}", model.display());
                out.numbers("logits").to_vec()
            }
            true => {
                let row = |p: usize| &out.numbers("logits")[p * vocab..][..vocab];
                self.golden.integers("positions").into_iter().flat_map(row).copied().collect()
            }
        };
        let difference = max_difference(&found, golden);
        println!("{} context {context:?}: {difference:.1e}", model.display());
        let ok = difference <= self.tolerance;
        (!ok).then(|| format!("{} --context {context:?}: off by {difference:e}", model.display()))
    }

    fn converted(&self, to: &str, folder: &Path) -> PathBuf {
        let path = folder.join(format!("model.{to}"));
        tamborim!["convert", self.model, "-o", path].succeeds();
        path
    }
}

pub fn all_cases() -> Vec<Case> {
    let lit = models_in("lit").into_iter().map(|f| Case::lit(&f));
    lit.chain(models_in("hf").into_iter().map(|f| Case::hf(&f, if name(&f) == "hf_mamba" { HF_MAMBA } else { EXACT })))
        .collect()
}

#[test]
fn every_model_gives_its_golden_logits_in_one_shot() {
    assert_none(&all_cases().iter().filter_map(|c| c.problem(&c.model, None, &[])).collect::<Vec<_>>());
}

#[test]
fn states_carry_over_between_chunks_of_one_token() {
    assert_none(&all_cases().iter().filter_map(|c| c.problem(&c.model, Some(1), &[])).collect::<Vec<_>>());
}

/// 7 divides neither a window nor a length.
#[test]
fn states_carry_over_between_chunks_of_seven_tokens() {
    assert_none(&all_cases().iter().filter_map(|c| c.problem(&c.model, Some(7), &[])).collect::<Vec<_>>());
}

#[test]
fn a_gguf_says_what_its_checkpoint_said() {
    let mut failures = Vec::new();
    for case in all_cases() {
        let dir = temp();
        let gguf = case.converted("gguf", dir.path());
        failures.extend(case.problem(&gguf, None, &[]));
        failures.extend(case.problem(&gguf, Some(7), &[]));
    }
    assert_none(&failures);
}

#[test]
fn safetensors_say_what_their_checkpoint_said() {
    let mut failures = Vec::new();
    for folder in models_in("lit") {
        let (case, dir) = (Case::lit(&folder), temp());
        let path = case.converted("safetensors", dir.path());
        failures.extend(case.problem(&path, None, &["--config".as_ref(), &folder.join("lit_config.json")]));
    }
    assert_none(&failures);
}

/// Greedy choice feeds back: one token that differs changes all that follow.
#[test]
fn greedy_continuations_are_those_of_the_training_code() {
    let mut tried = 0;
    for folder in models_in("lit") {
        let case = Case::lit(&folder);
        let Some(expected) = case.tokens["greedy_new_tokens"].as_array() else { continue };
        let ids = |list: &[Value]| -> Vec<u32> { list.iter().map(|t| t.as_u64().expect("an id") as u32).collect() };
        let expected = ids(expected);
        let length = case.tokens["greedy_prompt_len"].as_u64().expect("a length") as usize;
        let mut next = ids(&case.tokens["tokens"][0].as_array().expect("tokens")[..length]);
        let source = CheckpointModel::open(&case.model, None, false).expect("a model");
        let model = Model::load(&Cpu, &source).expect("a model that runs");
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, top_p: 1.0 }, 0);
        let (mut state, mut found) = (model.start().expect("a state"), Vec::new());
        let vocab = model.plan().vocab_size;
        while found.len() < expected.len() {
            let mut token = 0;
            let run = model.forward(&next, &mut state, Logits::Last, |rows| -> Result<(), Error> {
                token = sampler.next(&Cpu.read(&rows)?[..vocab]);
                Ok(())
            });
            run.expect("known tokens");
            found.push(token);
            next = vec![token];
        }
        assert_eq!(found, expected, "{}", name(&folder));
        tried += 1;
    }
    assert!(tried >= 7, "only {tried} models have greedy tokens");
}

/// Logits at a few positions of the golden's first sequence, and its mean negative log likelihood, as kept in the repository.
#[test]
fn the_trained_demo_model_gives_its_golden_logits() {
    trained(&demo_model(), &project().join("tests/goldens/samba-7m.safetensors"));
}

#[test]
fn trained_models_give_all_their_golden_logits() {
    for model in ["samba-7m", "samba-61m"] {
        if let Some(folder) = only_shared(&format!("models/{model}")) {
            trained(&folder.join("checkpoint.pth"), &folder.join("golden.safetensors"));
        }
    }
}

fn trained(model: &Path, golden: &Path) {
    let golden = Tensors::read(golden);
    let sequences: Vec<usize> = (0..).take_while(|k| golden.has(&format!("tokens.{k}"))).collect();
    assert!(!sequences.is_empty());
    let dir = temp();
    let [file, out] = ["tokens.json", "out.safetensors"].map(|n| dir.path().join(n));
    for k in sequences {
        let tokens = golden.integers(&format!("tokens.{k}"));
        std::fs::write(&file, json!({ "tokens": tokens }).to_string()).expect("a file");
        tamborim!["logits", model, "--tokens", file, "-o", out].succeeds();
        let found = Tensors::read(&out);
        let [length, vocab] = *found.shape("logits") else { panic!("two dimensions") };
        assert_eq!(length, tokens.len());
        let found = found.numbers("logits");
        let expected = golden.numbers(&format!("logits.{k}"));
        let rows = expected.len() / vocab;
        // Evenly spaced, so that the last one's distance to the end is below the spacing.
        let positions = match golden.has("positions") {
            true => golden.integers("positions"),
            false => {
                let step = length / rows;
                let first = if step == 32 { 8 } else { 0 };
                (0..rows).map(|i| first + i * step).collect()
            }
        };
        let picked: Vec<f64> = positions.iter().flat_map(|p| &found[p * vocab..][..vocab]).copied().collect();
        let difference = max_difference(&picked, expected);
        let nll = |t: usize| {
            let row = &found[t * vocab..][..vocab];
            let max = row.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - row[tokens[t + 1]]
        };
        let mean = (0..length - 1).map(nll).sum::<f64>() / (length - 1) as f64;
        let golden_nll = golden.numbers(&format!("nll.{k}"))[0];
        println!("{} {k}: logits {difference:.1e}, nll {mean} and {golden_nll}", model.display());
        assert!(difference <= TRAINED, "{} sequence {k}: off by {difference:e}", model.display());
        assert!((mean - golden_nll).abs() < 2e-5, "{} sequence {k}: nll {mean}, golden {golden_nll}", model.display());
    }
}

#[test]
fn a_list_and_a_batch_of_one_differ_only_in_shape() {
    let (dir, model) = (temp(), fixture("lit/samba_gqa2/checkpoint.pth"));
    let logits = |tokens: Value| {
        let [file, out] = ["tokens.json", "out.safetensors"].map(|n| dir.path().join(n));
        std::fs::write(&file, tokens.to_string()).expect("a file");
        tamborim!["logits", model, "--tokens", file, "-o", out].succeeds();
        Tensors::read(&out)
    };
    let one = logits(json!({ "tokens": [1, 2, 3] }));
    let batch = logits(json!({ "tokens": [[1, 2, 3], [3, 2, 1]] }));
    let vocab = one.shape("logits")[1];
    assert_eq!(one.shape("logits"), [3, vocab]);
    assert_eq!(batch.shape("logits"), [2, 3, vocab]);
    assert_eq!(one.numbers("logits"), &batch.numbers("logits")[..3 * vocab]);
}

#[test]
fn tokens_that_cannot_be_run_are_refused_by_name() {
    let (dir, model) = (temp(), fixture("lit/samba_gqa2/checkpoint.pth"));
    let [file, out] = ["tokens.json", "out.safetensors"].map(|n| dir.path().join(n));
    for text in [
        r#"{"tokens": [1, 2, 100000]}"#,
        r#"{"tokens": []}"#,
        r#"{"tokens": [[1, 2], [3]]}"#,
        r#"{"tokens": [-1]}"#,
        r#"{"tokens": [1.5]}"#,
        r#"{"tokens": "abc"}"#,
        r#"{"tokens": [4294967296]}"#,
        r#"{"other": [1]}"#,
        "[1, 2",
        "",
    ] {
        std::fs::write(&file, text).expect("a file");
        let run = tamborim!["logits", model, "--tokens", file, "-o", out];
        assert_eq!(run.failure_problem(), None, "{text}: {}", run.stderr);
        assert!(run.stderr.contains("token"), "{text}: {}", run.stderr);
        assert!(!out.exists(), "{text}: left an output file");
    }
}
