//! Fewer bits: block formats, scale search, rounding, type recipes. Knows no files and no runtime.
//!
//! A [`Format`] says how numbers are laid out in blocks and converts rows of `f32` to bytes and back; a [`Tensor`] is a
//! shape, a format and bytes that fit each other. One file of `formats/` holds one block format: its layout, decoder and
//! encoder. Encoders share the scale searches of `search.rs`, which work on sixteen or eight groups side by side
//! (`lanes.rs`). Every decoder and encoder is compiled for several instruction sets (`simd.rs`) with equal results, bit
//! for bit: bytes depend neither on the machine nor on the thread count.
//!
//! [`NBitsMatrix`] is the same for the operator MatMulNBits of ONNX Runtime, whose codes, scales and zero points are arrays of
//! their own.

mod allocation;
mod calibrated;
mod calibration;
mod codebook;
mod error;
mod float16;
mod format;
mod formats;
mod grid;
mod lanes;
mod nbits;
mod recipe;
mod search;
mod simd;
mod source;
mod sums;
mod tensor;
mod vector;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use allocation::{Candidate, allocate};
pub use calibrated::{Correction, Effort, Hessian, Lack, RowInputs};
pub use calibration::{Calibration, Moments};
pub use error::{Error, Result};
pub use format::{Format, FormatInfo};
pub use nbits::{NBits, NBitsMatrix};
pub use recipe::{Choice, Recipe};
pub use source::{SourceError, StoredAs, TensorSource};
pub use sums::{Sums, accumulate};
pub use tensor::Tensor;
