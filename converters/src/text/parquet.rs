//! Parquet, as the Hugging Face hub serves data sets: a column `text`, and `meta`, a struct or JSON text.
//!
//! The parquet crate (60.1) panics on some damaged pages and footers, hence [`contain`].

use super::contain::contain;
use super::{Content, Document, set_name};
use crate::{Error, Result};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn read(path: &Path, file: File) -> Result<Rows> {
    contain(|| open(path, file))
        .unwrap_or_else(|panic| Err(Error::damaged(path, "parquet footer", "a sound one", panic)))
}

fn open(path: &Path, file: File) -> Result<Rows> {
    let damaged = |e: ParquetError| Error::damaged(path, "parquet footer", "a sound one", e.to_string());
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns: Vec<_> = schema.get_fields().iter().filter(|f| matches!(f.name(), "text" | "meta")).cloned().collect();
    if !columns.iter().any(|column| column.name() == "text") {
        let names: Vec<&str> = schema.get_fields().iter().map(|f| f.name()).collect();
        return Err(Error::damaged(path, "parquet schema", "a column `text`", names.join(", ")));
    }
    // Other columns are not read at all.
    let projection = Type::group_type_builder(schema.name())
        .with_fields(columns.into_iter().map(|c| Arc::new(c.as_ref().clone())).collect())
        .build()
        .map_err(damaged)?;
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(damaged)?;
    Ok(Rows { path: path.to_owned(), rows, number: 0 })
}

/// The rows of a file, as documents.
pub(super) struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    number: u64,
}

impl Iterator for Rows {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        let row = match contain(|| self.rows.next()) {
            Ok(row) => row?.map_err(|e| e.to_string()),
            Err(panic) => Err(panic),
        };
        self.number += 1;
        let wrong =
            |expected: &str, found: String| Error::damaged(&self.path, format!("row {}", self.number), expected, found);
        Some(row.map_err(|found| wrong("a readable row", found)).and_then(|row| document(row, wrong)))
    }
}

fn document(row: Row, wrong: impl Fn(&str, String) -> Error) -> Result<Document> {
    let (mut text, mut domain) = (None, None);
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            ("text", Field::Str(value)) => text = Some(value),
            ("text", other) => return Err(wrong("a string in column `text`", kind(&other).into())),
            ("meta", Field::Null) => {}
            ("meta", Field::Str(json)) => {
                let inner = set_name(&serde_json::Value::String(json));
                domain = inner.map_err(|found| wrong("JSON in column `meta`", found))?;
            }
            ("meta", Field::Group(fields)) => {
                for (name, field) in fields.into_columns() {
                    match (name.as_str(), field) {
                        ("redpajama_set_name", Field::Str(value)) => domain = Some(value),
                        ("redpajama_set_name", Field::Null) => {}
                        ("redpajama_set_name", other) => {
                            return Err(wrong("a string in `meta.redpajama_set_name`", kind(&other).into()));
                        }
                        _ => {}
                    }
                }
            }
            ("meta", other) => return Err(wrong("a struct or JSON in column `meta`", kind(&other).into())),
            _ => {}
        }
    }
    let text = text.ok_or_else(|| wrong("a column `text`", "none".into()))?;
    Ok(Document { content: Content::Text(text), domain })
}

/// What a field is, in a word.
fn kind(field: &Field) -> &'static str {
    match field {
        Field::Null => "nothing",
        Field::Bytes(_) => "bytes",
        Field::Group(_) => "a struct",
        Field::ListInternal(_) => "a list",
        Field::MapInternal(_) => "a map",
        Field::Str(_) => "a string",
        _ => "a number",
    }
}
