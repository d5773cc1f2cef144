//! The CUDA runtime through the command: on a GPU, or on the stand-in for the driver that `TAMBORIM_CUDA_PATH` names
//! (see `kernels/cuda/README.md`).

use crate::common::*;
use crate::descendants;
use crate::logits::{Case, all_cases};
use crate::tamborim;
use std::ops::Range;
use std::path::Path;
use tamborim_converters::gguf::{CalibrationFile, GgufFile};
use tamborim_kernels::{Cuda, DeviceError, Mode};

/// Whether there is something to run on; says so where there is not.
fn there_is_a_device() -> bool {
    match Cuda::open(0, Mode::Exact) {
        Err(DeviceError::NoDriver) => {
            println!("skipped: no GPU, and no stand-in for its driver");
            false
        }
        other => other.map(|_| true).expect("a GPU that works"),
    }
}

const ON_CUDA: [&str; 2] = ["--device", "cuda"];

fn golden_logits(cases: &[Case], context: Option<usize>) {
    let more = ON_CUDA.map(Path::new);
    assert_none(&cases.iter().filter_map(|c| c.problem(&c.model, context, &more)).collect::<Vec<_>>());
}

#[test]
fn cuda_gives_golden_logits_in_one_shot() {
    if there_is_a_device() {
        golden_logits(&all_cases(), None);
    }
}

/// One token at a time is a recorded step, replayed.
#[test]
fn cuda_gives_golden_logits_token_by_token() {
    if there_is_a_device() {
        golden_logits(&all_cases(), Some(1));
    }
}

#[test]
fn cuda_gives_golden_logits_in_pieces_of_seven() {
    if there_is_a_device() {
        golden_logits(&all_cases(), Some(7));
    }
}

/// Phi-4-mini-flash and PLaMo-2: in one shot, in pieces longer than their windows, a token after a long piece, and a
/// few tokens one by one, which is a recorded step, replayed. (The stand-in takes half a second for a step.)
#[test]
fn cuda_gives_golden_logits_of_descendants() {
    if there_is_a_device() {
        let cases: Vec<Case> = descendants::cases().into_iter().map(|(_, case)| case).collect();
        [None, Some(25), Some(63)].into_iter().for_each(|context| golden_logits(&cases, context));
        let beginnings: Vec<Case> = cases.iter().map(|case| case.beginning(5)).collect();
        golden_logits(&beginnings, Some(1));
    }
}

#[test]
fn cuda_runs_repeat_bit_for_bit() {
    if !there_is_a_device() {
        return;
    }
    let (dir, model) = (temp(), fixture("lit/samba_gqa2"));
    let logits = |name: &str, mode: &str| {
        let out = dir.path().join(name);
        let tokens = model.join("tokens.json");
        let checkpoint = model.join("checkpoint.pth");
        tamborim!["logits", checkpoint, "--tokens", tokens, "-o", out, "--device", "cuda", "--mode", mode].succeeds();
        std::fs::read(out).expect("logits")
    };
    for mode in ["exact", "fast"] {
        assert!(logits("first", mode) == logits("second", mode), "{mode}");
    }
}

#[test]
fn cuda_verify_gives_zero_for_a_model_against_itself_and_tells_fast_mode_apart() {
    if !there_is_a_device() {
        return;
    }
    let (dir, model) = (temp(), fixture("lit/samba_gqa2/checkpoint.pth"));
    let data = dir.path().join("tokens.json");
    let tokens: Vec<usize> = (0..150).map(|i| i * 37 % 120).collect();
    std::fs::write(&data, serde_json::json!({ "tokens": tokens }).to_string()).expect("a file");
    let run = tamborim!["verify", model, model, "--data", data, "--context", "64", "--device", "cuda", "--json"];
    let report = run.succeeds().json();
    assert_eq!(report["kld"]["max"], 0.0);
    assert_eq!(report["top1_agreement"], 1.0);
    assert!(report["device"].as_str().expect("a name").contains("exact"));
    let floors = report["noise_floor"].as_array().expect("a list");
    let fast = floors.iter().find(|f| f["between"] == "exact_and_fast").expect("two modes");
    let fast = fast["kld_mean"].as_f64().expect("measured");
    assert!(fast > 0.0 && fast < 1e-2, "{fast}");
}

#[test]
fn cuda_calibrations_repeat_and_merge_bit_for_bit_and_are_those_of_the_cpu() {
    if !there_is_a_device() {
        return;
    }
    let (dir, model) = (temp(), fixture("lit/samba_gqa2/checkpoint.pth"));
    let at = |name: &str| dir.path().join(name);
    let calibrated = |name: &str, tokens: Range<usize>, device: &str| {
        // Parts are files of one name, which the calibration keeps.
        std::fs::create_dir(at(name)).expect("a folder");
        let data = at(name).join("tokens.json");
        let tokens: Vec<usize> = tokens.map(|i| i * 37 % 120).collect();
        std::fs::write(&data, serde_json::json!({ "tokens": tokens }).to_string()).expect("a file");
        let out = at(&format!("{name}.gguf"));
        let run = tamborim!["calibrate", model, "--data", data, "--context", "40", "--device", device, "-o", out];
        run.succeeds();
        out
    };
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    let whole = calibrated("whole", 0..100, "cuda");
    assert!(bytes(&calibrated("again", 0..100, "cuda")) == bytes(&whole));
    let parts = [calibrated("first", 0..40, "cuda"), calibrated("second", 40..100, "cuda")];
    tamborim!["calibrate", "--merge", parts[1], parts[0], "-o", at("merged.gguf")].succeeds();
    assert!(bytes(&at("merged.gguf")) == bytes(&whole));
    let open = |path: &Path| CalibrationFile::new(GgufFile::open(path).expect("a GGUF")).expect("a calibration");
    let (found, truth) = (open(&whole), open(&calibrated("cpu", 0..100, "cpu")));
    assert_eq!(found.facts(), truth.facts());
    for (i, input) in truth.facts().inputs.iter().enumerate() {
        let [a, b] = [&found, &truth].map(|f| f.sums(i).expect("sums").moments.lower);
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let error = norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied());
        assert!(error < 1e-5, "{:?}: {error}", input.maps);
    }
}

/// Of machines without an NVIDIA driver.
fn is_without_driver() -> bool {
    !Path::new("/proc/driver/nvidia").exists() && !Path::new("/dev/nvidiactl").exists()
}

#[test]
fn without_a_driver_one_line_says_what_is_missing() {
    if is_without_driver() {
        let model = demo_model().display().to_string();
        let run = Tamborim::new(["generate", &model, "-p", "The", "--device", "cuda"]);
        let error = run.without_environment("TAMBORIM_CUDA_PATH").run().fails();
        assert!(error.contains("libcuda.so.1"), "{error}");
    }
}

#[test]
fn without_a_driver_auto_computes_on_the_cpu_and_says_so() {
    if is_without_driver() {
        let model = demo_model().display().to_string();
        let run = Tamborim::new(["generate", &model, "-p", "The", "-n", "2"]);
        let run = run.without_environment("TAMBORIM_CUDA_PATH").run().succeeds();
        assert!(run.stderr.contains("CPU") && run.stderr.contains("libcuda.so.1"), "{}", run.stderr);
    }
}
