//! ONNX files: what ONNX's own tools and stock clients make of them, that they are read back, and that nothing in one leads
//! out of its folder.

use crate::common::*;
use crate::tamborim;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use tamborim_model::tokenizer::Tokenizer;

/// Runs `onnx_files.py` beside this file, which neither fails nor warns of anything; without a Python that can, says so.
#[track_caller]
fn in_python(args: &[&OsStr]) -> bool {
    let Some(python) = python() else {
        println!("skipped: TAMBORIM_PYTHON names no Python with onnx and onnxruntime (scripts/test.sh sets it)");
        return false;
    };
    let script = project().join("tests/end_to_end/onnx_files.py");
    let out = Command::new(python).arg(script).args(args).output().expect("Python runs");
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && words.is_empty(), "{args:?}: {words}");
    true
}

fn convert(source: &Path, to: &Path, options: &[&str]) {
    let args = [OsStr::new("convert"), source.as_os_str(), OsStr::new("-o"), to.as_os_str()];
    Tamborim::new(args.into_iter().chain(options.iter().map(OsStr::new))).run().succeeds();
}

fn quantize(source: &Path, to: &Path, options: &[&str]) {
    let args = [OsStr::new("quantize"), source.as_os_str(), OsStr::new("-o"), to.as_os_str()];
    Tamborim::new(args.into_iter().chain(options.iter().map(OsStr::new))).run().succeeds();
}

/// The profile for ONNX Runtime, and the one of standard operators alone.
const PROFILES: [&[&str]; 2] = [&["--dtype", "f32"], &["--dtype", "f32", "--pure-onnx"]];

#[test]
fn checker_and_shape_inference_accept_every_graph() {
    let schemas = project().join("docs/onnx");
    for folder in models_in("lit") {
        for profile in PROFILES {
            let dir = temp();
            let model = dir.path().join("model.onnx");
            convert(&folder.join("checkpoint.pth"), &model, profile);
            if !in_python(&["graph".as_ref(), model.as_os_str(), schemas.as_os_str()]) {
                return;
            }
        }
    }
}

/// One shot, in pieces, token by token, and in a batch; our library is not there.
#[test]
fn stock_onnxruntime_gives_the_golden_logits() {
    for folder in models_in("lit").into_iter().filter(|f| name(f) != "samba_long") {
        for profile in PROFILES {
            let dir = temp();
            let model = dir.path().join("model.onnx");
            convert(&folder.join("checkpoint.pth"), &model, profile);
            let [tokens, golden] = ["tokens.json", "golden.safetensors"].map(|file| folder.join(file));
            if !in_python(&["logits".as_ref(), model.as_os_str(), tokens.as_os_str(), golden.as_os_str()]) {
                return;
            }
        }
    }
}

#[test]
fn the_reference_evaluator_runs_the_functions() {
    for folder in ["samba_gqa2", "swa_ret", "mega"].map(|name| fixture("lit").join(name)) {
        let dir = temp();
        let model = dir.path().join("model.onnx");
        convert(&folder.join("checkpoint.pth"), &model, PROFILES[1]);
        let [tokens, golden] = ["tokens.json", "golden.safetensors"].map(|file| folder.join(file));
        if !in_python(&["reference".as_ref(), model.as_os_str(), tokens.as_os_str(), golden.as_os_str()]) {
            return;
        }
    }
}

/// Of every architecture, in every type of floats: what was written is what is read.
#[test]
fn onnx_is_read_as_what_it_was_made_from() {
    for folder in models_in("lit") {
        let source = folder.join("checkpoint.pth");
        for dtype in ["f32", "f16", "bf16"] {
            let dir = temp();
            let [model, back, direct] =
                ["model.onnx", "back.safetensors", "direct.safetensors"].map(|file| dir.path().join(file));
            convert(&source, &model, &["--dtype", dtype]);
            convert(&model, &back, &[]);
            convert(&source, &direct, &["--dtype", dtype]);
            let [back, direct] = [back, direct].map(|path| std::fs::read(path).expect("written"));
            assert!(back == direct, "{} as {dtype}", folder.display());
        }
    }
}

