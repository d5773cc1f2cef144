//! Calibrations: an importance matrix as llama.cpp has it, with the whole second moments and the tokens beside it.
//!
//! | tensor | type, shape | what |
//! |---|---|---|
//! | `NAME.in_sum2` | F32 (1, inputs) | sums of squares of the input of the map NAME |
//! | `NAME.counts` | F32 (1, 1) | tokens summed over |
//! | `NAME.in_moments` | F64 (numbers) | lower triangles of the sums of products, block after block |
//! | `NAME.in_moments_rest` | F32 (numbers) | the exact sums less those: what only merging needs |
//! | `tamborim.tokens` | I32 (tokens) | all windows, one after the other |
//!
//! Maps that share their input share the moments, which have the first one's name. llama.cpp reads the first two tensors
//! and passes over the others; of its own files the diagonal is what there is. Source of those: llama.cpp
//! `common/imatrix-loader.cpp`. All keys are in `docs/calibration.md`.

use super::reader::GgufFile;
use super::writer::{GgufBody, GgufWriter};
use crate::error::quoted;
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::Path;
use tamborim_quant::{Calibration, Moments, SourceError, Sums};

/// Of the keys that llama.cpp does not know.
const PREFIX: &str = "tamborim.calibration";
const VERSION: u32 = 2;
/// Sums of this version are multiples of 2^-40.
const FINER_SUMS: u32 = 1;
const TOKENS: &str = "tamborim.tokens";
/// Numbers of the types used (`enum ggml_type`).
const F32: u32 = 0;
const I32: u32 = 26;
const F64: u32 = 28;

/// The input of one or more maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The maps that share it.
    pub maps: Vec<String>,
    /// Channels.
    pub width: usize,
    /// Channels of a diagonal block of its moments.
    pub block: usize,
}

/// What a calibration was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// SHA-256 of the model's numbers, as hexadecimal text; empty in files of llama.cpp.
    pub model: String,
    /// Tokens of a whole window.
    pub context: u32,
    /// The data files' names, sorted.
    pub datasets: Vec<String>,
    /// Tokens from each set, by name; `text` where a document has none.
    pub sets: Vec<(String, u64)>,
    /// The inputs, in the order of their tensors.
    pub inputs: Vec<Input>,
    /// The tokens, each window run from a fresh state, in the order of [`Facts::sort`].
    pub windows: Vec<Vec<u32>>,
}

impl Facts {
    /// Puts what has no order of its own into one: equal content is equal bytes.
    pub fn sort(&mut self) {
        // By a hash, so that the first few windows are of any text; by content only to tell equal hashes apart.
        self.windows.sort_unstable();
        self.windows.sort_by_cached_key(|window| hash(window));
        self.datasets.sort_unstable();
        self.datasets.dedup();
        self.sets.sort_unstable();
        self.sets.dedup_by(|b, a| {
            let same = a.0 == b.0;
            a.1 += if same { b.1 } else { 0 };
            same
        });
    }

    /// Adds what another run over the same model was made of.
    pub fn merge(&mut self, other: Facts) {
        self.windows.extend(other.windows);
        self.datasets.extend(other.datasets);
        self.sets.extend(other.sets);
        self.sort();
    }
}

