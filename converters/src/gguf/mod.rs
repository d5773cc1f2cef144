//! The GGUF container, version 3, little-endian: keys with typed values, then tensors. Knows no model.
//!
//! ```text
//!   "GGUF" | u32 version | u64 tensors | u64 keys
//!   keys:    string | u32 type | value             string = u64 length, UTF-8 bytes
//!   tensors: string | u32 n | u64 ne[n] | u32 ggml_type | u64 offset
//!   padding | data: each tensor at its offset, padded to the alignment
//! ```
//!
//! Source: ggml `docs/gguf.md` and the checks of its reader, `gguf.cpp`. Shapes here are row-major as in PyTorch, slowest
//! dimension first: the reverse of `ne`.

mod architecture;
mod calibration;
mod cursor;
mod keys;
mod metadata;
mod model;
mod plan;
mod reader;
mod split;
mod tokenizer;
mod types;
mod value;
mod writer;

pub use architecture::Architecture;
pub use calibration::{CalibrationFile, CalibrationWriter, Facts, Input};
pub use keys::write_plan;
pub use metadata::{FromValue, Metadata};
pub use model::GgufModel;
pub use plan::read_plan;
pub use reader::{GgufFile, TensorInfo};
pub use tokenizer::{read_tokenizer, write_tokenizer};
pub use types::GgmlType;
pub use value::{Array, Value};
pub use writer::{GgufBody, GgufWriter};

/// The first four bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Tensor data begins at multiples of this, unless `general.alignment` says otherwise.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// The key of another alignment: a u32, a power of two.
const ALIGNMENT_KEY: &str = "general.alignment";

/// A tensor's name is shorter than this, in bytes (`GGML_MAX_NAME`).
const MAX_NAME: usize = 64;

/// A tensor has at most this many dimensions (`GGML_MAX_DIMS`).
const MAX_DIMS: usize = 4;
