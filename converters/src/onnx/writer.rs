//! Writing a model: tensor after tensor, then the graph that refers to them.

use super::graph::{Export, Part, Storage, Stored};
use super::metadata::{Layout, TENSORS_KEY, TensorLayout, to_json};
use super::proto::{EXTERNAL, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use super::{IR_VERSION, MICROSOFT_DOMAIN, OPSET, PRODUCER, SAMBA_DOMAIN, SAMBA_VERSION};
use crate::gguf::Metadata;
use crate::{AtomicFile, Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use rayon::prelude::*;
use serde_json::json;
use std::borrow::Cow;
use std::path::Path;
use tamborim_quant::{NBitsMatrix, Tensor};

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

    /// Writes the next of them.
    ///
    /// # Errors
    /// [`Error::Tensor`] where they have another size than expected; [`Error::Io`].
    pub fn put(&mut self, bytes: Cow<'_, [u8]>) -> Result<()> {
        let wrong =
            |name: &str, expected: String, found: String| Err(Error::tensor(self.file.path(), name, expected, found));
        let Some(next) = self.export.stored.get(self.put) else {
            return wrong("tensor", "no tensor after the last one".to_owned(), "another".to_owned());
        };
        if bytes.len() != next.n_bytes() {
            return wrong(&next.spec.name, format!("{} bytes", next.n_bytes()), bytes.len().to_string());
        }
        let mut proto = TensorProto { data_type: Some(next.data_type as i32), ..TensorProto::default() };
        match &mut self.data {
            None => proto.raw_data = Some(Bytes::from(bytes.into_owned())),
            Some((file, name)) => {
                let offset = self.written.next_multiple_of(PAGE);
                file.put(&vec![0; offset - self.written])?;
                file.put(&bytes)?;
                self.written = offset + bytes.len();
                let entries =
                    [("location", name.clone()), ("offset", offset.to_string()), ("length", bytes.len().to_string())];
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
        Ok(())
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
                Layout::Blocks { bits: grid.bits(), block: grid.block_len(), zero_points: grid.has_zero_points() }
            }
        }
    }

    /// These of a tensor's numbers, taken out.
    ///
    /// # Panics
    /// If the numbers are not stored as [`Stored::storage`] says.
    pub fn take<'t>(&self, numbers: &mut Numbers<'t>) -> Cow<'t, [u8]> {
        match (numbers, self.part) {
            (Numbers::Float(tensor), Part::Whole) => std::mem::take(&mut tensor.bytes),
            (Numbers::Float(tensor), Part::Transposed) => turn(tensor).into(),
            (Numbers::Blocks(matrix), Part::Codes) => std::mem::take(&mut matrix.codes),
            (Numbers::Blocks(matrix), Part::Scales) => std::mem::take(&mut matrix.scales.bytes),
            (Numbers::Blocks(matrix), Part::ZeroPoints) => std::mem::take(&mut matrix.zero_points),
            (_, part) => panic!("{}: {part:?} of numbers stored otherwise", self.spec.name),
        }
    }
}

/// A tensor's numbers, encoded.
pub enum Numbers<'t> {
    /// For [`Storage::Float`].
    Float(Tensor<'t>),
    /// For [`Storage::Blocks`].
    Blocks(NBitsMatrix<'t>),
}

/// The numbers of a matrix of F32, F16 or BF16, columns first.
pub(super) fn turn(matrix: &Tensor<'_>) -> Vec<u8> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    match matrix.format.block_bytes() {
        2 => turn_elements::<2>(&matrix.bytes, rows, cols),
        _ => turn_elements::<4>(&matrix.bytes, rows, cols),
    }
}

/// Rows and columns of elements of `N` bytes exchanged, on all threads, in tiles that stay in the nearest cache.
fn turn_elements<const N: usize>(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    const TILE: usize = 32;
    let source = bytes.as_chunks::<N>().0;
    let mut out = vec![0; bytes.len()];
    if bytes.is_empty() {
        return out;
    }
    let target = out.as_chunks_mut::<N>().0;
    target.par_chunks_mut(rows * TILE).enumerate().for_each(|(tile, band)| {
        let first = tile * TILE;
        for row in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - row);
            for (c, line) in band.chunks_exact_mut(rows).enumerate() {
                for (r, element) in line[row..row + height].iter_mut().enumerate() {
                    *element = source[(row + r) * cols + first + c];
                }
            }
        }
    });
    out
}
