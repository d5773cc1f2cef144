//! Files in, files out: readers and writers of Samba-family models.

pub mod atomic;
mod canonical;
pub mod checkpoint;
mod config;
mod error;
mod finite;
#[doc(hidden)]
pub mod fuzz;
pub mod gguf;
mod json;
mod mapped;
mod names;
pub mod onnx;
pub mod open;
pub mod pytorch;
pub mod safetensors;
mod safetensors_writer;
pub mod shards;
pub mod text;
pub mod tokenizer_json;

pub use atomic::AtomicFile;
pub use canonical::CheckpointModel;
pub use checkpoint::Checkpoint;
pub use config::is_hugging_face;
pub use error::{Error, Result};
pub use open::open_checkpoint;
pub use safetensors_writer::SafetensorsWriter;
