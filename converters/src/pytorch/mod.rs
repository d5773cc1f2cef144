//! Checkpoints that PyTorch writes: torch.save files, new and old, and distributed checkpoint folders.
//!
//! Pickles are read by a machine that runs nothing (`pickle.rs`); tensors stay in the mapped file until they are asked
//! for.

mod archive;
mod distributed;
mod globals;
mod legacy;
mod objects;
mod opcode;
mod pickle;
mod record;
mod state_dict;
mod value;
mod view;

use crate::{
    Checkpoint, Error, Result,
    checkpoint::{Entry, Extras, Identity, Scalar},
    error::quoted,
    mapped::Mapped,
    names,
};
use archive::Archive;
pub(crate) use distributed::METADATA;
use globals::CHECKPOINT;
use indexmap::IndexMap;
use record::Record;
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};
use view::View;

/// The beginning of a zip archive, with records and without.
pub(crate) const ZIP_MAGIC: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

/// What was needed and what was there, before it is known of which file and tensor.
#[derive(Debug)]
struct Mismatch {
    expected: String,
    found: String,
}

impl Mismatch {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Mismatch {
        Mismatch { expected: expected.into(), found: found.into() }
    }

    fn of(self, path: &Path, tensor: &str) -> Error {
        Error::tensor(path, quoted(tensor), self.expected, self.found)
    }

    fn at(self, path: &Path, place: &str) -> Error {
        Error::damaged(path, place, self.expected, self.found)
    }
}

/// A block of a tensor that lies in one storage; most tensors are one block.
#[derive(Debug)]
struct Block {
    /// Which of [`TorchCheckpoint::files`].
    file: usize,
    record: Arc<Record>,
    view: View,
    scalar: Scalar,
    big_endian: bool,
}

impl Block {
    fn read<'m>(&self, path: &Path, file: &'m [u8]) -> Result<Cow<'m, [u8]>> {
        let mut bytes = self.view.extract(self.record.content(path, file)?, self.scalar.size());
        if self.big_endian {
            bytes.to_mut().chunks_exact_mut(self.scalar.size()).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }
}

/// A tensor: blocks by the index of their first element in it.
type Blocks = Vec<(Vec<usize>, Block)>;

/// A checkpoint that PyTorch wrote. See [`Checkpoint`].
#[derive(Debug)]
pub struct TorchCheckpoint {
    path: PathBuf,
    files: Vec<(PathBuf, Mapped)>,
    tensors: IndexMap<String, Blocks>,
    entries: IndexMap<String, Entry>,
    extras: Extras,
}

impl TorchCheckpoint {
    /// Opens a file of torch.save, of the zip format or the older one.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a pickle that names anything but tensors and plain values, [`Error::Damaged`] for a
    /// broken container, [`Error::Tensor`] for an entry under the model root that is no tensor of a float type or does
    /// not fit its storage, [`Error::NotAModel`] for other zip archives and pickles.
    pub fn open(path: &Path) -> Result<TorchCheckpoint> {
        TorchCheckpoint::open_as_stored(path).map(TorchCheckpoint::without_wrappers)
    }

    /// Opens a folder of torch.distributed.checkpoint, which has a file `.metadata`.
    ///
    /// # Errors
    ///
    /// As [`TorchCheckpoint::open`]; [`Error::Unsupported`] for transformed (compressed, quantized) storage.
    pub fn open_distributed(folder: &Path) -> Result<TorchCheckpoint> {
        distributed::open(folder).map(TorchCheckpoint::without_wrappers)
    }

    /// [`TorchCheckpoint::open`] with names that keep their prefixes, as an index of shards has them.
    pub(crate) fn open_as_stored(path: &Path) -> Result<TorchCheckpoint> {
        TorchCheckpoint::from_mapped(path, Mapped::open(path)?)
    }

    /// [`TorchCheckpoint::open_as_stored`] for the file at `path` that is mapped already.
    pub(crate) fn from_mapped(path: &Path, file: Mapped) -> Result<TorchCheckpoint> {
        let contents = if ZIP_MAGIC.iter().any(|magic| file.starts_with(magic)) {
            from_archive(path, &file)?
        } else {
            from_legacy(path, &file)?
        };
        let mut checkpoint = TorchCheckpoint {
            path: path.to_owned(),
            files: Vec::new(),
            tensors: IndexMap::new(),
            entries: IndexMap::new(),
            extras: contents.extras,
        };
        for (name, (entry, block)) in contents.tensors {
            checkpoint.tensors.insert(name.clone(), vec![(vec![0; entry.shape.len()], block)]);
            checkpoint.entries.insert(name, entry);
        }
        checkpoint.files.push((path.to_owned(), file));
        Ok(checkpoint)
    }

    /// The same tensors by names without wrapper prefixes.
    pub(crate) fn without_wrappers(mut self) -> TorchCheckpoint {
        self.tensors = names::without_wrappers(self.tensors);
        self.entries = names::without_wrappers(self.entries);
        self
    }
}

