//! Which tensor gets which type, and what it costs.

use crate::common::*;
use crate::tamborim;
use std::collections::BTreeMap;
use std::path::Path;
use tamborim_converters::CheckpointModel;
use tamborim_converters::gguf::GgufFile;
use tamborim_kernels::{Backend, Cpu, Logits, Model, Succession};
use tamborim_quant::{Format, TensorSource};

/// The type of every tensor.
fn types(gguf: &Path) -> BTreeMap<String, &'static str> {
    let file = GgufFile::open(gguf).expect("a GGUF");
    let name = |id| Format::from_gguf_type(id).expect("a known format").name();
    file.tensors().iter().map(|(tensor, info)| (tensor.clone(), name(info.ggml_type.id))).collect()
}

fn tensor_bytes(gguf: &Path) -> (usize, usize) {
    let file = GgufFile::open(gguf).expect("a GGUF");
    let bytes = file.tensors().keys().map(|t| file.bytes(t).expect("its bytes").len()).sum();
    (bytes, file.tensors().values().map(|t| t.elements()).sum())
}

const LINEAR: [&str; 13] = [
    "token_embd",
    "ssm_in",
    "ssm_x",
    "ssm_dt",
    "ssm_out",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "output",
];

/// What a tensor of the demo model is stored in: rows of `ssm_dt` have 16 elements and fit no block.
fn expected(tensor: &str, recipe: &str) -> String {
    let kind = tensor.strip_suffix(".weight").map(|t| t.rsplit('.').next().expect("a part"));
    let Some(kind) = kind.filter(|k| LINEAR.contains(k)) else { return "f32".to_owned() };
    let few_bits = ["q4", "q5", "iq4"].iter().any(|start| recipe.starts_with(start));
    match (kind, recipe) {
        ("ssm_dt", "f32" | "bf16") => recipe,
        ("ssm_dt", _) => "f16",
        (_, "int8") => "q8_0",
        ("ssm_x", "int4") => "q8_0",
        ("token_embd", _) if few_bits => "q6_k",
        ("ffn_gate" | "ffn_up" | "ffn_down", "int4") => "q4_k",
        (_, "int4") => "q5_k",
        _ => recipe,
    }
    .to_owned()
}

#[test]
fn each_role_gets_the_type_that_its_recipe_says() {
    let dir = temp();
    for recipe in [
        "int8", "int4", "q8_0", "q6_k", "q5_k", "q4_k", "q5_0", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "f16", "bf16",
        "f32",
    ] {
        let types = types(&quantized(recipe, dir.path()));
        for (tensor, found) in &types {
            assert_eq!(*found, expected(tensor, recipe), "--to {recipe}: {tensor}");
        }
        assert!(types.len() > 50);
    }
}

#[test]
fn rows_that_do_not_fit_fall_back_and_it_is_said() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    let run = tamborim!["quantize", demo_model(), "--to", "q4_k", "-o", out].succeeds();
    let line = run.stderr.lines().find(|l| l.contains("16")).expect("a line about rows of 16");
    assert!(line.contains("q4_k") && line.contains("f16") && line.contains('3'), "{line}");
    // Rows of 64 are whole blocks of 32.
    let run = tamborim!["quantize", fixture("lit/samba_gqa2/checkpoint.pth"), "--to", "q4_k", "-o", out].succeeds();
    let types = types(&out);
    assert_eq!(types["blk.1.attn_q.weight"], "q5_0");
    assert!(run.stderr.contains("rows of 64") && run.stderr.contains("q5_0"), "{}", run.stderr);
}

#[test]
fn the_first_rule_that_matches_wins() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    tamborim![
        "quantize",
        demo_model(),
        "--to",
        "q4_k",
        "-o",
        out,
        "--rule",
        r"blk\.0\.ffn_(gate|up)=q8_0",
        "--rule",
        r"ffn_gate=q6_k",
        "--rule",
        "^token_embd=bf16"
    ]
    .succeeds();
    let types = types(&out);
    assert_eq!(types["blk.0.ffn_gate.weight"], "q8_0");
    assert_eq!(types["blk.0.ffn_up.weight"], "q8_0");
    assert_eq!(types["blk.0.ffn_down.weight"], "q4_k");
    assert_eq!(types["blk.1.ffn_gate.weight"], "q6_k");
    assert_eq!(types["blk.1.ffn_up.weight"], "q4_k");
    assert_eq!(types["token_embd.weight"], "bf16");
}

