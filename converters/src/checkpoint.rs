//! A checkpoint as its file has it: names, shapes and numbers, before anything is known of the model inside.

use crate::Result;
use indexmap::IndexMap;
use std::{borrow::Cow, path::Path};

/// The scalar types that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Scalar {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Scalar::F64 => 8,
            Scalar::F32 => 4,
            Scalar::F16 | Scalar::Bf16 => 2,
        }
    }
}

/// What a checkpoint says of one tensor, known without reading its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Element type.
    pub scalar: Scalar,
    /// Extent of each dimension, slowest first.
    pub shape: Vec<usize>,
    /// Two entries with the same identity are the very same bytes (a tied head): file number, first byte, strides hashed
    /// or listed; equal only for identical views.
    pub identity: Identity,
}

/// Names the bytes behind an [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The storage: a record, shard or file, and where it begins.
    pub storage: String,
    /// Offset into that storage, in elements.
    pub offset: usize,
    /// Distance between neighbours in each dimension, in elements.
    pub strides: Vec<usize>,
}

/// Facts beside the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// `hparams["model_name"]`, the only trace of the configuration in a trainer checkpoint.
    pub model_name: Option<String>,
    /// Training counters and other plain scalars at the root or in `hparams` (`iter_num`, `step_count`, ...), by path.
    pub scalars: IndexMap<String, String>,
    /// How the file is stored, in words: "torch zip archive", "safetensors, 3 shards", ...
    pub container: String,
}

/// A file or folder of named tensors, opened but not loaded.
///
/// Opening checks all structure and sizes against the file, and reads no tensor data; names are as stored, with root
/// containers (`model`, `state_dict`) and wrapper prefixes (`module.`, `_orig_mod.`, `_forward_module.`) already removed.
pub trait Checkpoint: Send + Sync {
    /// The file or folder.
    fn path(&self) -> &Path;
    /// All tensors of the model, in file order. Optimizer state is not among them.
    fn entries(&self) -> &IndexMap<String, Entry>;
    /// The elements of `name`, contiguous, row-major, little-endian; borrowed from the mapped file where it has them so.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>>;
    /// Facts beside the weights.
    fn extras(&self) -> &Extras;
    /// Lets go of the memory that reading has taken so far; tensors can be read, and borrowed ones used, as before.
    fn release(&self);
}