impl Checkpoint for TorchCheckpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> &IndexMap<String, Entry> {
        &self.entries
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let (Some(blocks), Some(entry)) = (self.tensors.get(name), self.entries.get(name)) else {
            return Err(Error::tensor(&self.path, quoted(name), "a tensor of this checkpoint", "none"));
        };
        let read = |block: &Block| -> Result<Cow<'_, [u8]>> {
            let (path, file) = &self.files[block.file];
            block.read(path, file)
        };
        match blocks.as_slice() {
            [(_, block)] => read(block),
            _ => distributed::assemble(entry, blocks, read).map(Cow::Owned),
        }
    }

    fn extras(&self) -> &Extras {
        &self.extras
    }

    fn release(&self) {
        self.files.iter().for_each(|(_, file)| file.release());
    }
}

/// What one torch.save file holds.
struct Contents {
    tensors: IndexMap<String, (Entry, Block)>,
    extras: Extras,
}

fn from_archive(path: &Path, file: &[u8]) -> Result<Contents> {
    let archive = Archive::open(path, file, 0, file.len(), "")?;
    let bytes = archive.pickle(path, file)?;
    let parsed = parse_whole(path, "data.pkl", &bytes)?;
    let find = |key: &str| archive.storage(key).cloned();
    let mut contents = contents(path, &parsed, archive.big_endian, find)?;
    contents.extras.container = "torch zip archive".into();
    Ok(contents)
}

fn from_legacy(path: &Path, file: &[u8]) -> Result<Contents> {
    let legacy = legacy::open(path, file)?;
    let mut contents = contents(path, &legacy.object, false, |key| legacy.records.get(key).cloned())?;
    contents.extras.container = "torch file of the format before 1.6".into();
    Ok(contents)
}

/// A pickle that ends where its record does.
fn parse_whole<'a>(path: &Path, place: &str, bytes: &'a [u8]) -> Result<pickle::Parsed<'a>> {
    let parsed = pickle::parse(bytes, &[CHECKPOINT]).map_err(|e| e.within(path, place))?;
    if parsed.length != bytes.len() {
        let found = format!("{} bytes more", bytes.len() - parsed.length);
        return Err(Error::damaged(path, place, "the end after the pickle", found));
    }
    Ok(parsed)
}

fn contents(
    path: &Path,
    parsed: &pickle::Parsed<'_>,
    big_endian: bool,
    find: impl Fn(&str) -> Option<Arc<Record>>,
) -> Result<Contents> {
    let arena = &parsed.arena;
    let (items, place) = state_dict::weights(path, arena, parsed.root)?;
    let mut tensors = IndexMap::new();
    for &(key, value) in items {
        let Some(name) = arena.str(key) else {
            return Err(Error::damaged(path, place, "names as keys", arena.describe(key)));
        };
        names::check(path, name)?;
        let bound = objects::tensor(arena, value).and_then(|tensor| bind(&tensor, big_endian, &find));
        let tensor = bound.map_err(|m| m.of(path, name))?;
        if tensors.insert(name.to_owned(), tensor).is_some() {
            return Err(Error::tensor(path, quoted(name), "one entry", "two"));
        }
    }
    Ok(Contents { tensors, extras: state_dict::extras(arena, parsed.root, String::new()) })
}

/// Joins a described tensor with the record of its storage; checks everything that both say.
fn bind(
    tensor: &objects::Tensor<'_>,
    big_endian: bool,
    find: impl Fn(&str) -> Option<Arc<Record>>,
) -> Result<(Entry, Block), Mismatch> {
    let storage = &tensor.storage;
    let Some(scalar) = tensor.dtype.scalar else {
        return Err(Mismatch::new("float32, float16, bfloat16 or float64", tensor.dtype.name));
    };
    let record = find(storage.key)
        .ok_or_else(|| Mismatch::new(format!("a record for its storage {}", quoted(storage.key)), "none"))?;
    if storage.elements.checked_mul(scalar.size()) != Some(record.size) {
        let expected =
            format!("{} elements of {} in record {}", storage.elements, tensor.dtype.name, quoted(&record.name));
        return Err(Mismatch::new(expected, format!("{} bytes", record.size)));
    }
    let (base, available) = storage.window.unwrap_or((0, storage.elements));
    let view = View::new(base, available, tensor.offset, &tensor.shape, &tensor.strides)?;
    let identity = Identity { storage: record.name.clone(), offset: view.offset, strides: view.strides.clone() };
    let entry = Entry { scalar, shape: view.shape.clone(), identity };
    Ok((entry, Block { file: 0, record, view, scalar, big_endian }))
}

/// Reads one pickle and forgets it; for fuzzing.
pub(crate) fn parse_pickle(bytes: &[u8]) -> std::result::Result<(), String> {
    match pickle::parse(bytes, &[CHECKPOINT, globals::DISTRIBUTED]) {
        Ok(parsed) => {
            parsed.arena.describe(parsed.root);
            Ok(())
        }
        Err(error) => Err(error.within(Path::new("fuzz"), "pickle").to_string()),
    }
}
