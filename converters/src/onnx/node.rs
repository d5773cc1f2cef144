//! Nodes and their attributes, put together.

use super::proto::{AttributeProto, DataType, GraphProto, NodeProto, attribute_type};
use super::proto::{DimensionProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto};

/// An extent of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    /// Known.
    Fixed(usize),
    /// Named, known when the model runs.
    Named(String),
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(n)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Dim {
        Dim::Named(name.to_owned())
    }
}

/// The value of an attribute.
pub(super) enum Attribute {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
    Graph(GraphProto),
}

impl From<i64> for Attribute {
    fn from(i: i64) -> Attribute {
        Attribute::Int(i)
    }
}

impl From<usize> for Attribute {
    fn from(i: usize) -> Attribute {
        // Extents come from files whose tensors fit in memory.
        Attribute::Int(i as i64)
    }
}

impl From<f32> for Attribute {
    fn from(f: f32) -> Attribute {
        Attribute::Float(f)
    }
}

impl From<&[i64]> for Attribute {
    fn from(list: &[i64]) -> Attribute {
        Attribute::Ints(list.to_vec())
    }
}

impl<const N: usize> From<[i64; N]> for Attribute {
    fn from(list: [i64; N]) -> Attribute {
        Attribute::Ints(list.to_vec())
    }
}

impl Attribute {
    fn named(self, name: &str) -> AttributeProto {
        let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
        proto.r#type = Some(match self {
            Attribute::Int(i) => {
                proto.i = Some(i);
                attribute_type::INT
            }
            Attribute::Float(f) => {
                proto.f = Some(f);
                attribute_type::FLOAT
            }
            Attribute::Ints(list) => {
                proto.ints = list;
                attribute_type::INTS
            }
            Attribute::Graph(g) => {
                proto.g = Some(g);
                attribute_type::GRAPH
            }
        });
        proto
    }
}

/// A node. `operator` is a name of ONNX's own, or `domain::name`.
pub(super) fn node(operator: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<(&str, Attribute)>) -> NodeProto {
    let (domain, name) = match operator.split_once("::") {
        Some((domain, name)) => (Some(domain.to_owned()), name),
        None => (None, operator),
    };
    NodeProto {
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        // Names must differ, and so do those of outputs.
        name: outputs.first().map(|&s| s.to_owned()),
        op_type: Some(name.to_owned()),
        attribute: attributes.into_iter().map(|(name, value)| value.named(name)).collect(),
        domain,
    }
}

/// A tensor's name, type and shape; `None` says nothing of its shape.
pub(super) fn value_info(name: &str, data_type: DataType, shape: Option<&[Dim]>) -> ValueInfoProto {
    let dim = |d: &Dim| match d {
        Dim::Fixed(n) => DimensionProto { dim_value: Some(*n as i64), dim_param: None },
        Dim::Named(name) => DimensionProto { dim_value: None, dim_param: Some(name.clone()) },
    };
    let shape = shape.map(|s| TensorShapeProto { dim: s.iter().map(dim).collect() });
    let tensor_type = TensorTypeProto { elem_type: Some(data_type as i32), shape };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
