//! ONNX models in ONNX Runtime: in this program, and in Python with and without the library of operators.

use crate::common::*;
use crate::logits::all_cases;
use crate::tamborim;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether there is an ONNX Runtime, that of [`python`].
fn available() -> bool {
    let Some(python) = python() else {
        println!("skipped: TAMBORIM_PYTHON names no Python with onnx and onnxruntime (scripts/test.sh sets it)");
        return false;
    };
    let packages = Command::new(python).args(["-c", "import onnx, onnxruntime"]).output().expect("Python runs");
    assert!(packages.status.success(), "{}", String::from_utf8_lossy(&packages.stderr));
    true
}

/// Runs `onnx_clients.py` beside this file, and gives what it prints.
#[track_caller]
fn in_python(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let script = project().join("tests/end_to_end/onnx_clients.py");
    let mut command = Command::new(python().expect("it was asked for"));
    let out = command.arg(script).args(args).output().expect("Python runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// The library of operators, which Cargo builds with the command.
fn library() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_tamborim")).parent().expect("a folder");
    let found = ["deps/libtamborim_ops.so", "libtamborim_ops.so"].map(|name| folder.join(name));
    found.into_iter().find(|path| path.is_file()).expect("the library is built")
}

fn converted(model: &Path, folder: &Path, options: &[&str]) -> PathBuf {
    let path = folder.join("model.onnx");
    let args = [OsStr::new("convert"), model.as_os_str(), OsStr::new("-o"), path.as_os_str()];
    Tamborim::new(args.into_iter().chain(options.iter().map(OsStr::new))).run().succeeds();
    path
}

/// What the float32 runtime is held to holds for its graph.
#[test]
fn onnx_gives_the_golden_logits_of_every_model() {
    if !available() {
        return;
    }
    let mut failures = Vec::new();
    for case in all_cases() {
        let dir = temp();
        let model = converted(&case.model, dir.path(), &["--dtype", "f32"]);
        failures.extend([None, Some(7)].into_iter().filter_map(|context| case.problem(&model, context, &[])));
    }
    assert_none(&failures);
}

/// A body that gives a thousand more than its result shows which of body and kernel has run.
#[test]
fn our_kernels_win_over_the_functions_that_models_carry() {
    if !available() {
        return;
    }
    for folder in
        ["samba_gqa2", "swa_ret", "swa_gla"].map(|name| fixtures("lit").join(name)).iter().filter(|f| f.exists())
    {
        let dir = temp();
        let model = converted(&folder.join("checkpoint.pth"), dir.path(), &["--dtype", "f32"]);
        let bad = dir.path().join("poisoned.onnx");
        in_python([OsStr::new("poison"), model.as_os_str(), bad.as_os_str()]);
        // In this program, which has the kernels inside.
        let verify = tamborim!["verify", model, bad, "--data", tokens(dir.path()), "--json", "--device", "cpu"];
        assert_eq!(verify.succeeds().json()["max_abs_logit_difference"], 0.0, "{}", folder.display());
        in_python([OsStr::new("kernel_wins"), model.as_os_str(), library().as_os_str()]);
    }
}

/// A list of tokens that every fixture's vocabulary has.
fn tokens(folder: &Path) -> PathBuf {
    let path = folder.join("tokens.json");
    let ids: Vec<usize> = (0..60).map(|i| (i * 7919 + 3) % 100).collect();
    std::fs::write(&path, serde_json::json!({ "tokens": ids }).to_string()).expect("a file");
    path
}

#[test]
fn the_library_refuses_what_does_not_fit_and_serves_several_threads() {
    if !available() {
        return;
    }
    let dir = temp();
    let model = converted(&fixture("lit/samba_gqa2/checkpoint.pth"), dir.path(), &["--dtype", "f32"]);
    for check in ["refusals", "threads"] {
        in_python([OsStr::new(check), model.as_os_str(), library().as_os_str()]);
    }
}

/// onnxruntime-genai, by the functions that the model carries and by the library; there functions give wrong results,
/// so that it is the library's kernels that run.
#[test]
fn genai_says_the_same_with_the_library_as_without_and_as_generate() {
    if !available() {
        return;
    }
    let dir = temp();
    let folder = dir.path().join("genai");
    let at = |file: &str| folder.join(file);
    tamborim!["convert", demo_model(), "--genai", folder].succeeds();
    let (prompt, count) = ("The history of the city", "50");
    let ours = tamborim!["generate", demo_model(), "-p", prompt, "-n", count, "--device", "cpu"].succeeds().stdout;
    let continued = || {
        let said = in_python([OsStr::new("genai"), folder.as_os_str(), prompt.as_ref(), count.as_ref()]);
        let (ids, text) = said.split_once('\n').expect("ids, then text");
        (ids.split(' ').count(), ids.to_owned(), text.trim().to_owned())
    };
    let by_functions = continued();
    assert_eq!((by_functions.0, by_functions.2.as_str()), (50, ours.trim()));

    in_python([OsStr::new("poison"), at("model.onnx").as_os_str(), at("model.onnx").as_os_str()]);
    assert_ne!(continued().1, by_functions.1, "wrong functions show");
    // As docs/onnx.md says.
    std::fs::copy(library(), at("libtamborim_ops.so")).expect("a copy");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(at("genai_config.json")).expect("a configuration")).expect("JSON");
    config["model"]["decoder"]["session_options"]["custom_ops_library"] = "libtamborim_ops.so".into();
    std::fs::write(at("genai_config.json"), config.to_string()).expect("a file");
    assert_eq!(continued(), by_functions);
}