#[test]
fn a_rule_leaves_vectors_in_float32() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    tamborim!["quantize", demo_model(), "--to", "q8_0", "-o", out, "--rule", ".*=q4_0"].succeeds();
    let types = types(&out);
    assert_eq!(types["blk.0.attn_norm.weight"], "f32");
    assert_eq!(types["blk.0.ssm_a"], "f32");
    assert_eq!(types["blk.0.ffn_up.weight"], "q4_0");
}

#[test]
fn bad_rules_and_types_are_refused_by_name() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    for rule in ["ffn_gate", "ffn_gate=q3_z", "(=q8_0", "no_such_tensor=q8_0", "=", ""] {
        let run = tamborim!["quantize", demo_model(), "--to", "q4_k", "-o", out, "--rule", rule];
        assert_eq!(run.failure_problem(), None, "{rule}: {}", run.stderr);
        assert!(run.stderr.contains("--rule"), "{rule}: {}", run.stderr);
        assert!(!out.exists());
    }
    let run = tamborim!["quantize", demo_model(), "--to", "q3_z", "-o", out];
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("q3_z") && run.stderr.contains("int4"), "{}", run.stderr);
}

#[test]
fn a_dry_run_writes_nothing_and_foretells_the_size() {
    let dir = temp();
    let planned = dir.path().join("planned.gguf");
    let run = tamborim!["quantize", demo_model(), "--to", "int4", "-o", planned, "--dry-run"].succeeds();
    assert!(!planned.exists());
    let (bytes, parameters) = tensor_bytes(&quantized("int4", dir.path()));
    let total = run.stdout.lines().find(|l| l.starts_with("total ")).expect("a total");
    let words: Vec<&str> = total.split_whitespace().collect();
    let unit = match words[2] {
        "MB" => 1e6,
        "kB" => 1e3,
        other => panic!("unit {other}"),
    };
    let foretold: f64 = words[1].parse::<f64>().expect("a number") * unit;
    assert!((foretold / bytes as f64 - 1.0).abs() < 0.005, "{total}: {bytes} bytes");
    let bits = format!("at {:.3} bits per weight", bytes as f64 * 8.0 / parameters as f64);
    assert!(total.contains(&bits), "{total}: {bits}");
    // Every tensor has its line.
    let file = GgufFile::open(&dir.path().join("int4.gguf")).expect("a GGUF");
    for tensor in file.tensors().keys() {
        assert!(run.stdout.lines().any(|l| l.split_whitespace().next() == Some(tensor)), "{tensor}");
    }
    // Without an output file too.
    let again = tamborim!["quantize", demo_model(), "--to", "int4", "--dry-run"].succeeds();
    assert_eq!(again.stdout, run.stdout);
}

#[test]
fn inspect_foretells_the_same_size_as_quantize() {
    let dir = temp();
    let weights = tamborim!["inspect", demo_model(), "--json"].succeeds().json()["would_weigh"].clone();
    for recipe in ["int8", "int4", "q6_k"] {
        let (bytes, _) = tensor_bytes(&quantized(recipe, dir.path()));
        assert_eq!(weights[recipe].as_u64(), Some(bytes as u64), "{recipe}: {weights}");
    }
}

