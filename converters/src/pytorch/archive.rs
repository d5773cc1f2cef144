//! The zip archive that torch.save writes since PyTorch 1.6.
//!
//! One folder holds `data.pkl` (the object), `data/<key>` (one storage each), and a few notes, of which `byteorder`
//! matters (caffe2/serialize/inline_container.h). Records are normally stored, not deflated, and aligned to 64 bytes;
//! neither is needed here.

use super::{pickle, record::Record};
use crate::{Error, Result, error::quoted};
use std::{borrow::Cow, collections::HashMap, io::Cursor, path::Path, sync::Arc, sync::atomic::AtomicBool};
use zip::{CompressionMethod, ZipArchive, read::ArchiveOffset, read::Config};

/// The longest name of a record. The folder's is that of a file, which has at most 255 bytes.
const LONGEST_NAME: usize = 512;

/// What one archive holds.
pub(super) struct Archive {
    /// The folder inside the archive, with its slash.
    root: String,
    records: HashMap<String, Arc<Record>>,
    /// Whether storages have the most significant byte first.
    pub big_endian: bool,
}

impl Archive {
    /// Indexes the archive that lies in `file[base..base + length]`; names in messages begin with `prefix`.
    pub(super) fn open(path: &Path, file: &[u8], base: usize, length: usize, prefix: &str) -> Result<Archive> {
        let end = base.checked_add(length).filter(|&end| end <= file.len());
        let Some(bytes) = end.and_then(|end| file.get(base..end)) else {
            let expected = format!("{length} bytes at {base}");
            return Err(Error::damaged(
                path,
                format!("{prefix}zip archive"),
                expected,
                format!("{} bytes", file.len()),
            ));
        };
        let damaged = |e: &dyn std::fmt::Display| {
            let place = format!("{prefix}zip archive");
            Error::damaged(path, place, "a sound zip directory (is the file cut?)", quoted(&e.to_string()))
        };
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(|e| damaged(&e))?;
        // One archive, one reading: no name twice, no bytes in two records, local headers that agree.
        zip.validate_header_consistency().map_err(|e| damaged(&e))?;
        let mut records = HashMap::new();
        // torch.serialization.set_crc32_options(False) writes 0 for all records instead of checksums.
        let has_checksums = (0..zip.len()).any(|index| zip.by_index_data(index).is_ok_and(|entry| entry.crc32() != 0));
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(|e| damaged(&e))?;
            // Names that are not UTF-8 belong to no record that is looked for; long ones would be copied by each tensor.
            let name = entry.name().map(Cow::into_owned).ok().filter(|name| name.len() <= LONGEST_NAME);
            let Some(name) = name else { continue };
            let unfit = |expected: &str, found: String| {
                Err(Error::damaged(path, format!("record {prefix}{}", quoted(&name)), expected, found))
            };
            let start = entry.data_start().and_then(|s| usize::try_from(s).ok());
            let stored = usize::try_from(entry.compressed_size()).ok();
            let range = start.zip(stored).and_then(|(s, n)| Some(s..s.checked_add(n)?));
            let Some(range) = range.filter(|r| r.end <= bytes.len()) else {
                return unfit("data inside the file", format!("{} bytes", entry.compressed_size()));
            };
            if entry.encrypted() {
                return unfit("plain data", "encrypted data".into());
            }
            let deflated = match entry.compression() {
                CompressionMethod::Stored => false,
                method if method == CompressionMethod::DEFLATE => true,
                method => return unfit("stored or deflated data", format!("compression {method}")),
            };
            let Some(size) = usize::try_from(entry.size()).ok().filter(|&size| deflated || size == range.len()) else {
                return unfit("equal sizes of a stored record", format!("{} and {}", entry.size(), range.len()));
            };
            let record = Record {
                name: format!("{prefix}{name}"),
                range: base + range.start..base + range.end,
                size,
                deflated,
                crc32: has_checksums.then(|| entry.crc32()),
                verified: AtomicBool::new(false),
            };
            records.insert(name, Arc::new(record));
        }
        // torch names the folder after the file, but files get renamed and repacked: take the one that has a data.pkl.
        let mut roots = records.keys().filter_map(|name| {
            let root = name.strip_suffix("data.pkl")?;
            (root.is_empty() || root.ends_with('/')).then(|| root.to_owned())
        });
        let root = match (roots.next(), roots.next()) {
            (Some(root), None) => root,
            (None, _) => {
                let found = "a zip archive without a data.pkl, so not one of torch.save".into();
                return Err(Error::NotAModel { path: path.to_owned(), found });
            }
            _ => return Err(Error::damaged(path, format!("{prefix}zip archive"), "one data.pkl", "several")),
        };
        let mut archive = Archive { root, records, big_endian: false };
        archive.big_endian = match archive.get("byteorder") {
            None => false,
            Some(record) => match bounded(path, file, record, 16)?.as_ref() {
                b"little" => false,
                b"big" => true,
                other => {
                    let found = quoted(&String::from_utf8_lossy(other));
                    return Err(Error::damaged(path, format!("{prefix}byteorder"), "`little` or `big`", found));
                }
            },
        };
        Ok(archive)
    }

    /// The content of `data.pkl`.
    pub(super) fn pickle<'m>(&self, path: &Path, file: &'m [u8]) -> Result<Cow<'m, [u8]>> {
        match self.get("data.pkl") {
            Some(record) => bounded(path, file, record, pickle::MAX_BYTES),
            None => Ok(Cow::Borrowed(&[])),
        }
    }

    /// The storage with this key. Keys come from the pickle; they are looked up, never made paths.
    pub(super) fn storage(&self, key: &str) -> Option<&Arc<Record>> {
        self.records.get(&format!("{}data/{key}", self.root))
    }

    fn get(&self, name: &str) -> Option<&Arc<Record>> {
        self.records.get(&format!("{}{name}", self.root))
    }
}

fn bounded<'m>(path: &Path, file: &'m [u8], record: &Record, limit: usize) -> Result<Cow<'m, [u8]>> {
    if record.size > limit {
        let place = format!("record {}", quoted(&record.name));
        return Err(Error::damaged(path, place, format!("at most {limit} bytes"), record.size.to_string()));
    }
    record.content(path, file)
}
