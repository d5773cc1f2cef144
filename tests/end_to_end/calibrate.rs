//! What calibration gathers is right, adds up exactly, and survives interruption.

use crate::common::*;
use crate::tamborim;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tamborim_converters::gguf::{CalibrationFile, GgufFile, GgufWriter};
use tamborim_quant::Calibration;

fn open(path: &Path) -> CalibrationFile {
    CalibrationFile::new(GgufFile::open(path).expect("a GGUF")).expect("a calibration")
}

/// Token lists `{"tokens": [..]}` of a text that looks random.
fn token_list(path: &Path, tokens: impl Iterator<Item = u32>) -> PathBuf {
    let ids: Vec<String> = tokens.map(|t| (t * t % 4001 + 3).to_string()).collect();
    std::fs::write(path, format!("{{\"tokens\": [{}]}}", ids.join(","))).expect("a file");
    path.to_owned()
}

/// Calibrates the demo model on `data` in windows of 64.
fn calibrated(data: &Path, out: &Path, more: &[&str]) -> PathBuf {
    let mut args: Vec<PathBuf> = vec!["calibrate".into(), demo_model(), "--data".into(), data.into()];
    args.extend(["-o".into(), out.into(), "--context".into(), "64".into()]);
    args.extend(more.iter().map(PathBuf::from));
    Tamborim::new(&args).run().succeeds();
    out.to_owned()
}

#[test]
fn what_a_norm_gives_has_the_moments_that_its_formula_says() {
    let dir = temp();
    let file = open(&calibrated(&page(), &dir.path().join("c.gguf"), &["--tokens", "300"]));
    assert_eq!(file.windows().concat().len(), 300);
    let gguf = dir.path().join("model.gguf");
    tamborim!["convert", demo_model(), "-o", gguf].succeeds();
    let model = GgufFile::open(&gguf).expect("a GGUF");
    // Rows of an RMSNorm's output, divided by its weights, have a mean square of 1 (less epsilon's part).
    for (norm, maps) in [
        ("blk.0.attn_norm", vec!["blk.0.ssm_in"]),
        ("blk.1.attn_norm", vec!["blk.1.attn_q", "blk.1.attn_k", "blk.1.attn_v"]),
        ("blk.3.ffn_norm", vec!["blk.3.ffn_gate", "blk.3.ffn_up"]),
        ("output_norm", vec!["token_embd"]),
    ] {
        let weight = model.bytes(&format!("{norm}.weight")).expect("its weights").as_chunks().0;
        let weight: Vec<f64> = weight.iter().map(|b| f32::from_le_bytes(*b).into()).collect();
        for map in maps {
            let moments = file.moments(&format!("{map}.weight")).expect("readable").expect("it was seen");
            assert_eq!((moments.count, moments.block), (300, moments.width));
            let squares = moments.squares();
            let mean = squares.iter().zip(&weight).map(|(s, w)| s / (w * w)).sum::<f64>() / (300 * weight.len()) as f64;
            assert!((0.99..1.0001).contains(&mean), "{map}: {mean}");
        }
    }
    // Every linear map has an importance as llama.cpp wants it: the diagonal.
    let file = GgufFile::open(&dir.path().join("c.gguf")).expect("a GGUF");
    assert_eq!(file.metadata().required::<&str>("general.type").ok(), Some("imatrix"));
    assert_eq!(file.metadata().required::<u32>("imatrix.chunk_count").ok(), Some(5));
    assert_eq!(file.metadata().required::<u32>("imatrix.chunk_size").ok(), Some(64));
    for map in ["ssm_in", "ssm_x", "ssm_dt", "ssm_out", "ffn_gate", "ffn_up", "ffn_down"] {
        let name = format!("blk.0.{map}.weight");
        let ours = open(&dir.path().join("c.gguf")).moments(&name).expect("readable").expect("it was seen");
        let info = &file.tensors()[&format!("{name}.in_sum2")];
        assert_eq!((&info.shape, info.ggml_type.name), (&vec![1, ours.width], "f32"));
        let stored = file.bytes(&format!("{name}.in_sum2")).expect("bytes").as_chunks().0;
        let stored: Vec<f32> = stored.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(stored, ours.squares().iter().map(|s| *s as f32).collect::<Vec<_>>());
        assert_eq!(file.bytes(&format!("{name}.counts")).expect("bytes"), 300f32.to_le_bytes());
    }
}

