//! Inputs to begin with: the committed fixtures, and small files made here that mutations get further into.

use std::path::{Path, PathBuf};
use tamborim_converters::gguf::{
    Architecture, CalibrationWriter, Facts, GgufWriter, Input, Metadata, write_plan, write_tokenizer,
};
use tamborim_converters::onnx::{Content, OnnxFile, OnnxModel, OnnxWriter, Options, Storage, export};
use tamborim_model::{Config, Plan, ShapeHints, tokenizer::Tokenizer};
use tamborim_quant::{Format, NBits, Sums};

/// The committed fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// Sound and broken inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "pickle" => [files("formats/dcp", &[".metadata"]), legacy_pickles(), vec![pickle(&TENSORS)]].concat(),
        "torch" => {
            let stored: Vec<(&str, &[u8])> = vec![
                ("t/data.pkl", &*pickle(&TENSORS).leak()),
                ("t/byteorder", b"little"),
                ("t/data/0", &[7; 48]),
                ("t/data/1", &[9; 48]),
            ];
            let files = [files("formats", &[".pth"]), files("broken", &[".pth"])].concat();
            let zips = files.into_iter().filter(|bytes| bytes.starts_with(b"PK"));
            zips.chain([zip(&stored)]).collect()
        }
        "legacy" => [files("formats", &["legacy.pth"]), files("broken", &["legacy.pth"]), vec![legacy()]].concat(),
        "distributed" => [files("formats/dcp", &[".metadata"]), files("broken/dcp_evil_metadata", &[""])].concat(),
        "safetensors" => {
            let header = br#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
            let tiny = [&(header.len() as u64).to_le_bytes()[..], header, &[1; 32]].concat();
            let suffix = [".safetensors"];
            [files("formats", &suffix), files("formats/sharded", &suffix), files("broken", &suffix), vec![tiny]]
                .concat()
        }
        "index" => [files("formats/sharded", &[".json"]), files("broken/index_traversal", &[".json"])].concat(),
        "gguf" => ggufs(),
        "onnx" => onnx(),
        "calibration" => calibrations(),
        "config" => configs(),
        "tokenizer" => tokenizers(),
        _ => Vec::new(),
    }
}

/// The files of a folder of fixtures whose names end in one of `suffixes`.
fn files(folder: &str, suffixes: &[&str]) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(fixtures().join(folder)).expect("fixtures");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|p| p.is_file()).collect();
    paths.retain(|path| suffixes.iter().any(|s| path.to_str().is_some_and(|p| p.ends_with(s))));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a fixture")).collect()
}

/// Tensors of [`pickle`]: name, storage key, shape, strides.
type Described<'a> = (&'a str, &'a str, &'a [u8], &'a [u8]);

