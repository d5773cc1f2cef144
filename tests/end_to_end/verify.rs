//! The parity report is true.

use crate::common::*;
use crate::tamborim;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tamborim_converters::gguf::GgufFile;

#[track_caller]
fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("expected a number, found {v}"))
}

fn list(v: &Value) -> &[Value] {
    v.as_array().expect("a list")
}

/// The whole report says: no difference at all.
#[track_caller]
fn assert_identical(report: &Value) {
    for key in ["mean", "stderr", "median", "p90", "p99", "p999", "max"] {
        assert_eq!(number(&report["kld"][key]), 0.0, "kld.{key}");
    }
    for key in ["top1_agreement", "top5_agreement"] {
        assert_eq!(number(&report[key]), 1.0, "{key}");
    }
    for key in ["max_abs_logit_difference", "rms_logit_difference"] {
        assert_eq!(number(&report[key]), 0.0, "{key}");
    }
    assert_eq!(number(&report["perplexity"]["ratio"]), 1.0);
    assert_eq!(report["perplexity"]["reference"], report["perplexity"]["candidate"]);
    for row in list(&report["by_tensor"]) {
        assert_eq!(number(&row["relative_error"]), 0.0, "{row}");
    }
    for row in list(&report["by_domain"]).iter().chain(list(&report["by_position"])) {
        assert_eq!(number(&row["kld_mean"]), 0.0, "{row}");
        assert_eq!(number(&row["top1_agreement"]), 1.0, "{row}");
    }
}

fn report(reference: &Path, candidate: &Path, data: &Path, more: &[&str]) -> Value {
    let mut args: Vec<PathBuf> =
        vec!["verify".into(), reference.into(), candidate.into(), "--data".into(), data.into()];
    args.push("--json".into());
    args.extend(more.iter().map(PathBuf::from));
    Tamborim::new(&args).run().succeeds().json()
}

#[test]
fn a_file_against_itself_is_exactly_zero() {
    let dir = temp();
    let q4 = quantized("q4_k", dir.path());
    for file in [demo_model(), q4] {
        assert_identical(&report(&file, &file, &page(), &["--tokens", "300", "--context", "100"]));
    }
}

#[test]
fn conversion_loses_nothing() {
    let dir = temp();
    for dtype in ["source", "bf16", "f32"] {
        let gguf = dir.path().join(format!("{dtype}.gguf"));
        tamborim!["convert", demo_model(), "-o", gguf, "--dtype", dtype].succeeds();
        assert_identical(&report(&demo_model(), &gguf, &page(), &["--tokens", "300"]));
    }
}

#[test]
fn the_report_has_the_fields_that_the_design_promises() {
    let dir = temp();
    let q4 = quantized("q4_k", dir.path());
    let r = report(&demo_model(), &q4, &page(), &["--tokens", "200", "--max-kld", "0.5"]);
    let keys = |v: &Value| v.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let has = |v: &Value, wanted: &[&str]| {
        for key in wanted {
            assert!(keys(v).iter().any(|k| k == key), "{key} in {:?}", keys(v));
        }
    };
    has(
        &r,
        &[
            "reference",
            "candidate",
            "device",
            "positions",
            "context",
            "kld",
            "top1_agreement",
            "top5_agreement",
            "perplexity",
            "max_abs_logit_difference",
            "rms_logit_difference",
            "by_domain",
            "by_position",
            "by_tensor",
            "thresholds",
            "verdict",
        ],
    );
    for model in ["reference", "candidate"] {
        has(&r[model], &["path", "format", "bits_per_weight", "bytes"]);
    }
    has(&r["statistics"], &["unit", "blocks", "resamples", "confidence"]);
    has(&r["kld"], &["mean", "stderr", "interval", "median", "p90", "p99", "p999", "max"]);
    has(&r["perplexity"], &["reference", "candidate", "ratio", "ratio_stderr"]);
    has(&r["by_domain"][0], &["name", "positions", "kld_mean", "top1_agreement", "perplexity_ratio"]);
    has(&r["by_position"][0], &["from", "to", "kld_mean", "top1_agreement"]);
    has(&r["by_tensor"][0], &["name", "type", "bits_per_weight", "relative_error"]);
    assert_eq!((&r["device"], &r["positions"], &r["verdict"]), (&json!("cpu"), &json!(200), &json!("pass")));
    assert_eq!(number(&r["thresholds"]["max_kld"]), 0.5);
    assert_eq!(r["candidate"]["bytes"].as_u64(), Some(std::fs::metadata(&q4).expect("a file").len()));
    assert_eq!(r["candidate"]["path"], json!(q4));
    let kld = &r["kld"];
    let ordered = ["median", "p90", "p99", "p999", "max"].map(|k| number(&kld[k]));
    assert!(ordered.is_sorted() && ordered[0] > 0.0, "{kld}");
}