#[test]
fn fewer_bits_err_more_in_every_tensor() {
    let dir = temp();
    let errors = |recipe: &str| -> BTreeMap<String, (String, f64)> {
        let candidate = quantized(recipe, dir.path());
        let report =
            tamborim!["verify", demo_model(), candidate, "--data", page(), "--tokens", "8", "--json"].succeeds();
        let rows = report.json()["by_tensor"].as_array().expect("a list").clone();
        let row = |r: &serde_json::Value| {
            let text = |k: &str| r[k].as_str().expect("text").to_owned();
            (text("name"), (text("type"), r["relative_error"].as_f64().expect("a number")))
        };
        rows.iter().map(row).collect()
    };
    let [q8, q6, q4] = ["q8_0", "q6_k", "q4_k"].map(errors);
    let mut compared = 0;
    for (tensor, (format, e4)) in &q4 {
        if format != "q4_k" {
            continue;
        }
        let (e8, e6) = (q8[tensor].1, q6[tensor].1);
        assert!(0.0 < e8 && e8 < e6 && e6 < *e4 && *e4 < 0.2, "{tensor}: {e8} {e6} {e4}");
        // Half a step of 1/127 of each block's largest: about 0.6 % of a bell curve's root mean square.
        assert!(e8 < 0.01 && e6 < 0.05, "{tensor}: {e8} {e6}");
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} tensors are q4_k");
}

#[test]
fn quantizing_a_checkpoint_or_its_gguf_is_the_same() {
    let dir = temp();
    let gguf = dir.path().join("model.gguf");
    tamborim!["convert", demo_model(), "-o", gguf].succeeds();
    let out = dir.path().join("from-gguf.gguf");
    tamborim!["quantize", gguf, "--to", "int4", "-o", out].succeeds();
    let (a, b) = (quantized("int4", dir.path()), out);
    let [a, b] = [a, b].map(|p| GgufFile::open(&p).expect("a GGUF"));
    for tensor in a.tensors().keys() {
        assert_eq!(a.bytes(tensor).expect("bytes"), b.bytes(tensor).expect("bytes"), "{tensor}");
    }
}

/// A calibration of the demo model, on its page.
fn calibration(folder: &Path) -> std::path::PathBuf {
    let out = folder.join("demo.calibration.gguf");
    let model = demo_model();
    tamborim!["calibrate", model, "--data", page(), "-o", out, "--context", "256", "--tokens", "2048"].succeeds();
    out
}

/// Mean KL divergence of a file from the demo model, and what rounding takes of its maps' outputs, on average.
fn judged(gguf: &Path, calibration: &Path) -> (f64, f64) {
    let (model, page) = (demo_model(), page());
    let args: [&std::ffi::OsStr; 10] = [
        "verify".as_ref(),
        model.as_ref(),
        gguf.as_ref(),
        "--data".as_ref(),
        page.as_ref(),
        "--context".as_ref(),
        "256".as_ref(),
        "--calibration".as_ref(),
        calibration.as_ref(),
        "--json".as_ref(),
    ];
    let report = Tamborim::new(args).run().succeeds().json();
    let errors: Vec<f64> = report["by_tensor"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| t["output_error"].as_f64().expect("a number"))
        .collect();
    (report["kld"]["mean"].as_f64().expect("a number"), errors.iter().sum::<f64>() / errors.len() as f64)
}

#[test]
fn a_calibration_brings_the_model_closer_at_the_same_size() {
    let dir = temp();
    let calibration = calibration(dir.path());
    let plain = quantized("q4_k", dir.path());
    let ours = dir.path().join("calibrated.gguf");
    let quantize = |out: &Path, threads| {
        let model = demo_model();
        let args: [&std::ffi::OsStr; 10] = [
            "quantize".as_ref(),
            model.as_ref(),
            "--to".as_ref(),
            "q4_k".as_ref(),
            "--calibration".as_ref(),
            calibration.as_ref(),
            "--tokens".as_ref(),
            "2048".as_ref(),
            "-o".as_ref(),
            out.as_ref(),
        ];
        Tamborim::new(args).threads(threads).run().succeeds();
    };
    quantize(&ours, 1);
    let again = dir.path().join("again.gguf");
    quantize(&again, 3);
    assert!(std::fs::read(&ours).expect("a file") == std::fs::read(&again).expect("a file"));
    assert_eq!(types(&ours), types(&plain));
    let ((kld, output), (plain_kld, plain_output)) = (judged(&ours, &calibration), judged(&plain, &calibration));
    assert!(kld < 0.9 * plain_kld && output < 0.9 * plain_output, "{plain_kld} {plain_output} to {kld} {output}");

    // Maps that do not make up for what those before them have lost leave more.
    let alone = dir.path().join("alone.gguf");
    let args = ["quantize".into(), demo_model(), "--to".into(), "q4_k".into(), "--tokens".into(), "0".into()];
    let more = ["--calibration".into(), calibration.clone(), "-o".into(), alone.clone()];
    Tamborim::new(args.into_iter().chain(more)).run().succeeds();
    let (alone_kld, _) = judged(&alone, &calibration);
    assert!(kld < 0.95 * alone_kld, "{alone_kld} to {kld}");

    let chosen = dir.path().join("chosen.gguf");
    let (bytes, elements) = tensor_bytes(&ours);
    let target = format!("{:.4}", bytes as f64 * 8.0 / elements as f64);
    let args =
        ["quantize".into(), demo_model(), "--target-bpw".into(), target.into(), "--tokens".into(), "2048".into()];
    let more = ["--calibration".into(), calibration.clone(), "-o".into(), chosen.clone()];
    Tamborim::new(args.into_iter().chain(more)).run().succeeds();
    assert!(tensor_bytes(&chosen).0 <= bytes);
    let (chosen_kld, _) = judged(&chosen, &calibration);
    assert!(chosen_kld < kld, "{kld} to {chosen_kld}");
}