/// A file of tensors takes matrices in pieces, converted and turned on all threads.
#[test]
fn matrices_in_a_file_of_their_own_are_what_was_read() {
    let dir = temp();
    let [model, back, direct] =
        ["model.onnx", "back.safetensors", "direct.safetensors"].map(|file| dir.path().join(file));
    // Bytes that two initializers show have a file of their own, and the rest goes with them.
    quantize(&demo_model(), &model, &["--to", "f32", "--rule", "token_embd=int8"]);
    assert!(dir.path().join("model.onnx.data").is_file());
    convert(&model, &back, &[]);
    convert(&demo_model(), &direct, &["--dtype", "f32"]);
    let [back, direct] = [back, direct].map(|path| Tensors::read(&path));
    let maps: Vec<&str> = direct.names().filter(|name| name.contains(".h.")).collect();
    assert!(maps.len() > 50, "{maps:?}");
    maps.into_iter().for_each(|name| assert!(back.numbers(name) == direct.numbers(name), "{name}"));
}

#[test]
fn quantized_maps_are_what_is_read_of_them() {
    let cases: [(&str, &[&str]); 8] = [
        ("samba_gqa2", &["--to", "int4"]),
        ("samba_gqa2", &["--to", "int8", "--block", "128", "--symmetric"]),
        ("swa_ret", &["--to", "int4", "--block", "16", "--symmetric"]),
        ("mega", &["--to", "int8", "--block", "64"]),
        ("samba_gqa2", &["--to", "int4", "--pure-onnx"]),
        ("swa_ret", &["--to", "int4", "--block", "16", "--symmetric", "--pure-onnx", "--rule", "token_embd=int4"]),
        ("samba_no_mlp", &["--to", "int8", "--block", "16", "--symmetric", "--pure-onnx"]),
        ("mega", &["--to", "int8", "--block", "64", "--pure-onnx", "--rule", "token_embd=int4"]),
    ];
    for (fixture_name, options) in cases {
        let dir = temp();
        let folder = fixture("lit").join(fixture_name);
        let [model, decoded, logits] =
            ["model.onnx", "decoded.gguf", "logits.safetensors"].map(|file| dir.path().join(file));
        quantize(&folder.join("checkpoint.pth"), &model, options);
        convert(&model, &decoded, &[]);
        let tokens = folder.join("tokens.json");
        tamborim!["logits", decoded, "--tokens", tokens, "-o", logits, "--device", "cpu"].succeeds();
        if !in_python(&["quantized".as_ref(), model.as_os_str(), tokens.as_os_str(), logits.as_os_str()]) {
            return;
        }
    }
}

/// The demo model's head is its embedding: one buffer in the file of tensors serves both.
#[test]
fn a_tied_head_takes_no_room_and_rules_choose_bits() {
    let dir = temp();
    let [int8, int4] = ["int8.onnx", "int4.onnx"].map(|file| dir.path().join(file));
    quantize(&demo_model(), &int8, &["--to", "int8", "--symmetric"]);
    let inspect = tamborim!["inspect", int8, "--json", "--tensors"].succeeds().json();
    assert_eq!(inspect["tensors"][0]["type"], "int8/32 symmetric", "{inspect}");
    let bits = inspect["bits_per_weight"].as_f64().expect("a number");
    let weights = bits / 8.0 * inspect["parameters"].as_f64().expect("a number");
    let data = std::fs::metadata(dir.path().join("int8.onnx.data")).expect("a file of tensors").len() as f64;
    // Pages are filled up for each tensor.
    assert!(data > weights && data < weights * 1.06, "{data} bytes for {weights}");
    quantize(&demo_model(), &int4, &["--to", "int4", "--rule", "token_embd=int4", "--rule", "blk.0.ffn=f32"]);
    let inspect = tamborim!["inspect", int4, "--json", "--tensors"].succeeds().json();
    let kind = |name: &str| {
        let tensors = inspect["tensors"].as_array().expect("a list");
        tensors.iter().find(|t| t["name"] == name).expect("it is there")["type"].as_str().expect("words").to_owned()
    };
    assert_eq!(kind("token_embd.weight"), "int4/32");
    assert_eq!(kind("blk.0.ffn_up.weight"), "f32");
    assert_eq!(kind("blk.0.ssm_x.weight"), "int8/32");
    assert_eq!(kind("blk.0.ssm_a"), "f32");
}

#[test]
fn genai_folders_say_what_generate_says() {
    let dir = temp();
    let (folder, ids) = (dir.path().join("genai"), dir.path().join("ids.json"));
    tamborim!["convert", demo_model(), "--genai", folder].succeeds();
    let tokenizer = std::fs::read(demo_model().with_file_name("tokenizer.model")).expect("the tokenizer");
    let tokenizer = Tokenizer::from_sentencepiece(&tokenizer).expect("it is one");
    std::fs::write(&ids, encoded(&tokenizer, TEXTS)).expect("written");
    let prompt = "The history of the city";
    let text = tamborim!["generate", demo_model(), "-p", prompt, "-n", "50", "--device", "cpu"].succeeds().stdout;
    in_python(&["genai".as_ref(), folder.as_os_str(), prompt.as_ref(), text.as_ref(), ids.as_os_str()]);
}

