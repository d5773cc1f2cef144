//! Checkpoints split over several files, with an index that says which tensor is where.
//!
//! The index is Hugging Face's: `{"metadata": {...}, "weight_map": {tensor name: file name}}`, as
//! `model.safetensors.index.json` or `pytorch_model.bin.index.json`.

use crate::{
    Checkpoint, Error, Result,
    checkpoint::{Entry, Extras},
    error::quoted,
    json::UniqueMembers,
    mapped::Mapped,
    names,
    pytorch::TorchCheckpoint,
    safetensors::SafetensorsCheckpoint,
};
use indexmap::{IndexMap, IndexSet};
use serde::Deserialize;
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

/// The largest index that is read.
const MAX_INDEX: usize = 32 << 20;
/// More shards than any checkpoint has; each keeps a file mapped.
const MAX_SHARDS: usize = 1024;

/// Several files as one checkpoint. See [`Checkpoint`].
pub struct ShardedCheckpoint {
    path: PathBuf,
    shards: Vec<Box<dyn Checkpoint>>,
    /// The shard of each tensor, and its name there.
    places: IndexMap<String, (usize, String)>,
    entries: IndexMap<String, Entry>,
    extras: Extras,
}

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMembers<String>,
}

impl ShardedCheckpoint {
    /// Opens the files that the index at `index` names. They must lie beside it, be of one format (safetensors where
    /// the file name ends so, else torch.save), and hold exactly the tensors that the index says.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for an unreadable index or one that names anything but files beside it; [`Error::Tensor`]
    /// for a tensor that is not in its shard, or in one but not in the index; whatever opening a shard gives.
    pub fn open(index: &Path) -> Result<ShardedCheckpoint> {
        let UniqueMembers(map) = read_index(index)?;
        let folder = index.parent().unwrap_or(Path::new(""));
        let mut files: IndexSet<&str> = IndexSet::new();
        for (_, file) in &map {
            names::check_file(index, "index", file)?;
            files.insert(file);
        }
        if map.is_empty() || files.len() > MAX_SHARDS {
            let found = format!("{} tensors in {} files", map.len(), files.len());
            return Err(Error::damaged(index, "weight_map", format!("tensors in at most {MAX_SHARDS} files"), found));
        }
        let mut shards: Vec<Box<dyn Checkpoint>> = Vec::with_capacity(files.len());
        for file in &files {
            let path = folder.join(file);
            shards.push(if file.ends_with(".safetensors") {
                Box::new(SafetensorsCheckpoint::open_as_stored(&path)?)
            } else {
                Box::new(TorchCheckpoint::open_as_stored(&path)?)
            });
        }
        let mut found = IndexMap::new();
        for (name, file) in &map {
            let shard = files.get_index_of(file.as_str()).unwrap_or_default();
            let Some(entry) = shards[shard].entries().get(name) else {
                let expected = format!("an entry in {}, as {} says", quoted(file), index.display());
                return Err(Error::tensor(&folder.join(file), quoted(name), expected, "none"));
            };
            let mut entry = entry.clone();
            entry.identity.storage = format!("{file}: {}", entry.identity.storage);
            found.insert(name.clone(), (shard, name.clone(), entry));
        }
        for (index, (shard, file)) in shards.iter().zip(&files).enumerate() {
            let stray = shard.entries().keys().find(|name| found.get(*name).is_none_or(|(place, ..)| *place != index));
            if let Some(name) = stray {
                return Err(Error::tensor(&folder.join(file), quoted(name), "a place in the index", "none"));
            }
        }
        let container = match shards.first() {
            Some(first) => format!("{}, {} shards", first.extras().container, shards.len()),
            None => String::new(),
        };
        let mut checkpoint = ShardedCheckpoint {
            path: index.to_owned(),
            shards,
            places: IndexMap::new(),
            entries: IndexMap::new(),
            extras: Extras { container, ..Extras::default() },
        };
        for (name, (shard, stored, entry)) in names::without_wrappers(found) {
            checkpoint.places.insert(name.clone(), (shard, stored));
            checkpoint.entries.insert(name, entry);
        }
        Ok(checkpoint)
    }
}

fn read_index(path: &Path) -> Result<UniqueMembers<String>> {
    let file = Mapped::open(path)?;
    if file.len() > MAX_INDEX {
        return Err(Error::damaged(path, "index", format!("at most {MAX_INDEX} bytes"), file.len().to_string()));
    }
    let index: std::result::Result<Index, _> = serde_json::from_slice(&file);
    let index = index.map_err(|e| {
        Error::damaged(path, "index", "a JSON object with a `weight_map` of file names", quoted(&e.to_string()))
    })?;
    Ok(index.weight_map)
}

impl Checkpoint for ShardedCheckpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> &IndexMap<String, Entry> {
        &self.entries
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.places.get(name) {
            Some((shard, stored)) => self.shards[*shard].read(stored),
            None => Err(Error::tensor(&self.path, quoted(name), "a tensor of this checkpoint", "none")),
        }
    }

    fn extras(&self) -> &Extras {
        &self.extras
    }

    fn release(&self) {
        self.shards.iter().for_each(|shard| shard.release());
    }
}
