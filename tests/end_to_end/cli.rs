//! Arguments, exit codes, streams.

use crate::common::*;
use crate::tamborim;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// The checkpoint alone, with nothing beside it that says what it is.
fn bare(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("bare.safetensors");
    let weights = std::fs::read(fixture("formats/model_untied.safetensors")).expect("a checkpoint");
    std::fs::write(&path, weights).expect("a file");
    path
}

#[test]
fn an_unknown_configuration_name_lists_names_close_to_it() {
    let dir = temp();
    let line = tamborim!["inspect", bare(dir.path()), "--config", "Samba_421"].fails();
    assert!(line.contains("Samba_421") && line.contains("Samba_421M"), "{line}");
    let line = tamborim!["inspect", bare(dir.path()), "--config", "samba_1.3b"].fails();
    assert!(line.contains("Samba_1.3B"), "{line}");
}

#[test]
fn a_configuration_that_does_not_fit_says_where() {
    let dir = temp();
    let line = tamborim!["inspect", bare(dir.path()), "--config", "Samba_421M"].fails();
    assert!(line.contains("bare.safetensors") && line.contains("expected") && line.contains("found"), "{line}");
}

#[test]
fn a_missing_configuration_says_what_to_give() {
    let dir = temp();
    let line = tamborim!["inspect", bare(dir.path())].fails();
    assert!(line.contains("bare.safetensors") && line.contains("--config"), "{line}");
    assert!(line.contains("lit_config.json") || line.contains("config.json"), "{line}");
    tamborim!["inspect", bare(dir.path()), "--config", fixture("formats/lit_config.json")].succeeds();
}

#[test]
fn wrong_arguments_exit_with_2_and_one_line() {
    let model = demo_model();
    let m = model.to_str().expect("a path");
    let cases: [&[&str]; 15] = [
        &["frobnicate"],
        &["inspect"],
        &["inspect", m, "--no-such-flag"],
        &["convert", m],
        &["convert", m, "-o", "x.gguf", "--dtype", "f8"],
        &["quantize", m, "-o", "x.gguf"],
        &["quantize", m, "--to", "int4"],
        &["quantize", m, "-o", "x.gguf", "--to", "int3"],
        &["verify", m, m],
        &["verify", m, m, "--data", "x.txt", "--context", "0"],
        &["verify", m, m, "--data", "x.txt", "--max-kld", "small"],
        &["generate", m],
        &["generate", m, "--prompt", "x", "--temperature", "-1"],
        &["logits", m, "--tokens", "x.json"],
        &["logits", m, "--tokens", "x.json", "-o", "y.safetensors", "--context", "0"],
    ];
    for args in cases {
        let run = Tamborim::new(args).in_folder(temp().path()).run();
        assert_eq!(run.failure_problem(), None, "{args:?}: {}{}", run.stdout, run.stderr);
    }
}

#[test]
fn without_arguments_the_help_is_shown() {
    let run = Tamborim::new(&[] as &[&str]).run();
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("quantize") && run.stderr.contains("Usage"), "{}", run.stderr);
}

