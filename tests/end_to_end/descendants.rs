//! The models that people can download: Phi-4-mini-flash-reasoning and PLaMo-2.

use crate::common::*;
use crate::logits::Case;
use crate::tamborim;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tamborim_converters::CheckpointModel;
use tamborim_kernels::{Backend, Cpu, Error, Logits, Model};

/// Of the goldens, which are from float64. Official float32 code is up to 1.2e-4 away from them.
const PHI4FLASH: f64 = 2e-4;
/// llama.cpp is up to 2.1e-4 away from them, mlx-lm up to 3.4e-4.
const PLAMO2: f64 = 1e-3;

pub fn cases() -> Vec<(PathBuf, Case)> {
    let tolerance = |folder: &Path| if name(folder).starts_with("phi4flash") { PHI4FLASH } else { PLAMO2 };
    let case = |folder: PathBuf| (folder.clone(), Case::hf(&folder, tolerance(&folder)));
    models_in("descendants").into_iter().map(case).collect()
}

#[test]
fn descendants_say_what_their_official_code_says() {
    let mut failures = Vec::new();
    for (_, case) in cases() {
        failures.extend(
            [None, Some(7), Some(1)].map(|context| case.problem(&case.model, context, &[])).into_iter().flatten(),
        );
    }
    assert_none(&failures);
}

/// From a GGUF, from the safetensors made of that under the names they came in, and from an ONNX file by way of GGUF.
#[test]
fn descendants_survive_every_file_format() {
    let mut failures = Vec::new();
    for (folder, case) in cases() {
        let dir = temp();
        let [gguf, back] = ["model.gguf", "model.safetensors"].map(|n| dir.path().join(n));
        tamborim!["convert", case.model, "-o", gguf].succeeds();
        failures.extend(case.problem(&gguf, None, &[]));
        tamborim!["convert", gguf, "-o", back].succeeds();
        failures.extend(case.problem(&back, None, &["--config".as_ref(), &folder.join("config.json")]));
        let onnx = dir.path().join("model.onnx");
        tamborim!["convert", case.model, "-o", onnx].succeeds();
        tamborim!["convert", onnx, "-o", gguf].succeeds();
        failures.extend(case.problem(&gguf, None, &[]));
    }
    assert_none(&failures);
}

/// What comes after the last mixer that carries anything is computed for the last token alone: the same logits as of all.
#[test]
fn logits_of_the_last_token_alone_are_the_same() {
    for (folder, _) in cases() {
        let source = CheckpointModel::open(&folder, None, false).expect("a model");
        let model = Model::load(&Cpu, &source).expect("a model that runs");
        let tokens: Vec<u32> = (0..300).map(|i| i * 7 % 199).collect();
        // Uneven pieces, the last ones a single token.
        for pieces in [vec![300], vec![120, 179, 1], vec![299, 1]] {
            let last = |which: Logits| {
                let (mut state, mut at, mut row) = (model.start().expect("a state"), 0, Vec::new());
                for n in &pieces {
                    let run = model.forward(&tokens[at..at + n], &mut state, which, |rows| -> Result<(), Error> {
                        row = Cpu.read(&rows)?;
                        Ok(())
                    });
                    run.expect("known tokens");
                    at += n;
                }
                row.split_off(row.len() - model.plan().padded_vocab_size)
            };
            let wide = |row: Vec<f32>| row.into_iter().map(f64::from).collect::<Vec<_>>();
            let difference = max_difference(&wide(last(Logits::All)), &wide(last(Logits::Last)));
            assert!(difference < 1e-3, "{} in {pieces:?}: {difference:e}", name(&folder));
        }
    }
}