const TENSORS: [Described<'_>; 3] =
    [("a.weight", "0", &[3, 4], &[4, 1]), ("b.weight", "1", &[4, 3], &[1, 4]), ("c.bias", "1", &[5], &[2])];

/// What torch.save writes for a dict of float32 tensors, each on a storage of 12 elements.
pub fn pickle(tensors: &[Described<'_>]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    for (name, key, shape, strides) in tensors {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, key);
        text(&mut out, "cpu");
        out.extend(b"K\x0ctQK\x00");
        for list in [shape, strides] {
            out.push(b'(');
            out.extend(list.iter().flat_map(|&n| [b'K', n]));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

/// A legacy file around [`pickle`].
fn legacy() -> Vec<u8> {
    legacy_of(&pickle(&TENSORS), &["0", "1"])
}

/// A legacy file: its object, and the keys of its storages of 12 elements.
pub fn legacy_of(object: &[u8], keys: &[&str]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    out.extend(b"\x80\x02}X\x0d\0\0\0little_endian\x88s.");
    out.extend(object);
    out.extend(b"\x80\x02](");
    for key in keys {
        out.push(b'X');
        out.extend((key.len() as u32).to_le_bytes());
        out.extend(key.as_bytes());
    }
    out.extend(b"e.");
    for n in 0..keys.len() {
        out.extend(12u64.to_le_bytes());
        out.extend([n as u8 + 1; 48]);
    }
    out
}

/// The five pickles of a legacy fixture, each for itself.
fn legacy_pickles() -> Vec<Vec<u8>> {
    let start = b".\x80\x02";
    let mut pickles = Vec::new();
    for file in files("formats", &["legacy.pth"]) {
        let mut rest = file.as_slice();
        while let Some(at) = rest.windows(3).position(|bytes| bytes == start) {
            pickles.push(rest[..=at].to_vec());
            rest = &rest[at + 1..];
        }
        pickles.push(rest[..rest.len().min(400)].to_vec());
    }
    pickles
}

/// A zip archive of stored records with 0 for every checksum, as torch.save can be told to write: damage to their
/// content is not found out by a checksum.
pub fn zip(records: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in records {
        let (at, size) = (out.len() as u32, content.len() as u32);
        let mut common = [20u16, 0, 0, 0, 0x21].map(u16::to_le_bytes).concat();
        common.extend([0, size, size].map(u32::to_le_bytes).concat());
        common.extend((name.len() as u32).to_le_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*content);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (n, at, size) = (records.len() as u16, out.len() as u32, directory.len() as u32);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([n, n].map(u16::to_le_bytes).concat());
    out.extend([size, at].map(u32::to_le_bytes).concat());
    out.extend([0; 2]);
    out
}

/// Configurations, one of each mixer, then those of the fixtures.
fn configs() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = small_configs().into_iter().map(String::into_bytes).collect();
    all.extend(files("formats", &["lit_config.json"]));
    for model in ["mamba_swa_mlp", "mega", "samba_gqa2", "samba_sc_attn", "swa_ret"] {
        all.extend(files(&format!("lit/{model}"), &["lit_config.json"]));
    }
    all.extend(files("hf/fla_samba_bias", &["/config.json"]));
    let hints = "{\"n_head\":2,\"_mlp_class\":\"LLaMAMLP\",\"parallel_residual\":false}\0transformer.wte.weight 64 16\n\
        transformer.h.0.attn.in_proj.weight 64 16\ntransformer.h.1.attn.attn.weight 48 16\n\
        transformer.h.1.mlp.swiglu.w1.weight 24 16\ntransformer.ln_f.weight 16\n";
    all.push(hints.into());
    all
}

fn small_configs() -> Vec<String> {
    let kinds = [
        r#""mb_per_layer":2,"local_window":8"#,
        r#""attn_layer_pos":"[1,]","nope":true"#,
        r#""ret_per_layer":2,"bias":true"#,
        r#""use_mega":true,"mlp":false"#,
        r#""mamba":true"#,
        r#""mamba_swa_mlp":true,"sc_attn":true"#,
        r#""mb_per_layer":1,"abl_mamba":true"#,
    ];
    let mut all: Vec<String> = kinds
        .into_iter()
        .map(|kind| {
            format!(
                r#"{{"vocab_size":8,"padded_vocab_size":8,"n_layer":2,"n_embd":32,"n_head":4,"n_query_groups":2,"rotary_percentage":0.5,"parallel_residual":false,"_mlp_class":"LLaMAMLP","_norm_class":"RMSNorm","intermediate_size":32,{kind}}}"#
            )
        })
        .collect();
    all.push(
        r#"{"n_layer":1,"n_embd":384,"n_head":4,"gla_per_layer":1,"mlp":false,"padded_vocab_size":2,"vocab_size":2}"#
            .into(),
    );
    all.push(
        r#"{"model_type":"mamba","hidden_size":32,"num_hidden_layers":1,"vocab_size":8,"state_size":2,"conv_kernel":2,"expand":1,"time_step_rank":"auto","layer_norm_epsilon":1e-5}"#.into(),
    );
    all
}

/// The plan of each small configuration that does not make large files, as gated linear attention's width does.
fn small_plans() -> Vec<Plan> {
    let plan = |json: String| match Config::from_json(&json, &ShapeHints::default()) {
        Ok(config) => Plan::from_config(&config),
        Err(_) => Plan::from_hugging_face(&json, &[]),
    };
    small_configs().into_iter().map(|json| plan(json).expect("a plan")).filter(|plan| plan.d_model <= 32).collect()
}

/// A file for each of them, in floats and, where head and embedding do not share their bytes, in blocks of 4 bits.
fn onnx() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let grid = NBits::new(4, 16, true, Format::F32).expect("a grid");
    let mut all = Vec::new();
    for (number, plan) in small_plans().into_iter().enumerate() {
        let in_blocks = number % 2 == 0 && !plan.tied && plan.d_model.is_multiple_of(16);
        let storage = if in_blocks { Storage::Blocks(grid) } else { Storage::Float(Format::F16) };
        let path = folder.path().join(format!("{number}.onnx"));
        let export = export(&plan, Options { pure: true }, &|_| storage);
        let sizes: Vec<usize> = export.stored.iter().map(|stored| stored.n_bytes()).collect();
        let mut writer = OnnxWriter::create(&path, export).expect("a file");
        for size in sizes {
            writer.put(Content::Bytes(vec![0; size].into())).expect("written");
        }
        let mut metadata = Metadata::new(&path);
        write_plan(&mut metadata, &plan, Architecture::Samba);
        writer.finish(&metadata).expect("written");
        OnnxModel::new(OnnxFile::open(&path).expect("sound"), false).expect("a model");
        all.push(std::fs::read(&path).expect("the file"));
    }
    all
}

/// A file for each small configuration, in types of one byte a number and less where rows are whole blocks.
fn ggufs() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tokenizer = Tokenizer::from_sentencepiece(&small_tokenizer(2, false)).expect("a tokenizer");
    let mut all = Vec::new();
    for (number, plan) in small_plans().into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.gguf"));
        let mut writer = GgufWriter::create(&path).expect("a file");
        write_plan(&mut writer.metadata, &plan, Architecture::of(&plan));
        if number == 0 {
            write_tokenizer(&mut writer.metadata, &tokenizer, tokenizer.vocab_size() + 2).expect("written");
        }
        let mut sizes = Vec::new();
        for spec in plan.tensors() {
            let blocks = spec.shape.last().is_some_and(|n| n.is_multiple_of(32));
            // q8_0, q4_0, bf16, f32.
            let types = if blocks { [8, 2, 8] } else { [30, 0, 0] };
            let ggml_type = if spec.role.is_linear() { types[number % 3] } else { 0 };
            sizes.push((writer.declare(&spec.name, &spec.shape, ggml_type).expect("declared"), spec.name));
        }
        let mut body = writer.write_header().expect("written");
        for (size, name) in sizes {
            body.tensor(&name, &vec![0; size]).expect("written");
        }
        body.finish().expect("written");
        all.push(std::fs::read(&path).expect("the file"));
    }
    all
}

/// A calibration of two inputs, one of them in blocks, and an importance matrix of llama.cpp.
fn calibrations() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.gguf");
    let input = |maps: &[&str], width, block| Input { maps: maps.iter().map(|m| (*m).into()).collect(), width, block };
    let facts = Facts {
        model: "0123".into(),
        context: 2,
        datasets: vec!["text.txt".into()],
        sets: vec![("text".into(), 3)],
        inputs: vec![input(&["a.weight", "b.weight"], 3, 3), input(&["c.weight"], 5, 2)],
        windows: vec![vec![1, 2], vec![3]],
    };
    let mut writer = CalibrationWriter::create(&path, &facts).expect("a file");
    for Input { maps, width, block } in facts.inputs {
        writer.put(&Sums::new(maps, width, block)).expect("written");
    }
    writer.finish().expect("written");
    let ours = std::fs::read(&path).expect("the file");
    let mut writer = GgufWriter::create(&path).expect("a file");
    writer.metadata.insert("general.type", "imatrix");
    writer.declare("a.weight.in_sum2", &[1, 4], 0).expect("declared");
    writer.declare("a.weight.counts", &[1, 1], 0).expect("declared");
    let mut body = writer.write_header().expect("written");
    body.tensor("a.weight.in_sum2", &[0; 16]).expect("written");
    body.tensor("a.weight.counts", &[0; 4]).expect("written");
    body.finish().expect("written");
    vec![ours, std::fs::read(&path).expect("the file")]
}

