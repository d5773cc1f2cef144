//! ONNX: models as graphs that ONNX Runtime runs. See `docs/onnx.md`.

mod columns;
mod genai;
mod graph;
mod metadata;
mod model;
mod node;
mod operators;
mod proto;
mod reader;
mod wire;
mod writer;

pub use genai::genai_config;
pub use graph::{Export, Options, Part, Storage, Stored, export};
pub use metadata::{Layout, TensorLayout};
pub use model::OnnxModel;
pub use operators::{OPERATORS, Operator, Port, schema_json, schema_markdown, schema_python};
pub use reader::OnnxFile;
pub use writer::{Columns, Content, Numbers, OnnxWriter};

use std::io::Read;
use std::path::Path;

/// The version of ONNX's own operators that models import: the newest that onnxruntime 1.20 knows.
pub const OPSET: i64 = 21;
/// The version of the file format.
const IR_VERSION: i64 = 10;
/// The domain of our operators.
pub const SAMBA_DOMAIN: &str = "ai.samba";
/// Its version.
pub const SAMBA_VERSION: i64 = 1;
/// The domain of ONNX Runtime's own operators, of version 1.
const MICROSOFT_DOMAIN: &str = "com.microsoft";
/// `ModelProto.producer_name` of our files.
const PRODUCER: &str = "tamborim";

/// Whether the file at `path` is an ONNX model: by its first bytes if tamborim wrote it, else by its name.
pub fn is_onnx(path: &Path) -> bool {
    // ir_version, then the length of the producer's name.
    let ours = [&[0x08, IR_VERSION as u8, 0x12, PRODUCER.len() as u8], PRODUCER.as_bytes()].concat();
    let begins_as_ours = || {
        let mut head = vec![0; ours.len()];
        std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut head)).is_ok() && head == ours
    };
    path.is_file() && (path.extension().is_some_and(|e| e == "onnx") || begins_as_ours())
}