#[test]
fn predictions_are_softmax_over_the_vocabulary_of_what_the_head_makes_of_its_inputs() {
    for folder in models_in("lit") {
        let config = folder.join("lit_config.json");
        let config = config.exists().then(|| config.to_str().expect("a path"));
        let source = CheckpointModel::open(&folder.join("checkpoint.pth"), config, false).expect("a model");
        let (plan, model) = (source.plan(), Model::load(&Cpu, &source).expect("a model"));
        let tokens: Vec<u32> = (0..300).map(|i| i * 7 % plan.vocab_size as u32).collect();
        let mut expected = Vec::new();
        let keep = |rows| -> Result<(), tamborim_kernels::Error> {
            for logits in Cpu.read(&rows)?.chunks_exact(plan.padded_vocab_size) {
                let energies = || logits[..plan.vocab_size].iter().map(|x| f64::from(*x).exp());
                expected.extend(energies().map(|e| e / energies().sum::<f64>()));
            }
            Ok(())
        };
        model.forward(&tokens, &mut model.start().expect("a state"), Logits::All, keep).expect("logits");
        let (mut channels, mut found) = (0, Vec::new());
        let keep = |inputs: &[f32], probabilities: &[f32]| -> Result<(), tamborim_kernels::Error> {
            channels += inputs.len();
            found.extend_from_slice(probabilities);
            Ok(())
        };
        model.predictions(&tokens, &mut model.start().expect("a state"), keep).expect("predictions");
        assert_eq!((channels, found.len()), (tokens.len() * plan.d_model, expected.len()), "{folder:?}");
        let near = |(p, e): (&f32, &f64)| (f64::from(*p) - e).abs() <= 1e-6 * e.max(1e-3);
        assert!(found.iter().zip(&expected).all(near), "{folder:?}");
    }
}

