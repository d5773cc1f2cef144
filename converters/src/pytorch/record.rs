//! The bytes of one storage in a file.

use crate::{Error, Result, error::quoted};
use flate2::read::DeflateDecoder;
use std::{
    borrow::Cow,
    io::Read,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// A stretch of a mapped file, raw or deflated.
#[derive(Debug)]
pub(super) struct Record {
    /// Its name in messages.
    pub name: String,
    /// Where it lies in the file; checked to be inside.
    pub range: Range<usize>,
    /// Bytes of its content.
    pub size: usize,
    /// Whether `range` holds a raw deflate stream (RFC 1951).
    pub deflated: bool,
    /// CRC-32 of the content, where the container has one.
    pub crc32: Option<u32>,
    /// Whether the CRC was found right. Storages hold many tensors; checking once per process is enough.
    pub verified: AtomicBool,
}

impl Record {
    /// A record of raw bytes without a checksum.
    pub(super) fn raw(name: String, range: Range<usize>) -> Record {
        let size = range.len();
        Record { name, range, size, deflated: false, crc32: None, verified: AtomicBool::new(true) }
    }

    /// The content, borrowed from `file` (the mapping of the whole file at `path`) unless it is deflated.
    pub(super) fn content<'m>(&self, path: &Path, file: &'m [u8]) -> Result<Cow<'m, [u8]>> {
        let stored = &file[self.range.clone()];
        let content = if self.deflated { Cow::Owned(self.inflate(path, stored)?) } else { Cow::Borrowed(stored) };
        match self.crc32 {
            Some(expected) if !self.verified.load(Ordering::Relaxed) => {
                let found = crc32fast::hash(&content);
                if found != expected {
                    let place = format!("record {}", quoted(&self.name));
                    return Err(Error::damaged(path, place, format!("CRC-32 {expected:08x}"), format!("{found:08x}")));
                }
                self.verified.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(content)
    }

    fn inflate(&self, path: &Path, stored: &[u8]) -> Result<Vec<u8>> {
        let damaged = |found: String| {
            let place = format!("record {}", quoted(&self.name));
            Error::damaged(path, place, format!("{} bytes of deflated data", self.size), found)
        };
        // Deflate cannot expand by more than 1032 (258 bytes in 2 bits): believe no claim beyond that.
        if self.size > stored.len().saturating_mul(1032) {
            return Err(damaged(format!("{} deflated bytes, too few", stored.len())));
        }
        let mut content = Vec::new();
        content.try_reserve_exact(self.size).map_err(|e| damaged(e.to_string()))?;
        let limit = self.size as u64 + 1;
        DeflateDecoder::new(stored).take(limit).read_to_end(&mut content).map_err(|e| damaged(e.to_string()))?;
        if content.len() != self.size {
            let found = if content.len() > self.size { "more".into() } else { content.len().to_string() };
            return Err(damaged(found));
        }
        Ok(content)
    }
}
