//! What a file was made from, by the bytes of its source.

use crate::Result;
use crate::source::{OpenModel, files_of};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::PathBuf;
use std::thread::JoinHandle;

/// Characters of a hash.
pub const HEX_LENGTH: usize = 64;

/// Read at a time: what stays in a core's own cache between reading and hashing.
const BUFFER: usize = 128 << 10;

/// SHA-256 of a model's file, or of its folder's files one after the other by name, computed on a thread of its own: it takes
/// one core as long as the rest of a conversion takes another, so it begins first and is waited for last. It reads the bytes
/// that the tensors are read from, at about the same time, so from the page cache.
pub struct SourceHash(JoinHandle<Result<String>>);

impl SourceHash {
    pub fn begin(model: &OpenModel) -> Result<SourceHash> {
        let files = files_of(model.path())?;
        Ok(SourceHash(std::thread::spawn(move || sha256(&files))))
    }

    /// The hash in hexadecimal.
    pub fn wait(self) -> Result<String> {
        self.0.join().map_err(|_| "hashing failed")?
    }
}

fn sha256(files: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    for file in files {
        let at = |e: std::io::Error| format!("{}: {e}", file.display());
        let mut reader = std::fs::File::open(file).map_err(at)?;
        loop {
            match reader.read(&mut buffer).map_err(at)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
    }
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
