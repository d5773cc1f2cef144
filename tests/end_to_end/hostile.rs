//! Nothing that a file contains can make the command run code, crash, hang, fill memory or leave half a file.

use crate::common::*;
use crate::tamborim;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tamborim_converters::gguf::{Array, GgufFile, GgufWriter, Value};

/// A hostile file may take this long at most before it is refused: a guard against hangs, not a measurement.
const HANG: Duration = Duration::from_secs(10);

/// Memory for refusing a file, the process's own included.
const MEMORY: u64 = 200 << 20;

/// What the fixtures' manifest wants done with a file.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Expect {
    Reject,
    Accept,
    /// Either, as long as it is clean.
    Any,
}

struct Case {
    name: String,
    source: PathBuf,
    config: PathBuf,
    expect: Expect,
}

fn shared_cases(lit: &Path) -> Vec<Case> {
    let broken = lit.join("broken");
    let manifest = std::fs::read(broken.join("manifest.json")).expect("the manifest");
    let manifest: Json = serde_json::from_slice(&manifest).expect("JSON");
    let case = |(name, entry): (&String, &Json)| {
        let expect = match entry["expect"].as_str().expect("text") {
            "reject" => Expect::Reject,
            "accept" | "accept_no_golden" => Expect::Accept,
            "accept_or_clean_reject" | "reject_or_warn" => Expect::Any,
            other => panic!("{name}: {other}"),
        };
        let (source, config) = match name.starts_with("configs/") {
            true => (lit.join("formats/raw_state_dict.pth"), broken.join(name)),
            false => (broken.join(name), broken.join("lit_config.json")),
        };
        Case { name: name.clone(), source, config, expect }
    };
    manifest.as_object().expect("an object").iter().map(case).collect()
}

fn committed_cases() -> Vec<Case> {
    let entries = std::fs::read_dir(fixture("broken")).expect("the subset").map(|e| e.expect("an entry").path());
    let case = |source: PathBuf| {
        let name = name(&source);
        let expect = if name == "control_ok.pth" { Expect::Accept } else { Expect::Reject };
        Case { name, source, config: fixture("formats/lit_config.json"), expect }
    };
    entries.filter(|p| !p.ends_with("lit_config.json") && !p.ends_with("manifest.json")).map(case).collect()
}

fn problem(case: &Case) -> Option<String> {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    let args: [&Path; 6] =
        ["convert".as_ref(), &case.source, "--config".as_ref(), &case.config, "-o".as_ref(), "out.gguf".as_ref()];
    let run = Tamborim::new(args).in_folder(dir.path()).hang_after(HANG).run();
    let mut left: Vec<String> =
        std::fs::read_dir(dir.path()).expect("the folder").map(|e| name(&e.expect("an entry").path())).collect();
    let accepted = run.code == Some(0);
    if accepted {
        left.retain(|n| n != "out.gguf");
    }
    let problem = if !left.is_empty() {
        Some(format!("left {left:?} in the working directory"))
    } else if run.peak > MEMORY {
        Some(format!("took {} MB of memory", run.peak >> 20))
    } else if accepted {
        match case.expect {
            Expect::Reject => Some("was accepted".to_owned()),
            _ => (!out.is_file()).then(|| "wrote nothing".to_owned()),
        }
    } else if case.expect == Expect::Accept {
        Some("was refused".to_owned())
    } else {
        let names = [&case.source, &case.config].map(|p| name(p));
        let named = names.iter().any(|n| run.stderr.contains(n));
        run.failure_problem().or((!named).then(|| "names no file".to_owned()))
    };
    problem.map(|p| format!("{}: {p}: {}", case.name, run.stderr.trim_end()))
}

fn all_problems(cases: &[Case]) -> Vec<String> {
    cases.iter().filter_map(problem).collect()
}

#[test]
fn hostile_checkpoints_are_refused_cleanly() {
    let cases = committed_cases();
    assert!(cases.len() > 25 && cases.iter().any(|c| c.expect == Expect::Accept));
    assert_none(&all_problems(&cases));
}

#[test]
fn every_hostile_fixture_is_handled_as_its_manifest_says() {
    if let Some(lit) = only_shared("fixtures/lit") {
        let cases = shared_cases(&lit);
        assert!(cases.len() >= 116, "only {} cases", cases.len());
        assert_none(&all_problems(&cases));
    }
}