#[test]
fn parts_merged_in_any_order_are_the_whole_bit_for_bit() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    // All parts are files of one name, which the calibration keeps.
    for part in ["whole", "first", "second", "third"] {
        std::fs::create_dir(at(part)).expect("a folder");
    }
    let part = |name: &str, range: std::ops::Range<u32>| {
        let data = token_list(&at(name).join("tokens.json"), range);
        calibrated(&data, &at(&format!("{name}.gguf")), &[])
    };
    let whole = part("whole", 0..320);
    let parts = [part("first", 0..64), part("second", 64..192), part("third", 192..320)];
    let merge = |files: [&PathBuf; 2], out: &str| {
        tamborim!["calibrate", "--merge", files[0], files[1], "-o", at(out)].succeeds();
        at(out)
    };
    let left = merge([&merge([&parts[0], &parts[1]], "a.gguf"), &parts[2]], "left.gguf");
    let right = merge([&merge([&parts[2], &parts[1]], "b.gguf"), &parts[0]], "right.gguf");
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    assert!(bytes(&left) == bytes(&whole), "in order");
    assert!(bytes(&right) == bytes(&whole), "in another order");
    // A part given twice counts twice, and it is said.
    let run = tamborim!["calibrate", "--merge", parts[0], parts[0], "-o", at("twice.gguf")].succeeds();
    assert!(run.stderr.contains("1 of 2 windows"), "{}", run.stderr);
}

#[test]
fn files_of_the_first_version_are_read_and_merged() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    let new = calibrated(&page(), &at("new.gguf"), &["--tokens", "64"]);
    let bytes = std::fs::read(&new).expect("a file");
    // The key is followed by its type and its value, four bytes each.
    let key = b"tamborim.calibration.version";
    let value = bytes.windows(key.len()).position(|w| w == key).expect("the key") + key.len() + 4;
    let of_version = |version: u8| {
        let mut bytes = bytes.clone();
        bytes[value] = version;
        let path = at(&format!("{version}.gguf"));
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let merged = |file: &Path, out: &str| {
        tamborim!["calibrate", "--merge", file, file, "-o", at(out)].succeeds();
        std::fs::read(at(out)).expect("a file")
    };
    assert_eq!(bytes[value], 2);
    assert!(merged(&of_version(1), "old-merged.gguf") == merged(&new, "new-merged.gguf"));
    let line = tamborim!["calibrate", "--merge", new, of_version(3), "-o", at("out.gguf")].fails();
    assert!(line.contains("version 3"), "{line}");
}

