//! Writing safetensors files, streamed.
//!
//! ```text
//!   u64 header length | JSON header, padded with spaces to 8 bytes | data
//! ```
//! Source: the format's description in huggingface/safetensors.

use crate::{AtomicFile, Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A tensor to come: name, type (`F32`, `F16`, `BF16`), shape.
pub type Declared<'d> = (&'d str, &'d str, Vec<usize>);

/// A safetensors file whose header is written and whose data is awaited, in the order of the declarations.
pub struct SafetensorsWriter {
    file: AtomicFile,
    missing: u64,
}

impl SafetensorsWriter {
    /// Begins `path` with the header for `tensors`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tensor`] for a type or size that cannot be.
    pub fn create(path: &Path, tensors: &[Declared<'_>]) -> Result<SafetensorsWriter> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut offset = 0u64;
        for (name, dtype, shape) in tensors {
            let size = match *dtype {
                "F32" => 4u64,
                "F16" | "BF16" => 2,
                other => return Err(Error::tensor(path, *name, "F32, F16 or BF16", other)),
            };
            let bytes = shape.iter().try_fold(size, |n, extent| n.checked_mul(*extent as u64));
            let end = bytes.and_then(|n| offset.checked_add(n));
            let end = end.ok_or_else(|| Error::tensor(path, *name, "data below 2^64 bytes", format!("{shape:?}")))?;
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
            if header.insert((*name).to_owned(), entry).is_some() {
                return Err(Error::tensor(path, *name, "each tensor once", "a second one of this name"));
            }
            offset = end;
        }
        let mut text = Value::Object(header).to_string();
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let mut file = AtomicFile::create(path)?;
        file.put(&(text.len() as u64).to_le_bytes())?;
        file.put(text.as_bytes())?;
        Ok(SafetensorsWriter { file, missing: offset })
    }

    /// Appends data.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] where it is more than was declared.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.missing = self.missing.checked_sub(bytes.len() as u64).ok_or_else(|| self.wrong("more"))?;
        self.file.put(bytes)
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] where data is missing.
    pub fn finish(self) -> Result<()> {
        match self.missing {
            0 => self.file.commit(),
            n => Err(self.wrong(&format!("{n} bytes less"))),
        }
    }

    fn wrong(&self, found: &str) -> Error {
        Error::damaged(self.file.path(), "data", "as many bytes as were declared", found)
    }
}
