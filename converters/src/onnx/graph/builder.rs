//! A graph under construction: every value with its type and shape.

use crate::onnx::node::{Attribute, Dim, node, value_info};
use crate::onnx::proto::{DataType, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use prost::bytes::Bytes;
use std::collections::HashSet;

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    pub name: String,
    pub data_type: DataType,
    pub shape: Vec<Dim>,
}

impl Value {
    /// Extent of the last dimension, which is always a known one where this is asked.
    pub fn channels(&self) -> usize {
        match self.shape.last() {
            Some(Dim::Fixed(n)) => *n,
            _ => unreachable!("{}: channels are known", self.name),
        }
    }

    /// The shape with other channels.
    pub fn with_channels(&self, channels: usize) -> Vec<Dim> {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = channels.into();
        }
        shape
    }
}

/// A shape of numbers and names.
macro_rules! dims {
    ($($d:expr),*) => { vec![$($crate::onnx::node::Dim::from($d)),*] };
}
pub(super) use dims;

/// Nodes, values and constants so far. Names of values are `/scope/hint`.
#[derive(Default)]
pub struct Builder {
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    values: Vec<ValueInfoProto>,
    constants: Vec<TensorProto>,
    taken: HashSet<String>,
    scope: String,
}

impl Builder {
    /// Values that follow are named below `scope`.
    pub fn enter(&mut self, scope: String) {
        self.scope = scope;
    }

    /// As [`Builder::enter`]; gives the scope that was left.
    pub fn enter_within(&mut self, scope: String) -> String {
        std::mem::replace(&mut self.scope, scope)
    }

    /// A name that no other value has.
    fn fresh(&mut self, hint: &str) -> String {
        let base = format!("{}/{hint}", self.scope);
        let mut name = base.clone();
        for n in 2.. {
            if self.taken.insert(name.clone()) {
                break;
            }
            name = format!("{base}_{n}");
        }
        name
    }

    pub fn input(&mut self, name: &str, data_type: DataType, shape: Vec<Dim>) -> Value {
        self.inputs.push(value_info(name, data_type, Some(&shape)));
        Value { name: name.to_owned(), data_type, shape }
    }

