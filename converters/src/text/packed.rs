//! The training code's packed token files (lit_gpt `packed_dataset.py`):
//!
//! ```text
//!   "LITPKDS" | u64 version = 1 | u8 type: 4 i32, 8 u16 | u64 n | n tokens        (no padding: the tokens begin at 24)
//! ```
//!
//! Documents in it end with the end token; the unused tail is filled with the beginning token.

use super::{Content, Document, MAX_DOCUMENT};
use crate::{Error, Result};
use std::io::Read;
use std::path::Path;

pub(super) const MAGIC: &[u8] = b"LITPKDS";

const HEADER: usize = 24;

/// All tokens of the file, as one document: windows are cut without regard to the documents in it.
pub(super) fn read(path: &Path, source: impl Read) -> Result<Document> {
    let wrong = |place: &str, expected: &str, found: String| Err(Error::damaged(path, place, expected, found));
    let mut bytes = Vec::new();
    source.take(MAX_DOCUMENT + HEADER as u64 + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_DOCUMENT + HEADER as u64 {
        return wrong("tokens", "at most 1 GiB in one file", "more".into());
    }
    let Some((header, data)) = bytes.split_first_chunk::<HEADER>() else {
        return wrong("header", "24 bytes", format!("end of file after {}", bytes.len()));
    };
    let u64_at = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if !header.starts_with(MAGIC) || u64_at(7) != 1 {
        return wrong("version at byte 7", "1", u64_at(7).to_string());
    }
    let size = match header[15] {
        4 => 4,
        8 => 2,
        other => return wrong("token type at byte 15", "4 (i32) or 8 (u16)", other.to_string()),
    };
    let n = u64_at(16);
    let Some(data) = usize::try_from(n).ok().and_then(|n| n.checked_mul(size)).and_then(|size| data.get(..size)) else {
        return wrong("tokens", &format!("{n} of {size} bytes"), format!("{} bytes", data.len()));
    };
    let tokens = match size {
        2 => data.as_chunks::<2>().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).collect(),
        _ => {
            let mut tokens = Vec::with_capacity(data.len() / 4);
            for (index, bytes) in data.as_chunks::<4>().0.iter().enumerate() {
                match u32::try_from(i32::from_le_bytes(*bytes)) {
                    Ok(token) => tokens.push(token),
                    Err(_) => return wrong(&format!("token {index}"), "at least 0", "a negative number".into()),
                }
            }
            tokens
        }
    };
    Ok(Document { content: Content::Tokens(tokens), domain: None })
}