#[test]
fn the_bytes_do_not_depend_on_the_thread_count() {
    let dir = temp();
    let run = |threads: usize| {
        let out = dir.path().join(format!("{threads}.gguf"));
        let args = ["calibrate".into(), demo_model(), "--data".into(), page(), "--tokens".into(), "200".into()];
        Tamborim::new(args.into_iter().chain(["-o".into(), out.clone()])).threads(threads).run().succeeds();
        std::fs::read(out).expect("a file")
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn wide_inputs_are_kept_in_equal_blocks() {
    let dir = temp();
    let file = open(&calibrated(&page(), &dir.path().join("c.gguf"), &["--tokens", "100", "--widest", "300"]));
    let extents = |map: &str| {
        let m = file.moments(map).expect("readable").expect("it was seen");
        (m.width, m.block, m.lower.len())
    };
    assert_eq!(extents("blk.0.ssm_in.weight"), (256, 256, 256 * 257 / 2));
    assert_eq!(extents("blk.0.ssm_out.weight"), (512, 256, 2 * 256 * 257 / 2));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_where_it_was_saved() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    let data = token_list(&at("tokens.json"), 0..6400);
    let whole = calibrated(&data, &at("whole.gguf"), &[]);
    let partial = at("out.gguf.partial");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tamborim"))
        .args(["calibrate".as_ref(), demo_model().as_os_str(), "--data".as_ref(), data.as_os_str(), "-o".as_ref()])
        .arg(at("out.gguf"))
        .args(["--context", "64", "--checkpoint", "0"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the built command runs");
    let started = Instant::now();
    while !partial.exists() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it still runs");
    child.wait().expect("it ends");
    assert!(partial.exists() && !at("out.gguf").exists());
    let done = open(&partial).windows().len();
    assert!((1..100).contains(&done), "{done} windows");
    // Another job would not go on from there.
    let other = tamborim!["calibrate", demo_model(), "--data", page(), "-o", at("out.gguf"), "--context", "64"].fails();
    assert!(other.contains("out.gguf.partial") && other.contains("interrupted"), "{other}");
    calibrated(&data, &at("out.gguf"), &[]);
    assert!(!partial.exists());
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    assert!(bytes(&at("out.gguf")) == bytes(&whole));
}

#[test]
fn text_is_drawn_in_the_proportions_of_slimpajama() {
    let dir = temp();
    let data = dir.path().join("data.jsonl");
    let row =
        |set: &str, text: &str| format!("{{\"text\": \"{text}\", \"meta\": {{\"redpajama_set_name\": \"{set}\"}}}}\n");
    let words = "the drum of a samba band is small and loud ".repeat(8);
    let sets = [
        "RedPajamaStackExchange",
        "RedPajamaWikipedia",
        "RedPajamaBook",
        "RedPajamaArXiv",
        "RedPajamaGithub",
        "RedPajamaC4",
        "RedPajamaCommonCrawl",
    ];
    let rows: String = (0..40).flat_map(|_| sets).map(|set| row(set, &words)).collect();
    std::fs::write(&data, &rows).expect("a file");
    let drawn = |more: &[&str]| open(&calibrated(&data, &dir.path().join("c.gguf"), more)).facts().sets.clone();
    let expected = |shares: [(&str, u64); 7]| shares.map(|(name, n)| (format!("RedPajama{name}"), n)).to_vec();
    let shares = [
        ("ArXiv", 46),
        ("Book", 42),
        ("C4", 267),
        ("CommonCrawl", 522),
        ("Github", 52),
        ("StackExchange", 33),
        ("Wikipedia", 38),
    ];
    assert_eq!(drawn(&["--tokens", "1000"]), expected(shares));
    // As it comes: the first documents.
    let sequential = drawn(&["--tokens", "100", "--sampling", "sequential"]);
    assert!(sequential.iter().any(|(name, n)| name == "RedPajamaStackExchange" && *n > 33), "{sequential:?}");
    // What one set lacks, the others give.
    let lacking: String = rows.lines().filter(|l| !l.contains("CommonCrawl")).map(|l| format!("{l}\n")).collect();
    std::fs::write(&data, lacking).expect("a file");
    let found = drawn(&["--tokens", "1000"]);
    assert_eq!(found.iter().map(|(_, n)| n).sum::<u64>(), 1000);
    assert!(found.iter().all(|(name, _)| name != "RedPajamaCommonCrawl") && found.len() == 6, "{found:?}");
}

/// An importance matrix as llama.cpp writes it, of one map with `experts` matrices.
fn importance_matrix(path: &Path, experts: usize) {
    let mut writer = GgufWriter::create(path).expect("a file");
    writer.metadata.insert("general.type", "imatrix");
    writer.metadata.insert("imatrix.datasets", vec!["wiki.txt".to_owned()]);
    writer.metadata.insert("imatrix.chunk_count", 7u32);
    writer.metadata.insert("imatrix.chunk_size", 512u32);
    writer.declare("blk.0.ffn_up.weight.in_sum2", &[experts, 3], 0).expect("declared");
    writer.declare("blk.0.ffn_up.weight.counts", &[experts, 1], 0).expect("declared");
    let mut body = writer.write_header().expect("written");
    let sums: Vec<u8> = (0..3 * experts).flat_map(|i| (2.0 * i as f32).to_le_bytes()).collect();
    let counts: Vec<u8> = (0..experts).flat_map(|_| 4.0f32.to_le_bytes()).collect();
    body.tensor("blk.0.ffn_up.weight.in_sum2", &sums).expect("written");
    body.tensor("blk.0.ffn_up.weight.counts", &counts).expect("written");
    body.finish().expect("written");
}

#[test]
fn importance_matrices_of_llama_cpp_are_diagonals() {
    let dir = temp();
    let path = dir.path().join("imatrix.gguf");
    importance_matrix(&path, 1);
    let file = open(&path);
    let moments = file.moments("blk.0.ffn_up.weight").expect("readable").expect("it is there");
    assert_eq!((moments.count, moments.width, moments.block), (4, 3, 1));
    assert_eq!(moments.importance(), [0.0, 0.5, 1.0]);
    assert!(file.moments("blk.0.ffn_down.weight").expect("readable").is_none());
    assert!(file.windows().is_empty());
    importance_matrix(&path, 2);
    let refused = CalibrationFile::new(GgufFile::open(&path).expect("a GGUF")).expect_err("experts");
    assert!(refused.to_string().contains("experts"), "{refused}");
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    let ours = calibrated(&page(), &at("ours.gguf"), &["--tokens", "64"]);
    let narrow = calibrated(&page(), &at("narrow.gguf"), &["--tokens", "64", "--widest", "100"]);
    let short = at("short.gguf");
    tamborim!["calibrate", demo_model(), "--data", page(), "--tokens", "32", "--context", "32", "-o", short].succeeds();
    let other = at("other.gguf");
    let tokens = token_list(&at("tokens.json"), 0..0);
    std::fs::write(&tokens, "{\"tokens\": [1, 2, 3]}").expect("a file");
    let model = fixture("lit/samba_gqa2/checkpoint.pth");
    tamborim!["calibrate", model, "--data", tokens, "--context", "64", "-o", other].succeeds();
    let theirs = at("theirs.gguf");
    importance_matrix(&theirs, 1);
    let gguf = quantized("q8_0", dir.path());
    for (file, words) in [
        (&narrow, "--widest"),
        (&short, "windows of 64"),
        (&other, "model"),
        (&theirs, "importance matrix"),
        (&gguf, "imatrix"),
        (&page(), "GGUF"),
    ] {
        let line = tamborim!["calibrate", "--merge", ours, file, "-o", at("out.gguf")].fails();
        assert!(line.contains(words), "{words}: {line}");
        assert!(!at("out.gguf").exists());
    }
    // Damage is found before anything is written.
    let sound = std::fs::read(&ours).expect("a file");
    for cut in [100, 5000, sound.len() - 1] {
        std::fs::write(at("cut.gguf"), &sound[..cut]).expect("a file");
        tamborim!["calibrate", "--merge", ours, at("cut.gguf"), "-o", at("out.gguf")].fails();
        assert!(!at("out.gguf").exists());
    }
}

#[test]
fn wrong_arguments_and_data_are_refused_by_name() {
    let dir = temp();
    let out = dir.path().join("out.gguf");
    let tokens = token_list(&dir.path().join("tokens.json"), 0..0);
    let line = tamborim!["calibrate", demo_model(), "--data", tokens, "-o", out].fails();
    assert!(line.contains("at least one token"), "{line}");
    std::fs::write(&tokens, "{\"tokens\": [1, 99999]}").expect("a file");
    let line = tamborim!["calibrate", demo_model(), "--data", tokens, "-o", out].fails();
    assert!(line.contains("99999"), "{line}");
    for args in [
        vec!["calibrate", "-o", "out.gguf"],
        vec!["calibrate", "model.gguf", "-o", "out.gguf"],
        vec!["calibrate", "--merge", "a.gguf", "-o", "out.gguf"],
        vec!["calibrate", "model.gguf", "--merge", "a.gguf", "b.gguf", "-o", "out.gguf"],
    ] {
        assert_eq!(Tamborim::new(&args).run().failure_problem(), None, "{args:?}");
    }
    let line = tamborim!["calibrate", demo_model(), "--data", page(), "-o", dir.path().join("out.bin")].fails();
    assert!(line.contains(".gguf"), "{line}");
}

/// Of the maps' outputs on the calibration's own text, codes that are rounded for it lose less than nearest ones.
#[test]
fn onnx_codes_are_rounded_for_the_calibration() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    let calibration = calibrated(&page(), &at("c.gguf"), &["--tokens", "200"]);
    for to in ["int4", "int8"] {
        let loss = |options: &[&OsStr]| -> f64 {
            let [onnx, decoded] = ["q.onnx", "q.gguf"].map(at);
            let demo = demo_model();
            let args =
                ["quantize".as_ref(), demo.as_os_str(), "--to".as_ref(), to.as_ref(), "-o".as_ref(), onnx.as_os_str()];
            Tamborim::new(args.iter().chain(options)).run().succeeds();
            tamborim!["convert", onnx, "-o", decoded].succeeds();
            let verify = tamborim![
                "verify",
                demo_model(),
                decoded,
                "--data",
                page(),
                "--tokens",
                "8",
                "--json",
                "--calibration",
                calibration
            ];
            let report = verify.succeeds().json();
            let rows = report["by_tensor"].as_array().expect("a list");
            rows.iter().map(|row| row["output_error"].as_f64().expect("a number")).sum()
        };
        let (nearest, rounded) = (loss(&[]), loss(&["--calibration".as_ref(), calibration.as_os_str()]));
        assert!(rounded < 0.9 * nearest, "{to}: {rounded}, by nearest codes {nearest}");
    }
}

#[test]
fn the_report_weighs_errors_by_what_goes_into_a_map() {
    let dir = temp();
    let q4 = quantized("q4_0", dir.path());
    let calibration = calibrated(&page(), &dir.path().join("c.gguf"), &["--tokens", "200"]);
    let run = |calibration: &Path| {
        let args = ["verify".into(), demo_model(), q4.clone(), "--data".into(), page(), "--tokens".into(), "8".into()];
        Tamborim::new(args.into_iter().chain(["--json".into(), "--calibration".into(), calibration.to_owned()])).run()
    };
    let report = run(&calibration).succeeds().json();
    let rows = report["by_tensor"].as_array().expect("a list");
    assert!(rows.len() > 20);
    for row in rows {
        let [weight, output] = ["relative_error", "output_error"].map(|k| row[k].as_f64().expect("a number"));
        // Rows that fit no block are stored without loss.
        assert!(output < 2.0 * weight || (output, weight) == (0.0, 0.0), "{row}");
    }
    let theirs = dir.path().join("theirs.gguf");
    importance_matrix(&theirs, 1);
    let line = run(&theirs).fails();
    assert!(line.contains("blk.0.ffn_up.weight") && line.contains("3 inputs"), "{line}");
}
