//! A model that tamborim wrote, opened: its description and its initializers checked, none of its numbers touched.

use super::PRODUCER;
use super::metadata::{SCALES, TENSORS_KEY, TensorLayout, ZERO_POINTS, insert_json, parse_layouts};
use super::proto::{DataType, EXTERNAL};
use super::wire::{Field, Fields, NoMessage, numbers};
use crate::error::quoted;
use crate::gguf::Metadata;
use crate::mapped::Mapped;
use crate::{Error, Result, names};
use indexmap::IndexMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// More dimensions than any initializer of ours has.
const MAX_DIMS: usize = 4;

/// An opened ONNX model of ours.
#[derive(Debug)]
pub struct OnnxFile {
    path: PathBuf,
    metadata: Metadata,
    layouts: IndexMap<String, TensorLayout>,
    initializers: IndexMap<String, Initializer>,
    file: Mapped,
    /// The file beside it that tensors are in, where there is one, by its name.
    data: Option<(String, Mapped)>,
}

/// Numbers in a file.
#[derive(Debug)]
struct Initializer {
    dims: Vec<usize>,
    data_type: DataType,
    /// Whether they are in the file of tensors.
    external: bool,
    /// Their bytes there.
    range: Range<usize>,
}

impl OnnxFile {
    /// Opens the model at `path` and the file beside it that its tensors are in.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that another program wrote; [`Error::Damaged`] or [`Error::Tensor`] for bytes that
    /// are no ONNX model, for tensors outside their file or in a file elsewhere, and for a description that fits no model.
    pub fn open(path: &Path) -> Result<OnnxFile> {
        OnnxFile::parse_mapped(path, Mapped::open(path)?)
    }

