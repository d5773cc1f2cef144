//! What is written is what was read, the same bytes every time, whole or not at all.

use crate::common::*;
use crate::tamborim;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use tamborim_converters::gguf::{Array, GgufFile, Value};
use tamborim_model::tokenizer::Tokenizer;
use tamborim_quant::Format;

fn open(path: &Path) -> GgufFile {
    GgufFile::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn text<'a>(file: &'a GgufFile, key: &str) -> &'a str {
    file.metadata().required(key).unwrap_or_else(|e| panic!("{e}"))
}

fn count(file: &GgufFile, key: &str) -> usize {
    file.metadata().required(key).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn assert_same_tensors(a: &Path, b: &Path) {
    let (a, b) = (open(a), open(b));
    assert!(a.tensors().keys().eq(b.tensors().keys()), "the same tensors in the same order");
    for (tensor, info) in a.tensors() {
        let twin = &b.tensors()[tensor];
        assert_eq!((&info.shape, info.ggml_type.id), (&twin.shape, twin.ggml_type.id), "{tensor}");
        assert!(a.bytes(tensor).expect("bytes") == b.bytes(tensor).expect("bytes"), "{tensor}: other bytes");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_whatever_the_thread_count() {
    let dir = temp();
    let model = demo_model();
    let mut commands: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for (dtype, extension) in [("source", "gguf"), ("f32", "gguf"), ("f16", "gguf"), ("bf16", "safetensors")] {
        let args = ["convert".into(), model.clone(), "--dtype".into(), dtype.into()];
        commands.push((format!("convert-{dtype}.{extension}"), args.to_vec()));
    }
    for recipe in Format::ALL.iter().map(|f| f.name()).chain(["int8", "int4"]) {
        let args = ["quantize".into(), model.clone(), "--to".into(), recipe.into()];
        commands.push((format!("{recipe}.gguf"), args.to_vec()));
    }
    for (file, mut args) in commands {
        let out = dir.path().join(&file);
        args.extend(["-o".into(), out.clone()]);
        let written = [1, 2, 5].map(|threads| {
            Tamborim::new(&args).threads(threads).run().succeeds();
            Sha256::digest(std::fs::read(&out).expect("the output"))
        });
        assert_eq!(written[0], written[1], "{file}: 1 and 2 threads");
        assert_eq!(written[0], written[2], "{file}: 1 and 5 threads");
    }
}

#[test]
fn the_input_is_never_overwritten() {
    let dir = temp();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).expect("a folder");
    let gguf = folder.join("model.gguf");
    tamborim!["convert", fixture("lit/samba_gqa2/checkpoint.pth"), "-o", gguf].succeeds();
    let before = std::fs::read(&gguf).expect("the file");
    let link = folder.join("link.gguf");
    std::os::unix::fs::symlink(&gguf, &link).expect("a link");
    for out in [&gguf, &link, &folder.join("../model/model.gguf")] {
        let line = tamborim!["quantize", gguf, "--to", "q8_0", "-o", out].fails();
        assert!(line.contains("other than the input"), "{line}");
        let line = tamborim!["convert", gguf, "-o", out].fails();
        assert!(line.contains("model.gguf"), "{line}");
    }
    assert_eq!(std::fs::read(&gguf).expect("the file"), before);
    // Nor a file of a folder that is the input.
    let hf = dir.path().join("hf");
    std::fs::create_dir(&hf).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("hf/fla_samba_bias").join(file), hf.join(file)).expect("a copy");
    }
    let weights = hf.join("model.safetensors");
    let before = std::fs::read(&weights).expect("the file");
    let line = tamborim!["convert", hf, "-o", weights].fails();
    assert!(line.contains("model.safetensors"), "{line}");
    assert_eq!(std::fs::read(&weights).expect("the file"), before);
}

#[test]
fn an_existing_output_is_replaced_whole() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    std::fs::write(&out, vec![7; 3_000_000]).expect("a file");
    tamborim!["convert", fixture("lit/samba_gqa2/checkpoint.pth"), "-o", out].succeeds();
    let fresh = dir.path().join("fresh.gguf");
    tamborim!["convert", fixture("lit/samba_gqa2/checkpoint.pth"), "-o", fresh].succeeds();
    assert_eq!(std::fs::read(&out).expect("out"), std::fs::read(&fresh).expect("fresh"));
}

