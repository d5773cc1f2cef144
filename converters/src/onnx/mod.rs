//! ONNX: models as graphs that ONNX Runtime runs. See `docs/onnx.md`.

mod graph;
#[allow(dead_code, reason = "the reader is to come")]
mod metadata;
mod node;
mod operators;
mod proto;
mod writer;

pub use graph::{Export, Options, Part, Storage, Stored, export};
pub use operators::{OPERATORS, Operator, Port, schema_json, schema_markdown, schema_python};
pub use writer::OnnxWriter;

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