/// A folder like a fixture's, with some fields of its configuration replaced or, by null, taken away.
fn with_fields(fixture: &Path, fields: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = temp();
    let text = std::fs::read(fixture.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    for (field, value) in fields {
        config[field] = value.clone();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
    std::fs::copy(fixture.join("model.safetensors"), dir.path().join("model.safetensors")).expect("a copy");
    dir
}

#[test]
fn configurations_that_nothing_can_run_are_refused_by_field() {
    let (phi4flash, plamo2) =
        (fixture("descendants/phi4flash_gqa4_bf16"), fixture("descendants/plamo2_step3_mqa_bf16"));
    let huge = json!(1u64 << 60);
    for (fixture, field, value) in [
        (&phi4flash, "num_hidden_layers", json!(6)),
        (&phi4flash, "num_hidden_layers", json!(0)),
        (&phi4flash, "num_hidden_layers", huge.clone()),
        (&phi4flash, "mb_per_layer", json!(3)),
        (&phi4flash, "num_attention_heads", json!(0)),
        (&phi4flash, "num_attention_heads", json!(3)),
        (&phi4flash, "num_attention_heads", json!(10)),
        (&phi4flash, "num_key_value_heads", json!(1)),
        (&phi4flash, "num_key_value_heads", json!(6)),
        (&phi4flash, "layer_norm_eps", json!(0.0)),
        (&phi4flash, "layer_norm_eps", json!(-1)),
        (&phi4flash, "hidden_act", json!("gelu")),
        (&phi4flash, "sliding_window", json!([1, 2])),
        (&phi4flash, "sliding_window", json!(0)),
        (&phi4flash, "mamba_expand", huge.clone()),
        (&phi4flash, "mamba_expand", json!(0)),
        (&phi4flash, "mamba_dt_rank", json!("many")),
        (&phi4flash, "mamba_dt_rank", json!(0)),
        (&phi4flash, "mamba_d_state", json!(0)),
        (&phi4flash, "hidden_size", huge.clone()),
        (&plamo2, "mamba_step", json!(1)),
        (&plamo2, "mamba_num_heads", huge.clone()),
        (&plamo2, "num_key_value_heads", json!(3)),
        (&plamo2, "num_key_value_heads", json!(0)),
        (&plamo2, "hidden_size_per_head", json!(15)),
        (&plamo2, "hidden_size_per_head", huge),
        (&plamo2, "rope_theta", json!(-1)),
        (&plamo2, "rms_norm_eps", json!(2)),
        (&plamo2, "vocab_size", json!(0)),
    ] {
        let dir = with_fields(fixture, &[(field, value.clone())]);
        let error = tamborim!["inspect", dir.path()].fails();
        assert!(error.contains(field) && error.contains("expected"), "{field} = {value}: {error}");
    }
}

#[test]
fn tensors_that_contradict_the_configuration_are_refused_by_name() {
    let (phi4flash, plamo2) =
        (fixture("descendants/phi4flash_gqa4_bf16"), fixture("descendants/plamo2_step3_mqa_bf16"));
    for (fixture, field, value, tensor) in [
        (&phi4flash, "num_hidden_layers", json!(12), "layers.6.attn.in_proj.weight"),
        (&phi4flash, "num_hidden_layers", json!(4), "layers."),
        (&phi4flash, "intermediate_size", json!(81), "layers.0.mlp.fc1.weight"),
        (&phi4flash, "mamba_proj_bias", json!(true), "layers.0.attn.in_proj.bias"),
        (&phi4flash, "num_attention_heads", json!(4), "layers.1.attn.Wqkv.weight"),
        (&plamo2, "mamba_step", json!(2), "layers.layers.3.mixer.qkv_proj.weight"),
        (&plamo2, "tie_word_embeddings", json!(false), "lm_head.weight"),
        (&plamo2, "mamba_num_heads", json!(8), "layers.layers.0.mixer.in_proj.weight"),
        (&plamo2, "hidden_size_per_head", json!(8), "mixer"),
    ] {
        let fields = match field {
            // One entry a layer would be refused first.
            "num_hidden_layers" => vec![(field, value.clone()), ("sliding_window", json!(9))],
            _ => vec![(field, value.clone())],
        };
        let error = tamborim!["inspect", with_fields(fixture, &fields).path()].fails();
        assert!(error.contains(tensor) && error.contains("expected"), "{field} = {value}: {error}");
    }
}
