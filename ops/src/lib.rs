//! Kernels for the operators of the domain `ai.samba`, inside ONNX Runtime.
//!
//! Models carry these operators as functions of standard operators (`docs/onnx.md`); where a kernel is registered, ONNX
//! Runtime takes it instead. There are two ways in. Other programs load `libtamborim_ops.so` by its only export,
//! [`RegisterCustomOps`]; this project's command links the crate and gives [`domain`] to its sessions. Both reach ONNX Runtime
//! by a table of functions that they are handed ([`use_runtime`]): nothing here links to or searches for `libonnxruntime`.

mod linear_attention;
mod operator;
mod operators;
mod pool;
mod register;
mod selective_scan;

pub use operator::{Inputs, Operator, Outputs, Port};
pub use operators::OPERATORS;
pub use pool::{Pool, ThisThread};
pub use register::{RegisterCustomOps, domain, use_runtime};