/// The same checkpoint, whichever command opens it.
#[test]
fn every_command_refuses_in_the_same_words() {
    let dir = temp();
    let bad = fixture("broken/evil_os_system.pth");
    let tokens = dir.path().join("tokens.json");
    std::fs::write(&tokens, r#"{"tokens": [1]}"#).expect("a file");
    let out = |n: &str| dir.path().join(n);
    let lines = [
        tamborim!["inspect", bad].fails(),
        tamborim!["inspect", bad, "--json"].fails(),
        tamborim!["convert", bad, "-o", out("a.gguf")].fails(),
        tamborim!["quantize", bad, "--to", "int4", "-o", out("b.gguf")].fails(),
        tamborim!["verify", bad, bad, "--data", tokens].fails(),
        tamborim!["generate", bad, "--prompt", "x"].fails(),
        tamborim!["logits", bad, "--tokens", tokens, "-o", out("c.safetensors")].fails(),
        tamborim!["bench", bad].fails(),
    ];
    for line in &lines {
        assert_eq!(line, &lines[0]);
    }
    assert!(lines[0].contains("system") && lines[0].contains("evil_os_system.pth"), "{}", lines[0]);
}

/// A copy of a GGUF with changes made to its keys and tensors.
fn changed(path: &Path, to: &Path, keys: impl Fn(&mut GgufWriter), tensor: impl Fn(&str, &[u8]) -> Vec<u8>) {
    let file = GgufFile::open(path).expect("a GGUF");
    let mut writer = GgufWriter::create(to).expect("a file");
    for (key, value) in file.metadata().iter() {
        writer.metadata.insert(key, value.clone());
    }
    keys(&mut writer);
    for (name, info) in file.tensors() {
        writer.declare(name, &info.shape, info.ggml_type.id).expect("a tensor");
    }
    let mut body = writer.write_header().expect("a header");
    for name in file.tensors().keys() {
        body.tensor(name, &tensor(name, file.bytes(name).expect("bytes"))).expect("a tensor");
    }
    body.finish().expect("a file");
}

/// A small sound GGUF in float32 with a tokenizer, its path and its folder.
fn sound() -> (tempfile::TempDir, PathBuf) {
    let dir = temp();
    let path = dir.path().join("sound.gguf");
    tamborim!["convert", fixture("lit/samba_gqa2/checkpoint.pth"), "-o", path].succeeds();
    (dir, path)
}

/// Commands that open `model`: each must refuse it in one line that names it, soon, in little memory.
#[track_caller]
fn assert_refused(model: &Path, what: &str) {
    let dir = temp();
    let tokens = dir.path().join("tokens.json");
    std::fs::write(&tokens, r#"{"tokens": [1, 2, 3]}"#).expect("a file");
    let path = |p: &str| dir.path().join(p);
    let commands: [Vec<PathBuf>; 3] = [
        vec!["convert".into(), model.into(), "-o".into(), path("out.gguf")],
        vec!["logits".into(), model.into(), "--tokens".into(), tokens.clone(), "-o".into(), path("out.safetensors")],
        vec!["generate".into(), model.into(), "--prompt".into(), "a".into()],
    ];
    for args in commands {
        let run = Tamborim::new(&args).hang_after(HANG).run();
        let problem = run.failure_problem();
        assert_eq!(problem, None, "{what}: {:?}: {}", args[0], run.stderr);
        assert!(run.stderr.contains(&name(model)), "{what}: names no file: {}", run.stderr);
        assert!(run.peak <= MEMORY, "{what}: took {} MB", run.peak >> 20);
        assert!(!path("out.gguf").exists() && !path("out.safetensors").exists(), "{what}: left a file");
    }
}

#[test]
fn a_gguf_cut_anywhere_is_refused() {
    let (dir, path) = sound();
    let bytes = std::fs::read(&path).expect("the file");
    let cut = dir.path().join("cut.gguf");
    for keep in [0, 3, 4, 7, 8, 23, 24, 100, 500, 1500, bytes.len() / 2, bytes.len() - 40] {
        std::fs::write(&cut, &bytes[..keep]).expect("a file");
        assert_refused(&cut, &format!("cut after {keep} bytes"));
    }
}

#[test]
fn a_gguf_with_flipped_header_bytes_never_crashes() {
    let (dir, path) = sound();
    let bytes = std::fs::read(&path).expect("the file");
    let tokens = dir.path().join("tokens.json");
    std::fs::write(&tokens, r#"{"tokens": [1, 2, 3]}"#).expect("a file");
    let flipped = dir.path().join("flipped.gguf");
    let out = dir.path().join("out.safetensors");
    // Every 29th byte of the header: names, types, lengths and values all have their turn.
    for at in (4..3000).step_by(29) {
        let mut copy = bytes.clone();
        copy[at] ^= 0xa5;
        std::fs::write(&flipped, &copy).expect("a file");
        let args: [&Path; 6] = ["logits".as_ref(), &flipped, "--tokens".as_ref(), &tokens, "-o".as_ref(), &out];
        let run = Tamborim::new(args).hang_after(HANG).run();
        assert!(matches!(run.code, Some(0 | 2)), "byte {at}: {:?} {}", run.code, run.stderr);
        assert!(run.peak <= MEMORY, "byte {at}: took {} MB", run.peak >> 20);
        if run.code == Some(2) {
            assert_eq!(run.failure_problem(), None, "byte {at}: {}", run.stderr);
        }
    }
}

#[test]
fn keys_that_contradict_the_tensors_are_refused() {
    let (dir, path) = sound();
    let wrong = dir.path().join("wrong.gguf");
    let cases: [(&str, Value); 30] = [
        ("general.architecture", "llama".into()),
        ("general.architecture", "../../etc/passwd".into()),
        ("general.architecture", 7u32.into()),
        ("samba.block_count", 0u32.into()),
        ("samba.block_count", 3u32.into()),
        ("samba.block_count", u32::MAX.into()),
        ("samba.block_count", Value::I32(-1)),
        ("samba.embedding_length", 65u32.into()),
        ("samba.vocab_size", 0u32.into()),
        ("samba.vocab_size", u32::MAX.into()),
        ("tamborim.vocab_size", 0u32.into()),
        ("tamborim.vocab_size", u32::MAX.into()),
        ("samba.attention.head_count", 0u32.into()),
        ("samba.attention.head_count", 3u32.into()),
        ("samba.attention.head_count", u32::MAX.into()),
        ("samba.attention.head_count_kv", Value::Array(Array::I32(vec![0, 3]))),
        ("samba.attention.head_count_kv", Value::Array(Array::I32(vec![2, 0]))),
        ("samba.attention.key_length", 7u32.into()),
        ("samba.attention.layer_norm_rms_epsilon", f32::NAN.into()),
        ("samba.attention.layer_norm_rms_epsilon", (-1.0f32).into()),
        ("samba.attention.sliding_window", "wide".into()),
        ("samba.attention.sliding_window_pattern", Value::Array(Array::Bool(vec![true]))),
        ("samba.rope.dimension_count", 7u32.into()),
        ("samba.rope.dimension_count", 4096u32.into()),
        ("samba.rope.freq_base", 0.0f32.into()),
        ("samba.rope.freq_base", f32::NAN.into()),
        ("samba.rope.table_type", "f8".into()),
        ("samba.ssm.state_size", 17u32.into()),
        ("samba.ssm.inner_size", u32::MAX.into()),
        ("samba.ssm.time_step_rank", 0u32.into()),
    ];
    let mut failures = Vec::new();
    for (key, value) in cases {
        let what = format!("{key} = {value}");
        let keys = |w: &mut GgufWriter| {
            w.metadata.insert(key, value.clone());
        };
        changed(&path, &wrong, keys, |_, bytes| bytes.to_vec());
        if let Err(panic) = std::panic::catch_unwind(|| assert_refused(&wrong, &what)) {
            failures.push(panic.downcast_ref::<String>().cloned().unwrap_or(what));
        }
    }
    assert_none(&failures);
}

/// A window is a limit, not an amount: the widest one is a model without a window, and takes no memory for it.
#[test]
fn an_absurdly_wide_window_takes_no_memory() {
    let (dir, path) = sound();
    let wide = dir.path().join("wide.gguf");
    let keys = |w: &mut GgufWriter| {
        w.metadata.insert("samba.attention.sliding_window", u32::MAX);
    };
    changed(&path, &wide, keys, |_, bytes| bytes.to_vec());
    let tokens = dir.path().join("tokens.json");
    std::fs::write(&tokens, r#"{"tokens": [1, 2, 3]}"#).expect("a file");
    let args: [&Path; 6] =
        ["logits".as_ref(), &wide, "--tokens".as_ref(), &tokens, "-o".as_ref(), &dir.path().join("out.safetensors")];
    let run = Tamborim::new(args).hang_after(HANG).run();
    assert!(run.peak <= MEMORY, "took {} MB", run.peak >> 20);
    assert!(run.code == Some(0) || run.failure_problem().is_none(), "{:?} {}", run.code, run.stderr);
}

#[test]
fn numbers_that_are_not_finite_are_refused_by_tensor_and_element() {
    let (dir, path) = sound();
    let bad = dir.path().join("bad.gguf");
    for (tensor, value) in [
        ("blk.0.ssm_a", f32::NAN),
        ("token_embd.weight", f32::INFINITY),
        ("output_norm.weight", f32::NEG_INFINITY),
        ("blk.1.attn_q.weight", f32::NAN),
    ] {
        changed(
            &path,
            &bad,
            |_| {},
            |name, bytes| {
                let mut bytes = bytes.to_vec();
                if name == tensor {
                    bytes[20..24].copy_from_slice(&value.to_le_bytes());
                }
                bytes
            },
        );
        let line = tamborim!["convert", bad, "-o", dir.path().join("out.gguf")].fails();
        assert!(line.contains(tensor) && line.contains("element 5"), "{line}");
        assert!(!dir.path().join("out.gguf").exists());
    }
    // Whoever wants them may have them.
    tamborim!["convert", bad, "--allow-nonfinite", "-o", dir.path().join("out.gguf")].succeeds();
}

#[test]
fn hostile_tokenizers_are_refused() {
    let dir = temp();
    let model = fixture("lit/samba_gqa2/checkpoint.pth");
    let sound = std::fs::read(demo_model().with_file_name("tokenizer.model")).expect("the tokenizer");
    let path = dir.path().join("bad.model");
    let out = dir.path().join("out.gguf");
    let long_varint = [&[0x0a][..], &[0xff; 12]].concat();
    let past_end = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f].to_vec();
    let cases: [(&str, Vec<u8>); 7] = [
        ("empty", Vec::new()),
        ("cut", sound[..sound.len() / 2 + 1].to_vec()),
        ("text", b"{\"model\": {\"type\": \"BPE\"}}".to_vec()),
        ("a number that never ends", long_varint),
        ("a piece past the end", past_end),
        ("all ones", vec![0xff; 4096]),
        ("all zeros", vec![0; 4096]),
    ];
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).expect("a file");
        let run = tamborim!["convert", model, "--tokenizer", path, "-o", out];
        assert_eq!(run.failure_problem(), None, "{what}: {}", run.stderr);
        assert!(run.stderr.contains("bad.model"), "{what}: {}", run.stderr);
        assert!(!out.exists(), "{what}: left a file");
    }
    // A folder, and a file that is not there.
    for path in [dir.path(), &dir.path().join("none.model")] {
        let line = tamborim!["convert", model, "--tokenizer", path, "-o", out].fails();
        assert!(line.contains(&name(path)), "{line}");
    }
}

#[test]
fn a_hostile_tokenizer_inside_a_gguf_is_refused() {
    let dir = temp();
    let path = dir.path().join("sound.gguf");
    tamborim!["convert", demo_model(), "-o", path].succeeds();
    let bad = dir.path().join("bad.gguf");
    let cases: [(&str, Value); 6] = [
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(vec!["a".into()]))),
        ("tokenizer.ggml.tokens", 5u32.into()),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(vec![f32::NAN; 4096]))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![99; 4096]))),
        ("tokenizer.ggml.eos_token_id", u32::MAX.into()),
    ];
    for (key, value) in cases {
        let keys = |w: &mut GgufWriter| {
            w.metadata.insert(key, value.clone());
        };
        changed(&path, &bad, keys, |_, bytes| bytes.to_vec());
        let line = tamborim!["generate", bad, "--prompt", "a"].fails();
        assert!(line.contains("bad.gguf"), "{key}: {line}");
    }
}

/// Names from a file may carry terminal controls; none reach the terminal.
#[test]
fn terminal_controls_in_names_are_not_printed() {
    let (dir, path) = sound();
    let bad = dir.path().join("bad.gguf");
    let keys = |w: &mut GgufWriter| {
        w.metadata.insert("general.name", "\u{1b}[2Jcleared\nsecond line");
    };
    changed(&path, &bad, keys, |_, bytes| bytes.to_vec());
    let run = tamborim!["inspect", bad].succeeds();
    assert!(run.stdout.contains("cleared") && !run.stdout.contains('\u{1b}'), "{:?}", run.stdout);
    let keys = |w: &mut GgufWriter| {
        w.metadata.insert("general.architecture", "\u{1b}[2Jx\ny");
    };
    changed(&path, &bad, keys, |_, bytes| bytes.to_vec());
    let line = tamborim!["inspect", bad].fails();
    assert!(!line.contains('\u{1b}'), "{line:?}");
}
