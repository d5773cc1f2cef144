//! Text to calibrate and measure with, as SlimPajama is published: a document at a time, whatever the file's size.
//!
//! | file | recognised by | documents |
//! |---|---|---|
//! | `.jsonl`, `.jsonl.zst` | name; zstd by content | one for each line: `{"text": .., "meta": {"redpajama_set_name": ..}}` |
//! | `.parquet` | content (`PAR1`) | one for each row, columns as above (`meta` a struct or JSON text) |
//! | `.txt`, `.txt.zst` | name | the whole file |
//! | `.bin` | content (`LITPKDS`) | one: the file's tokens |
//! | `.json` | name | `{"tokens": [..]}`: one; `{"tokens": [[..], ..]}`: one for each inner list |

mod contain;
mod lines;
mod packed;
mod parquet;
mod token_list;

use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// The longest line, text file or token list that is read, in bytes: a book is a thousandth of it.
const MAX_DOCUMENT: u64 = 1 << 30;

/// What a document holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Text, to be tokenized.
    Text(String),
    /// Token ids, used as they are.
    Tokens(Vec<u32>),
}

/// A piece of data that stands for itself: no context leads from one to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text or tokens.
    pub content: Content,
    /// `meta.redpajama_set_name`, such as `RedPajamaBook`: results are kept by this.
    pub domain: Option<String>,
}

/// Documents in file order. After an error there are no more.
pub struct Documents {
    inner: Box<dyn Iterator<Item = Result<Document>> + Send>,
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").finish_non_exhaustive()
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        let item = self.inner.next();
        if matches!(item, None | Some(Err(_))) {
            self.inner = Box::new(std::iter::empty());
        }
        item
    }
}

/// The documents of one file.
///
/// # Errors
/// [`Error::Io`] where the file cannot be opened, [`Error::Unsupported`] where it is of no kind in the table above, and
/// later, from the iterator, [`Error::Damaged`] naming the line, row or byte that is not as it should be.
pub fn read_documents(path: &Path) -> Result<Documents> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?;
    if kind.is_dir() {
        return Err(Error::Unsupported { path: path.to_owned(), reason: "is a folder: name the data files".into() });
    }
    let mut file = File::open(path).map_err(Error::io(path))?;
    // Pipes can be read too, but only forwards; then the name alone decides.
    let mut magic = Vec::new();
    if kind.is_file() {
        Read::by_ref(&mut file).take(8).read_to_end(&mut magic).map_err(Error::io(path))?;
        file.rewind().map_err(Error::io(path))?;
    }
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain = name.strip_suffix(".zst").unwrap_or(&name);
    let inner: Box<dyn Iterator<Item = Result<Document>> + Send> = if magic.starts_with(packed::MAGIC) {
        Box::new(std::iter::once(packed::read(path, file)))
    } else if magic.starts_with(b"PAR1") {
        Box::new(parquet::read(path, file)?)
    } else if plain.ends_with(".jsonl") || plain.ends_with(".ndjson") {
        Box::new(lines::Lines::new(path, open_plain(path, file, &magic, plain != name)?))
    } else if plain.ends_with(".txt") {
        Box::new(std::iter::once(read_text(path, open_plain(path, file, &magic, plain != name)?)))
    } else if plain.ends_with(".json") {
        token_list::read(path, open_plain(path, file, &magic, plain != name)?)?
    } else {
        let reason =
            "is no data file: expected .jsonl, .jsonl.zst, .parquet, .txt, packed tokens (.bin) or a .json token \
                      list, by content or name"
                .into();
        return Err(Error::Unsupported { path: path.to_owned(), reason });
    };
    Ok(Documents { inner })
}

/// The documents of several files, one file after the other; each is opened when its turn comes.
pub fn read_all(paths: impl IntoIterator<Item = PathBuf, IntoIter: Send + 'static>) -> Documents {
    let inner = paths.into_iter().flat_map(|path| -> Box<dyn Iterator<Item = Result<Document>> + Send> {
        match read_documents(&path) {
            Ok(documents) => Box::new(documents),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    });
    Documents { inner: Box::new(inner) }
}

/// The bytes of `file`, decompressed if they are zstd, of any number of frames.
fn open_plain(path: &Path, file: File, magic: &[u8], named_zst: bool) -> Result<Box<dyn Read + Send>> {
    if named_zst || magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::Decoder::new(file).map_err(Error::io(path))?))
    } else {
        Ok(Box::new(file))
    }
}

/// A whole text file.
fn read_text(path: &Path, source: impl Read) -> Result<Document> {
    let mut bytes = Vec::new();
    BufReader::new(source).take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::damaged(path, "text", "at most 1 GiB in one document", "more"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let place = format!("byte {}", e.utf8_error().valid_up_to());
        Error::damaged(path, place, "UTF-8 text", "another byte sequence")
    })?;
    Ok(Document { content: Content::Text(text), domain: None })
}

/// The set name in the value of `meta`.
fn set_name(meta: &serde_json::Value) -> std::result::Result<Option<String>, String> {
    use serde_json::Value;
    match meta {
        Value::Null => Ok(None),
        // Some copies hold the object as a string of JSON.
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(Value::String(_)) | Err(_) => Err("a string that is no JSON object".into()),
            Ok(inner) => set_name(&inner),
        },
        Value::Object(fields) => match fields.get("redpajama_set_name") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(_) => Err("a `redpajama_set_name` that is no string".into()),
        },
        _ => Err("no object".into()),
    }
}
