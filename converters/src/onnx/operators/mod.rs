//! The operators of the domain `ai.samba`: what each takes and gives, stated once. From here come the function bodies that
//! every model carries, the schema files under `docs/onnx/` and their documentation.
//!
//! Their sequences are (batch, length, ..), as projections give and take them; a state is what a sequence has left behind.
//! All numbers are float32: a recurrence over thousands of tokens wants the precision, whatever the weights are stored in.

mod gated_linear_attention;
mod retention;
mod schema;
mod selective_scan;

pub(super) use gated_linear_attention::GATED_LINEAR_ATTENTION;
pub(super) use retention::RETENTION;
pub use schema::{schema_json, schema_markdown, schema_python};
pub(super) use selective_scan::SELECTIVE_SCAN;

use super::node::{Attribute, node, value_info};
use super::proto::{DataType, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};
use super::{OPSET, SAMBA_DOMAIN};

/// An input or output.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// Extents, by name.
    pub shape: &'static [&'static str],
    /// Whether it may be left out (an empty name in the node).
    pub optional: bool,
    /// What it holds.
    pub meaning: &'static str,
}

impl Port {
    const fn new(name: &'static str, shape: &'static [&'static str], meaning: &'static str) -> Port {
        Port { name, shape, optional: false, meaning }
    }

    const fn optional(name: &'static str, shape: &'static [&'static str], meaning: &'static str) -> Port {
        Port { name, shape, optional: true, meaning }
    }
}

/// An operator of the domain `ai.samba`, since version 1. It has no attributes.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// Its name.
    pub name: &'static str,
    /// What it computes, in a sentence, and where that comes from.
    pub summary: &'static str,
    /// What it computes, in lines of pseudo code.
    pub formula: &'static str,
    /// In order.
    pub inputs: &'static [Port],
    /// In order.
    pub outputs: &'static [Port],
    /// The nodes that compute it from standard operators, where all inputs are given but those named.
    body: fn(without: &[&str]) -> Vec<NodeProto>,
}

/// All of them.
pub const OPERATORS: [&Operator; 3] = [&SELECTIVE_SCAN, &GATED_LINEAR_ATTENTION, &RETENTION];

impl Operator {
    /// Documentation in plain text: summary, formula, inputs and outputs.
    pub fn doc_string(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.summary, self.formula);
        for (kind, ports) in [("Inputs", self.inputs), ("Outputs", self.outputs)] {
            text += &format!("\n{kind}, float32:\n");
            for p in ports {
                let optional = if p.optional { ", optional" } else { "" };
                text += &format!("  {} ({}){optional}: {}\n", p.name, p.shape.join(", "), p.meaning);
            }
        }
        text
    }

    /// The operator as a function of standard operators, which runs wherever ONNX does. `without`: optional inputs that the
    /// model leaves out wherever it uses the operator.
    pub(super) fn function(&self, without: &[&str]) -> FunctionProto {
        let names = |ports: &[Port]| ports.iter().map(|p| p.name.to_owned()).collect();
        FunctionProto {
            name: Some(self.name.to_owned()),
            domain: Some(SAMBA_DOMAIN.to_owned()),
            input: names(self.inputs),
            output: names(self.outputs),
            node: (self.body)(without),
            doc_string: Some(self.doc_string()),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        }
    }
}

/// `ints` as a tensor of one dimension.
fn constant(name: &str, ints: &[i64]) -> NodeProto {
    node("Constant", &[], &[name], vec![("value_ints", ints.into())])
}

fn transpose(input: &str, output: &str, perm: &[i64]) -> NodeProto {
    node("Transpose", &[input], &[output], vec![("perm", perm.into())])
}

/// A `Scan` over the first dimension of `steps`, with one state: `outputs` are its end and what `body` gives at each step.
/// In the body the state is `state` and becomes `next`; the others have the names of the second of each pair; its result is
/// `result`.
fn scan(start: &str, steps: &[(&str, &str)], outputs: [&str; 2], body: Vec<NodeProto>) -> NodeProto {
    let float = |name: &str| value_info(name, DataType::Float, None);
    let graph = GraphProto {
        name: Some("step".to_owned()),
        node: body,
        input: std::iter::once("state").chain(steps.iter().map(|s| s.1)).map(float).collect(),
        output: vec![float("next"), float("result")],
        ..GraphProto::default()
    };
    let inputs: Vec<&str> = std::iter::once(start).chain(steps.iter().map(|s| s.0)).collect();
    node("Scan", &inputs, &outputs, vec![("num_scan_inputs", steps.len().into()), ("body", Attribute::Graph(graph))])
}
