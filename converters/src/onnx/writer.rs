//! Writing a model: tensor after tensor, then the graph that refers to them.

use super::graph::{Export, Part, Storage, Stored};
use super::metadata::{Layout, TENSORS_KEY, TensorLayout, to_json};
use super::proto::{EXTERNAL, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use super::{IR_VERSION, MICROSOFT_DOMAIN, OPSET, PRODUCER, SAMBA_DOMAIN, SAMBA_VERSION, columns};
use crate::gguf::Metadata;
use crate::{AtomicFile, Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use rayon::prelude::*;
use serde_json::json;
use std::borrow::Cow;
use std::path::Path;
use tamborim_quant::{Format, NBitsMatrix, Tensor};

/// Models whose tensors take no more than this are one file; those of others have a file of their own beside it. So have
/// those of which two initializers show the same bytes, since only there they can.
const MAX_INLINE: usize = 64 << 20;
/// Where tensors begin in that file: pages, so that they can be mapped.
const PAGE: usize = 4096;
/// What is appended to the model's name for that file.
const DATA_SUFFIX: &str = ".data";

/// A model being written. Neither of its files appears before [`OnnxWriter::finish`].
pub struct OnnxWriter {
    file: AtomicFile,
    export: Export,
    /// The file for tensors and its name; `None` keeps them in the model.
    data: Option<(AtomicFile, String)>,
    /// Bytes written to it.
    written: usize,
    /// How many of [`Export::stored`] have been put.
    put: usize,
    initializers: Vec<TensorProto>,
}

impl OnnxWriter {
    /// Begins the model `path`.
    ///
    /// # Errors
    /// As [`AtomicFile::create`]; [`Error::Unsupported`] for a name that is no text.
    pub fn create(path: &Path, export: Export) -> Result<OnnxWriter> {
        let file = AtomicFile::create(path)?;
        let total: usize = export.stored.iter().map(Stored::n_bytes).sum();
        let shared = export.stored.iter().any(|s| s.views.len() > 1);
        let data = match total > MAX_INLINE || shared {
            false => None,
            true => {
                let name = path.file_name().and_then(|n| n.to_str());
                let reason = "expected a file name in UTF-8, to be written into the model".to_owned();
                let name = name.ok_or(Error::Unsupported { path: path.to_owned(), reason })?;
                let name = format!("{name}{DATA_SUFFIX}");
                Some((AtomicFile::create(&path.with_file_name(&name))?, name))
            }
        };
        Ok(OnnxWriter { file, export, data, written: 0, put: 0, initializers: Vec::new() })
    }

    /// The numbers that are to come, in order.
    pub fn stored(&self) -> &[Stored] {
        &self.export.stored
    }

    /// Writes the next of them. Gives their bytes.
    ///
    /// # Errors
    /// [`Error::Tensor`] where they have another size than expected; [`Error::Io`].
    pub fn put(&mut self, content: Content<'_>) -> Result<usize> {
        let len = content.n_bytes();
        let wrong =
            |name: &str, expected: String, found: String| Err(Error::tensor(self.file.path(), name, expected, found));
        let Some(next) = self.export.stored.get(self.put) else {
            return wrong("tensor", "no tensor after the last one".to_owned(), "another".to_owned());
        };
        if len != next.n_bytes() {
            return wrong(&next.spec.name, format!("{} bytes", next.n_bytes()), len.to_string());
        }
        let mut proto = TensorProto { data_type: Some(next.data_type as i32), ..TensorProto::default() };
        match &mut self.data {
            None => proto.raw_data = Some(Bytes::from(content.into_bytes())),
            Some((file, name)) => {
                let offset = self.written.next_multiple_of(PAGE);
                file.put(&vec![0; offset - self.written])?;
                match content {
                    Content::Bytes(bytes) => file.put(&bytes)?,
                    Content::Columns(matrix) => {
                        file.put_pieces(len, matrix.piece(), |at, piece| matrix.fill(at, piece))?;
                    }
                }
                self.written = offset + len;
                let entries = [("location", name.clone()), ("offset", offset.to_string()), ("length", len.to_string())];
                proto.external_data = entries.map(|(k, v)| entry(k, v)).into();
                proto.data_location = Some(EXTERNAL);
            }
        }
        self.initializers.extend(next.views.iter().map(|(name, dims)| TensorProto {
            name: Some(name.clone()),
            dims: dims.iter().map(|&n| n as i64).collect(),
            ..proto.clone()
        }));
        self.put += 1;
        Ok(len)
    }

    /// Puts the files under their names, tensors first. `metadata` describes the model. Gives the bytes of both.
    ///
    /// # Errors
    /// [`Error::Tensor`] if an initializer is missing; [`Error::Io`].
    pub fn finish(mut self, metadata: &Metadata) -> Result<u64> {
        if let Some(missing) = self.export.stored.get(self.put) {
            let expected = format!("{} bytes", missing.n_bytes());
            return Err(Error::tensor(self.file.path(), &missing.spec.name, expected, "none"));
        }
        let layouts: serde_json::Map<_, _> = self
            .export
            .stored
            .iter()
            .map(|s| (s.spec.name.clone(), json!(TensorLayout { shape: s.spec.shape.clone(), layout: s.layout() })))
            .collect();
        let layouts = entry(TENSORS_KEY, serde_json::Value::Object(layouts).to_string());
        let mut graph = self.export.graph;
        graph.initializer.append(&mut self.initializers);
        let domains = |used: &str| graph.node.iter().any(|n| n.domain.as_deref() == Some(used));
        let imports = [("", OPSET, true), (MICROSOFT_DOMAIN, 1, domains(MICROSOFT_DOMAIN))];
        let imports = [&imports[..], &[(SAMBA_DOMAIN, SAMBA_VERSION, domains(SAMBA_DOMAIN))]].concat();
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some(PRODUCER.to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            doc_string: None,
            opset_import: imports
                .into_iter()
                .filter(|(_, _, used)| *used)
                .map(|(domain, version, _)| OperatorSetIdProto {
                    domain: Some(domain.to_owned()),
                    version: Some(version),
                })
                .collect(),
            metadata_props: metadata.iter().map(|(key, value)| entry(key, to_json(value))).chain([layouts]).collect(),
            functions: self.export.functions,
            graph: Some(graph),
        };
        let bytes = model.encode_to_vec();
        self.file.put(&bytes)?;
        if let Some((data, _)) = self.data {
            data.commit()?;
        }
        self.file.commit()?;
        Ok((bytes.len() + self.written) as u64)
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) }
}

impl Stored {
    /// How the tensor is stored.
    fn layout(&self) -> Layout {
        match self.part {
            Part::Whole => Layout::Whole,
            Part::Transposed => Layout::Transposed,
            Part::Codes | Part::Scales | Part::ZeroPoints => {
                let Storage::Blocks(grid) = self.storage else { unreachable!("codes are of blocks") };
                let (bits, block, zero_points) = (grid.bits(), grid.block_len(), grid.has_zero_points());
                match self.inputs_first {
                    true => Layout::Columns { bits, block, zero_points },
                    false => Layout::Blocks { bits, block, zero_points },
                }
            }
        }
    }

    /// These of a tensor's numbers, taken out.
    ///
    /// # Panics
    /// If the numbers are not stored as [`Stored::storage`] says.
    pub fn take<'t>(&self, numbers: &mut Numbers<'t>) -> Content<'t> {
        Content::Bytes(match (numbers, self.part, self.storage) {
            (Numbers::Float(tensor), Part::Whole, _) => std::mem::take(&mut tensor.bytes),
            (Numbers::Float(tensor), Part::Transposed, Storage::Float(format)) => {
                let bytes = std::mem::take(&mut tensor.bytes);
                let tensor = Tensor { format: tensor.format, shape: tensor.shape.clone(), bytes };
                return Content::Columns(Columns { tensor, format });
            }
            (Numbers::Blocks(matrix), Part::Codes, _) if self.inputs_first => columns::codes(matrix).into(),
            (Numbers::Blocks(matrix), Part::Scales, _) if self.inputs_first => columns::scales(matrix).into(),
            (Numbers::Blocks(matrix), Part::ZeroPoints, _) if self.inputs_first => columns::zero_points(matrix).into(),
            (Numbers::Blocks(matrix), Part::Codes, _) => std::mem::take(&mut matrix.codes),
            (Numbers::Blocks(matrix), Part::Scales, _) => std::mem::take(&mut matrix.scales.bytes),
            (Numbers::Blocks(matrix), Part::ZeroPoints, _) => std::mem::take(&mut matrix.zero_points),
            (_, part, _) => panic!("{}: {part:?} of numbers stored otherwise", self.spec.name),
        })
    }
}