/// Of models with states in some of their blocks only: the greedy choice is the likeliest token by our own logits.
#[test]
fn genai_generates_from_every_kind_of_state() {
    let dir = temp();
    // Small enough for every fixture's vocabulary.
    let pieces = project().join("model/tests/goldens/unigram.model");
    for model in models_in("descendants") {
        let at = |file: &str| dir.path().join(format!("{}.{file}", name(&model)));
        let [folder, tokens, logits] = [at("genai"), at("tokens.json"), at("safetensors")];
        tamborim!["convert", model, "--tokenizer", pieces, "--genai", folder].succeeds();
        if !in_python(&["continue".as_ref(), folder.as_os_str(), tokens.as_os_str()]) {
            return;
        }
        tamborim!["logits", model, "--tokens", tokens, "-o", logits, "--device", "cpu"].succeeds();
        let said: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&tokens).expect("tokens")).expect("a list of tokens");
        let said: Vec<usize> = said["tokens"].as_array().expect("a list").iter().filter_map(id).collect();
        let logits = Tensors::read(&logits);
        let rows = logits.numbers("logits").chunks(logits.numbers("logits").len() / said.len());
        let likeliest = |row: &[f64]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a token");
        let expected: Vec<usize> = rows.map(likeliest).collect();
        assert_eq!(said.len(), 70, "a prompt of 20 and 50 more");
        assert_eq!(said[20..], expected[19..69], "{}", model.display());
    }
}

fn id(value: &serde_json::Value) -> Option<usize> {
    value.as_u64().map(|id| id as usize)
}

/// Byte-level BPE and unigram: ids of texts are ours, texts of ids too.
#[test]
fn genai_cuts_text_as_every_kind_of_tokenizer() {
    for (file, texts) in [("byte_level.tokenizer.json", TEXTS), ("unigram.model", &["the river is old", " do  not x "])]
    {
        let (dir, path) = (temp(), project().join("model/tests/goldens").join(file));
        let (folder, ids) = (dir.path().join("genai"), dir.path().join("ids.json"));
        tamborim!["convert", demo_model(), "--tokenizer", path, "--genai", folder].succeeds();
        let bytes = std::fs::read(&path).expect("the tokenizer");
        let tokenizer = match file.ends_with(".json") {
            true => Tokenizer::from_hugging_face(std::str::from_utf8(&bytes).expect("UTF-8"), None),
            false => Tokenizer::from_sentencepiece(&bytes),
        };
        std::fs::write(&ids, encoded(&tokenizer.expect("it is one"), texts)).expect("written");
        if !in_python(&["tokenizer".as_ref(), folder.as_os_str(), ids.as_os_str()]) {
            return;
        }
    }
}

/// Texts with their ids, in JSON.
fn encoded(tokenizer: &Tokenizer, texts: &[&str]) -> String {
    let encode = |text: &&str| -> Vec<u32> { tokenizer.bos().into_iter().chain(tokenizer.encode(text)).collect() };
    let pairs: Vec<_> = texts.iter().map(|text| serde_json::json!([text, encode(text)])).collect();
    serde_json::Value::from(pairs).to_string()
}

const TEXTS: &[&str] =
    &["The history", " two  spaces", "naïve café 三 🥁", "def f(x):\n\treturn x + 1\n", "1234567890"];

/// PLaMo's tokenizer is left out, and said to be.
#[test]
fn a_tokenizer_that_genai_cannot_run_is_left_out() {
    let folder = temp();
    let words =
        tamborim!["convert", fixture("descendants/plamo2_step3_mqa_bf16"), "--genai", folder.path()].succeeds().stderr;
    assert!(words.contains("onnxruntime-genai has no tokenizer like PLaMo's: give it token ids"), "{words}");
    assert!(folder.path().join("genai_config.json").is_file() && !folder.path().join("tokenizer.json").exists());
}

