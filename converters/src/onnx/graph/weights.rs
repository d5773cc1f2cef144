//! Weights: how they are stored, and the nodes that use them.

use super::builder::Value;
use super::{BATCH, Graph, LENGTH};
use crate::onnx::MICROSOFT_DOMAIN;
use crate::onnx::metadata::{SCALES, ZERO_POINTS};
use crate::onnx::node::Dim;
use crate::onnx::proto::DataType;
use tamborim_model::TensorSpec;
use tamborim_quant::{Format, NBits};

const EMBEDDING: &str = "token_embd.weight";
/// A tied head's codes have this name, too.
const HEAD: &str = "output.weight";

/// How a linear map is stored. Everything is computed in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// F32, F16 or BF16, the latter two cast to float32 where they are used.
    Float(Format),
    /// Integers in blocks, as ONNX Runtime's MatMulNBits and GatherBlockQuantized take them. An embedding's rows must be whole
    /// blocks.
    Blocks(NBits),
}

/// Which of a tensor's numbers an initializer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All, as they are.
    Whole,
    /// All, columns first: (inputs, outputs), as `MatMul` wants them.
    Transposed,
    /// The codes of blocks.
    Codes,
    /// Their scales.
    Scales,
    /// Their zero points.
    ZeroPoints,
}

/// Numbers of a tensor of the model, stored once.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The tensor.
    pub spec: TensorSpec,
    /// How the tensor is stored.
    pub storage: Storage,
    /// Which of its numbers these are.
    pub part: Part,
    pub(crate) data_type: DataType,
    /// The initializers that show them: names and dimensions.
    pub(crate) views: Vec<(String, Vec<usize>)>,
}

impl Stored {
    /// Their size.
    pub fn n_bytes(&self) -> usize {
        let elements = self.views.first().map_or(0, |(_, dims)| dims.iter().product::<usize>());
        elements * self.data_type.size()
    }
}

