//! ONNX: models as graphs that ONNX Runtime runs. See `docs/onnx.md`.

#[allow(dead_code)]
mod node;
#[allow(dead_code)]
mod operators;
#[allow(dead_code)]
mod proto;

pub use operators::{OPERATORS, Operator, Port, schema_json, schema_markdown, schema_python};

/// The version of ONNX's own operators that models import: the newest that onnxruntime 1.20 knows.
pub const OPSET: i64 = 21;
/// The version of the file format.
#[allow(dead_code)]
const IR_VERSION: i64 = 10;
/// The domain of our operators.
pub const SAMBA_DOMAIN: &str = "ai.samba";
/// Its version.
pub const SAMBA_VERSION: i64 = 1;
/// The domain of ONNX Runtime's own operators, of version 1.
#[allow(dead_code)]
const MICROSOFT_DOMAIN: &str = "com.microsoft";