#[test]
fn a_failure_leaves_no_file() {
    let dir = temp();
    let model = fixture("lit/samba_gqa2/checkpoint.pth");
    let folder = dir.path().join("folder.gguf");
    std::fs::create_dir(&folder).expect("a folder");
    for out in [&folder, &dir.path().join("missing/out.gguf"), &PathBuf::from("/proc/out.gguf")] {
        let line = tamborim!["convert", model, "-o", out].fails();
        assert!(line.contains("gguf"), "{line}");
        let line = tamborim!["quantize", model, "--to", "q8_0", "-o", out].fails();
        assert!(line.contains("gguf"), "{line}");
    }
    // The damage shows late, after the header was written.
    let nan = fixture("broken/bad_crc.pth");
    let line =
        tamborim!["convert", nan, "--config", fixture("formats/lit_config.json"), "-o", dir.path().join("bad.gguf")]
            .fails();
    assert!(line.contains("bad_crc.pth"), "{line}");
    for out in ["out.onnxx", "out", "out.bin"] {
        let line = tamborim!["convert", model, "-o", dir.path().join(out)].fails();
        assert!(line.contains(out) && line.contains(".gguf"), "{line}");
    }
    assert_eq!(files(dir.path()), ["folder.gguf"]);
    assert!(files(&folder).is_empty());
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|e| name(&e.expect("an entry").path())).collect();
    names.sort();
    names
}

/// Root writes anywhere, so this needs another user.
#[test]
fn an_unwritable_folder_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = temp();
    let folder = dir.path().join("locked");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).expect("permissions");
    if std::fs::write(folder.join("probe"), "").is_ok() {
        println!("skipped: this user may write anywhere");
        return;
    }
    let line = tamborim!["convert", fixture("lit/samba_gqa2/checkpoint.pth"), "-o", folder.join("out.gguf")].fails();
    assert!(line.contains("locked"), "{line}");
}

#[test]
fn a_gguf_carries_the_layout_under_llama_cpps_keys() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    tamborim!["convert", demo_model(), "-o", out].succeeds();
    let file = open(&out);
    assert_eq!(file.version(), 3);
    assert_eq!(text(&file, "general.architecture"), "samba");
    assert_eq!(text(&file, "general.type"), "model");
    assert_eq!(count(&file, "general.file_type"), 32, "bf16");
    for (key, value) in [
        ("block_count", 6),
        ("embedding_length", 256),
        ("vocab_size", 4096),
        ("attention.sliding_window", 256),
        ("attention.head_count", 2),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
        ("rope.dimension_count", 128),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", 512),
        ("ssm.state_size", 16),
        ("ssm.time_step_rank", 16),
    ] {
        assert_eq!(count(&file, &format!("samba.{key}")), value, "{key}");
    }
    let list = |key: &str| file.metadata().get(&format!("samba.attention.{key}")).cloned();
    // A block without keys and values is a recurrent one.
    assert_eq!(list("head_count_kv"), Some(Value::Array(Array::I32(vec![0, 2, 0, 2, 0, 2]))));
    let local = [false, true, false, true, false, true];
    assert_eq!(list("sliding_window_pattern"), Some(Value::Array(Array::Bool(local.to_vec()))));
    assert_eq!(list("recurrent_layers"), Some(Value::Array(Array::Bool(local.map(|l| !l).to_vec()))));
    // A tied head is stored once, and a quantized file says which generation of blocks it has.
    assert!(!file.tensors().contains_key("output.weight"));
    assert!(file.metadata().get("general.quantization_version").is_none());
    let q4 = open(&quantized("q4_k", dir.path()));
    assert_eq!(count(&q4, "general.quantization_version"), 2);
    assert_eq!(count(&q4, "general.file_type"), 14);
    let groups = dir.path().join("groups.gguf");
    tamborim!["convert", fixture("lit/samba_gqa2/checkpoint.pth"), "-o", groups].succeeds();
    let kv = open(&groups).metadata().get("samba.attention.head_count_kv").cloned();
    assert_eq!(kv, Some(Value::Array(Array::I32(vec![0, 2]))));
}

#[test]
fn a_pure_mamba_is_one_that_llama_cpp_runs() {
    let Some(model) = only_shared("fixtures/lit/mamba/checkpoint.pth") else { return };
    let dir = temp();
    let out = dir.path().join("out.gguf");
    tamborim!["convert", model, "-o", out].succeeds();
    let file = open(&out);
    assert_eq!(text(&file, "general.architecture"), "mamba");
    assert_eq!(count(&file, "mamba.ssm.state_size"), file.tensors()["blk.0.ssm_a"].shape[1]);
}

