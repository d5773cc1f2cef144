//! What each fuzz target does with an input, and what it may cost. The targets in `fuzz_targets/` and the tests in
//! `converters/tests/fuzz_smoke.rs`, which need neither cargo-fuzz nor a nightly compiler, share this file.

mod allocator;
pub mod seeds;

use std::{cell::OnceCell, fmt::Display, path::Path, sync::Mutex};
use tamborim_converters::gguf::{CalibrationFile, GgufFile, GgufModel, read_tokenizer};
use tamborim_converters::onnx::{OnnxFile, OnnxModel};
use tamborim_converters::{fuzz, open_checkpoint};
use tamborim_model::mixers::{Attention, Mixer};
use tamborim_model::{Config, Plan, ShapeHints, tokenizer::Tokenizer};
use tamborim_quant::{Calibration, TensorSource};
use tempfile::TempDir;

/// One target: its name, what it does, and the memory that an input of n bytes may take.
pub struct Target {
    pub name: &'static str,
    run: fn(&[u8]),
    /// Bytes for any input.
    fixed: usize,
    /// Bytes more for each byte of input.
    per_byte: usize,
}

/// A pickle may ask for 2^21 memo slots of 8 bytes, which double as they grow.
const PICKLE: usize = 48 << 20;
/// Deflate expands up to 1032 times; a view that is not contiguous is a second copy.
const DEFLATE: usize = 2200;
/// 4096 layers of twenty tensors, each described in about 400 bytes.
const PLAN: usize = 96 << 20;

/// All targets.
pub const TARGETS: [Target; 11] = [
    Target { name: "pickle", run: pickle, fixed: PICKLE, per_byte: 128 },
    Target { name: "torch", run: torch, fixed: PICKLE, per_byte: DEFLATE },
    Target { name: "legacy", run: torch, fixed: PICKLE, per_byte: 128 },
    Target { name: "distributed", run: distributed, fixed: PICKLE, per_byte: 128 },
    Target { name: "safetensors", run: safetensors, fixed: 1 << 20, per_byte: 256 },
    Target { name: "index", run: index, fixed: 1 << 20, per_byte: 256 },
    Target { name: "gguf", run: gguf, fixed: 1 << 20, per_byte: 256 },
    Target { name: "onnx", run: onnx, fixed: 1 << 20, per_byte: 256 },
    Target { name: "calibration", run: calibration, fixed: 1 << 20, per_byte: 256 },
    Target { name: "config", run: config, fixed: PLAN, per_byte: 256 },
    Target { name: "tokenizer", run: tokenizer, fixed: 1 << 20, per_byte: 512 },
];

/// Gives `bytes` to a target.
///
/// # Panics
/// Where the code under test panics, and where it held more memory at once than the target allows.
pub fn run(target: &str, bytes: &[u8]) {
    // Memory is counted over all threads, so tests that run side by side take turns.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let target = TARGETS.iter().find(|t| t.name == target).expect("a target of the table");
    let peak = allocator::peak_during(|| (target.run)(bytes));
    let allowed = target.fixed + target.per_byte * bytes.len();
    assert!(peak <= allowed, "{}: {peak} bytes of memory for {} of input", target.name, bytes.len());
}

/// The value, or nothing where it was refused in one short line, which is all that an error may be.
fn tidy<T, E: Display>(result: Result<T, E>) -> Option<T> {
    let message = match result {
        Ok(value) => return Some(value),
        Err(error) => error.to_string(),
    };
    assert!(message.len() <= 4000 && !message.contains(char::is_control), "{} bytes: {message:?}", message.len());
    None
}

fn pickle(bytes: &[u8]) {
    tidy(fuzz::pickle(bytes));
}

fn torch(bytes: &[u8]) {
    tidy(fuzz::torch(bytes));
}

fn safetensors(bytes: &[u8]) {
    tidy(fuzz::safetensors(bytes));
}

/// The input is the index; the shards are sound and lie beside it.
fn index(bytes: &[u8]) {
    thread_local!(static FOLDER: OnceCell<TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| open_in(folder, "sharded", "model.safetensors.index.json", bytes));
}

/// The input is `.metadata`; the data file is sound and lies beside it.
fn distributed(bytes: &[u8]) {
    thread_local!(static FOLDER: OnceCell<TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| open_in(folder, "dcp", ".metadata", bytes));
}

