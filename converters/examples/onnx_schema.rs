//! Writes the schema of the operators of `ai.samba` into a folder: `docs/onnx` of this project unless another is given.

use std::path::PathBuf;
use tamborim_converters::onnx::{schema_json, schema_markdown, schema_python};

fn main() -> std::io::Result<()> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/onnx");
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(own), PathBuf::from);
    std::fs::write(folder.join("ai.samba.json"), schema_json())?;
    std::fs::write(folder.join("ai_samba.py"), schema_python())?;
    std::fs::write(folder.join("operators.md"), schema_markdown())
}
