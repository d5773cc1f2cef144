//! The reference runtime: forward pass and states, on the CPU or a CUDA device.
//!
//! A model reads like the paper: [`Model::forward`] walks the layer plan, each mixer is one file in `mixers/`, written once
//! over the operations of a [`Backend`]; each operation is one file in `cpu/` and one in `cuda/`.

mod backend;
mod cpu;
mod cuda;
mod error;
mod loader;
mod mixers;
mod model;
mod observe;
pub mod parity;
pub mod sample;
pub mod search;

pub use backend::*;
pub use cpu::{Cpu, recurrences};
pub use cuda::{Cuda, DeviceError, KernelTime};
pub use error::{Error, Result};
pub use model::{Gap, Logits, Model, State, Succession, Trace, Variant};
pub use observe::{Input, Observed};