/// Writes `bytes` as the file `name` into a copy of a folder of fixtures, and reads the checkpoint there.
fn open_in(copy: &OnceCell<TempDir>, folder: &str, name: &str, bytes: &[u8]) {
    let copy = copy.get_or_init(|| {
        let copy = TempDir::new().expect("a temporary folder");
        for file in std::fs::read_dir(seeds::fixtures().join("formats").join(folder)).expect("fixtures") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
        }
        copy
    });
    let path = copy.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    let Some(checkpoint) = tidy(open_checkpoint(&path)) else { return };
    for name in checkpoint.entries().keys() {
        tidy(checkpoint.read(name));
    }
}

/// The container, its tokenizer, and the model with all its numbers.
fn gguf(bytes: &[u8]) {
    let Some(file) = tidy(GgufFile::parse(Path::new("fuzz"), bytes.to_vec())) else { return };
    for (name, info) in file.tensors() {
        assert_eq!(file.bytes(name).map(<[u8]>::len).ok(), Some(info.n_bytes), "{name}");
    }
    tidy(read_tokenizer(file.metadata()));
    let Some(model) = tidy(GgufModel::new(file, false)) else { return };
    check_plan(model.plan());
    for spec in model.plan().tensors() {
        if let Some(tensor) = tidy(model.read(&spec)) {
            assert_eq!(tensor.to_f32().len(), spec.elements(), "{}", spec.name);
        }
    }
}

/// The container, its tokenizer, and the model with all its numbers.
fn onnx(bytes: &[u8]) {
    let Some(file) = tidy(OnnxFile::parse(Path::new("fuzz"), bytes.to_vec())) else { return };
    tidy(read_tokenizer(file.metadata()));
    let Some(model) = tidy(OnnxModel::new(file, false)) else { return };
    check_plan(model.plan());
    for spec in model.plan().tensors() {
        if let Some(tensor) = tidy(model.read(&spec)) {
            assert_eq!(tensor.to_f32().len(), spec.elements(), "{}", spec.name);
        }
    }
}

/// The container, its facts, and all sums.
fn calibration(bytes: &[u8]) {
    let Some(file) = tidy(GgufFile::parse(Path::new("fuzz"), bytes.to_vec())) else { return };
    let Some(file) = tidy(CalibrationFile::new(file)) else { return };
    for (index, input) in file.facts().inputs.iter().enumerate() {
        if file.is_mergeable() {
            tidy(file.sums(index));
        }
        if let Some(moments) = tidy(file.moments(&input.maps[0])) {
            assert!(moments.is_some_and(|m| m.importance().len() == m.width), "{}", input.maps[0]);
        }
    }
}

/// A configuration of either kind. After a NUL the input may go on with lines of `name extent extent ..`: tensors of the
/// checkpoint beside it.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (json, lines) = text.split_once('\0').unwrap_or((text, ""));
    let tensors: Vec<(&str, Vec<usize>)> = lines
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, extents)| (name, extents.split(' ').flat_map(str::parse).collect()))
        .collect();
    let hints = ShapeHints::from_shapes(tensors.iter().map(|(name, shape)| (*name, shape.as_slice())));
    let training_code = Config::from_json(json, &hints).and_then(|config| Plan::from_config(&config));
    for plan in [training_code, Plan::from_hugging_face(json, &[])] {
        tidy(plan).iter().for_each(check_plan);
    }
}

/// Whatever the configuration said, the plan is of a size that can be walked, and its numbers can be computed with.
fn check_plan(plan: &Plan) {
    assert!(plan.blocks.len() <= 4096);
    let tensors = plan.tensors();
    assert!(tensors.len() <= 4 + 32 * plan.blocks.len());
    _ = (plan.parameters(), plan.architecture(), plan.diagram());
    for branch in plan.blocks.iter().flat_map(|block| &block.branches) {
        assert!(branch.norm.eps > 0.0 && branch.norm.eps < 1.0, "{branch:?}");
        if let Mixer::Attention(Attention { head_dim, rope: Some(rope), .. }) = &branch.mixer {
            assert!((2..=*head_dim).contains(&rope.dims) && rope.dims.is_multiple_of(2), "{branch:?}");
            assert!(rope.base > 0.0 && rope.base.is_finite() && rope.condense > 0.0, "{branch:?}");
        }
    }
}

fn tokenizer(bytes: &[u8]) {
    let Some(tokenizer) = tidy(Tokenizer::from_sentencepiece(bytes)) else { return };
    let mut text = String::from(" ▁The  cat\t\u{fb01}nds 三 🥁 </s>\u{0} naïve▁");
    text.extend((0..8).filter_map(|id| tokenizer.piece(id)).flat_map(|piece| piece.chars().take(40)));
    let mut ids = tokenizer.encode(&text);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    ids.extend([0, 1, u32::MAX]);
    _ = tokenizer.decode(&ids);
}
