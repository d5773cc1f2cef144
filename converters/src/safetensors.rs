//! Safetensors files (<https://huggingface.co/docs/safetensors>): a JSON header and the elements, nothing to execute.

use crate::{
    Checkpoint, Error, Result,
    checkpoint::{Entry, Extras, Identity, Scalar},
    error::quoted,
    json::UniqueMembers,
    mapped::Mapped,
    names,
    open::{Sniffed, sniff},
};
use indexmap::IndexMap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::Value;
use std::{
    borrow::Cow,
    ops::Range,
    path::{Path, PathBuf},
};

/// The longest header that is read. One takes about 120 bytes per tensor.
const MAX_HEADER: u64 = 32 << 20;

/// One safetensors file. See [`Checkpoint`].
#[derive(Debug)]
pub struct SafetensorsCheckpoint {
    path: PathBuf,
    file: Mapped,
    ranges: IndexMap<String, Range<usize>>,
    entries: IndexMap<String, Entry>,
    extras: Extras,
}

impl SafetensorsCheckpoint {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for a header that is cut, no JSON, repeats a name, or describes overlapping, missing or
    /// surplus bytes; [`Error::Tensor`] for a tensor of another type than f32, f16, bf16 or f64.
    pub fn open(path: &Path) -> Result<SafetensorsCheckpoint> {
        SafetensorsCheckpoint::open_as_stored(path).map(SafetensorsCheckpoint::without_wrappers)
    }

    /// [`SafetensorsCheckpoint::open`] with names that keep their prefixes, as an index of shards has them.
    pub(crate) fn open_as_stored(path: &Path) -> Result<SafetensorsCheckpoint> {
        SafetensorsCheckpoint::from_mapped(path, Mapped::open(path)?)
    }

    /// The same tensors by names without wrapper prefixes.
    pub(crate) fn without_wrappers(mut self) -> SafetensorsCheckpoint {
        self.ranges = names::without_wrappers(self.ranges);
        self.entries = names::without_wrappers(self.entries);
        self
    }

    /// [`SafetensorsCheckpoint::open_as_stored`] for the file at `path` that is mapped already.
    pub(crate) fn from_mapped(path: &Path, file: Mapped) -> Result<SafetensorsCheckpoint> {
        let (data_start, members) = header(path, &file)?;
        let (_, metadata) = SafeTensors::read_metadata(&file).map_err(|error| reject(path, &members, &error))?;
        let mut checkpoint = SafetensorsCheckpoint {
            path: path.to_owned(),
            ranges: IndexMap::new(),
            entries: IndexMap::new(),
            extras: Extras { container: "safetensors".into(), ..Extras::default() },
            file,
        };
        for (name, text) in metadata.metadata().iter().flatten() {
            checkpoint.extras.scalars.insert(name.clone(), text.clone());
        }
        checkpoint.extras.scalars.sort_unstable_keys();
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            names::check(path, &name)?;
            let scalar = match info.dtype {
                Dtype::F64 => Scalar::F64,
                Dtype::F32 => Scalar::F32,
                Dtype::F16 => Scalar::F16,
                Dtype::BF16 => Scalar::Bf16,
                other => return Err(Error::tensor(path, quoted(&name), "F32, F16, BF16 or F64", other.to_string())),
            };
            if info.shape.is_empty() || info.shape.contains(&0) {
                let found = format!("shape {:?}", info.shape);
                return Err(Error::tensor(path, quoted(&name), "one dimension and one element or more", found));
            }
            let mut strides = vec![1; info.shape.len()];
            for d in (1..strides.len()).rev() {
                strides[d - 1] = strides[d] * info.shape[d];
            }
            let (begin, end) = info.data_offsets;
            let identity = Identity { storage: format!("bytes at {begin}"), offset: 0, strides };
            let entry = Entry { scalar, shape: info.shape.clone(), identity };
            checkpoint.ranges.insert(name.clone(), data_start + begin..data_start + end);
            checkpoint.entries.insert(name, entry);
        }
        if checkpoint.entries.is_empty() {
            return Err(Error::damaged(path, "header", "tensors", "none"));
        }
        Ok(checkpoint)
    }
}

