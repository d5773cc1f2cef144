//! The reference runtime: forward pass and states, on the CPU.
//!
//! Weights stay in the format they are stored in and are decoded a panel at a time in front of each product; activations,
//! states and accumulation are float32. A model reads like the paper: [`Model::forward`] walks the layer plan, each mixer
//! is one file in `mixers/`, each operation one file in `cpu/`.

mod cpu;
mod error;
mod loader;
mod mixers;
mod model;
pub mod parity;
pub mod sample;

pub use error::{Error, Result};
pub use model::{Logits, Model, State};
