//! Token lists in JSON: `{"tokens": [1, 2]}`, or `{"tokens": [[1, 2], [3]]}` for several.

use super::{Content, Document, MAX_DOCUMENT};
use crate::{Error, Result};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    tokens: Tokens,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    One(Vec<u32>),
    Several(Vec<Vec<u32>>),
}

pub(super) fn read(path: &Path, source: impl Read) -> Result<Box<dyn Iterator<Item = Result<Document>> + Send>> {
    let mut bytes = Vec::new();
    source.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::damaged(path, "token list", "at most 1 GiB", "more"));
    }
    let file: File = serde_json::from_slice(&bytes).map_err(|e| {
        let expected = "{\"tokens\": [..]} or {\"tokens\": [[..], ..]} with token ids from 0";
        Error::damaged(path, "field `tokens`", expected, e.to_string())
    })?;
    let lists = match file.tokens {
        Tokens::One(list) => vec![list],
        Tokens::Several(lists) => lists,
    };
    Ok(Box::new(lists.into_iter().map(|list| Ok(Document { content: Content::Tokens(list), domain: None }))))
}
