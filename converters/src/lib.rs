//! Files in, files out: readers and writers of Samba-family models.

pub mod checkpoint;
mod error;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