impl Checkpoint for SafetensorsCheckpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> &IndexMap<String, Entry> {
        &self.entries
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let bytes = self.ranges.get(name).and_then(|range| self.file.get(range.clone()));
        let none = || Error::tensor(&self.path, quoted(name), "a tensor of this checkpoint", "none");
        bytes.map(Cow::Borrowed).ok_or_else(none)
    }

    fn extras(&self) -> &Extras {
        &self.extras
    }

    fn release(&self) {
        self.file.release();
    }
}

/// Where the data begins, and the header's members. The checks of sizes are the safetensors crate's; this one keeps
/// the header small and sees what the crate's map hides: a repeated name.
fn header(path: &Path, file: &[u8]) -> Result<(usize, Vec<(String, Value)>)> {
    let damaged = |expected: &str, found: String| Error::damaged(path, "header", expected, found);
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(damaged("a length of 8 bytes", format!("{} bytes", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    let bytes = usize::try_from(length).ok().filter(|_| length <= MAX_HEADER).and_then(|length| rest.get(..length));
    let Some(bytes) = bytes else {
        match sniff(file) {
            Sniffed::Torch => {
                return Err(damaged("safetensors", "a pickle or zip archive, as torch.save writes".into()));
            }
            Sniffed::Other(what) => return Err(damaged("safetensors", what)),
            _ => {}
        }
        return Err(damaged(&format!("at most {} bytes", MAX_HEADER.min(rest.len() as u64)), length.to_string()));
    };
    let text = std::str::from_utf8(bytes).map_err(|e| damaged("UTF-8 text", format!("other bytes {e}")))?;
    let UniqueMembers::<Value>(members) =
        serde_json::from_str(text).map_err(|e| damaged("a JSON object of tensors", quoted(&e.to_string())))?;
    // The crate adds the last offset to the header's length unchecked; keep it below the file's.
    for (name, info) in &members {
        let offsets = info.get("data_offsets").and_then(Value::as_array);
        let last = offsets.into_iter().flatten().filter_map(Value::as_u64).max().unwrap_or(0);
        if last > (rest.len() - bytes.len()) as u64 {
            let expected = format!("data in the {} bytes after the header", rest.len() - bytes.len());
            return Err(Error::tensor(path, quoted(name), expected, format!("data up to byte {last}")));
        }
    }
    Ok((8 + bytes.len(), members))
}

/// The crate's refusal, with the tensor at fault: the first, by its place in the data and then in the header, that is
/// wrong in itself or does not follow on the one before. The crate's own choice depends on the order of a hash map.
fn reject(path: &Path, members: &[(String, Value)], error: &SafeTensorError) -> Error {
    let offset = |info: &Value, i: usize| info.get("data_offsets")?.get(i)?.as_u64();
    let mut tensors: Vec<_> = members.iter().filter(|(name, _)| name != "__metadata__").collect();
    tensors.sort_by_key(|(_, info)| (offset(info, 0), offset(info, 1)));
    let mut next = Some(0);
    for (name, info) in tensors {
        if !plausible(info) {
            let expected = "a known dtype, a shape, and data_offsets as far apart as these need";
            return Error::tensor(path, quoted(name), expected, quoted(&info.to_string()));
        }
        if offset(info, 0) != next {
            let expected = format!("data from byte {}", next.unwrap_or_default());
            let found = format!("from byte {}", offset(info, 0).unwrap_or_default());
            return Error::tensor(path, quoted(name), expected, found);
        }
        next = offset(info, 1);
    }
    Error::damaged(path, "header", "tensors that cover the data exactly", quoted(&error.to_string()))
}

/// Whether an entry of the header is right in itself.
fn plausible(info: &Value) -> bool {
    let numbers = |key: &str| info.get(key)?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
    let dtype = info.get("dtype").and_then(|name| serde_json::from_value::<Dtype>(name.clone()).ok());
    let (Some(dtype), Some(shape), Some(offsets)) = (dtype, numbers("shape"), numbers("data_offsets")) else {
        return false;
    };
    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |n, &d| n.checked_mul(d));
    match offsets.as_slice() {
        [begin, end] => end.checked_sub(*begin).and_then(|n| n.checked_mul(8)).is_some_and(|n| Some(n) == bits),
        _ => false,
    }
}
