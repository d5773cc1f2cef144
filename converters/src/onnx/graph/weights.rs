//! Weights: how they are stored, and the nodes that use them.

use super::Graph;
use super::builder::Value;
use crate::onnx::node::{Attribute, Dim};
use crate::onnx::proto::DataType;
use tamborim_model::TensorSpec;
use tamborim_quant::Format;

/// How a linear map is stored. Everything is computed in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// F32, F16 or BF16, the latter two cast to float32 where they are used.
    Float(Format),
}

/// Which of a tensor's numbers an initializer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All, as they are.
    Whole,
    /// All, columns first: (inputs, outputs), as `MatMul` wants them.
    Transposed,
}

/// An initializer that holds numbers of a tensor of the model.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// The tensor.
    pub spec: TensorSpec,
    /// How the tensor is stored.
    pub storage: Storage,
    /// Which of its numbers these are.
    pub part: Part,
    pub(crate) data_type: DataType,
    pub(crate) dims: Vec<usize>,
}

impl Stored {
    /// Its size.
    pub fn n_bytes(&self) -> usize {
        self.dims.iter().product::<usize>() * self.data_type.size()
    }
}

impl Graph<'_> {
    fn spec(&self, name: &str) -> TensorSpec {
        self.specs.get(name).cloned().unwrap_or_else(|| unreachable!("the plan lists {name}"))
    }

    /// An initializer of the tensor `name`.
    fn store(&mut self, name: &str, storage: Storage, part: Part, dims: Vec<usize>) -> Value {
        if let Some(value) = self.loaded.get(name) {
            return value.clone();
        }
        let Storage::Float(format) = storage;
        let data_type = match format {
            Format::F16 => DataType::Float16,
            Format::Bf16 => DataType::Bfloat16,
            _ => DataType::Float,
        };
        let shape: Vec<Dim> = dims.iter().map(|&n| n.into()).collect();
        let value = Value { name: name.to_owned(), data_type, shape };
        self.stored.push(Stored { name: name.to_owned(), spec: self.spec(name), storage, part, data_type, dims });
        self.loaded.insert(name.to_owned(), value.clone());
        value
    }

    /// A small tensor of float32, in its own shape.
    pub fn vector(&mut self, name: &str) -> Value {
        let shape = self.spec(name).shape;
        self.store(name, Storage::Float(Format::F32), Part::Whole, shape)
    }

    /// A small tensor of the block.
    pub fn block_vector(&mut self, name: &str) -> Value {
        self.vector(&format!("blk.{}.{name}", self.block))
    }

    /// The kernel of a depthwise convolution: (channels, 1, width).
    pub fn kernel(&mut self, name: &str) -> Value {
        let shape = self.spec(name).shape;
        self.store(name, Storage::Float(Format::F32), Part::Whole, vec![shape[0], 1, shape[1]])
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
        let weight = self.store(name, storage, Part::Transposed, vec![inputs, outputs]);
        let weight = self.builder.cast(&weight, DataType::Float);
        self.builder.matmul(x, &weight)
    }

    /// Rows of the embedding by token.
    pub fn embed(&mut self, tokens: &Value) -> Value {
        self.builder.enter("/token_embd".to_owned());
        let table = self.embedding();
        let shape = tokens.shape.iter().cloned().chain([table.shape[1].clone()]).collect();
        let rows = self.builder.node("Gather", &[&table, tokens], vec![], table.data_type, shape);
        self.builder.cast(&rows, DataType::Float)
    }

    fn embedding(&mut self) -> Value {
        let name = "token_embd.weight";
        let spec = self.spec(name);
        let storage = (self.storage)(&spec);
        self.store(name, storage, Part::Whole, spec.shape)
    }

    /// Logits: `x W^T` of the head, or of the embedding where it is that.
    pub fn head(&mut self, x: &Value, tied: bool) -> Value {
        if !tied {
            return self.multiply("output.weight", x);
        }
        // Gemm takes the embedding as it lies, so that it is there once.
        let table = self.embedding();
        let table = self.builder.cast(&table, DataType::Float);
        let (d, vocabulary) = (x.channels(), table.shape[0].clone());
        let shape = vec![Dim::Named(format!("{}*{}", super::BATCH, super::LENGTH)), vocabulary.clone()];
        let rows = self.builder.reshape(x, &[-1, d as i64], vec![shape[0].clone(), d.into()]);
        let attributes = vec![("transB", Attribute::Int(1))];
        let y = self.builder.node("Gemm", &[&rows, &table], attributes, DataType::Float, shape);
        let extents = self.place.input_extents(&mut self.builder);
        let minus = self.builder.ints(&[-1]);
        let to = self.builder.concat(&[&extents, &minus], 0, 3);
        let shape = x.shape[..2].iter().cloned().chain([vocabulary]).collect();
        self.builder.node("Reshape", &[&y, &to], vec![], DataType::Float, shape)
    }
}
