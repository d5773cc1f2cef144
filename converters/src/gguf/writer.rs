//! Writing a GGUF file: all of the header first, then tensor after tensor.

use super::metadata::Metadata;
use super::types::GgmlType;
use super::value::{Value, write_string};
use super::{ALIGNMENT_KEY, MAGIC, MAX_DIMS, MAX_NAME, reader};
use crate::atomic::AtomicFile;
use crate::{Error, Result};
use indexmap::IndexMap;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// A GGUF file whose header is being put together. Nothing appears under its name before [`GgufBody::finish`].
///
/// ```no_run
/// # fn main() -> tamborim_converters::Result<()> {
/// # let bytes = vec![0u8; 34];
/// use tamborim_converters::gguf::GgufWriter;
/// let mut writer = GgufWriter::create("model.gguf".as_ref())?;
/// writer.metadata.insert("general.architecture", "samba");
/// writer.declare("token_embd.weight", &[1, 32], 8)?;
/// let mut body = writer.write_header()?;
/// body.tensor("token_embd.weight", &bytes)?;
/// body.finish()
/// # }
/// ```
#[derive(Debug)]
pub struct GgufWriter {
    /// The keys, written in this order.
    pub metadata: Metadata,
    file: AtomicFile,
    tensors: IndexMap<String, Declared>,
}

#[derive(Clone, Debug)]
struct Declared {
    shape: Vec<usize>,
    ggml_type: &'static GgmlType,
    n_bytes: usize,
}

impl GgufWriter {
    /// Begins the file `path`.
    ///
    /// # Errors
    /// As [`AtomicFile::create`].
    pub fn create(path: &Path) -> Result<GgufWriter> {
        let file = AtomicFile::create(path)?;
        Ok(GgufWriter { metadata: Metadata::new(path), file, tensors: IndexMap::new() })
    }

    /// Declares the next tensor, of `shape` (slowest dimension first), and says how many bytes it will have.
    ///
    /// # Errors
    /// [`Error::Tensor`] for what a reader would refuse: a name of 64 bytes or more or given before, more than four
    /// dimensions, an empty one, an unknown type, rows that are not whole blocks.
    pub fn declare(&mut self, name: &str, shape: &[usize], ggml_type: u32) -> Result<usize> {
        let wrong = |expected: String, found: String| Err(Error::tensor(self.file.path(), name, expected, found));
        if name.is_empty() || name.len() >= MAX_NAME {
            return wrong(format!("a name of 1 to {} bytes", MAX_NAME - 1), name.len().to_string());
        }
        if shape.len() > MAX_DIMS || shape.contains(&0) {
            return wrong(format!("at most {MAX_DIMS} dimensions, none of them 0"), format!("{shape:?}"));
        }
        let Some(ggml_type) = GgmlType::from_id(ggml_type) else {
            return wrong("a known ggml type".into(), format!("type {ggml_type}"));
        };
        let elements = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        let n_bytes = elements.and_then(|n| ggml_type.bytes(shape.last().copied().unwrap_or(1), n));
        let Some(n_bytes) = n_bytes else {
            let expected = format!("rows of whole {} blocks of {}", ggml_type.name, ggml_type.block_len);
            return wrong(expected, format!("shape {shape:?}"));
        };
        if self.tensors.contains_key(name) {
            return wrong("each tensor once".into(), "a second one of this name".into());
        }
        self.tensors.insert(name.to_owned(), Declared { shape: shape.to_vec(), ggml_type, n_bytes });
        Ok(n_bytes)
    }

