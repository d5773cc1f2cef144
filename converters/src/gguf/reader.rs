//! A GGUF file, opened: all of its header checked, none of its data touched.

use super::cursor::Cursor;
use super::metadata::Metadata;
use super::types::GgmlType;
use super::value::Value;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, MAX_NAME, split};
use crate::error::quoted;
use crate::mapped::Mapped;
use crate::{Error, Result};
use indexmap::IndexMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A tensor's place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Extent of each dimension, slowest first; empty for a single number.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub ggml_type: &'static GgmlType,
    /// Its first byte, counted from where the shard's data begins.
    pub offset: u64,
    /// Its size, without padding.
    pub n_bytes: usize,
    /// Which shard holds it, from 0.
    pub shard: usize,
    /// Its bytes in that shard's file.
    range: Range<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Opening has checked that the product fits.
        self.shape.iter().product()
    }
}

/// An opened GGUF file, or all the shards of a split one.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    metadata: Metadata,
    tensors: IndexMap<String, TensorInfo>,
    version: u32,
    shards: Vec<Mapped>,
}

impl GgufFile {
    /// Opens the file at `path`. If it is one shard of a split file, any of them, opens all shards as one: the keys are
    /// those of the first shard, the tensors follow each other in shard order.
    ///
    /// # Errors
    /// [`Error::NotAModel`] where the file does not begin as a GGUF file; [`Error::Damaged`] or [`Error::Tensor`] where
    /// it then breaks a rule of the format, or claims what its length cannot hold; [`Error::Unsupported`] for versions
    /// other than 2 and 3 and for big-endian files.
    pub fn open(path: &Path) -> Result<GgufFile> {
        let one = GgufFile::parse_mapped(path, Mapped::open(path)?)?;
        split::complete(one, |path| GgufFile::parse_mapped(path, Mapped::open(path)?))
    }

    /// Reads a file, not a split one, from memory; errors name it `path`.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<GgufFile> {
        GgufFile::parse_mapped(path, Mapped::Memory(bytes))
    }

    fn parse_mapped(path: &Path, file: Mapped) -> Result<GgufFile> {
        let mut cursor = Cursor::new(&file, path);
        if file.first_chunk() != Some(&MAGIC) {
            return Err(Error::NotAModel { path: path.to_owned(), found: "does not begin with \"GGUF\"".into() });
        }
        cursor.array::<4>("magic")?;
        let version = cursor.u32("version")?;
        if !matches!(version, 2 | 3) {
            let found = match version {
                // A small number stored the other way round.
                v if v.trailing_zeros() >= 16 && v != 0 => "a big-endian GGUF file".into(),
                v => format!("GGUF version {v}"),
            };
            let reason = format!("{found} cannot be read: only little-endian versions 2 and 3");
            return Err(Error::Unsupported { path: path.to_owned(), reason });
        }
        // The least of a tensor: name length, number of dimensions, type, offset. Of a key: length, one byte, type, value.
        let n_tensors = cursor.count(24, "number of tensors")?;
        let n_keys = cursor.count(14, "number of keys")?;
        let metadata = read_keys(&mut cursor, n_keys, path)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = IndexMap::new();
        for _ in 0..n_tensors {
            read_tensor(&mut cursor, &mut tensors, path)?;
        }
        place(&mut tensors, cursor.position(), alignment, file.len(), path)?;
        Ok(GgufFile { path: path.to_owned(), metadata, tensors, version, shards: vec![file] })
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version, 2 or 3 (the same layout).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The keys; of a split file, the first shard's.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors by name, in file order.
    pub fn tensors(&self) -> &IndexMap<String, TensorInfo> {
        &self.tensors
    }

    /// Number of files.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Gives the pages loaded so far back to the system.
    pub(crate) fn release(&self) {
        self.shards.iter().for_each(Mapped::release);
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.len() as u64).sum()
    }

    /// The stored bytes of a tensor, borrowed from the mapped file.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none of this name.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.tensors
            .get(name)
            .and_then(|tensor| self.shards.get(tensor.shard)?.get(tensor.range.clone()))
            .ok_or_else(|| Error::tensor(&self.path, name, "a tensor of this name", "none"))
    }

    /// Adds the tensors of the next shard, which must be a single file.
    pub(super) fn append(&mut self, next: GgufFile) -> Result<()> {
        for (name, mut tensor) in next.tensors {
            tensor.shard = self.shards.len();
            if self.tensors.contains_key(&name) {
                return Err(Error::tensor(
                    &next.path,
                    quoted(&name),
                    "each tensor in one shard",
                    "a second one of this name",
                ));
            }
            self.tensors.insert(name, tensor);
        }
        self.shards.extend(next.shards);
        Ok(())
    }

    /// This file under the name by which the caller opened it.
    pub(super) fn named(mut self, path: &Path) -> GgufFile {
        self.path = path.to_owned();
        self
    }
}