#[test]
fn bits_per_weight_are_all_tensor_bytes_over_all_parameters() {
    let dir = temp();
    let q4 = quantized("q4_k", dir.path());
    let r = report(&demo_model(), &q4, &page(), &["--tokens", "8"]);
    let file = GgufFile::open(&q4).expect("a GGUF");
    let bytes: usize = file.tensors().keys().map(|t| file.bytes(t).expect("bytes").len()).sum();
    let parameters: usize = file.tensors().values().map(|t| t.elements()).sum();
    let expected = bytes as f64 * 8.0 / parameters as f64;
    assert!((number(&r["candidate"]["bits_per_weight"]) - expected).abs() < 1e-9, "{expected}");
}

#[test]
fn thresholds_decide_the_exit_code_and_say_what_was_missed() {
    let dir = temp();
    let q4 = quantized("q4_k", dir.path());
    let run = |limits: &[&str]| {
        let mut args = vec!["verify".into(), demo_model(), q4.clone(), "--data".into(), page(), "--tokens".into()];
        args.push("200".into());
        args.extend(limits.iter().map(PathBuf::from));
        Tamborim::new(&args).run()
    };
    let passed = run(&["--max-kld", "0.5", "--min-top1", "0.5", "--max-ppl-ratio", "1.5"]);
    assert_eq!(passed.code, Some(0), "{}", passed.stderr);
    assert!(passed.stdout.contains("verdict: pass") && !passed.stdout.contains("missed"), "{}", passed.stdout);
    for (flag, limit, words) in [
        ("--max-kld", "0.000001", "mean KLD"),
        ("--min-top1", "0.9999", "top-1 agreement"),
        ("--max-ppl-ratio", "0.5", "perplexity ratio"),
    ] {
        let missed = run(&[flag, limit]);
        assert_eq!(missed.code, Some(1), "{flag}: {}", missed.stderr);
        let line = missed.stdout.lines().find(|l| l.starts_with("missed:")).expect("a missed line");
        assert!(line.contains(words) && line.contains(limit), "{line}");
        assert!(missed.stdout.contains("verdict: fail"), "{}", missed.stdout);
        let json = run(&[flag, limit, "--json"]);
        assert_eq!((json.code, &json.json()["verdict"]), (Some(1), &json!("fail")));
    }
    // Every limit that was missed is listed.
    let all = run(&["--max-kld", "0.000001", "--min-top1", "0.9999", "--max-ppl-ratio", "0.5"]);
    assert_eq!(all.stdout.lines().filter(|l| l.starts_with("missed:")).count(), 3, "{}", all.stdout);
}

/// Windows are independent: one window of a text equals a run over that window's tokens alone.
#[test]
fn each_window_starts_anew() {
    let dir = temp();
    let q4 = quantized("q4_0", dir.path());
    let golden = golden();
    let tokens = list(&golden["tokens"]);
    let data = dir.path().join("tokens.json");
    let measure = |tokens: &[Value], context: &str| {
        std::fs::write(&data, json!({ "tokens": tokens }).to_string()).expect("a file");
        report(&demo_model(), &q4, &data, &["--context", context])
    };
    let whole = measure(&tokens[..201], "100");
    let (first, second) = (measure(&tokens[..101], "100"), measure(&tokens[100..201], "100"));
    assert_eq!((&whole["positions"], &first["positions"]), (&json!(200), &json!(100)));
    let mean = |r: &Value| number(&r["kld"]["mean"]);
    assert!((mean(&whole) - (mean(&first) + mean(&second)) / 2.0).abs() < 1e-9 * mean(&whole).max(1.0));
    // In one window the second half knows the first.
    let one = measure(&tokens[..201], "200");
    assert_ne!(mean(&one), mean(&whole));
    assert!(number(&one["perplexity"]["reference"]) < number(&whole["perplexity"]["reference"]));
    // A context beyond the text is the text.
    assert_eq!(measure(&tokens[..201], "5000")["kld"], one["kld"]);
}

/// States and logits do not pile up: a window may be as long as the text.
#[test]
fn a_long_window_takes_no_more_memory_than_a_short_one() {
    let dir = temp();
    let q4 = quantized("q4_0", dir.path());
    let peak = |context: &str| {
        let args = ["--tokens", "2048", "--device", "cpu", "--context", context].map(PathBuf::from);
        let models = ["verify".into(), demo_model(), q4.clone(), "--data".into(), page()];
        Tamborim::new(models.into_iter().chain(args)).run().succeeds().peak
    };
    let (short, long) = (peak("256"), peak("2048"));
    assert!(long < short + short / 10, "{long} bytes with one window, {short} with eight");
}