/// A tensor's numbers, encoded.
pub enum Numbers<'t> {
    /// For [`Storage::Float`]; of a matrix that is stored columns first any of F32, F16 and BF16 will do.
    Float(Tensor<'t>),
    /// For [`Storage::Blocks`].
    Blocks(NBitsMatrix<'t>),
}

/// Bytes of an initializer, or what they are made of as they are written.
pub enum Content<'t> {
    /// The bytes.
    Bytes(Cow<'t, [u8]>),
    /// A matrix, columns first.
    Columns(Columns<'t>),
}

impl Content<'_> {
    fn n_bytes(&self) -> usize {
        match self {
            Content::Bytes(bytes) => bytes.len(),
            Content::Columns(matrix) => matrix.tensor.elements() * matrix.format.block_bytes(),
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Content::Bytes(bytes) => bytes.into_owned(),
            Content::Columns(matrix) => matrix.to_bytes(),
        }
    }
}

/// A matrix of F32, F16 or BF16 that is stored columns first, and as `format`, another of the three.
pub struct Columns<'t> {
    tensor: Tensor<'t>,
    format: Format,
}

impl Columns<'_> {
    /// Bytes that are made at a time, on one thread: columns, so few that source and result stay in a core's own cache.
    fn piece(&self) -> usize {
        (TILE * self.tensor.rows() * self.format.block_bytes()).max(1)
    }

    /// The bytes from `at`, the beginning of a piece.
    fn fill(&self, at: usize, piece: &mut [u8]) {
        let Columns { tensor, format } = self;
        let (from, to) = (tensor.format.block_bytes(), format.block_bytes());
        let first = at / to / tensor.rows();
        if tensor.format == *format {
            return turn_columns(tensor, first, piece);
        }
        let mut turned = vec![0; piece.len() / to * from];
        turn_columns(tensor, first, &mut turned);
        let elements = turned.len() / from;
        let turned = Tensor { format: tensor.format, shape: vec![elements], bytes: turned.into() };
        match turned.recode(*format, None) {
            Ok(recoded) => piece.copy_from_slice(&recoded.bytes),
            Err(e) => unreachable!("floats of one row fit every float: {e}"),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.tensor.elements() * self.format.block_bytes()];
        let piece = self.piece();
        out.par_chunks_mut(piece).enumerate().for_each(|(i, out)| self.fill(i * piece, out));
        out
    }
}

