//! What a Samba-family model is: configuration, layer plan, canonical tensors, tokenizer. No file formats.

mod config;
mod error;
mod hints;
mod hugging_face;
pub mod mixers;
mod naming;
pub mod official;
mod plan;
mod tensor;
pub mod tokenizer;

pub use config::{Config, NormClass};
pub use error::{Error, Result};
pub use hints::ShapeHints;
pub use mixers::Mixer;
pub use plan::{Block, Branch, INNER_NORM_EPS, Norm, NormKind, Place, Plan};
pub use tensor::{Naming, Role, Stored, TensorSpec, View};