#[test]
fn verify_generate_and_bench_take_onnx() {
    if !available() {
        return;
    }
    let dir = temp();
    let model = converted(&demo_model(), dir.path(), &[]);
    let args = ["--tokens", "300", "--context", "200", "--json", "--device", "cpu"].map(OsStr::new);
    let verify = |reference: &Path, candidate: &Path| {
        let data = page();
        let paths = [
            OsStr::new("verify"),
            reference.as_os_str(),
            candidate.as_os_str(),
            OsStr::new("--data"),
            data.as_os_str(),
        ];
        Tamborim::new(paths.into_iter().chain(args)).run().succeeds().json()
    };
    let report = verify(&demo_model(), &model);
    assert!(report["kld"]["mean"].as_f64().expect("a number").abs() < 1e-8, "{report}");
    assert_eq!(report["top1_agreement"], 1.0);
    assert!(report["device"].as_str().expect("words").contains("ONNX Runtime 1."), "{report}");
    let bytes =
        std::fs::read_dir(dir.path()).expect("files").map(|f| f.expect("a file").metadata().expect("its size").len());
    assert_eq!(report["candidate"]["bytes"], bytes.sum::<u64>(), "external data counts");
    let gguf = quantized("q8_0", dir.path());
    assert!(verify(&gguf, &model)["kld"]["mean"].as_f64().expect("a number") < 0.01, "the reference may be a GGUF");

    let greedy = |model: &Path| {
        tamborim!["generate", model, "-n", "30", "--prompt", "The river", "--device", "cpu"].succeeds().stdout
    };
    assert_eq!(greedy(&model), greedy(&demo_model()));
    let bench =
        tamborim!["bench", model, "--prefill", "16", "--decode", "4", "--repeat", "1", "--json", "--device", "cpu"];
    let bench = bench.succeeds().json();
    assert!(bench["device"].as_str().expect("words").starts_with("ONNX Runtime 1."), "{bench}");
}

#[test]
fn a_missing_library_is_one_line_that_says_what_to_do() {
    let dir = temp();
    let model = converted(&demo_model(), dir.path(), &[]);
    let generate = || Tamborim::new(["generate".as_ref(), model.as_os_str(), "--prompt".as_ref(), "a".as_ref()]);
    let nowhere = generate().without_environment("VIRTUAL_ENV").environment("PATH", "/nonexistent").run();
    // The dynamic linker may know one all the same.
    if nowhere.code != Some(0) {
        let nowhere = nowhere.fails();
        assert!(nowhere.contains("pip install onnxruntime") && nowhere.contains("ORT_DYLIB_PATH"), "{nowhere}");
    }
    let wrong = generate().environment("ORT_DYLIB_PATH", page()).run().fails();
    assert!(wrong.contains("ORT_DYLIB_PATH") && wrong.contains("page.txt"), "{wrong}");
}