fn read_keys(cursor: &mut Cursor<'_>, n: usize, path: &Path) -> Result<Metadata> {
    let mut metadata = Metadata::new(path);
    for number in 0..n {
        let what = format!("name of key {number}");
        let key = cursor.string(&what)?;
        if key.is_empty() {
            return Err(cursor.wrong(&what, "a name", "an empty one"));
        }
        let value = cursor.value(key)?;
        if metadata.insert(key, value).is_some() {
            return Err(cursor.wrong(&format!("key {}", quoted(key)), "each key once", "a second one of this name"));
        }
    }
    Ok(metadata)
}

/// The multiple at which tensor data begins.
pub(super) fn alignment(metadata: &Metadata) -> Result<usize> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT as usize),
        Some(&Value::U32(n)) if n.is_power_of_two() => Ok(n as usize),
        Some(other) => Err(metadata.wrong(ALIGNMENT_KEY, "a u32, a power of two", other.describe())),
    }
}

/// Reads a tensor's description, all but where its bytes are.
fn read_tensor(cursor: &mut Cursor<'_>, tensors: &mut IndexMap<String, TensorInfo>, path: &Path) -> Result<()> {
    let what = format!("name of tensor {}", tensors.len());
    let name = cursor.string(&what)?;
    if name.len() >= MAX_NAME {
        return Err(cursor.wrong(&what, format!("fewer than {MAX_NAME} bytes"), name.len().to_string()));
    }
    let wrong = |expected: String, found: String| Err(Error::tensor(path, quoted(name), expected, found));
    let what = format!("tensor {}", quoted(name));
    let n_dims = cursor.u32(&what)? as usize;
    if n_dims > MAX_DIMS {
        return wrong(format!("at most {MAX_DIMS} dimensions"), n_dims.to_string());
    }
    let mut ne = Vec::with_capacity(n_dims);
    let mut elements = 1usize;
    for _ in 0..n_dims {
        let stored = cursor.u64(&what)?;
        // Stored as i64; an empty tensor is of no use to a model and its row would be no block.
        let extent = i64::try_from(stored).ok().filter(|&n| n > 0).and_then(|n| usize::try_from(n).ok());
        let Some(extent) = extent else {
            return wrong("dimensions of at least 1".into(), (stored as i64).to_string());
        };
        let Some(product) = elements.checked_mul(extent).filter(|&n| i64::try_from(n).is_ok()) else {
            return wrong("fewer than 2^63 elements".into(), format!("{elements} times {extent}"));
        };
        elements = product;
        ne.push(extent);
    }
    let id = cursor.u32(&what)?;
    let offset = cursor.u64(&what)?;
    let Some(ggml_type) = GgmlType::from_id(id) else {
        return wrong("a known ggml type".into(), format!("type {id}"));
    };
    let row = ne.first().copied().unwrap_or(1);
    if !row.is_multiple_of(ggml_type.block_len) {
        let expected = format!("rows of whole {} blocks of {}", ggml_type.name, ggml_type.block_len);
        return wrong(expected, format!("rows of {row}"));
    }
    let Some(n_bytes) = ggml_type.bytes(row, elements) else {
        return wrong("fewer than 2^64 bytes".into(), format!("{elements} elements of {}", ggml_type.name));
    };
    ne.reverse();
    let info = TensorInfo { shape: ne, ggml_type, offset, n_bytes, shard: 0, range: 0..0 };
    if tensors.insert(name.to_owned(), info).is_some() {
        return wrong("each tensor once".into(), "a second one of this name".into());
    }
    Ok(())
}

/// Checks that tensors follow each other without gaps, inside the file, and notes where each is.
fn place(
    tensors: &mut IndexMap<String, TensorInfo>,
    header_end: usize,
    alignment: usize,
    file_len: usize,
    path: &Path,
) -> Result<()> {
    let overflow = |name: &str| Error::tensor(path, quoted(name), "offsets below 2^64", "more");
    let start = header_end.checked_next_multiple_of(alignment);
    let mut expected = 0usize;
    for (name, tensor) in tensors {
        let start = start.ok_or_else(|| overflow(name))?;
        if tensor.offset != expected as u64 {
            let follows = format!("offset {expected}, where the tensor before it ends");
            return Err(Error::tensor(path, quoted(name), follows, format!("offset {}", tensor.offset)));
        }
        let from = start.checked_add(expected).ok_or_else(|| overflow(name))?;
        let to = from.checked_add(tensor.n_bytes).ok_or_else(|| overflow(name))?;
        if to > file_len {
            let found = format!("end of file at {file_len}");
            return Err(Error::tensor(path, quoted(name), format!("data up to byte {to}"), found));
        }
        tensor.range = from..to;
        // Cannot overflow for real, `to` being inside the file; the padding of a last tensor need not be there.
        expected = (expected + tensor.n_bytes).checked_next_multiple_of(alignment).ok_or_else(|| overflow(name))?;
    }
    Ok(())
}
