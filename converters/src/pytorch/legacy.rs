//! The format of torch.save before PyTorch 1.6, which `_use_new_zipfile_serialization=False` still writes.
//!
//! Five pickles (magic number, protocol, system, object, list of storage keys), then for each key, in that order, the
//! count of elements as u64 and the elements; torch/serialization.py, `_legacy_save` and `_legacy_load`.

use super::{
    globals::{CHECKPOINT, Dtype},
    objects,
    pickle::{self, Parsed},
    record::Record,
    value::Value,
};
use crate::{Error, Result, error::quoted};
use std::{collections::HashMap, path::Path, sync::Arc};

/// 0x1950a86a20f9469cfc6c, as LONG1 holds it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// The object, and the storages by key.
pub(super) struct Legacy<'a> {
    pub object: Parsed<'a>,
    pub records: HashMap<&'a str, Arc<Record>>,
}

/// Reads the pickles and finds the storages; of those only the counts are touched.
pub(super) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<Legacy<'a>> {
    let mut at = 0;
    let mut next = |place: &str| -> Result<Parsed<'a>> {
        let parsed = pickle::parse(&file[at..], &[CHECKPOINT]).map_err(|e| e.within(path, place))?;
        at += parsed.length;
        Ok(parsed)
    };
    let magic = next("first pickle")?;
    if !matches!(magic.arena.get(magic.root), Value::Long(bytes) if *bytes == MAGIC) {
        let found = format!("a pickle of {}, not made by torch.save", magic.arena.describe(magic.root));
        return Err(Error::NotAModel { path: path.to_owned(), found });
    }
    let protocol = next("protocol pickle")?;
    if protocol.arena.int(protocol.root) != Some(PROTOCOL) {
        let found = protocol.arena.describe(protocol.root);
        return Err(Error::damaged(path, "legacy protocol", PROTOCOL.to_string(), found));
    }
    let system = next("system pickle")?;
    match system.arena.lookup(system.root, "little_endian").map(|id| system.arena.get(id)) {
        Some(Value::Bool(true)) => {}
        // torch wrote all of them little-endian in some versions and not in others; nothing in the file tells which.
        Some(Value::Bool(false)) => {
            let reason = "a legacy checkpoint of a big-endian machine; save it again with PyTorch 1.6 or later".into();
            return Err(Error::Unsupported { path: path.to_owned(), reason });
        }
        _ => return Err(Error::damaged(path, "system pickle", "`little_endian`", "none")),
    }
    let object = next("object pickle")?;
    let keys = next("storage key pickle")?;

    let mut described: HashMap<&str, (&Dtype, usize)> = HashMap::new();
    for index in 0..object.arena.values.len() {
        let id = super::value::Id(index as u32);
        if let Value::Persistent(_) = object.arena.get(id) {
            let storage = objects::storage(&object.arena, id).map_err(|m| m.at(path, "object pickle"))?;
            let size = (storage.dtype, storage.elements);
            if *described.entry(storage.key).or_insert(size) != size {
                let place = format!("storage {}", quoted(storage.key));
                return Err(Error::damaged(path, place, "one size", "two"));
            }
        }
    }
    let mut records = HashMap::new();
    let key_list = keys.arena.sequence(keys.root);
    let key_list = key_list
        .ok_or_else(|| Error::damaged(path, "storage key pickle", "a list of keys", keys.arena.describe(keys.root)))?;
    for &key in key_list {
        let key = keys.arena.str(key).unwrap_or_default();
        let place = || format!("storage {}", quoted(key));
        // The count repeats what the pickle says; the element size is known from there only.
        let Some(&(dtype, elements)) = described.get(key) else {
            return Err(Error::damaged(path, place(), "a storage that the object refers to", "another"));
        };
        let left = &file[at..];
        let Some((count, data)) = left.split_first_chunk::<8>() else {
            return Err(Error::damaged(path, place(), "a count of elements", "the end of the file"));
        };
        let count = u64::from_le_bytes(*count);
        if count != elements as u64 {
            return Err(Error::damaged(path, place(), format!("{elements} elements"), count.to_string()));
        }
        let Some(length) = elements.checked_mul(dtype.size).filter(|&length| length <= data.len()) else {
            let expected = format!("{elements} elements of {}", dtype.name);
            return Err(Error::damaged(
                path,
                place(),
                expected,
                format!("{} bytes to the end of the file", data.len()),
            ));
        };
        at += 8;
        let record = Record::raw(format!("storage {key}"), at..at + length);
        at += length;
        if records.insert(key, Arc::new(record)).is_some() {
            return Err(Error::damaged(path, place(), "one entry", "two"));
        }
    }
    Ok(Legacy { object, records })
}