    /// Writes the header. Tensors follow, in the order of their declaration.
    ///
    /// # Errors
    /// [`Error::Damaged`] for an empty key or a bad alignment; [`Error::Io`] where writing fails.
    pub fn write_header(mut self) -> Result<GgufBody> {
        let alignment = reader::alignment(&self.metadata)?;
        let (mut header, mut texts) = (Vec::new(), IndexMap::new());
        header.extend(MAGIC);
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            if key.is_empty() {
                return Err(self.metadata.wrong(key, "a name", "an empty one"));
            }
            write_string(key, &mut header);
            header.extend(value.type_id().to_le_bytes());
            value.write(&mut header);
            if let Value::String(text) = value {
                texts.insert(key.to_owned(), header.len() - text.len()..header.len());
            }
        }
        let mut offset = 0usize;
        for (name, tensor) in &self.tensors {
            write_string(name, &mut header);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &extent in tensor.shape.iter().rev() {
                header.extend((extent as u64).to_le_bytes());
            }
            header.extend(tensor.ggml_type.id.to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            let next = offset.checked_add(tensor.n_bytes).and_then(|end| end.checked_next_multiple_of(alignment));
            offset = next.ok_or_else(|| Error::tensor(self.file.path(), name, "data below 2^64 bytes", "more"))?;
        }
        self.file.put(&header)?;
        let mut body = GgufBody { file: self.file, tensors: self.tensors, texts, alignment, next: 0 };
        body.pad(header.len())?;
        Ok(body)
    }
}

/// A GGUF file whose header is written and whose tensors are awaited.
#[derive(Debug)]
pub struct GgufBody {
    file: AtomicFile,
    tensors: IndexMap<String, Declared>,
    /// Where each string value stands in the file.
    texts: IndexMap<String, Range<usize>>,
    alignment: usize,
    /// The tensor awaited.
    next: usize,
}

impl GgufBody {
    /// Writes the next tensor's bytes.
    ///
    /// # Errors
    /// [`Error::Tensor`] if another tensor is next or the size is not the declared one; [`Error::Io`] where writing
    /// fails.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let wrong = |expected: String, found: String| Err(Error::tensor(self.file.path(), name, expected, found));
        match self.tensors.get_index(self.next) {
            None => return wrong("no tensor after the last declared one".into(), "another".into()),
            Some((awaited, _)) if awaited != name => {
                return wrong(format!("tensor {awaited}, the next one declared"), "this one".into());
            }
            Some((_, declared)) if declared.n_bytes != bytes.len() => {
                return wrong(format!("{} bytes", declared.n_bytes), bytes.len().to_string());
            }
            Some(_) => {}
        }
        self.file.put(bytes)?;
        self.pad(bytes.len())?;
        self.next += 1;
        Ok(())
    }

    /// Replaces the value of a string key by one of the same length: for what is known only when all tensors are written.
    ///
    /// # Errors
    /// [`Error::Damaged`] if there is no such key or the length differs; [`Error::Io`] where writing fails.
    pub fn replace_text(&mut self, key: &str, text: &str) -> Result<()> {
        let place = self.texts.get(key).filter(|place| place.len() == text.len());
        let wrong = || Error::damaged(self.file.path(), format!("key {key}"), "a string of the same length", "none");
        let start = place.ok_or_else(wrong)?.start as u64;
        let path = self.file.path().to_owned();
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io(&path))?;
        self.file.put(text.as_bytes())?;
        self.file.seek(SeekFrom::End(0)).map_err(Error::io(&path))?;
        Ok(())
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor is missing; [`Error::Io`] where writing fails.
    pub fn finish(self) -> Result<()> {
        if let Some((name, declared)) = self.tensors.get_index(self.next) {
            return Err(Error::tensor(self.file.path(), name, format!("{} bytes", declared.n_bytes), "none"));
        }
        self.file.commit()
    }

    /// Zeros after `n` bytes, up to the alignment.
    fn pad(&mut self, n: usize) -> Result<()> {
        let zeros = [0; 64];
        let mut missing = n.next_multiple_of(self.alignment) - n;
        while missing > 0 {
            let some = missing.min(zeros.len());
            self.file.put(&zeros[..some])?;
            missing -= some;
        }
        Ok(())
    }
}

impl GgufWriter {
    /// Sets another alignment than 32, a power of two.
    pub fn set_alignment(&mut self, alignment: u32) {
        self.metadata.insert(ALIGNMENT_KEY, Value::U32(alignment));
    }
}
