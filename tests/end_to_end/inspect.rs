//! `inspect` tells what a file holds.

use crate::common::*;
use crate::tamborim;

#[test]
fn a_checkpoint_is_described() {
    let facts = tamborim!["inspect", demo_model(), "--json"].succeeds().json();
    for (key, value) in [
        ("blocks", 6u64),
        ("width", 256),
        ("vocabulary", 4096),
        ("padded_vocabulary", 4096),
        ("training_context", 1024),
        ("parameters", 6_690_560),
    ] {
        assert_eq!(facts[key].as_u64(), Some(value), "{key}");
    }
    assert_eq!(facts["bytes"].as_u64(), Some(std::fs::metadata(demo_model()).expect("a file").len()));
    assert_eq!(facts["tied_head"], true);
    assert_eq!(facts["format"], "torch zip archive");
    assert!(facts["tokenizer"].as_str().expect("text").contains("4096"));
    assert!(facts.get("tensors").is_none(), "tensors are listed only when asked for");
    let roles = facts["roles"].as_object().expect("roles");
    let total: u64 = roles.values().map(|r| r["parameters"].as_u64().expect("a number")).sum();
    assert_eq!(total, 6_690_560, "every parameter has one role");
}

#[test]
fn a_gguf_is_described_like_its_checkpoint() {
    let dir = temp();
    let gguf = dir.path().join("model.gguf");
    tamborim!["convert", demo_model(), "-o", gguf].succeeds();
    let [a, b] = [demo_model(), gguf].map(|p| tamborim!["inspect", p, "--json"].succeeds().json());
    for key in
        ["architecture", "blocks", "width", "vocabulary", "training_context", "parameters", "tied_head", "tokenizer"]
    {
        assert_eq!(a[key], b[key], "{key}");
    }
    assert_eq!(b["format"], "GGUF v3");
    assert_eq!(b["source.name"], "checkpoint.pth");
    assert_eq!(b["source.sha256"].as_str().map(str::len), Some(64));
    let q4 = tamborim!["inspect", quantized("q4_k", dir.path()), "--json"].succeeds().json();
    assert_eq!(q4["roles"]["mlp up"]["types"], "q4_k");
    assert_eq!(q4["roles"]["norms"]["types"], "f32");
    let bits = q4["bits_per_weight"].as_f64().expect("a number");
    assert!((4.5..5.5).contains(&bits), "{bits}");
}

#[test]
fn a_hugging_face_folder_is_described() {
    let facts = tamborim!["inspect", fixture("hf/fla_samba_bias"), "--json"].succeeds().json();
    assert_eq!(facts["blocks"], 4);
    assert_eq!(facts["width"], 96);
    assert_eq!(facts["vocabulary"], 300);
    assert_eq!(facts["tied_head"], false);
    assert_eq!(facts["tokenizer"], "none");
}

#[test]
fn tensors_are_listed_once_each() {
    let facts = tamborim!["inspect", demo_model(), "--json", "--tensors"].succeeds().json();
    let tensors = facts["tensors"].as_array().expect("a list");
    let elements: u64 = tensors
        .iter()
        .map(|t| t["shape"].as_array().expect("a shape").iter().map(|n| n.as_u64().expect("a number")).product::<u64>())
        .sum();
    assert_eq!(elements, 6_690_560);
    let text = tamborim!["inspect", demo_model(), "--tensors"].succeeds().stdout;
    for tensor in tensors {
        let name = tensor["name"].as_str().expect("a name");
        let lines = text.lines().filter(|l| l.split_whitespace().next() == Some(name)).count();
        assert_eq!(lines, 1, "{name}");
    }
    let short = tamborim!["inspect", demo_model()].succeeds().stdout;
    assert!(!short.contains("blk.0.ssm_a") && text.contains("blk.0.ssm_a"));
}

/// `diff <(tamborim inspect a) <(tamborim inspect b)` must show differences of the models only.
#[test]
fn the_same_file_is_described_in_the_same_words() {
    let [a, b] = [0, 1].map(|_| tamborim!["inspect", demo_model(), "--tensors"].succeeds().stdout);
    assert_eq!(a, b);
}

#[test]
fn every_model_can_be_inspected() {
    let mut failures = Vec::new();
    let files = models_in("lit").into_iter().map(|f| f.join("checkpoint.pth")).chain(models_in("hf"));
    for file in files {
        let run = tamborim!["inspect", file, "--tensors"];
        if run.code != Some(0) {
            failures.push(format!("{}: {}", file.display(), run.stderr));
        }
    }
    assert_none(&failures);
}
