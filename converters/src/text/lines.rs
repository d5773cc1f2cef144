//! JSON lines.

use super::{Content, Document, MAX_DOCUMENT, set_name};
use crate::{Error, Result};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Row {
    text: String,
    #[serde(default)]
    meta: serde_json::Value,
}

/// The documents of a JSON lines file; empty lines are passed over.
pub(super) struct Lines {
    path: PathBuf,
    source: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    pub(super) fn new(path: &Path, source: Box<dyn Read + Send>) -> Lines {
        Lines { path: path.to_owned(), source: BufReader::with_capacity(1 << 17, source), line: Vec::new(), number: 0 }
    }

    /// The next line, without its end; `None` at the end of the file.
    fn read_line(&mut self) -> Result<Option<()>> {
        self.line.clear();
        self.number += 1;
        let place = |number| format!("line {number}");
        let n = Read::by_ref(&mut self.source)
            .take(MAX_DOCUMENT + 1)
            .read_until(b'\n', &mut self.line)
            // A damaged zstd frame shows here.
            .map_err(|e| Error::damaged(&self.path, place(self.number), "readable data", e.to_string()))?;
        if n as u64 > MAX_DOCUMENT {
            return Err(Error::damaged(&self.path, place(self.number), "a line of at most 1 GiB", "a longer one"));
        }
        Ok(if n == 0 { None } else { Some(()) })
    }

    fn parse(&self) -> Result<Document> {
        let wrong =
            |expected: &str, found| Error::damaged(&self.path, format!("line {}", self.number), expected, found);
        let row: Row = serde_json::from_slice(&self.line)
            .map_err(|e| wrong("a JSON object with a string `text`", in_words(&e)))?;
        let domain = set_name(&row.meta).map_err(|found| wrong("an object in field `meta`", found))?;
        Ok(Document { content: Content::Text(row.text), domain })
    }
}

/// The parser's words, which number every line 1.
fn in_words(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match words.split_once(" at line 1 column ") {
        Some((what, column)) => format!("{what} at column {column}"),
        None => words,
    }
}

impl Iterator for Lines {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        loop {
            match self.read_line() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some(())) if self.line.trim_ascii().is_empty() => {}
                Ok(Some(())) => return Some(self.parse()),
            }
        }
    }
}