#[test]
fn domains_and_positions_add_up_to_the_whole() {
    let dir = temp();
    let q4 = quantized("q4_0", dir.path());
    let text = std::fs::read_to_string(page()).expect("the page");
    let paragraphs: Vec<&str> = text.split("\n\n").filter(|p| p.len() > 100).collect();
    let data = dir.path().join("rows.jsonl.zst");
    let row = |(i, p): (usize, &&str)| {
        let set = ["RedPajamaBook", "RedPajamaC4", "RedPajamaGithub"][i % 3];
        json!({ "text": p, "meta": { "redpajama_set_name": set } }).to_string() + "\n"
    };
    let rows: String = paragraphs.iter().enumerate().map(row).collect();
    std::fs::write(&data, zstd::encode_all(rows.as_bytes(), 3).expect("zstd")).expect("a file");
    let r = report(&demo_model(), &q4, &data, &["--tokens", "1000", "--context", "300"]);
    assert_eq!(r["positions"], json!(1000));
    let domains = list(&r["by_domain"]);
    let mut names: Vec<&str> = domains.iter().map(|d| d["name"].as_str().expect("a name")).collect();
    names.sort();
    assert_eq!(names, ["RedPajamaBook", "RedPajamaC4", "RedPajamaGithub"]);
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-9 * b.abs().max(1e-9), "{a} {b}");
    let by_domain = |key: &str| {
        let weighted = domains.iter().map(|d| number(&d["positions"]) * number(&d[key]));
        weighted.sum::<f64>() / 1000.0
    };
    assert_eq!(domains.iter().map(|d| number(&d["positions"])).sum::<f64>(), 1000.0);
    close(by_domain("kld_mean"), number(&r["kld"]["mean"]));
    close(by_domain("top1_agreement"), number(&r["top1_agreement"]));
    let log_ratio: f64 = domains.iter().map(|d| number(&d["positions"]) * number(&d["perplexity_ratio"]).ln()).sum();
    close((log_ratio / 1000.0).exp(), number(&r["perplexity"]["ratio"]));
    // Three windows of 300 positions and one of 100.
    let buckets = list(&r["by_position"]);
    let (mut next, mut counted, mut kld, mut top1) = (0.0, 0.0, 0.0, 0.0);
    for bucket in buckets {
        let (from, to) = (number(&bucket["from"]), number(&bucket["to"]));
        assert_eq!(from, next);
        next = to;
        let inside = 3.0 * (to - from) + (to.min(100.0) - from.min(100.0));
        counted += inside;
        kld += inside * number(&bucket["kld_mean"]);
        top1 += inside * number(&bucket["top1_agreement"]);
    }
    assert_eq!((next, counted), (300.0, 1000.0));
    close(kld / 1000.0, number(&r["kld"]["mean"]));
    close(top1 / 1000.0, number(&r["top1_agreement"]));
}

