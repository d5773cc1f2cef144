//! `verify --report`: what a closer look finds is true, and the pages show it, whatever the text holds.

use crate::common::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

#[track_caller]
fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("expected a number, found {v}"))
}

fn list(v: &Value) -> &[Value] {
    v.as_array().expect("a list")
}

/// The printed report of candidates, and the folder of the written ones.
fn report(candidates: &[&Path], data: &Path, folder: &Path, more: &[&str]) -> (Value, PathBuf) {
    let folder = folder.join("new/report");
    let mut args: Vec<PathBuf> = vec!["verify".into(), demo_model()];
    args.extend(candidates.iter().map(|c| c.to_path_buf()));
    args.extend(["--data".into(), data.to_owned(), "--json".into(), "--device".into(), "cpu".into()]);
    args.extend(["--report".into(), folder.clone()]);
    args.extend(more.iter().map(PathBuf::from));
    (Tamborim::new(&args).run().succeeds().json(), folder)
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Documents of text and domain as SlimPajama has them.
fn rows(path: &Path, documents: &[(&str, &str)]) {
    let row = |(text, set): &(&str, &str)| json!({ "text": text, "meta": { "redpajama_set_name": set } }).to_string();
    std::fs::write(path, documents.iter().map(row).collect::<Vec<_>>().join("\n")).expect("a file");
}

#[test]
fn report_json_is_what_json_prints_and_matches_the_published_schema() {
    let dir = temp();
    let (q4, q8) = (quantized("q4_0", dir.path()), quantized("q8_0", dir.path()));
    let passkey = ["--tokens", "300", "--context", "128", "--passkey", "128"];
    for candidates in [vec![q4.as_path()], vec![q8.as_path(), q4.as_path()]] {
        let (printed, folder) = report(&candidates, &page(), dir.path(), &passkey);
        let written = read(&folder, "report.json");
        assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON"), printed);
        let Some(python) = python() else {
            println!("skipped: TAMBORIM_PYTHON names no Python with jsonschema (scripts/test.sh sets it)");
            continue;
        };
        const SCRIPT: &str = "import json, sys, jsonschema\n\
            schema, report = (json.load(open(path)) for path in sys.argv[1:])\n\
            jsonschema.Draft202012Validator.check_schema(schema)\n\
            jsonschema.Draft202012Validator(schema).validate(report)\n\
            report['kld'] = report.get('reports', ['nothing'])[0]\n\
            assert not jsonschema.Draft202012Validator(schema).is_valid({**report, 'reports': 1})";
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]).arg(project().join("docs/report.schema.json")).arg(folder.join("report.json"));
        let run = command.output().expect("Python runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn a_closer_look_agrees_with_the_numbers() {
    let dir = temp();
    let q4 = quantized("q4_0", dir.path());
    let (r, _) = report(&[&q4], &page(), dir.path(), &["--tokens", "600", "--context", "256"]);
    let worst = list(&r["worst"]);
    assert_eq!(worst.len(), 20);
    assert_eq!(worst[0]["kld"], r["kld"]["max"]);
    assert!(worst.windows(2).all(|pair| number(&pair[0]["kld"]) >= number(&pair[1]["kld"])));
    for place in worst {
        assert_eq!(number(&place["context"]), number(&place["position"]) % 256.0 + 1.0, "{place}");
        for model in ["reference", "candidate"] {
            let likely = list(&place[model]);
            let probabilities: Vec<f64> = likely.iter().map(|t| number(&t["probability"])).collect();
            assert!(likely.len() == 5 && probabilities.is_sorted_by(|a, b| a >= b), "{place}");
            assert!(probabilities.iter().sum::<f64>() <= 1.0 + 1e-9);
        }
        // Pinsker's inequality: no probability differs by more than the root of half the divergence.
        let bound = (number(&place["kld"]) / 2.0).sqrt() + 1e-9;
        for t in list(&place["reference"]) {
            if let Some(other) = list(&place["candidate"]).iter().find(|o| o["token"] == t["token"]) {
                assert!((number(&t["probability"]) - number(&other["probability"])).abs() <= bound, "{place}");
            }
        }
    }
    assert_eq!(list(&r["kld_histogram"]).iter().map(|b| number(&b["positions"])).sum::<f64>(), 600.0);
    assert_eq!(list(&r["by_layer"]).len(), 6);
    assert!(list(&r["by_layer"]).iter().all(|l| (1e-4..1.0).contains(&number(&l["relative_distance"]))));
    let all = list(&r["by_context"]).last().expect("the whole window");
    assert_eq!(number(&all["tokens"]), 256.0);
    for model in ["reference", "candidate"] {
        assert!((number(&all[model]) / number(&r["perplexity"][model]) - 1.0).abs() < 1e-9);
    }
    let floor = &list(&r["noise_floor"])[0];
    assert_eq!(floor["between"], "together_and_one_by_one");
    assert!(number(&floor["kld_max"]) < 1e-6 && number(&floor["kld_mean"]) < 1e-6 * number(&r["kld"]["mean"]));
    for (mean, interval) in [
        (&r["kld"]["mean"], &r["kld"]["interval"]),
        (&r["top1_agreement"], &r["top1_interval"]),
        (&r["perplexity"]["ratio"], &r["perplexity"]["ratio_interval"]),
    ] {
        let ends = list(interval);
        assert!(number(&ends[0]) < number(mean) && number(mean) < number(&ends[1]), "{mean} {interval}");
    }
}

#[test]
fn a_model_looks_like_itself_closely_too() {
    let dir = temp();
    let (r, folder) = report(
        &[&demo_model()],
        &page(),
        dir.path(),
        &["--tokens", "200", "--passkey", "256", "--prompt", "The river"],
    );
    assert!(r.get("worst").is_none(), "nothing is worst");
    assert!(list(&r["by_layer"]).iter().all(|l| number(&l["relative_distance"]) == 0.0));
    for g in list(&r["generation"]) {
        assert_eq!((&g["prompt"], &g["tokens"]), (&json!("The river"), &g["shared_tokens"]));
        assert_eq!((&g["reference"], &g["candidate"]), (&json!(""), &json!("")));
        assert!(!g["shared"].as_str().expect("text").is_empty());
    }
    assert_eq!(list(&r["generation"]).len(), 2, "greedy and nucleus");
    assert!(list(&r["passkey"]).iter().all(|p| p["reference"] == p["candidate"] && number(&p["tokens"]) == 256.0));
    let found = list(&r["passkey"]).iter().filter(|p| p["reference"]["correct"] == true).count();
    assert!((3..=5).contains(&found), "the demo model finds most keys at this length, found {found}");
    assert!(read(&folder, "report.html").contains("exactly the same numbers"));
}

/// The reference runs once for all; each candidate's report is the one it would have alone.
#[test]
fn several_candidates_are_each_compared_as_if_alone() {
    let dir = temp();
    let (q8, q4) = (quantized("q8_0", dir.path()), quantized("q4_0", dir.path()));
    let more = ["--tokens", "300", "--max-kld", "0.5"];
    let (both, folder) = report(&[&q8, &q4], &page(), dir.path(), &more);
    assert_eq!(both["verdict"], "pass");
    let html = read(&folder, "report.html");
    for text in ["Size against KL divergence", "q8_0.gguf", "q4_0.gguf"] {
        assert!(html.contains(text), "{text}");
    }
    for (found, candidate) in list(&both["reports"]).iter().zip([&q8, &q4]) {
        let (mut alone, _) = report(&[candidate], &page(), dir.path(), &more);
        alone["seconds"] = found["seconds"].clone();
        assert_eq!(&alone, found);
    }
    let limits = ["--data".into(), page(), "--tokens".into(), "300".into(), "--max-kld".into(), "0.001".into()];
    let args: Vec<PathBuf> = ["verify".into(), demo_model(), q8, q4].into_iter().chain(limits).collect();
    let run = Tamborim::new(&args).run();
    assert_eq!(run.code, Some(1), "one of them misses: {}", run.stderr);
    let missed: Vec<&str> = run.stdout.lines().filter(|l| l.starts_with("missed:")).collect();
    assert!(missed.len() == 1 && missed[0].contains("q4_0.gguf"), "{missed:?}");
}

/// Text of any kind is shown, and never acts.
#[test]
fn hostile_text_stays_text() {
    let dir = temp();
    let data = dir.path().join("hostile.jsonl");
    let attack = "<script>alert(1)</script><img src=x onerror=alert(1)> </style></title> &amp; {{ 31337 * 3 }} {% raw %} \
                  | a | **b** `c` [d](javascript:e) \u{202e}txet\u{200b} \u{1b}[31m \u{0} tab\tend\n\n# head\n";
    rows(&data, &[(attack, "<b onclick=x>|evil`"), (&attack.repeat(3), "\u{202e}set\n")]);
    let q4 = quantized("q4_0", dir.path());
    let folder_name = dir.path().join("<i>&\"q");
    std::fs::create_dir(&folder_name).expect("a folder");
    let candidate = folder_name.join("<u>q4\u{202e}.gguf");
    std::fs::copy(&q4, &candidate).expect("a copy");
    let (r, folder) = report(&[&candidate], &data, dir.path(), &["--prompt", &attack.replace('\0', "")]);
    assert!(r["worst"].to_string().contains("script"), "the attack is in the report");
    let html = read(&folder, "report.html");
    for tag in ["<script", "<img", "<b onclick", "<u>", "<i>", "94011"] {
        assert!(!html.contains(tag), "{tag}");
    }
    assert_eq!((html.matches("</style>").count(), html.matches("</title>").count() > 0), (1, true));
    for hidden in ['\u{202e}', '\u{200b}', '\u{1b}', '\u{0}'] {
        assert!(!html.contains(hidden) && !read(&folder, "report.md").contains(hidden), "{hidden:?}");
    }
    assert!(html.contains("&lt;script&gt;") && html.contains("⟨U+202E⟩"));
    let markdown = read(&folder, "report.md");
    assert!(!markdown.contains("<script") && !markdown.contains("[d](javascript"), "{markdown}");
}

#[test]
fn the_page_stands_alone() {
    let dir = temp();
    let q4 = quantized("q4_0", dir.path());
    let (_, folder) = report(&[&q4], &page(), dir.path(), &["--tokens", "200"]);
    let html = read(&folder, "report.html");
    for reference in ["src=", "url(", "@import", "<script", "<link rel=\"stylesheet", "https:"] {
        assert!(!html.contains(reference), "{reference}");
    }
    let pictures = html.matches("<svg ").count();
    assert_eq!((pictures, html.matches("<desc>").count()), (5, 5), "one domain needs no picture");
    assert!(read(&folder, "report.md").starts_with("# Parity report: q4\\_0.gguf against checkpoint.pth"));
}

/// A person's view: `tests/rendering/check.py` looks at the page in Chromium at the width of a phone and of a desktop.
#[test]
fn the_page_renders_on_phone_and_desktop() {
    let Some(python) = python() else {
        println!("skipped: TAMBORIM_PYTHON names no Python with playwright (scripts/test.sh sets it)");
        return;
    };
    let dir = temp();
    let far = dir.path().join("a-folder-of-a-name-without-spaces-".repeat(4));
    std::fs::create_dir(&far).expect("a folder");
    let (q8, q4) = (quantized("q8_0", &far), quantized("q4_0", &far));
    let data = dir.path().join("long words.jsonl");
    let long = "a".repeat(300) + " " + &"0123456789/".repeat(40);
    let text = std::fs::read_to_string(page()).expect("the page");
    rows(&data, &[(&text[..3000], "RedPajamaBook"), (&long, "ADomainWithAVeryLongNameThatHasNoSpacesAtAll")]);
    let (_, folder) = report(&[&q8, &q4], &data, dir.path(), &["--max-kld", "0.5", "--passkey", "128"]);
    let script = project().join("tests/rendering/check.py");
    let run = Command::new(python).arg(script).arg(folder.join("report.html")).output().expect("Python runs");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}");
    println!("{said}");
}