#[test]
fn the_tokenizer_travels_in_the_file() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    tamborim!["convert", demo_model(), "-o", out].succeeds();
    let file = open(&out);
    let bytes = std::fs::read(demo_model().with_file_name("tokenizer.model")).expect("the tokenizer");
    let tokenizer = Tokenizer::from_sentencepiece(&bytes).expect("a tokenizer");
    let pieces = tokenizer.pieces();
    assert_eq!(text(&file, "tokenizer.ggml.model"), "llama");
    let list = |key: &str| file.metadata().get(&format!("tokenizer.ggml.{key}")).cloned();
    assert_eq!(list("tokens"), Some(Value::Array(Array::String(pieces.tokens.clone()))));
    assert_eq!(list("scores"), Some(Value::Array(Array::F32(pieces.scores.clone()))));
    assert_eq!(list("bos_token_id"), pieces.bos.map(Value::U32));
    assert_eq!(list("eos_token_id"), pieces.eos.map(Value::U32));
    // From the file alone, it cuts text in the same way.
    let again = tamborim_converters::gguf::read_tokenizer(file.metadata()).expect("keys").expect("a tokenizer");
    let page = std::fs::read_to_string(page()).expect("the page");
    assert_eq!(again.encode(&page), tokenizer.encode(&page));
    assert_eq!(again.decode(&again.encode(&page)), page);
}

#[test]
fn another_tokenizer_can_be_given() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    let tokenizer = demo_model().with_file_name("tokenizer.model");
    let bare = dir.path().join("bare.pth");
    std::fs::copy(demo_model(), &bare).expect("a copy");
    let config = demo_model().with_file_name("lit_config.json");
    tamborim!["convert", bare, "--config", config, "-o", out].succeeds();
    assert!(open(&out).metadata().get("tokenizer.ggml.tokens").is_none());
    tamborim!["convert", bare, "--config", config, "--tokenizer", tokenizer, "-o", out].succeeds();
    assert!(open(&out).metadata().get("tokenizer.ggml.tokens").is_some());
    // More pieces than the model has rows.
    let small = fixture("lit/samba_gqa2/checkpoint.pth");
    std::fs::remove_file(&out).expect("the output");
    let line = tamborim!["convert", small, "--tokenizer", tokenizer, "-o", out].fails();
    assert!(line.contains("vocabulary") && !out.exists(), "{line}");
}

#[test]
fn a_file_says_what_it_was_made_from() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    tamborim!["convert", demo_model(), "-o", out].succeeds();
    let file = open(&out);
    let digest = Sha256::digest(std::fs::read(demo_model()).expect("the checkpoint"));
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text(&file, "tamborim.source.sha256"), digest);
    assert_eq!(text(&file, "tamborim.source.name"), "checkpoint.pth");
    assert_eq!(text(&file, "tamborim.version"), env!("CARGO_PKG_VERSION"));
}

#[test]
fn dtype_is_the_type_of_the_linear_maps_and_of_nothing_else() {
    let dir = temp();
    for dtype in [Format::F32, Format::F16, Format::Bf16] {
        let out = dir.path().join(format!("{dtype}.gguf"));
        tamborim!["convert", demo_model(), "-o", out, "--dtype", dtype.name()].succeeds();
        let file = open(&out);
        let stored = |tensor: &str| Format::from_gguf_type(file.tensors()[tensor].ggml_type.id);
        for linear in ["token_embd.weight", "blk.0.ssm_dt.weight", "blk.1.attn_q.weight", "blk.5.ffn_down.weight"] {
            assert_eq!(stored(linear), Some(dtype), "{linear}");
        }
        for other in
            ["output_norm.weight", "blk.0.ssm_a", "blk.0.ssm_conv1d.weight", "blk.0.ssm_dt.bias", "blk.0.ssm_d"]
        {
            assert_eq!(stored(other), Some(Format::F32), "{other}");
        }
    }
}

/// Every number of the checkpoint fits into float32, so nothing may change on the way, whichever way it goes.
#[test]
fn all_ways_to_float32_end_in_the_same_tensors() {
    let dir = temp();
    let path = |n: &str| dir.path().join(n);
    tamborim!["convert", demo_model(), "-o", path("direct.gguf"), "--dtype", "f32"].succeeds();
    tamborim!["convert", demo_model(), "-o", path("bf16.gguf")].succeeds();
    tamborim!["convert", path("bf16.gguf"), "-o", path("again.gguf"), "--dtype", "f32"].succeeds();
    assert_same_tensors(&path("direct.gguf"), &path("again.gguf"));
    tamborim!["convert", path("again.gguf"), "-o", path("same.gguf")].succeeds();
    assert_same_tensors(&path("direct.gguf"), &path("same.gguf"));
    assert_eq!(text(&open(&path("again.gguf")), "tamborim.source.name"), "bf16.gguf");
}