/// The numbers of a matrix of F32, F16 or BF16, columns first.
pub(super) fn turn(matrix: &Tensor<'_>) -> Vec<u8> {
    let tensor = Tensor { format: matrix.format, shape: matrix.shape.clone(), bytes: Cow::Borrowed(&matrix.bytes) };
    Columns { tensor, format: matrix.format }.to_bytes()
}

/// The same of a matrix of bytes.
pub(super) fn turn_bytes(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    let pieces = out.par_chunks_mut((TILE * rows).max(1)).enumerate();
    pieces.for_each(|(i, out)| turn_elements::<1>(bytes, rows, cols, i * TILE, out));
    out
}

/// Columns, and rows, that are exchanged at a time.
const TILE: usize = 32;

/// Columns of a matrix from `first` on, as many as `out` holds.
fn turn_columns(matrix: &Tensor<'_>, first: usize, out: &mut [u8]) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    match matrix.format.block_bytes() {
        2 => turn_elements::<2>(&matrix.bytes, rows, cols, first, out),
        _ => turn_elements::<4>(&matrix.bytes, rows, cols, first, out),
    }
}

/// The same of elements of `N` bytes.
fn turn_elements<const N: usize>(bytes: &[u8], rows: usize, cols: usize, first: usize, out: &mut [u8]) {
    let (source, target) = (bytes.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
    for row in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - row);
        for (c, line) in target.chunks_exact_mut(rows).enumerate() {
            for (r, element) in line[row..row + height].iter_mut().enumerate() {
                *element = source[(row + r) * cols + first + c];
            }
        }
    }
}