#[test]
fn a_head_is_looked_at_where_its_rows_are_rounded_for_that_and_nowhere_else() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    let files = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
        let files: BTreeMap<_, _> = entries.map(|p| (name(&p), std::fs::read(&p).expect("a file"))).collect();
        assert!(!files.is_empty());
        files
    };
    let tied = (demo_model(), page());
    let untied = fixture("lit/llama_ln_bias_partialrope");
    let untied = (untied.join("checkpoint.pth"), untied.join("tokens.json"));
    let (q4, int4, float) = (["--to", "q4_0"], ["--to", "int4"], ["--rule", "^(token_embd|output)=f16"]);
    // The model, the widest whole moments, the options, and whether rows of the head can be rounded for their own inputs.
    let cases = [
        (&tied, "4096", "gguf", vec![q4], true),
        (&tied, "4096", "gguf", vec![q4, float], false),
        (&tied, "64", "gguf", vec![q4], false),
        (&tied, "4096", "onnx", vec![int4], true),
        (&tied, "4096", "onnx", vec![int4, float], false),
        (&untied, "4096", "gguf", vec![q4, ["--rule", "^token_embd=f16"]], true),
        (&untied, "4096", "gguf", vec![q4, ["--rule", "^output=f16"]], false),
        (&untied, "4096", "onnx", vec![int4, ["--block", "64"]], true),
        // Rows of 64.
        (&untied, "4096", "onnx", vec![int4, ["--block", "128"]], false),
    ];
    for (i, ((model, data), widest, extension, options, expected)) in cases.into_iter().enumerate() {
        let calibration = at(&format!("{i}.calibration.gguf"));
        tamborim!["calibrate", model, "--data", data, "--widest", widest, "--tokens", "512", "-o", calibration]
            .succeeds();
        // All else is a float: of the text nothing but the head can depend on.
        let run = |tokens: &str| {
            let folder = at(&format!("{i}-{tokens}"));
            std::fs::create_dir(&folder).expect("a folder");
            let mut args = vec!["quantize".into(), model.clone(), "--rule".into(), r"^blk\.=f16".into()];
            args.extend(options.iter().flatten().map(Into::into));
            args.extend(["--calibration".into(), calibration.clone(), "--tokens".into(), tokens.into()]);
            args.extend(["-o".into(), folder.join(format!("model.{extension}"))]);
            let said = Tamborim::new(&args).run().succeeds().stderr;
            (said.contains("rows rounded for their own inputs"), files(&folder))
        };
        let ((said, with), (said_without, without)) = (run("512"), run("0"));
        assert_eq!((said, said_without), (expected, false), "{extension} {options:?} {widest}");
        assert_eq!(with != without, expected, "{extension} {options:?} {widest}");
    }
}

/// Every map of a branch is looked at once, whatever the architecture.
#[test]
fn a_model_lacks_nothing_of_itself() {
    let mut looked_at = 0;
    for folder in models_in("lit") {
        let config = folder.join("lit_config.json");
        let config = config.exists().then(|| config.to_str().expect("a path"));
        let model = CheckpointModel::open(&folder.join("checkpoint.pth"), config, false).expect("a model");
        let plan = model.plan();
        if !Succession::<Cpu>::is_possible(plan) {
            continue;
        }
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % plan.vocab_size as u32).collect();
        let mut succession = Succession::new(Cpu, &model, &model, &[&tokens, &tokens[..9]]).expect("streams");
        let mut index = 0;
        for (i, block) in plan.blocks.iter().enumerate() {
            for branch in &block.branches {
                let mut gaps = succession.gaps_inside(index, &model).expect("gaps");
                gaps.extend(succession.gaps_at_end(index, &model).expect("gaps"));
                succession.advance(index, &model).expect("a branch");
                assert!(gaps.iter().all(|g| g.tokens == 49 && g.means.iter().all(|m| *m == 0.0)), "{folder:?} {index}");
                let mut found: Vec<String> = gaps.into_iter().flat_map(|g| g.maps).collect();
                let linear = branch.tensors(i, plan.d_model).into_iter().filter(|s| s.role.is_linear());
                let mut expected: Vec<String> = linear.map(|s| s.name).collect();
                found.sort();
                expected.sort();
                assert_eq!(found, expected, "{folder:?}");
                (index, looked_at) = (index + 1, looked_at + found.len());
            }
        }
    }
    assert!(looked_at > 20, "{looked_at} maps");
}

#[test]
fn a_recipe_with_a_calibration_is_measured() {
    let dir = temp();
    let calibration = calibration(dir.path());
    let plan =
        tamborim!["quantize", demo_model(), "--to", "int4", "--calibration", calibration, "--dry-run"].succeeds();
    let total = plan.stdout.lines().last().expect("a total").to_owned();
    assert!(total.contains(" at 5.1") && total.contains("expected KLD"), "{total}");
}

#[test]
fn a_target_needs_a_calibration_and_room() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    let message = tamborim!["quantize", demo_model(), "--target-bpw", "5", "-o", out].fails();
    assert!(message.contains("--calibration"), "{message}");
    let calibration = calibration(dir.path());
    let message =
        tamborim!["quantize", demo_model(), "--target-bpw", "2", "--calibration", calibration, "-o", out].fails();
    assert!(message.contains("--target-bpw 2: expected at least 4."), "{message}");
    assert!(!out.exists());
}