/// The same text in every form gives the same tokens, so the same report.
#[test]
fn text_comes_in_every_form() {
    let dir = temp();
    let q4 = quantized("q4_0", dir.path());
    let text = std::fs::read_to_string(page()).expect("the page");
    let row = json!({ "text": text }).to_string();
    let golden = golden();
    let tokens = &list(&golden["tokens"])[..401];
    let packed: Vec<u8> = {
        let ids = tokens.iter().flat_map(|t| (t.as_u64().expect("an id") as u16).to_le_bytes());
        let head = [b"LITPKDS".as_slice(), &1u64.to_le_bytes(), &[8], &401u64.to_le_bytes()].concat();
        head.into_iter().chain(ids).collect()
    };
    let forms: [(&str, Vec<u8>); 6] = [
        ("page.txt", text.clone().into_bytes()),
        ("page.jsonl", row.clone().into_bytes()),
        ("page.jsonl.zst", zstd::encode_all(row.as_bytes(), 3).expect("zstd")),
        ("page.txt.zst", zstd::encode_all(text.as_bytes(), 3).expect("zstd")),
        ("page.json", json!({ "tokens": tokens }).to_string().into_bytes()),
        ("page.bin", packed),
    ];
    let mut first: Option<Value> = None;
    for (name, bytes) in forms {
        let data = dir.path().join(name);
        std::fs::write(&data, bytes).expect("a file");
        let found = report(&demo_model(), &q4, &data, &["--tokens", "400", "--context", "128"]);
        let first = first.get_or_insert_with(|| found.clone());
        assert_eq!(found["positions"], json!(400), "{name}");
        for key in ["kld", "perplexity", "top1_agreement", "by_position"] {
            assert_eq!(found[key], first[key], "{name}: {key}");
        }
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let dir = temp();
    let tiny = fixture("lit/samba_gqa2/checkpoint.pth");
    let line = tamborim!["verify", demo_model(), tiny, "--data", page()].fails();
    assert!(line.contains("vocabulary") && line.contains("4096"), "{line}");
    let short = dir.path().join("short.json");
    std::fs::write(&short, r#"{"tokens": [1]}"#).expect("a file");
    let line = tamborim!["verify", demo_model(), demo_model(), "--data", short].fails();
    assert!(line.contains("two tokens"), "{line}");
    std::fs::write(&short, r#"{"tokens": [1, 2, 70000]}"#).expect("a file");
    let line = tamborim!["verify", demo_model(), demo_model(), "--data", short].fails();
    assert!(line.contains("70000"), "{line}");
    for data in ["nothing.jsonl", "image.png"] {
        let data = dir.path().join(data);
        let line = tamborim!["verify", demo_model(), demo_model(), "--data", data].fails();
        assert!(line.contains(&name(&data)), "{line}");
        std::fs::write(&data, b"\x89PNG").expect("a file");
        let line = tamborim!["verify", demo_model(), demo_model(), "--data", data].fails();
        assert!(line.contains(&name(&data)), "{line}");
    }
    // A model without a tokenizer can be measured on tokens, not on text.
    let bare = dir.path().join("bare.gguf");
    tamborim!["convert", tiny, "-o", bare].succeeds();
    let line = tamborim!["verify", bare, bare, "--data", page()].fails();
    assert!(line.contains("tokenizer"), "{line}");
}

/// A target beyond the vocabulary, but inside its padding, has no place in the distributions that are compared.
#[test]
fn padding_is_no_part_of_the_vocabulary() {
    let dir = temp();
    let model = fixture("lit/samba_sc_attn/checkpoint.pth");
    let facts = tamborim!["inspect", model, "--json"].succeeds().json();
    let (true_size, padded) = (facts["vocabulary"].as_u64(), facts["padded_vocabulary"].as_u64());
    assert!(true_size < padded, "the fixture's vocabulary is padded");
    let data = dir.path().join("tokens.json");
    std::fs::write(&data, json!({ "tokens": [1, 2, true_size.expect("a number")] }).to_string()).expect("a file");
    let line = tamborim!["verify", model, model, "--data", data].fails();
    assert!(line.contains("vocabulary") || line.contains("token"), "{line}");
}

fn golden() -> Value {
    let text = std::fs::read(project().join("tests/goldens/kld.json")).expect("the golden");
    serde_json::from_slice(&text).expect("JSON")
}

/// SHA-256 of all tensors' bytes, in the order of the file.
fn tensors_sha256(gguf: &Path) -> String {
    let file = GgufFile::open(gguf).expect("a GGUF");
    let mut hasher = Sha256::new();
    file.tensors().keys().for_each(|t| hasher.update(file.bytes(t).expect("bytes")));
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn an_independent_evaluator_finds_the_same() {
    let golden = golden();
    let dir = temp();
    let data = dir.path().join("tokens.json");
    std::fs::write(&data, json!({ "tokens": golden["tokens"] }).to_string()).expect("a file");
    for (format, truth) in golden["candidates"].as_object().expect("candidates") {
        let candidate = quantized(format, dir.path());
        assert_eq!(
            json!(tensors_sha256(&candidate)),
            truth["tensors_sha256"],
            "{format} gives other bytes than when tests/goldens/kld.json was made; if that is meant, run {}",
            golden["made_by"]
        );
        for (data, more) in [(&data, [].as_slice()), (&page(), &["--tokens", "2048"])] {
            let r = report(&demo_model(), &candidate, data, &[["--context", "512"].as_slice(), more].concat());
            assert_eq!(r["positions"], truth["positions"]);
            for (found, expected) in [
                (&r["kld"]["mean"], &truth["kld_mean"]),
                (&r["kld"]["median"], &truth["kld_median"]),
                (&r["kld"]["p99"], &truth["kld_p99"]),
                (&r["top1_agreement"], &truth["top1"]),
                (&r["perplexity"]["reference"], &truth["ppl_a"]),
                (&r["perplexity"]["candidate"], &truth["ppl_b"]),
                (&r["perplexity"]["ratio"], &truth["ppl_ratio"]),
            ] {
                let (found, expected) = (number(found), number(expected));
                println!("{format}: {found} {expected}");
                assert!((found / expected - 1.0).abs() < 5e-4, "{format}: {found}, independently {expected}");
            }
            // Ours is that of pieces of text, not of single positions: of the same order where neighbours hardly depend.
            let ratio = number(&r["kld"]["stderr"]) / number(&truth["kld_stderr"]);
            assert!((0.5..3.0).contains(&ratio), "{format}: {ratio}");
        }
    }
}