#[test]
fn help_and_version_are_no_errors() {
    let help = tamborim!["--help"].succeeds().stdout;
    for command in ["inspect", "convert", "quantize", "verify", "generate", "logits", "bench", "demo"] {
        assert!(help.contains(command), "{command}");
        let own = tamborim![command, "--help"].succeeds().stdout;
        assert!(own.contains("Usage: tamborim"), "{own}");
    }
    assert!(tamborim!["--version"].succeeds().stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_device_that_is_not_there_is_said_in_one_line() {
    let dir = temp();
    let tokens = dir.path().join("tokens.json");
    std::fs::write(&tokens, r#"{"tokens": [1, 2]}"#).expect("a file");
    for device in ["cuda", "cuda:0", "cuda:99"] {
        let run = tamborim![
            "logits",
            demo_model(),
            "--tokens",
            tokens,
            "-o",
            dir.path().join("x.safetensors"),
            "--device",
            device
        ];
        if run.code == Some(0) && device != "cuda:99" {
            println!("skipped: {device} is there");
            continue;
        }
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        let line = run.stderr.lines().next().expect("a line");
        assert!(line.contains("cuda") || line.contains("CUDA"), "{}", run.stderr);
    }
    let run = tamborim!["generate", demo_model(), "--prompt", "x", "--device", "tpu"];
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("tpu"), "{}", run.stderr);
}

#[test]
fn files_that_are_not_there_are_named() {
    let dir = temp();
    let none = dir.path().join("none.pth");
    for line in [
        tamborim!["inspect", none].fails(),
        tamborim!["convert", none, "-o", dir.path().join("x.gguf")].fails(),
        tamborim!["verify", demo_model(), none, "--data", page()].fails(),
        tamborim!["logits", demo_model(), "--tokens", none, "-o", dir.path().join("x.safetensors")].fails(),
        tamborim!["inspect", demo_model(), "--tokenizer", none].fails(),
    ] {
        assert!(line.contains("none.pth"), "{line}");
    }
}

#[test]
fn generation_continues_the_prompt_and_repeats_for_a_seed() {
    let say = |more: &[&str]| {
        let mut args = vec!["generate".into(), demo_model(), "--prompt".into(), "The river is".into()];
        args.extend(["-n".into(), "24".into()]);
        args.extend(more.iter().map(std::path::PathBuf::from));
        Tamborim::new(&args).run().succeeds().stdout
    };
    let greedy = say(&[]);
    assert!(greedy.starts_with("The river is ") && greedy.len() > 40, "{greedy}");
    assert_eq!(greedy, say(&["--seed", "5"]), "the likeliest token needs no seed");
    let warm = ["--temperature", "1", "--top-p", "0.9", "--seed"];
    let seeded = |seed: &str| say(&[&warm[..], &[seed]].concat());
    assert_eq!(seeded("1"), seeded("1"));
    let different: std::collections::BTreeSet<String> = ["1", "2", "3", "4"].iter().map(|s| seeded(s)).collect();
    assert!(different.len() > 1, "seeds make a difference");
    assert_eq!(say(&["--temperature", "1", "--top-p", "0"]), greedy, "a nucleus of one token");
}

/// Text appears token by token: the first of it is there while the rest is still to come.
#[test]
fn generation_streams() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tamborim"))
        .arg("generate")
        .arg(demo_model())
        .args(["--prompt", "The river is", "-n", "1000000", "--temperature", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command runs");
    let mut start = [0; 20];
    let read = child.stdout.take().expect("a pipe").read_exact(&mut start);
    let _ = child.kill();
    let _ = child.wait();
    read.expect("text before the end");
    assert!(start.starts_with(b"The river is "), "{:?}", String::from_utf8_lossy(&start));
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let model = demo_model();
    for args in [vec!["inspect", "--tensors"], vec!["generate", "-n", "400", "--prompt", "The"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tamborim"));
        command.arg(args[0]).arg(&model).args(&args[1..]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut pipe = child.stdout.take().expect("a pipe");
        let mut first = [0; 3];
        pipe.read_exact(&mut first).expect("a beginning");
        drop(pipe);
        let end = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&end.stderr);
        assert!(!said.contains("panicked") && said.lines().count() <= 1, "{args:?}: {said}");
    }
}

/// Whatever writes to a pipe must also stop on it, not go on for the whole text.
#[test]
fn piping_into_head_works_in_a_shell() {
    let binary = env!("CARGO_BIN_EXE_tamborim");
    let line = format!("'{binary}' inspect --tensors '{}' | head -1", demo_model().display());
    let out = Command::new("sh").args(["-c", &line]).output().expect("a shell");
    assert!(out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 1);
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn json_output_is_one_document_and_nothing_else() {
    tamborim!["inspect", demo_model(), "--json"].succeeds().json();
    let run = tamborim!["verify", demo_model(), demo_model(), "--data", page(), "--tokens", "16", "--json"].succeeds();
    run.json();
}

#[test]
fn bench_measures_both_phases() {
    let small = fixture("lit/samba_gqa2/checkpoint.pth");
    let run = tamborim!["bench", small, "--prefill", "16", "--decode", "4", "--repeat", "2"].succeeds();
    assert!(run.stdout.contains("prefill") && run.stdout.contains("decode"), "{}", run.stdout);
}

#[test]
fn the_demo_runs_and_leaves_files_that_can_be_used() {
    let dir = temp();
    let out = dir.path().join("demo");
    let run = tamborim!["demo", "--out", out].succeeds();
    assert!(run.stdout.contains("perplexity") && run.stdout.contains("int4"), "{}", run.stdout);
    let ggufs: Vec<_> = std::fs::read_dir(&out)
        .expect("the folder")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    assert!(ggufs.len() >= 2, "{ggufs:?}");
    for gguf in ggufs {
        tamborim!["inspect", gguf].succeeds();
    }
}
