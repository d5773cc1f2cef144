//! The operators for other tools: as JSON, as Python that registers them with `onnx.defs`, and as documentation.

use super::{OPERATORS, Operator, Port};
use crate::onnx::{SAMBA_DOMAIN, SAMBA_VERSION};
use serde_json::{Value, json};

const ORIGIN: &str =
    "Generated from converters/src/onnx/operators: cargo run -p tamborim-converters --example onnx_schema";

/// The schema as a JSON document: for each operator its formula and, in order, inputs and outputs with type and shape.
pub fn schema_json() -> String {
    let port = |p: &Port| json!({ "name": p.name, "type": "tensor(float)", "shape": p.shape, "optional": p.optional, "description": p.meaning });
    let operator = |o: &&Operator| {
        json!({
            "name": o.name,
            "domain": SAMBA_DOMAIN,
            "since_version": SAMBA_VERSION,
            "description": o.summary,
            "formula": o.formula.lines().collect::<Vec<_>>(),
            "attributes": [],
            "inputs": o.inputs.iter().map(port).collect::<Vec<_>>(),
            "outputs": o.outputs.iter().map(port).collect::<Vec<_>>(),
        })
    };
    let operators: Vec<Value> = OPERATORS.iter().map(operator).collect();
    let schema = json!({ "comment": ORIGIN, "domain": SAMBA_DOMAIN, "version": SAMBA_VERSION, "operators": operators });
    format!("{schema:#}\n")
}

/// A Python module that registers the operators with `onnx.defs`, for `onnx.checker` with `check_custom_domain=True`.
pub fn schema_python() -> String {
    let mut text = format!(
        "\"\"\"Schemas of the operators of {SAMBA_DOMAIN}, for onnx.checker.check_model(.., check_custom_domain=True).

usage: import ai_samba; ai_samba.register()
{ORIGIN}
\"\"\"

import onnx.defs
from onnx.defs import OpSchema

OPTIONAL = OpSchema.FormalParameterOption.Optional


def schemas():
    return ["
    );
    for o in OPERATORS {
        text += &format!(
            "\n        OpSchema(\n            {:?},\n            {SAMBA_DOMAIN:?},\n            {SAMBA_VERSION},\n            doc=\"\"\"{}\"\"\",\n",
            o.name,
            o.doc_string()
        );
        for (kind, ports) in [("inputs", o.inputs), ("outputs", o.outputs)] {
            text += &format!("            {kind}=[\n");
            for p in ports {
                let option = if p.optional { ", param_option=OPTIONAL" } else { "" };
                let meaning = format!("({}): {}", p.shape.join(", "), p.meaning);
                text +=
                    &format!("                OpSchema.FormalParameter({:?}, \"T\", {meaning:?}{option}),\n", p.name);
            }
            text += "            ],\n";
        }
        text += "            type_constraints=[(\"T\", [\"tensor(float)\"], \"float32\")],\n        ),";
    }
    text += "
    ]


def register():
    for schema in schemas():
        if not onnx.defs.has(schema.name, schema.since_version, schema.domain):
            onnx.defs.register_schema(schema)
";
    text
}

/// The operators' documentation in Markdown.
pub fn schema_markdown() -> String {
    let mut text = format!(
        "# Operators of `{SAMBA_DOMAIN}`, version {SAMBA_VERSION}\n\n<!-- {ORIGIN} -->\n\nAll tensors are float32. Operators \
         have no attributes. An input that is left out is an empty name in the node.\n"
    );
    for o in OPERATORS {
        text += &format!("\n## {}\n\n{}\n\n```text\n{}\n```\n\n", o.name, o.summary, o.formula);
        text += "| | shape | |\n|---|---|---|\n";
        for (kind, ports) in [("in", o.inputs), ("out", o.outputs)] {
            for p in ports {
                let optional = if p.optional { ", optional" } else { "" };
                text += &format!("| {kind} `{}`{optional} | ({}) | {} |\n", p.name, p.shape.join(", "), p.meaning);
            }
        }
    }
    text
}