    /// Makes the value an output of the graph, under another name.
    pub fn output(&mut self, value: &Value, name: &str) {
        self.outputs.push(value_info(name, value.data_type, Some(&value.shape)));
        self.values.retain(|v| v.name.as_deref() != Some(&value.name));
        for slot in self.nodes.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output)) {
            if *slot == value.name {
                name.clone_into(slot);
            }
        }
    }

    /// A node with several inputs, of which some may be left out, and several outputs, of `(hint, shape)`.
    pub fn nodes(
        &mut self,
        operator: &str,
        inputs: &[Option<&Value>],
        outputs: Vec<(&str, Vec<Dim>)>,
        attributes: Vec<(&str, Attribute)>,
    ) -> Vec<Value> {
        let data_type = DataType::Float;
        let values: Vec<Value> =
            outputs.into_iter().map(|(hint, shape)| Value { name: self.fresh(hint), data_type, shape }).collect();
        self.values.extend(values.iter().map(|v| value_info(&v.name, data_type, Some(&v.shape))));
        let inputs: Vec<&str> = inputs.iter().map(|v| v.map_or("", |v| v.name.as_str())).collect();
        let names: Vec<&str> = values.iter().map(|v| v.name.as_str()).collect();
        self.nodes.push(node(operator, &inputs, &names, attributes));
        values
    }

    /// The same node with the first attributes if `condition`, else with the second.
    pub fn either(
        &mut self,
        condition: &Value,
        operator: &str,
        inputs: &[&Value],
        outputs: Vec<(&str, Vec<Dim>)>,
        attributes: [Vec<(&str, Attribute)>; 2],
    ) -> Vec<Value> {
        let inputs: Vec<&str> = inputs.iter().map(|v| v.name.as_str()).collect();
        let branches = attributes.map(|attributes| {
            let names: Vec<String> = outputs.iter().map(|(hint, _)| self.fresh(&format!("branch/{hint}"))).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let infos = names.iter().zip(&outputs).map(|(n, (_, shape))| value_info(n, DataType::Float, Some(shape)));
            Attribute::Graph(GraphProto {
                output: infos.collect(),
                node: vec![node(operator, &inputs, &names, attributes)],
                name: Some("branch".to_owned()),
                ..GraphProto::default()
            })
        });
        let attributes = ["then_branch", "else_branch"].into_iter().zip(branches).collect();
        self.nodes("If", &[Some(condition)], outputs, attributes)
    }

    /// A node with one output, which is called after its operator.
    pub fn node(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: Vec<(&str, Attribute)>,
        data_type: DataType,
        shape: Vec<Dim>,
    ) -> Value {
        let name = self.fresh(operator.rsplit(':').next().unwrap_or(operator));
        self.values.push(value_info(&name, data_type, Some(&shape)));
        let inputs: Vec<&str> = inputs.iter().map(|v| v.name.as_str()).collect();
        self.nodes.push(node(operator, &inputs, &[&name], attributes));
        Value { name, data_type, shape }
    }

    /// A node of one input whose output is of its type and shape.
    pub fn unary(&mut self, operator: &str, x: &Value) -> Value {
        self.node(operator, &[x], vec![], x.data_type, x.shape.clone())
    }

    /// A node of two inputs of one type, broadcast.
    pub fn binary(&mut self, operator: &str, a: &Value, b: &Value) -> Value {
        let shape = broadcast(&a.shape, &b.shape);
        self.node(operator, &[a, b], vec![], a.data_type, shape)
    }

    /// [`Builder::binary`] that compares.
    pub fn compare(&mut self, operator: &str, a: &Value, b: &Value) -> Value {
        let shape = broadcast(&a.shape, &b.shape);
        self.node(operator, &[a, b], vec![], DataType::Bool, shape)
    }

    pub fn cast(&mut self, x: &Value, to: DataType) -> Value {
        if x.data_type == to {
            return x.clone();
        }
        self.node("Cast", &[x], vec![("to", Attribute::Int(to as i64))], to, x.shape.clone())
    }

    pub fn silu(&mut self, x: &Value) -> Value {
        let sigmoid = self.unary("Sigmoid", x);
        self.binary("Mul", x, &sigmoid)
    }

    /// The last dimension cut into parts.
    pub fn split(&mut self, x: &Value, parts: &[(&str, usize)]) -> Vec<Value> {
        let sizes: Vec<i64> = parts.iter().map(|p| p.1 as i64).collect();
        let sizes = self.ints(&sizes);
        let outputs = parts.iter().map(|(hint, n)| (*hint, x.with_channels(*n))).collect();
        self.nodes("Split", &[Some(x), Some(&sizes)], outputs, vec![("axis", (-1i64).into())])
    }

    pub fn concat(&mut self, parts: &[&Value], axis: usize, extent: impl Into<Dim>) -> Value {
        let mut shape = parts[0].shape.clone();
        shape[axis] = extent.into();
        self.node("Concat", parts, vec![("axis", axis.into())], parts[0].data_type, shape)
    }

    pub fn transpose(&mut self, x: &Value, perm: &[usize]) -> Value {
        let shape = perm.iter().map(|&p| x.shape[p].clone()).collect();
        let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
        self.node("Transpose", &[x], vec![("perm", perm.as_slice().into())], x.data_type, shape)
    }

    /// `to` has 0 for extents that stay and -1 for the one that follows from the others; `shape` is what comes of it.
    pub fn reshape(&mut self, x: &Value, to: &[i64], shape: Vec<Dim>) -> Value {
        let to = self.ints(to);
        self.node("Reshape", &[x, &to], vec![], x.data_type, shape)
    }

    pub fn unsqueeze(&mut self, x: &Value, axis: usize) -> Value {
        let mut shape = x.shape.clone();
        shape.insert(axis, Dim::Fixed(1));
        let axes = self.ints(&[axis as i64]);
        self.node("Unsqueeze", &[x, &axes], vec![], x.data_type, shape)
    }

    pub fn squeeze(&mut self, x: &Value, axis: usize) -> Value {
        let mut shape = x.shape.clone();
        shape.remove(axis);
        let axes = self.ints(&[axis as i64]);
        self.node("Squeeze", &[x, &axes], vec![], x.data_type, shape)
    }

    /// `x[.., n, k] y[.., k, m]`; leading dimensions are broadcast.
    pub fn matmul(&mut self, x: &Value, y: &Value) -> Value {
        let (outer_x, outer_y) = (&x.shape[..x.shape.len() - 1], &y.shape[..y.shape.len() - 2]);
        let (rows, outer_x) = (outer_x[outer_x.len() - 1].clone(), &outer_x[..outer_x.len() - 1]);
        let mut shape = broadcast(outer_x, outer_y);
        shape.extend([rows, y.shape[y.shape.len() - 1].clone()]);
        self.node("MatMul", &[x, y], vec![], x.data_type, shape)
    }

    /// Extent of a dimension, as a tensor of one number.
    pub fn extent(&mut self, x: &Value, axis: i64) -> Value {
        let range = vec![("start", axis.into()), ("end", (axis + 1).into())];
        self.node("Shape", &[x], range, DataType::Int64, dims![1])
    }

    fn constant(&mut self, hint: String, data_type: DataType, shape: &[usize], bytes: Vec<u8>) -> Value {
        let name = format!("constant/{hint}");
        if self.taken.insert(name.clone()) {
            self.constants.push(TensorProto {
                dims: shape.iter().map(|&n| n as i64).collect(),
                data_type: Some(data_type as i32),
                name: Some(name.clone()),
                raw_data: Some(Bytes::from(bytes)),
                ..TensorProto::default()
            });
        }
        Value { name, data_type, shape: shape.iter().map(|&n| n.into()).collect() }
    }

    /// A list of integers.
    pub fn ints(&mut self, list: &[i64]) -> Value {
        let bytes = list.iter().flat_map(|i| i.to_le_bytes()).collect();
        let words: Vec<String> = list.iter().map(i64::to_string).collect();
        self.constant(format!("ints_{}", words.join("_")), DataType::Int64, &[list.len()], bytes)
    }

    /// An integer.
    pub fn int(&mut self, i: i64) -> Value {
        self.constant(format!("int_{i}"), DataType::Int64, &[], i.to_le_bytes().to_vec())
    }

    /// A number.
    pub fn float(&mut self, x: f32) -> Value {
        self.constant(format!("float_{x:e}"), DataType::Float, &[], x.to_le_bytes().to_vec())
    }

    /// A number of float64.
    pub fn double(&mut self, x: f64) -> Value {
        self.constant(format!("double_{x:e}"), DataType::Double, &[], x.to_le_bytes().to_vec())
    }

    /// A list of numbers; equal names mean equal lists.
    pub fn floats(&mut self, name: String, list: &[f32]) -> Value {
        let bytes = list.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(name, DataType::Float, &[list.len()], bytes)
    }

    /// A tensor of one number throughout; equal names mean equal tensors.
    pub fn filled(&mut self, name: &str, x: f32, shape: &[usize]) -> Value {
        let bytes = x.to_le_bytes().repeat(shape.iter().product());
        self.constant(name.to_owned(), DataType::Float, shape, bytes)
    }

    /// The graph, without tensors that are stored elsewhere.
    pub fn finish(self) -> GraphProto {
        GraphProto {
            node: self.nodes,
            name: Some("model".to_owned()),
            initializer: self.constants,
            input: self.inputs,
            output: self.outputs,
            value_info: self.values,
        }
    }
}

/// The shape that elementwise operators give. Named extents meet themselves or 1.
fn broadcast(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let skip = long.len() - short.len();
    let extent = |(i, d): (usize, &Dim)| match i.checked_sub(skip).map(|i| &short[i]) {
        Some(other) if *d == Dim::Fixed(1) => other.clone(),
        _ => d.clone(),
    };
    long.iter().enumerate().map(extent).collect()
}
