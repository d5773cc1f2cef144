//! Entry points for cargo-fuzz and for tests of hostile bytes: each takes what a file could hold and must return, in
//! time and memory linear in its length, whatever that is. Not part of the library's interface.

use crate::{Checkpoint, Result, mapped::Mapped, pytorch, safetensors::SafetensorsCheckpoint};
use std::path::Path;

/// Reads one pickle; the error's text, if any.
pub fn pickle(bytes: &[u8]) -> std::result::Result<(), String> {
    pytorch::parse_pickle(bytes)
}

/// Opens a torch.save file, new or legacy, and reads all its tensors.
pub fn torch(bytes: &[u8]) -> Result<()> {
    read_all(&pytorch::TorchCheckpoint::from_mapped(Path::new("fuzz"), Mapped::Memory(bytes.to_vec()))?)
}

/// Opens a safetensors file and reads all its tensors.
pub fn safetensors(bytes: &[u8]) -> Result<()> {
    read_all(&SafetensorsCheckpoint::from_mapped(Path::new("fuzz"), Mapped::Memory(bytes.to_vec()))?)
}

fn read_all(checkpoint: &dyn Checkpoint) -> Result<()> {
    for (name, entry) in checkpoint.entries() {
        let bytes = checkpoint.read(name)?;
        let elements: usize = entry.shape.iter().product();
        assert_eq!(bytes.len(), elements * entry.scalar.size(), "{name}");
    }
    Ok(())
}