    /// Reads a model that is one file from memory; errors name it `path`.
    ///
    /// # Errors
    /// As [`OnnxFile::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<OnnxFile> {
        OnnxFile::parse_mapped(path, Mapped::Memory(bytes))
    }

    fn parse_mapped(path: &Path, file: Mapped) -> Result<OnnxFile> {
        let mut metadata = Metadata::new(path);
        let (mut graph, mut producer, mut layouts): (Option<Range<usize>>, _, _) = (None, None, None);
        for field in Fields::new(&file) {
            match field.map_err(|_| no_message(path, "the model"))? {
                (2, Field::Bytes(name)) => producer = Some(name),
                (7, Field::Bytes(bytes)) => graph = Some(range_in(&file, bytes)),
                (14, Field::Bytes(bytes)) => {
                    let (key, value) = entry(bytes).map_err(|_| no_message(path, "metadata"))?;
                    match key {
                        TENSORS_KEY => layouts = Some(value),
                        _ => insert_json(&mut metadata, key, value)?,
                    }
                }
                _ => {}
            }
        }
        let ours = producer == Some(PRODUCER.as_bytes());
        let (Some(graph), Some(layouts)) = (graph, layouts.filter(|_| ours)) else {
            let reason = "an ONNX model that tamborim did not write: convert the checkpoint that it was made from";
            return Err(Error::Unsupported { path: path.to_owned(), reason: reason.to_owned() });
        };
        let layouts = parse_layouts(path, layouts)?;
        let mut model =
            OnnxFile { path: path.to_owned(), metadata, layouts, initializers: IndexMap::new(), file, data: None };
        let mut located = Vec::new();
        for field in Fields::new(&model.file[graph]) {
            if let (5, Field::Bytes(tensor)) = field.map_err(|_| no_message(path, "the graph"))? {
                located.extend(model.locate(tensor)?);
            }
        }
        located.into_iter().try_for_each(|l| model.add(l))?;
        Ok(model)
    }

    /// Where an initializer's numbers are; `None` for those that hold no tensor of the model.
    fn locate(&self, message: &[u8]) -> Result<Option<Located>> {
        let damaged = |_: NoMessage| no_message(&self.path, "an initializer");
        let (mut name, mut dims, mut data_type, mut raw, mut external) = ("", Vec::new(), 0, None, false);
        let mut entries = Vec::new();
        for field in Fields::new(message) {
            match field.map_err(damaged)? {
                (1, field) => dims.extend(numbers(field).map_err(damaged)?),
                (2, Field::Number(n)) => data_type = n,
                (8, Field::Bytes(bytes)) => name = text(bytes).map_err(damaged)?,
                (9, Field::Bytes(bytes)) => raw = Some(bytes),
                (13, Field::Bytes(bytes)) if entries.len() < 8 => entries.push(entry(bytes).map_err(damaged)?),
                (14, Field::Number(n)) => external = n == EXTERNAL as u64,
                _ => {}
            }
        }
        let base = name.strip_suffix(SCALES).or_else(|| name.strip_suffix(ZERO_POINTS)).unwrap_or(name);
        if !self.layouts.contains_key(base) {
            return Ok(None);
        }
        let wrong = |expected: &str, found: String| Err(Error::tensor(&self.path, quoted(name), expected, found));
        let Some(data_type) = DataType::from_number(data_type) else {
            return wrong("a type of tensors that is written here", format!("type {data_type}"));
        };
        let extents: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        let bytes = extents.as_ref().and_then(|e| data_type.bytes(e));
        let (Some(dims), Some(n_bytes)) = (extents.filter(|e| e.len() <= MAX_DIMS), bytes) else {
            return wrong("at most four dimensions and fewer than 2^64 bits", format!("{} dimensions", dims.len()));
        };
        let entry = |key: &str| entries.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
        let (location, offset, length) = match (external, raw) {
            (false, Some(raw)) => (None, range_in(&self.file, raw).start, raw.len()),
            (false, None) => return wrong("numbers as raw data", "none".to_owned()),
            (true, _) => {
                let number = |key: &str| entry(key).and_then(|text| text.parse::<usize>().ok());
                let Some(location) = entry("location") else { return wrong("a location", "none".to_owned()) };
                match (number("offset"), number("length")) {
                    (Some(offset), Some(length)) => (Some(location.to_owned()), offset, length),
                    _ => return wrong("offset and length of external data", "none".to_owned()),
                }
            }
        };
        if length != n_bytes {
            return wrong(&format!("{n_bytes} bytes, as its shape says"), length.to_string());
        }
        Ok(Some(Located { name: name.to_owned(), dims, data_type, location, offset, length }))
    }

    fn add(&mut self, located: Located) -> Result<()> {
        let Located { name, dims, data_type, location, offset, length } = located;
        let size = match &location {
            None => self.file.len(),
            Some(location) => self.data_file(&name, location)?.len(),
        };
        let Some(end) = offset.checked_add(length).filter(|end| *end <= size) else {
            let expected = format!("data inside the file's {size} bytes");
            return Err(Error::tensor(&self.path, name, expected, format!("{length} bytes from {offset}")));
        };
        let initializer = Initializer { dims, data_type, external: location.is_some(), range: offset..end };
        match self.initializers.insert(name.clone(), initializer) {
            None => Ok(()),
            Some(_) => Err(Error::tensor(&self.path, name, "each initializer once", "a second one of this name")),
        }
    }

    /// The file of tensors, which all initializers that are not in the model are in. It lies beside the model.
    fn data_file(&mut self, tensor: &str, location: &str) -> Result<&Mapped> {
        let wrong =
            |found: String| Err(Error::tensor(&self.path, tensor, "external data in one file beside the model", found));
        names::check_file(&self.path, "external data", location)?;
        if self.data.is_none() {
            let path = self.path.with_file_name(location);
            // A link may lead anywhere.
            let real = |path: &Path| path.canonicalize().map_err(Error::io(path));
            let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if real(&path)?.parent() != Some(&real(folder)?) {
                return wrong(format!("{location}, a link to another folder"));
            }
            let file = Mapped::open(&path)?;
            self.data = Some((location.to_owned(), file));
        }
        match &self.data {
            Some((name, file)) if name == location => Ok(file),
            _ => wrong(format!("a second one, {location}")),
        }
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What describes the model: the keys of our GGUF files.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// How each of the model's tensors is stored, by its canonical name.
    pub fn layouts(&self) -> &IndexMap<String, TensorLayout> {
        &self.layouts
    }

    /// Bytes of the model and of its file of tensors.
    pub fn file_bytes(&self) -> u64 {
        self.file.len() as u64 + self.data.as_ref().map_or(0, |(_, data)| data.len() as u64)
    }

    /// Whether tensors have a file of their own.
    pub fn has_external_data(&self) -> bool {
        self.data.is_some()
    }

    /// Gives the pages loaded so far back to the system.
    pub(crate) fn release(&self) {
        self.file.release();
        if let Some((_, data)) = &self.data {
            data.release();
        }
    }

    /// Type and bytes of the initializer `name`, whose shape must be `dims`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none, or of another shape.
    pub(super) fn initializer(&self, name: &str, dims: &[usize]) -> Result<(DataType, &[u8])> {
        let wrong = |found: String| Error::tensor(&self.path, quoted(name), format!("dimensions {dims:?}"), found);
        let found = self.initializers.get(name).ok_or_else(|| wrong("no such initializer".to_owned()))?;
        if found.dims != dims {
            return Err(wrong(format!("{:?}", found.dims)));
        }
        let file = match &self.data {
            Some((_, data)) if found.external => data,
            _ => &self.file,
        };
        // Opening has checked that the range is inside.
        Ok((found.data_type, &file[found.range.clone()]))
    }
}

/// An initializer before its file is looked at.
struct Located {
    name: String,
    dims: Vec<usize>,
    data_type: DataType,
    /// The file; `None` for the model itself.
    location: Option<String>,
    offset: usize,
    length: usize,
}

/// Where `part`, which is borrowed from `whole`, stands in it.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

fn text(bytes: &[u8]) -> Result<&str, NoMessage> {
    std::str::from_utf8(bytes).map_err(|_| NoMessage)
}

/// A `StringStringEntryProto`.
fn entry(message: &[u8]) -> Result<(&str, &str), NoMessage> {
    let (mut key, mut value) = ("", "");
    for field in Fields::new(message) {
        match field? {
            (1, Field::Bytes(bytes)) => key = text(bytes)?,
            (2, Field::Bytes(bytes)) => value = text(bytes)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn no_message(path: &Path, place: &str) -> Error {
    Error::damaged(path, place, "a message of ONNX", "bytes that are none")
}
