//! The checked-in schema files are what their source generates.

use std::path::Path;
use tamborim_converters::onnx::{schema_json, schema_markdown, schema_python};

#[test]
fn schema_files_are_those_of_the_source() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/onnx");
    for (name, expected) in
        [("ai.samba.json", schema_json()), ("ai_samba.py", schema_python()), ("operators.md", schema_markdown())]
    {
        let found = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(found == expected, "docs/onnx/{name}: run cargo run -p tamborim-converters --example onnx_schema");
    }
}