/// A field of a protobuf message that holds bytes.
pub fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let mut n = bytes.len();
    while n > 127 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend(bytes);
    out
}

/// A `tokenizer.model` of the kind 1 (unigram) or 2 (BPE).
fn small_tokenizer(kind: u8, bytes: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut piece = |text: &str, score: f32, kind: u8| {
        let message =
            [field(0x0a, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec(), vec![0x18, kind]].concat();
        out.extend(field(0x0a, &message));
    };
    piece("<unk>", 0.0, 2);
    piece("<s>", 0.0, 3);
    piece("</s>", 0.0, 3);
    for b in 0..=if bytes { 255 } else { 0 } {
        if bytes {
            piece(&format!("<0x{b:02X}>"), 0.0, 6);
        }
    }
    for (n, text) in ["▁", "t", "h", "e", "c", "a", "▁t", "▁th", "at", "cat", "▁cat", "三"].into_iter().enumerate()
    {
        piece(text, -(n as f32), if text == "at" { 5 } else { 1 });
    }
    piece("</s", 0.0, 4);
    out.extend(field(0x12, &[0x18, kind, 0x98, 2, u8::from(bytes)]));
    let mut normalizer = vec![0x18, 1, 0x20, 0, 0x28, 1];
    if !bytes {
        normalizer.extend(field(0x12, &character_map(b"bb")));
    }
    out.extend(field(0x1a, &normalizer));
    out
}

/// A compiled character map with one rule: `a` becomes `replacement`.
pub fn character_map(replacement: &[u8]) -> Vec<u8> {
    let mut units = [0u32; 0x81];
    // The root's child at 0 ^ 0x61 has a leaf at 0x61 ^ 0xe1; the leaf's value is 0.
    units[0x61] = 0xe1 << 10 | 1 << 8 | 0x61;
    units[0x80] = 1 << 31;
    let units: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    [&(units.len() as u32).to_le_bytes()[..], &units, replacement, b"\0"].concat()
}

fn tokenizers() -> Vec<Vec<u8>> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/goldens");
    let mut all: Vec<Vec<u8>> =
        [(1, false), (2, false), (1, true), (2, true)].map(|(k, b)| small_tokenizer(k, b)).into();
    all.extend(["unigram.model", "suffix.model"].map(|name| std::fs::read(goldens.join(name)).expect("a golden")));
    all
}