/// FNV-1a over tokens.
fn hash(window: &[u32]) -> u64 {
    let step = |h: u64, token: &u32| (h ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3);
    window.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// A calibration being written, an input at a time. Nothing appears under its name before [`CalibrationWriter::finish`].
pub struct CalibrationWriter {
    body: GgufBody,
}

impl CalibrationWriter {
    /// Writes everything but the sums. `facts` are sorted.
    ///
    /// # Errors
    /// As [`GgufWriter::declare`] and [`GgufWriter::write_header`].
    pub fn create(path: &Path, facts: &Facts) -> Result<CalibrationWriter> {
        let mut writer = GgufWriter::create(path)?;
        let too_many = |what: &str| Error::Unsupported {
            path: path.to_owned(),
            reason: format!("cannot hold so many {what}: at most 2^32 of them"),
        };
        let keys = &mut writer.metadata;
        keys.insert("general.type", "imatrix");
        keys.insert("imatrix.datasets", facts.datasets.clone());
        keys.insert("imatrix.chunk_count", u32::try_from(facts.windows.len()).map_err(|_| too_many("windows"))?);
        keys.insert("imatrix.chunk_size", facts.context);
        let mut key = |name: &str, value: super::Value| drop(keys.insert(format!("{PREFIX}.{name}"), value));
        key("version", VERSION.into());
        key("model", facts.model.as_str().into());
        key("inputs", facts.inputs.iter().map(|i| i.maps.join(" ")).collect::<Vec<_>>().into());
        let blocks = facts.inputs.iter().map(|i| u32::try_from(i.block).map_err(|_| too_many("channels")));
        key("blocks", blocks.collect::<Result<Vec<_>>>()?.into());
        key("sets", facts.sets.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().into());
        key("set_tokens", facts.sets.iter().map(|(_, n)| *n).collect::<Vec<_>>().into());
        let lengths = facts.windows.iter().map(|w| u32::try_from(w.len()).map_err(|_| too_many("tokens")));
        key("window_lengths", lengths.collect::<Result<Vec<_>>>()?.into());
        let tokens: Vec<u32> = facts.windows.concat();
        key("tokens", (tokens.len() as u64).into());
        writer.declare(TOKENS, &[tokens.len()], I32)?;
        for input in &facts.inputs {
            for map in &input.maps {
                writer.declare(&format!("{map}.in_sum2"), &[1, input.width], F32)?;
                writer.declare(&format!("{map}.counts"), &[1, 1], F32)?;
            }
            let numbers = numbers(input.width, input.block).ok_or_else(|| too_many("sums"))?;
            writer.declare(&format!("{}.in_moments", input.maps[0]), &[numbers], F64)?;
            writer.declare(&format!("{}.in_moments_rest", input.maps[0]), &[numbers], F32)?;
        }
        let mut body = writer.write_header()?;
        body.tensor(TOKENS, bytemuck::cast_slice(&tokens))?;
        Ok(CalibrationWriter { body })
    }

    /// Writes the sums of the next input.
    ///
    /// # Errors
    /// As [`GgufBody::tensor`].
    pub fn put(&mut self, sums: &Sums) -> Result<()> {
        let Moments { maps, count, lower, .. } = &sums.moments;
        let squares: Vec<f32> = sums.moments.squares().iter().map(|s| *s as f32).collect();
        for map in maps {
            self.body.tensor(&format!("{map}.in_sum2"), bytemuck::cast_slice(&squares))?;
            self.body.tensor(&format!("{map}.counts"), &(*count as f32).to_le_bytes())?;
        }
        self.body.tensor(&format!("{}.in_moments", maps[0]), bytemuck::cast_slice(lower))?;
        self.body.tensor(&format!("{}.in_moments_rest", maps[0]), bytemuck::cast_slice(&sums.rests))
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// As [`GgufBody::finish`].
    pub fn finish(self) -> Result<()> {
        self.body.finish()
    }
}

/// A calibration, opened: all but its sums read and checked. Files of llama.cpp are calibrations of which only the
/// diagonals are known: blocks of 1.
#[derive(Debug)]
pub struct CalibrationFile {
    file: GgufFile,
    facts: Facts,
    /// Of the format, if it is ours.
    version: Option<u32>,
}

impl CalibrationFile {
    /// Checks that `file` is a calibration whose parts fit each other.
    ///
    /// # Errors
    /// [`Error::NotAModel`] where it is another kind of GGUF file; [`Error::Damaged`] or [`Error::Tensor`] for a key or
    /// tensor that is missing or does not fit the others; [`Error::Unsupported`] for versions not known here and for
    /// matrices of experts.
    pub fn new(file: GgufFile) -> Result<CalibrationFile> {
        let keys = file.metadata();
        if !matches!(keys.optional::<&str>("general.type"), Ok(Some("imatrix"))) {
            let found =
                "a GGUF file that is no calibration or importance matrix (general.type is not imatrix)".to_owned();
            return Err(Error::NotAModel { path: file.path().to_owned(), found });
        }
        let version = keys.optional(&format!("{PREFIX}.version"))?;
        let facts = match version {
            None => read_theirs(&file)?,
            Some(FINER_SUMS | VERSION) => read_ours(&file)?,
            Some(version) => {
                let reason =
                    format!("is a calibration of version {version}: this program reads versions up to {VERSION}");
                return Err(Error::Unsupported { path: file.path().to_owned(), reason });
            }
        };
        Ok(CalibrationFile { file, facts, version })
    }

    /// What it was made of.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether it holds sums that merge exactly, which files of llama.cpp do not.
    pub fn is_mergeable(&self) -> bool {
        self.version.is_some()
    }

    /// The exact sums of input `index`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if sums are not finite, or negative where squares are summed, and for llama.cpp's files.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn sums(&self, index: usize) -> Result<Sums> {
        let moments = self.moments_of(&self.facts.inputs[index])?;
        let name = format!("{}.in_moments_rest", moments.maps[0]);
        let rests = floats(self.file.bytes(&name)?);
        if let Some(wrong) = rests.iter().find(|r| !r.is_finite()) {
            return Err(Error::tensor(self.path(), quoted(&name), "finite numbers", wrong.to_string()));
        }
        let sums = Sums { moments, rests };
        Ok(if self.version == Some(FINER_SUMS) { sums.coarsened() } else { sums })
    }

    /// Tokens summed over.
    fn count_of(&self, input: &Input) -> Result<u64> {
        match self.version.is_some() {
            true => self.file.metadata().required(&format!("{PREFIX}.tokens")),
            false => Ok(floats(self.file.bytes(&format!("{}.counts", input.maps[0]))?)[0].round() as u64),
        }
    }

    fn moments_of(&self, input: &Input) -> Result<Moments> {
        let mut moments = Moments::new(input.maps.clone(), input.width, input.block);
        moments.count = self.count_of(input)?;
        let part = if self.version.is_some() { "in_moments" } else { "in_sum2" };
        let name = format!("{}.{part}", input.maps[0]);
        let bytes = self.file.bytes(&name)?;
        moments.lower = match self.version.is_some() {
            true => bytes.as_chunks().0.par_iter().map(|b| f64::from_le_bytes(*b)).collect(),
            false => floats(bytes).into_iter().map(f64::from).collect(),
        };
        let wrong = moments.lower.iter().copied().find(|s| !s.is_finite());
        match wrong.or_else(|| moments.squares().into_iter().find(|s| *s < 0.0)) {
            None => Ok(moments),
            Some(sum) => {
                Err(Error::tensor(self.path(), quoted(&name), "finite sums, of squares from 0", sum.to_string()))
            }
        }
    }
}

impl Calibration for CalibrationFile {
    fn moments(&self, map: &str) -> std::result::Result<Option<Moments>, SourceError> {
        match self.facts.inputs.iter().find(|i| i.maps.iter().any(|m| m == map)) {
            None => Ok(None),
            Some(input) => Ok(Some(self.moments_of(input)?)),
        }
    }

    fn importance(&self, map: &str) -> std::result::Result<Option<Vec<f32>>, SourceError> {
        let Some(input) = self.facts.inputs.iter().find(|i| i.maps.iter().any(|m| m == map)) else { return Ok(None) };
        // The whole moments of a wide input are a thousand times as long.
        let squares = Moments {
            maps: Vec::new(),
            width: input.width,
            block: 1,
            count: self.count_of(input)?,
            lower: floats(self.file.bytes(&format!("{map}.in_sum2"))?).into_iter().map(f64::from).collect(),
        };
        Ok(Some(squares.importance()))
    }

    fn windows(&self) -> &[Vec<u32>] {
        &self.facts.windows
    }
}

/// Sums of products in the triangles of an input.
fn numbers(width: usize, block: usize) -> Option<usize> {
    let triangle = |n: usize| n.checked_mul(n.checked_add(1)?).map(|n| n / 2);
    let whole = width.checked_div(block)?;
    whole.checked_mul(triangle(block)?)?.checked_add(triangle(width - whole * block)?)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The elements of a tensor, if there is one of this type.
fn elements(file: &GgufFile, name: &str, type_id: u32) -> Result<usize> {
    let wrong = |found: String| Err(Error::tensor(file.path(), quoted(name), type_words(type_id), found));
    match file.tensors().get(name) {
        None => wrong("no such tensor".to_owned()),
        Some(t) if t.ggml_type.id != type_id => wrong(t.ggml_type.name.to_owned()),
        Some(t) => Ok(t.elements()),
    }
}

fn type_words(type_id: u32) -> &'static str {
    match type_id {
        F32 => "f32 numbers",
        F64 => "f64 numbers",
        _ => "i32 numbers",
    }
}

/// The width of the input of `map`, by its importance.
fn width_of(file: &GgufFile, map: &str) -> Result<usize> {
    let counts = elements(file, &format!("{map}.counts"), F32)?;
    if counts != 1 {
        let reason = format!("{} is of {counts} experts: only maps of one matrix are read", quoted(map));
        return Err(Error::Unsupported { path: file.path().to_owned(), reason });
    }
    let name = format!("{map}.counts");
    let count = floats(file.bytes(&name)?)[0];
    if !(0.0..1e18).contains(&count) {
        return Err(Error::tensor(file.path(), quoted(&name), "a number from 0", count.to_string()));
    }
    elements(file, &format!("{map}.in_sum2"), F32)
}

fn read_ours(file: &GgufFile) -> Result<Facts> {
    let keys = file.metadata();
    let key = |name: &str| format!("{PREFIX}.{name}");
    let groups: &[String] = keys.required(&key("inputs"))?;
    let blocks: Vec<usize> = keys.required(&key("blocks"))?;
    if groups.len() != blocks.len() {
        return Err(keys.wrong(&key("blocks"), format!("{} numbers", groups.len()), blocks.len().to_string()));
    }
    let mut inputs = Vec::new();
    for (group, block) in groups.iter().zip(blocks) {
        let maps: Vec<String> = group.split(' ').map(str::to_owned).collect();
        let widths = maps.iter().map(|m| width_of(file, m)).collect::<Result<Vec<_>>>()?;
        let width = widths[0];
        if widths.iter().any(|w| *w != width) {
            let found = format!("{widths:?}");
            return Err(keys.wrong(&key("inputs"), format!("inputs of one width for {}", quoted(group)), found));
        }
        let numbers = numbers(width, block).filter(|_| (1..=width).contains(&block));
        let Some(numbers) = numbers else {
            return Err(keys.wrong(&key("blocks"), format!("1 to {width} channels"), block.to_string()));
        };
        for (part, type_id) in [("in_moments", F64), ("in_moments_rest", F32)] {
            let name = format!("{}.{part}", maps[0]);
            let found = elements(file, &name, type_id)?;
            if found != numbers {
                return Err(Error::tensor(file.path(), quoted(&name), format!("{numbers} numbers"), found.to_string()));
            }
        }
        inputs.push(Input { maps, width, block });
    }
    let (sets, set_tokens): (&[String], Vec<u64>) = (keys.required(&key("sets"))?, keys.required(&key("set_tokens"))?);
    if sets.len() != set_tokens.len() {
        return Err(keys.wrong(&key("set_tokens"), format!("{} numbers", sets.len()), set_tokens.len().to_string()));
    }
    let _: u64 = keys.required(&key("tokens"))?;
    Ok(Facts {
        model: keys.required::<&str>(&key("model"))?.to_owned(),
        context: keys.required("imatrix.chunk_size")?,
        datasets: keys.required::<&[String]>("imatrix.datasets")?.to_vec(),
        sets: sets.iter().cloned().zip(set_tokens).collect(),
        inputs,
        windows: read_windows(file, &key("window_lengths"))?,
    })
}

fn read_windows(file: &GgufFile, key: &str) -> Result<Vec<Vec<u32>>> {
    let lengths: Vec<usize> = file.metadata().required(key)?;
    let n = elements(file, TOKENS, I32)?;
    let total = lengths.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
    if total != Some(n) {
        return Err(file.metadata().wrong(key, format!("numbers that sum up to {n}"), "another sum"));
    }
    let mut tokens = file.bytes(TOKENS)?.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b));
    let mut windows = Vec::with_capacity(lengths.len());
    for length in lengths {
        let window = tokens.by_ref().take(length).map(u32::try_from).collect::<std::result::Result<Vec<_>, _>>();
        windows.push(window.map_err(|_| Error::tensor(file.path(), TOKENS, "tokens from 0", "a negative one"))?);
    }
    Ok(windows)
}

fn read_theirs(file: &GgufFile) -> Result<Facts> {
    let keys = file.metadata();
    let maps = file.tensors().keys().filter_map(|name| name.strip_suffix(".in_sum2"));
    let inputs = maps
        .map(|map| Ok(Input { maps: vec![map.to_owned()], width: width_of(file, map)?, block: 1 }))
        .collect::<Result<Vec<_>>>()?;
    if inputs.is_empty() {
        return Err(Error::tensor(file.path(), "*.in_sum2", "sums of at least one map", "none"));
    }
    Ok(Facts {
        model: String::new(),
        context: keys.optional("imatrix.chunk_size")?.unwrap_or(0),
        datasets: keys.optional::<&[String]>("imatrix.datasets")?.unwrap_or_default().to_vec(),
        sets: Vec::new(),
        inputs,
        windows: Vec::new(),
    })
}
