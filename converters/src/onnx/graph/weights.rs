//! Weights: how they are stored, and the nodes that use them.

use super::builder::Value;
use super::{BATCH, Graph, LENGTH};
use crate::onnx::metadata::{SCALES, ZERO_POINTS};
use crate::onnx::node::Dim;
use crate::onnx::proto::DataType;
use crate::onnx::{MICROSOFT_DOMAIN, columns};
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
    /// Integers in blocks, as ONNX Runtime's MatMulNBits and GatherBlockQuantized take them, or DequantizeLinear where only
    /// standard operators are wanted. An embedding's rows must be whole blocks.
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
    /// Blocks as DequantizeLinear takes them: inputs first.
    pub(crate) inputs_first: bool,
    pub(crate) data_type: DataType,
    /// The initializers that show them: names and dimensions.
    pub(crate) views: Vec<(String, Vec<usize>)>,
}

impl Stored {
    /// Their size.
    pub fn n_bytes(&self) -> usize {
        // Of tensors that fit in memory.
        self.views.first().and_then(|(_, dims)| self.data_type.bytes(dims)).unwrap_or(0)
    }
}

impl Graph<'_> {
    fn spec(&self, name: &str) -> TensorSpec {
        self.specs.get(name).cloned().unwrap_or_else(|| unreachable!("the plan lists {name}"))
    }

    /// An initializer of the tensor `spec`.
    fn store(&mut self, spec: &TensorSpec, storage: Storage, part: Part, dims: Vec<usize>) -> Value {
        self.initializer(spec.name.clone(), spec, storage, part, dims)
    }

    fn initializer(
        &mut self,
        name: String,
        spec: &TensorSpec,
        storage: Storage,
        part: Part,
        dims: Vec<usize>,
    ) -> Value {
        let inputs_first = self.options.pure && matches!(storage, Storage::Blocks(_));
        let data_type = match (storage, part) {
            (Storage::Float(Format::F16), _) => DataType::Float16,
            (Storage::Float(Format::Bf16), _) => DataType::Bfloat16,
            (Storage::Blocks(grid), Part::Codes | Part::ZeroPoints) if inputs_first => columns::code_type(grid),
            (Storage::Blocks(_), Part::Codes | Part::ZeroPoints) => DataType::Uint8,
            _ => DataType::Float,
        };
        let value = Value { name, data_type, shape: dims.iter().map(|&n| n.into()).collect() };
        match self.stored.iter_mut().find(|s| s.spec.name == spec.name && s.part == part) {
            Some(stored) if stored.views.iter().any(|(name, _)| *name == value.name) => {}
            Some(stored) => stored.views.push((value.name.clone(), dims)),
            None => {
                let views = vec![(value.name.clone(), dims)];
                self.stored.push(Stored { spec: spec.clone(), storage, part, inputs_first, data_type, views });
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
            Storage::Blocks(grid) if self.options.pure => {
                let weight = self.dequantize(name, &spec, grid);
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
        let [scales, zero_points] = self.scales(&spec.name, spec, grid);
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

    /// A matrix in blocks as float32, (inputs, outputs). Before a MatMul, ONNX Runtime makes one MatMulNBits of both.
    fn dequantize(&mut self, name: &str, spec: &TensorSpec, grid: NBits) -> Value {
        let dims = vec![spec.shape[1], spec.shape[0]];
        let codes = self.initializer(name.to_owned(), spec, Storage::Blocks(grid), Part::Codes, dims);
        let [scales, zero_points] = self.scales(name, spec, grid);
        let inputs: Vec<&Value> = [Some(&codes), scales.as_ref(), zero_points.as_ref()].into_iter().flatten().collect();
        let attributes = vec![("axis", 0i64.into()), ("block_size", grid.block_len().into())];
        self.builder.node("DequantizeLinear", &inputs, attributes, DataType::Float, codes.shape.clone())
    }

    /// Rows of the embedding by token, in standard operators: columns of what is stored inputs first.
    fn embed_columns(&mut self, spec: &TensorSpec, grid: NBits, tokens: &Value, shape: Vec<Dim>) -> Value {
        let (storage, channels) = (Storage::Blocks(grid), spec.shape[1]);
        let codes = self.store(spec, storage, Part::Codes, vec![channels, spec.shape[0]]);
        let [scales, zero_points] = self.scales(&spec.name, spec, grid);
        let blocks = grid.blocks(channels);
        let g = &mut self.builder;
        // (blocks, elements of a block) of every token.
        let mut rows = |x: &Value, extent: [usize; 2]| {
            // Gather takes no integers of 4 bits.
            let x = match x.data_type {
                DataType::Uint4 => g.cast(x, DataType::Uint8),
                DataType::Int4 => g.cast(x, DataType::Int8),
                _ => x.clone(),
            };
            let gathered = std::iter::once(x.shape[0].clone()).chain(tokens.shape.iter().cloned()).collect();
            let columns = g.node("Gather", &[&x, tokens], vec![("axis", 1i64.into())], x.data_type, gathered);
            let columns = g.cast(&columns, DataType::Float);
            let rows = g.transpose(&columns, &[1, 2, 0]);
            let shape = tokens.shape.iter().cloned().chain(extent.map(Dim::from)).collect();
            g.reshape(&rows, &[0, 0, extent[0] as i64, extent[1] as i64], shape)
        };
        let mut x = rows(&codes, [blocks, grid.block_len()]);
        let [scales, zero_points] = [scales, zero_points].map(|part| part.map(|part| rows(&part, [blocks, 1])));
        if let Some(zero_points) = &zero_points {
            x = self.builder.binary("Sub", &x, zero_points);
        }
        if let Some(scales) = &scales {
            x = self.builder.binary("Mul", &x, scales);
        }
        self.builder.reshape(&x, &[0, 0, channels as i64], shape)
    }

    /// Scales, and zero points where blocks have them, of the codes called `name`.
    fn scales(&mut self, name: &str, spec: &TensorSpec, grid: NBits) -> [Option<Value>; 2] {
        let (rows, cols) = (spec.shape[0], spec.shape[1]);
        let (storage, blocks) = (Storage::Blocks(grid), grid.blocks(cols));
        let [of_scales, of_zero_points] = match self.options.pure {
            true => [vec![blocks, rows], vec![blocks, rows]],
            false => [vec![rows, blocks], vec![rows, grid.zero_point_bytes(cols)]],
        };
        let scales = self.initializer(format!("{name}{SCALES}"), spec, storage, Part::Scales, of_scales);
        let zero_points = grid.has_zero_points().then(|| {
            let name = format!("{name}{ZERO_POINTS}");
            self.initializer(name, spec, storage, Part::ZeroPoints, of_zero_points)
        });
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
            Storage::Blocks(grid) if self.options.pure => self.embed_columns(&spec, grid, tokens, shape),
            Storage::Blocks(grid) => {
                let codes = self.store(&spec, storage, Part::Codes, vec![spec.shape[0], grid.code_bytes(channels)]);
                let [scales, zero_points] = self.scales(&spec.name, &spec, grid);
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
        if let (Storage::Blocks(grid), true) = (storage, self.options.pure) {
            // Initializers of its own, which show the embedding's bytes: else it would not become a MatMulNBits.
            let weight = self.dequantize(HEAD, &spec, grid);
            return self.builder.matmul(x, &weight);
        }
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
