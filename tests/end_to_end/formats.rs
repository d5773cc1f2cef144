//! One model in every form that checkpoints come in gives one answer.

use crate::common::*;
use crate::tamborim;
use serde_json::Value;
use std::path::Path;

/// As the goldens of `logits.rs`.
const TOLERANCE: f64 = 1e-4;

#[test]
fn every_storage_form_gives_the_same_logits() {
    let folder = fixtures(if shared().is_some() { "lit/formats" } else { "formats" });
    let cases = match std::fs::read(folder.join("manifest.json")) {
        Ok(manifest) => {
            let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
            let text = |v: &Value| v.as_str().expect("text").to_owned();
            let entries = manifest.as_object().expect("an object").iter();
            entries.map(|(name, e)| (name.clone(), text(&e["golden"]), text(&e["expect"]))).collect()
        }
        Err(_) => committed_cases(&folder),
    };
    assert!(cases.len() >= 8, "only {} forms", cases.len());
    let mut failures = Vec::new();
    let mut accepted = 0;
    for (name, golden, expect) in cases {
        let dir = temp();
        let out = dir.path().join("out.safetensors");
        let run = tamborim![
            "logits",
            folder.join(&name),
            "--config",
            folder.join("lit_config.json"),
            "--tokens",
            folder.join("tokens.json"),
            "-o",
            out
        ];
        if run.code != Some(0) {
            if expect == "accept" {
                failures.push(format!("{name}: refused: {}", run.stderr));
            } else if let Some(problem) = run.failure_problem() {
                failures.push(format!("{name}: {problem}: {}", run.stderr));
            }
            continue;
        }
        accepted += 1;
        let golden = Tensors::read(&folder.join(&golden));
        let difference = max_difference(Tensors::read(&out).numbers("logits"), golden.numbers("logits"));
        if difference > TOLERANCE || difference.is_nan() {
            failures.push(format!("{name}: off by {difference:e}"));
        }
    }
    println!("{accepted} forms read");
    assert_none(&failures);
}

/// Everything in the committed subset must be read.
fn committed_cases(folder: &Path) -> Vec<(String, String, String)> {
    let entries = std::fs::read_dir(folder).expect("the subset").map(|e| name(&e.expect("an entry").path()));
    let beside = |n: &String| n.starts_with("golden") || n.ends_with(".json");
    let golden = |n: &str| if n.contains("bf16") { "golden_bf16.safetensors" } else { "golden_f32.safetensors" };
    entries.filter(|n| !beside(n)).map(|n| (n.clone(), golden(&n).to_owned(), "accept".to_owned())).collect()
}