impl Graph<'_> {
    fn spec(&self, name: &str) -> TensorSpec {
        self.specs.get(name).cloned().unwrap_or_else(|| unreachable!("the plan lists {name}"))
    }

    /// An initializer of the tensor `spec`.
    fn store(&mut self, spec: &TensorSpec, storage: Storage, part: Part, dims: Vec<usize>) -> Value {
        let suffix = match part {
            Part::Whole | Part::Transposed | Part::Codes => "",
            Part::Scales => SCALES,
            Part::ZeroPoints => ZERO_POINTS,
        };
        self.initializer(format!("{}{suffix}", spec.name), spec, storage, part, dims)
    }

    fn initializer(
        &mut self,
        name: String,
        spec: &TensorSpec,
        storage: Storage,
        part: Part,
        dims: Vec<usize>,
    ) -> Value {
        let data_type = match (storage, part) {
            (Storage::Float(Format::F16), _) => DataType::Float16,
            (Storage::Float(Format::Bf16), _) => DataType::Bfloat16,
            (Storage::Blocks(_), Part::Codes | Part::ZeroPoints) => DataType::Uint8,
            _ => DataType::Float,
        };
        let value = Value { name, data_type, shape: dims.iter().map(|&n| n.into()).collect() };
        match self.stored.iter_mut().find(|s| s.spec.name == spec.name && s.part == part) {
            Some(stored) if stored.views.iter().any(|(name, _)| *name == value.name) => {}
            Some(stored) => stored.views.push((value.name.clone(), dims)),
            None => {
                let views = vec![(value.name.clone(), dims)];
                self.stored.push(Stored { spec: spec.clone(), storage, part, data_type, views });
            }
        }
        value
    }

    /// A small tensor of float32, in its own shape.
    pub fn vector(&mut self, name: &str) -> Value {
        let spec = self.spec(name);
        self.store(&spec, Storage::Float(Format::F32), Part::Whole, spec.shape.clone())
    }

    /// A small tensor of the block.
    pub fn block_vector(&mut self, name: &str) -> Value {
        self.vector(&format!("blk.{}.{name}", self.block))
    }

    /// The kernel of a depthwise convolution: (channels, 1, width).
    pub fn kernel(&mut self, name: &str) -> Value {
        let spec = self.spec(name);
        self.store(&spec, Storage::Float(Format::F32), Part::Whole, vec![spec.shape[0], 1, spec.shape[1]])
    }

    /// `x W^T`, and `+ b` where the plan has `b`, of the block's map `name`.
    pub fn linear(&mut self, name: &str, x: &Value) -> Value {
        let y = self.product(name, x);
        let bias = format!("blk.{}.{name}.bias", self.block);
        match self.specs.contains_key(&bias) {
            true => {
                let bias = self.vector(&bias);
                self.builder.binary("Add", &y, &bias)
            }
            false => y,
        }
    }

    /// `x W^T` of the block's map `name`.
    pub fn product(&mut self, name: &str, x: &Value) -> Value {
        self.multiply(&format!("blk.{}.{name}.weight", self.block), x)
    }

    fn multiply(&mut self, name: &str, x: &Value) -> Value {
        let spec = self.spec(name);
        let storage = (self.storage)(&spec);
        let (outputs, inputs) = (spec.shape[0], spec.shape[1]);
        match storage {
            Storage::Float(_) => {
                let weight = self.store(&spec, storage, Part::Transposed, vec![inputs, outputs]);
                let weight = self.builder.cast(&weight, DataType::Float);
                self.builder.matmul(x, &weight)
            }
            Storage::Blocks(grid) => {
                let codes = self.store(&spec, storage, Part::Codes, block_dims(grid, outputs, inputs));
                self.multiply_blocks(&spec, grid, &codes, x)
            }
        }
    }

    /// `x W^T` of a matrix in blocks.
    fn multiply_blocks(&mut self, spec: &TensorSpec, grid: NBits, codes: &Value, x: &Value) -> Value {
        let [scales, zero_points] = self.scales(spec, grid);
        let (outputs, inputs) = (spec.shape[0], spec.shape[1]);
        let attributes = vec![
            ("N", outputs.into()),
            ("K", inputs.into()),
            ("bits", i64::from(grid.bits()).into()),
            ("block_size", grid.block_len().into()),
            // Activations are rounded to 8 bits: without that, 8-bit weights are a hundred times slower on a CPU.
            ("accuracy_level", 4i64.into()),
        ];
        let inputs: Vec<&Value> =
            [Some(x), Some(codes), scales.as_ref(), zero_points.as_ref()].into_iter().flatten().collect();
        let shape = x.with_channels(outputs);
        self.builder.node(&format!("{MICROSOFT_DOMAIN}::MatMulNBits"), &inputs, attributes, DataType::Float, shape)
    }

    /// Scales, and zero points where blocks have them.
    fn scales(&mut self, spec: &TensorSpec, grid: NBits) -> [Option<Value>; 2] {
        let (rows, cols) = (spec.shape[0], spec.shape[1]);
        let storage = Storage::Blocks(grid);
        let scales = self.store(spec, storage, Part::Scales, vec![rows, grid.blocks(cols)]);
        let zero_points = match grid.zero_point_bytes(cols) {
            0 => None,
            n => Some(self.store(spec, storage, Part::ZeroPoints, vec![rows, n])),
        };
        [Some(scales), zero_points]
    }

    /// Rows of the embedding by token.
    pub fn embed(&mut self, tokens: &Value) -> Value {
        self.builder.enter("/token_embd".to_owned());
        let spec = self.spec(EMBEDDING);
        let storage = (self.storage)(&spec);
        let channels = spec.shape[1];
        let shape: Vec<Dim> = tokens.shape.iter().cloned().chain([channels.into()]).collect();
        match storage {
            Storage::Float(_) => {
                let table = self.store(&spec, storage, Part::Whole, spec.shape.clone());
                let rows = self.builder.node("Gather", &[&table, tokens], vec![], table.data_type, shape);
                self.builder.cast(&rows, DataType::Float)
            }
            Storage::Blocks(grid) => {
                let codes = self.store(&spec, storage, Part::Codes, vec![spec.shape[0], grid.code_bytes(channels)]);
                let [scales, zero_points] = self.scales(&spec, grid);
                let attributes = vec![
                    ("bits", i64::from(grid.bits()).into()),
                    ("block_size", grid.block_len().into()),
                    ("gather_axis", 0i64.into()),
                    ("quantize_axis", 1i64.into()),
                ];
                let inputs: Vec<&Value> =
                    [Some(&codes), Some(tokens), scales.as_ref(), zero_points.as_ref()].into_iter().flatten().collect();
                let operator = format!("{MICROSOFT_DOMAIN}::GatherBlockQuantized");
                self.builder.node(&operator, &inputs, attributes, DataType::Float, shape)
            }
        }
    }

    /// Logits: `x W^T` of the head, or of the embedding where it is that.
    pub fn head(&mut self, x: &Value, tied: bool) -> Value {
        if !tied {
            return self.multiply(HEAD, x);
        }
        let spec = self.spec(EMBEDDING);
        let storage = (self.storage)(&spec);
        if let Storage::Blocks(grid) = storage {
            // The same codes in the shape that this operator wants.
            let dims = block_dims(grid, spec.shape[0], spec.shape[1]);
            let codes = self.initializer(HEAD.to_owned(), &spec, storage, Part::Codes, dims);
            return self.multiply_blocks(&spec, grid, &codes, x);
        }
        // Gemm takes the embedding as it lies, so that it is there once.
        let table = self.store(&spec, storage, Part::Whole, spec.shape.clone());
        let table = self.builder.cast(&table, DataType::Float);
        let (d, vocabulary) = (x.channels(), table.shape[0].clone());
        let all = Dim::Named(format!("{BATCH}*{LENGTH}"));
        let rows = self.builder.reshape(x, &[-1, d as i64], vec![all.clone(), d.into()]);
        let attributes = vec![("transB", 1i64.into())];
        let shape = vec![all, vocabulary.clone()];
        let y = self.builder.node("Gemm", &[&rows, &table], attributes, DataType::Float, shape);
        let extents = self.place.input_extents(&mut self.builder);
        let rest = self.builder.ints(&[-1]);
        let to = self.builder.concat(&[&extents, &rest], 0, 3);
        let shape = x.shape[..2].iter().cloned().chain([vocabulary]).collect();
        self.builder.node("Reshape", &[&y, &to], vec![], DataType::Float, shape)
    }
}

/// Codes as MatMulNBits takes them: (outputs, blocks, bytes of a block).
fn block_dims(grid: NBits, outputs: usize, inputs: usize) -> Vec<usize> {
    let blocks = grid.blocks(inputs);
    vec![outputs, blocks, grid.code_bytes(inputs) / blocks.max(1)]
}
