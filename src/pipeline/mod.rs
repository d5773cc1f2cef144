//! What joins readers, quantizer, runtime and writers.

pub mod calibrate;
pub mod decode;
pub mod fingerprint;
pub mod genai;
pub mod parity;
pub mod quantize;
pub mod quantize_onnx;
pub mod replaced;
pub mod rounding;
pub mod runner;
pub mod sampling;
pub mod sensitivity;
pub mod source_hash;
pub mod write;
pub mod write_onnx;
