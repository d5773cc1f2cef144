//! An ONNX file seen as the model inside it.

use super::metadata::{Layout, SCALES, TensorLayout, ZERO_POINTS};
use super::proto::DataType;
use super::writer::turn;
use super::{OnnxFile, columns};
use crate::checkpoint::Scalar;
use crate::error::quoted;
use crate::finite::first_nonfinite;
use crate::gguf::{read_plan, read_tokenizer};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashSet;
use tamborim_model::tokenizer::Tokenizer;
use tamborim_model::{Plan, Role, TensorSpec};
use tamborim_quant::{Format, NBits, NBitsMatrix, SourceError, StoredAs, Tensor, TensorSource};

/// An ONNX file together with its plan. Opening it has compared every name and shape.
pub struct OnnxModel {
    file: OnnxFile,
    plan: Plan,
    allow_nonfinite: bool,
}

/// A tensor as the file has it.
enum Found<'f> {
    Float(Tensor<'f>),
    /// A matrix in (columns, rows).
    Transposed(Tensor<'f>),
    Blocks(NBitsMatrix<'f>),
    Columns(InColumns<'f>),
}

/// A matrix of (outputs, inputs) in blocks, inputs first: its arrays are put in order when they are read.
struct InColumns<'f> {
    grid: NBits,
    extent: [usize; 2],
    codes: &'f [u8],
    scales: Tensor<'f>,
    zero_points: &'f [u8],
}

impl OnnxModel {
    /// Reads the plan and checks that the file's tensors are exactly the plan's.
    ///
    /// # Errors
    /// As [`read_plan`]; [`Error::Tensor`] for the first tensor that is missing, superfluous, of another shape or type.
    pub fn new(file: OnnxFile, allow_nonfinite: bool) -> Result<OnnxModel> {
        let plan = read_plan(file.metadata(), &|name| file.layouts().get(name).map(|t| t.shape.as_slice()))?;
        let model = OnnxModel { file, plan, allow_nonfinite };
        let mut known = HashSet::new();
        for spec in model.plan.tensors() {
            model.find(&spec)?;
            known.insert(spec.name);
        }
        match model.file.layouts().keys().find(|name| !known.contains(*name)) {
            None => Ok(model),
            Some(extra) => {
                Err(Error::tensor(model.file.path(), quoted(extra), "no such tensor in this model", "one in the file"))
            }
        }
    }

    /// The container.
    pub fn file(&self) -> &OnnxFile {
        &self.file
    }

    /// The tokenizer in the file, if it has one.
    ///
    /// # Errors
    /// As [`read_tokenizer`].
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        read_tokenizer(self.file.metadata())
    }

    /// The tensor's initializers, of the types and shapes that they must have.
    fn find(&self, spec: &TensorSpec) -> Result<Found<'_>> {
        let wrong = |expected: String, found: String| Error::tensor(self.file.path(), &spec.name, expected, found);
        let stored = self.file.layouts().get(&spec.name);
        let TensorLayout { shape, layout } =
            stored.ok_or_else(|| wrong(format!("shape {:?}", spec.shape), "no such tensor".to_owned()))?;
        if *shape != spec.shape {
            return Err(wrong(format!("shape {:?}", spec.shape), format!("{shape:?}")));
        }
        let matrix = match (layout, shape.as_slice()) {
            (Layout::Whole, _) => None,
            (_, &[rows, cols]) => Some([rows, cols]),
            _ => return Err(wrong("two dimensions".to_owned(), format!("{shape:?}"))),
        };
        match (*layout, matrix) {
            (Layout::Transposed, Some([rows, cols])) => Ok(Found::Transposed(self.float(&spec.name, &[cols, rows])?)),
            (Layout::Blocks { bits, block, zero_points }, Some(extent)) => {
                let grid = self.grid(&spec.name, bits, block, zero_points)?;
                Ok(Found::Blocks(self.blocks(spec, extent, grid)?))
            }
            (Layout::Columns { bits, block, zero_points }, Some(extent)) => {
                let grid = self.grid(&spec.name, bits, block, zero_points)?;
                Ok(Found::Columns(self.columns(&spec.name, extent, grid)?))
            }
            _ => {
                // Convolutions want a dimension for the channels of a group.
                let dims = match (spec.role, shape.as_slice()) {
                    (Role::SsmConv | Role::AttnConv, &[channels, width]) => vec![channels, 1, width],
                    _ => shape.clone(),
                };
                Ok(Found::Float(self.float(&spec.name, &dims)?))
            }
        }
    }

    /// An initializer of floats.
    fn float(&self, name: &str, dims: &[usize]) -> Result<Tensor<'_>> {
        let (data_type, bytes) = self.file.initializer(name, dims)?;
        let format = match data_type {
            DataType::Float => Format::F32,
            DataType::Float16 => Format::F16,
            DataType::Bfloat16 => Format::Bf16,
            other => return Err(self.wrong(name, "float32, float16 or bfloat16", &format!("{other:?}"))),
        };
        Tensor::new(format, dims.to_vec(), bytes).map_err(|e| self.wrong(name, "numbers of its shape", &e.to_string()))
    }

    fn grid(&self, name: &str, bits: u8, block: usize, zero_points: bool) -> Result<NBits> {
        let grid = NBits::new(bits, block, zero_points, Format::F32);
        grid.map_err(|e| self.wrong(name, "blocks of MatMulNBits", &e.to_string()))
    }

    /// An initializer of codes.
    fn codes(&self, name: &str, data_type: DataType, dims: &[usize]) -> Result<&[u8]> {
        match self.file.initializer(name, dims)? {
            (found, bytes) if found == data_type => Ok(bytes),
            (other, _) => Err(self.wrong(name, &format!("{data_type:?}"), &format!("{other:?}"))),
        }
    }

    /// A matrix in blocks, inputs first.
    fn columns(&self, name: &str, [rows, cols]: [usize; 2], grid: NBits) -> Result<InColumns<'_>> {
        let (data_type, blocks) = (columns::code_type(grid), grid.blocks(cols));
        Ok(InColumns {
            grid,
            extent: [rows, cols],
            codes: self.codes(name, data_type, &[cols, rows])?,
            scales: self.float(&format!("{name}{SCALES}"), &[blocks, rows])?,
            zero_points: match grid.has_zero_points() {
                true => self.codes(&format!("{name}{ZERO_POINTS}"), data_type, &[blocks, rows])?,
                false => &[],
            },
        })
    }

    fn blocks(&self, spec: &TensorSpec, [rows, cols]: [usize; 2], grid: NBits) -> Result<NBitsMatrix<'_>> {
        let name = &spec.name;
        let n = grid.blocks(cols);
        let bytes = |name: &str, dims: &[usize]| self.codes(name, DataType::Uint8, dims);
        let codes = match spec.role {
            Role::Embedding => bytes(name, &[rows, grid.code_bytes(cols)])?,
            _ => bytes(name, &[rows, n, grid.code_bytes(cols) / n.max(1)])?,
        };
        let scales = self.float(&format!("{name}{SCALES}"), &[rows, n])?;
        let zero_points = match grid.zero_point_bytes(cols) {
            0 => &[],
            n => bytes(&format!("{name}{ZERO_POINTS}"), &[rows, n])?,
        };
        NBitsMatrix::new(grid, [rows, cols], codes, scales, zero_points)
            .map_err(|e| self.wrong(name, "blocks of MatMulNBits", &e.to_string()))
    }

    fn wrong(&self, name: &str, expected: &str, found: &str) -> Error {
        Error::tensor(self.file.path(), quoted(name), expected, found)
    }

    fn finite<'t>(&self, name: &str, tensor: Tensor<'t>) -> Result<Tensor<'t>> {
        let scalar = match tensor.format {
            Format::F16 => Scalar::F16,
            Format::Bf16 => Scalar::Bf16,
            _ => Scalar::F32,
        };
        match first_nonfinite(scalar, &tensor.bytes).filter(|_| !self.allow_nonfinite) {
            None => Ok(tensor),
            Some((index, value)) => {
                let expected = "finite numbers (--allow-nonfinite takes any)";
                Err(self.wrong(name, expected, &format!("{value} at element {index}")))
            }
        }
    }

    fn read_tensor(&self, spec: &TensorSpec) -> Result<Tensor<'_>> {
        let (format, bytes) = match self.find(spec)? {
            Found::Float(tensor) => (tensor.format, self.finite(&spec.name, tensor)?.bytes),
            Found::Transposed(tensor) => {
                let tensor = self.finite(&spec.name, tensor)?;
                (tensor.format, Cow::Owned(turn(&tensor)))
            }
            Found::Blocks(mut matrix) => {
                matrix.scales = self.finite(&format!("{}{SCALES}", spec.name), matrix.scales)?;
                (Format::F32, matrix.decoded().bytes)
            }
            Found::Columns(InColumns { grid, extent, codes, scales, zero_points }) => {
                let scales = self.finite(&format!("{}{SCALES}", spec.name), scales)?;
                let matrix = columns::matrix(grid, extent, codes, &scales, zero_points)
                    .map_err(|e| self.wrong(&spec.name, "blocks of DequantizeLinear", &e.to_string()))?;
                (Format::F32, matrix.decoded().bytes)
            }
        };
        Ok(Tensor { format, shape: spec.shape.clone(), bytes })
    }
}

impl TensorSource for OnnxModel {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn format(&self, spec: &TensorSpec) -> std::result::Result<Format, SourceError> {
        Ok(match self.find(spec)? {
            Found::Float(tensor) | Found::Transposed(tensor) => tensor.format,
            Found::Blocks(_) | Found::Columns(_) => Format::F32,
        })
    }

    fn stored_as(&self, spec: &TensorSpec) -> std::result::Result<StoredAs, SourceError> {
        Ok(match self.find(spec)? {
            Found::Float(tensor) | Found::Transposed(tensor) => tensor.format.into(),
            Found::Blocks(matrix) => (matrix.grid, [matrix.rows, matrix.cols]).into(),
            Found::Columns(matrix) => (matrix.grid, matrix.extent).into(),
        })
    }

    fn read(&self, spec: &TensorSpec) -> std::result::Result<Tensor<'_>, SourceError> {
        Ok(self.read_tensor(spec)?)
    }

    fn release(&self) {
        self.file.release();
    }
}