#[test]
fn requests_that_onnx_cannot_meet_are_one_line() {
    let dir = temp();
    let refuse = |command: &str, output: &str, options: &[&str]| {
        let (demo, output) = (demo_model(), dir.path().join(output));
        let args = [OsStr::new(command), demo.as_os_str(), OsStr::new("-o"), output.as_os_str()];
        Tamborim::new(args.into_iter().chain(options.iter().map(OsStr::new))).run().fails()
    };
    for (options, expected) in [
        (&["--to", "q4_k"][..], "expected int8, int4, f32, f16 or bf16"),
        (&["--to", "int4", "--block", "48"], "expected 16, 32, 64 or 128"),
        (&["--target-bpw", "5"], "expected a .gguf"),
        (&["--to", "int4", "--rule", "nothing_here=int8"], "--rule nothing_here"),
    ] {
        assert!(refuse("quantize", "x.onnx", options).contains(expected), "{expected}");
    }
    for option in [&["--pure-onnx"][..], &["--symmetric"], &["--block", "64"]] {
        let message = refuse("quantize", "x.gguf", &[&["--to", "int4"], option].concat());
        assert!(message.contains(&format!("{}: expected an .onnx file", option[0])), "{message}");
    }
    assert!(refuse("convert", "x.gguf", &["--pure-onnx"]).contains("--pure-onnx: expected an .onnx file"));
    assert!(std::fs::read_dir(dir.path()).expect("the folder").next().is_none(), "nothing is left behind");
}

/// A model in two files: the demo model's, whose head shares a buffer with its embedding.
fn two_files(folder: &Path) -> PathBuf {
    let model = folder.join("model.onnx");
    quantize(&demo_model(), &model, &["--to", "int8"]);
    model
}

#[test]
fn tensors_outside_the_folder_are_refused() {
    let outside = temp();
    let secret = outside.path().join("model.onnx.data");
    let name = b"model.onnx.data";
    let refused = |expected: &str, damage: &dyn Fn(&Path, &mut Vec<u8>)| {
        let dir = temp();
        let model = two_files(dir.path());
        let mut bytes = std::fs::read(&model).expect("the model");
        damage(dir.path(), &mut bytes);
        std::fs::write(&model, bytes).expect("written");
        let message = tamborim!["inspect", model].fails();
        assert!(message.contains(expected), "{message}");
        message
    };
    let renamed = |to: &'static [u8; 15]| {
        move |_: &Path, bytes: &mut Vec<u8>| {
            let at: Vec<usize> = (0..bytes.len() - name.len()).filter(|i| bytes[*i..].starts_with(name)).collect();
            assert!(!at.is_empty());
            at.iter().for_each(|i| bytes[*i..*i + name.len()].copy_from_slice(to));
        }
    };
    refused("the name of a file beside it", &renamed(b"../../../etc/pw"));
    refused("the name of a file beside it", &renamed(b"/etc/passwd/abc"));
    refused("No such file", &renamed(b"another.onnx.da"));
    #[cfg(unix)]
    refused("a link to another folder", &|folder, _| {
        let data = folder.join("model.onnx.data");
        std::fs::rename(&data, &secret).or_else(|_| std::fs::copy(&data, &secret).map(drop)).expect("moved");
        let _ = std::fs::remove_file(&data);
        std::os::unix::fs::symlink(&secret, &data).expect("a link");
    });
    refused("data inside the file's", &|folder, _| {
        let data = std::fs::OpenOptions::new().write(true).open(folder.join("model.onnx.data")).expect("the data");
        data.set_len(5000).expect("cut");
    });
}

#[test]
fn foreign_and_damaged_models_are_one_line() {
    let dir = temp();
    let path = dir.path().join("model.onnx");
    // ir_version 10, producer "pytorch", an empty graph.
    std::fs::write(&path, b"\x08\x0a\x12\x07pytorch\x3a\x00").expect("written");
    assert!(tamborim!["inspect", path].fails().contains("tamborim did not write"));
    convert(&fixture("lit/samba_no_mlp/checkpoint.pth"), &path, &[]);
    let whole = std::fs::read(&path).expect("the model");
    let other = dir.path().join("renamed.bin");
    std::fs::write(&other, &whole).expect("written");
    tamborim!["inspect", other].succeeds();
    for keep in [0, 1, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..keep]).expect("written");
        tamborim!["inspect", path].fails();
    }
}

/// The same input gives the same bytes.
#[test]
fn writing_is_deterministic() {
    let dir = temp();
    let files: Vec<PathBuf> = ["1", "2"].map(|threads| dir.path().join(threads)).into();
    for (folder, threads) in files.iter().zip([1, 2]) {
        std::fs::create_dir(folder).expect("a folder");
        let output = folder.join("model.onnx");
        let demo = demo_model();
        let args: [OsString; 6] =
            ["quantize".into(), demo.into(), "-o".into(), output.into(), "--to".into(), "int4".into()];
        Tamborim::new(args).threads(threads).run().succeeds();
    }
    for name in ["model.onnx", "model.onnx.data"] {
        let [a, b] = [&files[0], &files[1]].map(|folder| std::fs::read(folder.join(name)).expect("written"));
        assert!(a == b, "{name}");
    }
}