#[test]
fn a_safetensors_round_trip_gives_the_same_tensors() {
    let dir = temp();
    let path = |n: &str| dir.path().join(n);
    let config = demo_model().with_file_name("lit_config.json");
    tamborim!["convert", demo_model(), "-o", path("direct.gguf")].succeeds();
    tamborim!["convert", demo_model(), "-o", path("model.safetensors")].succeeds();
    tamborim!["convert", path("model.safetensors"), "--config", config, "-o", path("back.gguf")].succeeds();
    assert_same_tensors(&path("direct.gguf"), &path("back.gguf"));
    // From a GGUF too: A goes through its logarithm, which rounds, so -exp gives it back to the last bits only.
    tamborim!["convert", path("direct.gguf"), "-o", path("from-gguf.safetensors")].succeeds();
    tamborim!["convert", path("from-gguf.safetensors"), "--config", config, "-o", path("third.gguf")].succeeds();
    let (a, b) = (open(&path("direct.gguf")), open(&path("third.gguf")));
    for tensor in a.tensors().keys() {
        let (x, y) = (a.bytes(tensor).expect("bytes"), b.bytes(tensor).expect("bytes"));
        if !tensor.ends_with("ssm_a") {
            assert!(x == y, "{tensor}: other bytes");
            continue;
        }
        for (x, y) in x.as_chunks().0.iter().zip(y.as_chunks().0) {
            let (x, y) = (f32::from_le_bytes(*x), f32::from_le_bytes(*y));
            assert!((x - y).abs() <= 1e-6 * x.abs(), "{tensor}: {x} {y}");
        }
    }
}

/// gguf-py is the format's own library: what it lists and decodes is what we wrote.
#[test]
fn gguf_py_reads_our_files() {
    let Some(python) = std::env::var_os("TAMBORIM_PYTHON") else {
        println!("skipped: TAMBORIM_PYTHON names no Python with gguf (scripts/test.sh sets it)");
        return;
    };
    const SCRIPT: &str = r#"
import json, sys
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
reader, twin = GGUFReader(sys.argv[1]), GGUFReader(sys.argv[2])
decoded = {t.name: t.data for t in twin.tensors}
rows = []
for t in reader.tensors:
    ours = decoded[t.name].reshape(-1)
    theirs = dequantize(t.data, t.tensor_type).reshape(-1)
    same = bool(ours.dtype == np.float32 and np.array_equal(ours.view(np.uint32), theirs.astype(np.float32).view(np.uint32)))
    rows.append([t.name, [int(n) for n in t.shape], int(t.tensor_type), same])
keys = {k: f.contents() for k, f in reader.fields.items() if k.startswith("samba.") or k == "general.architecture"}
print(json.dumps({"tensors": rows, "keys": keys}, default=int))
"#;
    let dir = temp();
    for recipe in ["bf16", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q5_0", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "int4"] {
        let ours = quantized(recipe, dir.path());
        let decoded = dir.path().join("decoded.gguf");
        tamborim!["convert", ours, "--dtype", "f32", "-o", decoded].succeeds();
        let out = Command::new(&python).arg("-c").arg(SCRIPT).args([&ours, &decoded]).output().expect("Python runs");
        let complaint = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && complaint.is_empty(), "{recipe}: {complaint}");
        let listed: Json = serde_json::from_slice(&out.stdout).expect("JSON");
        let file = open(&ours);
        let rows = listed["tensors"].as_array().expect("a list");
        assert_eq!(rows.len(), file.tensors().len());
        for (row, (tensor, info)) in rows.iter().zip(file.tensors()) {
            let shape: Vec<usize> = info.shape.iter().rev().copied().collect();
            assert_eq!(row[0], Json::from(tensor.as_str()), "{recipe}");
            assert_eq!(row[1], Json::from(shape), "{recipe}: {tensor}");
            assert_eq!(row[2], Json::from(info.ggml_type.id), "{recipe}: {tensor}");
            assert_eq!(row[3], Json::from(true), "{recipe}: {tensor} decodes to other numbers");
        }
        assert_eq!(listed["keys"]["general.architecture"], "samba");
        assert_eq!(listed["keys"]["samba.attention.head_count_kv"], Json::from(vec![0, 2, 0, 2, 0, 2]));
    }
}
