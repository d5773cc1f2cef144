//! Folders of torch.distributed.checkpoint, which Lightning Fabric's FSDP strategy writes as "sharded" checkpoints.
//!
//! `.metadata` is a pickle of `Metadata`: the shape and the blocks of each tensor, and for each block a section of a
//! `*.distcp` file, which holds what torch.save wrote for the block alone. `meta.pt` beside it holds the other objects.
//! Sources: torch/distributed/checkpoint/metadata.py, filesystem.py; lightning/fabric/strategies/fsdp.py.

use super::{
    Block, Blocks, Mismatch, TorchCheckpoint,
    archive::Archive,
    bind,
    globals::{CHECKPOINT, DISTRIBUTED},
    objects, parse_whole, pickle, state_dict,
    value::{Arena, Id, Value},
    view::View,
};
use crate::{
    Error, Result,
    checkpoint::{Entry, Extras, Identity, Scalar},
    error::quoted,
    mapped::Mapped,
    names,
};
use indexmap::IndexMap;
use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
    path::Path,
};

/// The file that describes the folder.
pub(crate) const METADATA: &str = ".metadata";
/// More blocks of one tensor than any training run has processes; bounds the search for overlaps.
const MAX_BLOCKS: usize = 4096;

/// More keys than any path to a tensor has.
const MAX_KEYS: usize = 64;

/// Where a block is stored.
struct Section<'a> {
    file: &'a str,
    offset: usize,
    length: usize,
}

/// What the metadata holds, as ids of its parts.
struct Metadata<'p, 'a> {
    path: &'p Path,
    arena: &'p Arena<'a>,
    sections: HashMap<(&'a str, Vec<usize>), Section<'a>>,
}

pub(super) fn open(folder: &Path) -> Result<TorchCheckpoint> {
    let path = folder.join(METADATA);
    let bytes = Mapped::open(&path)?;
    let parsed = pickle::parse(&bytes, &[CHECKPOINT, DISTRIBUTED]).map_err(|e| e.within(&path, "pickle"))?;
    let arena = &parsed.arena;
    let field = |name: &str| {
        let id = arena.field(parsed.root, "Metadata", name);
        id.ok_or_else(|| Error::damaged(&path, "pickle", format!("Metadata.{name}"), arena.describe(parsed.root)))
    };
    let described = field("state_dict_metadata")?;
    let Some(items) = arena.items(described) else {
        return Err(Error::damaged(&path, "state_dict_metadata", "a dict", arena.describe(described)));
    };
    let metadata = Metadata { path: &path, arena, sections: sections(&path, arena, field("storage_data")?)? };
    let paths = key_paths(arena, field("planner_data").ok());
    // The root key comes first in the planner's path; without one, in the flattened name.
    let below_root = |name: &str| -> Option<String> {
        match paths.get(name) {
            Some(keys) => {
                let (root, rest) = keys.split_first()?;
                (state_dict::ROOTS.contains(root) && !rest.is_empty()).then(|| rest.join("."))
            }
            None => {
                let (root, rest) = name.split_once('.')?;
                state_dict::ROOTS.contains(&root).then(|| rest.to_owned())
            }
        }
    };
    let has_root = items.iter().any(|&(key, _)| arena.str(key).and_then(below_root).is_some());

    let mut folder_files = Files { folder, opened: IndexMap::new(), used: Vec::new() };
    let mut tensors: IndexMap<String, Blocks> = IndexMap::new();
    let mut entries = IndexMap::new();
    for &(key, value) in items {
        let Some(key) = arena.str(key) else {
            return Err(Error::damaged(&path, "state_dict_metadata", "names as keys", arena.describe(key)));
        };
        let name = if has_root { below_root(key) } else { Some(key.to_owned()) };
        let Some(name) = name else { continue };
        names::check(&path, &name)?;
        let (entry, blocks) = metadata.tensor(key, value, &mut folder_files)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(Error::tensor(&path, quoted(&name), "one entry", "two"));
        }
        tensors.insert(name, blocks);
    }
    if entries.is_empty() {
        return Err(Error::damaged(&path, "state_dict_metadata", "tensors", "none"));
    }
    let files: Vec<_> = folder_files.opened.into_iter().map(|(name, file)| (folder.join(name), file)).collect();
    let plural = if files.len() == 1 { "" } else { "s" };
    let container = format!("torch distributed checkpoint, {} file{plural}", files.len());
    let extras = extras(folder, container)?;
    Ok(TorchCheckpoint { path: folder.to_owned(), files, tensors, entries, extras })
}

/// The mapped data files by name, in order of first use.
struct Files<'p> {
    folder: &'p Path,
    opened: IndexMap<String, Mapped>,
    /// Bytes of all sections opened so far, by file.
    used: Vec<usize>,
}

impl Files<'_> {
    /// The file in which a section is to be opened. The section may reach beyond its end.
    fn get(&mut self, section: &Section<'_>) -> Result<(usize, &Mapped)> {
        let name = section.file;
        let index = match self.opened.get_index_of(name) {
            Some(index) => index,
            None => {
                self.used.push(0);
                self.opened.insert_full(name.to_owned(), Mapped::open(&self.folder.join(name))?).0
            }
        };
        let file = &self.opened[index];
        // Sections lie side by side. Were one opened for every name, the time would be quadratic.
        let inside = section.offset.checked_add(section.length).is_some_and(|end| end <= file.len());
        self.used[index] = self.used[index].saturating_add(if inside { section.length } else { 0 });
        if self.used[index] > file.len() {
            let expected = format!("sections of at most {} bytes together", file.len());
            return Err(Error::damaged(&self.folder.join(name), "file", expected, "more, so that some overlap"));
        }
        Ok((index, file))
    }
}

/// `storage_data`: `{MetadataIndex(fqn, offset): _StorageInfo(relative_path, offset, length)}`.
fn sections<'a>(path: &Path, arena: &Arena<'a>, id: Id) -> Result<HashMap<(&'a str, Vec<usize>), Section<'a>>> {
    let damaged = |found: String| Error::damaged(path, "storage_data", "sections by MetadataIndex", found);
    let mut sections = HashMap::new();
    for &(key, value) in arena.items(id).ok_or_else(|| damaged(arena.describe(id)))? {
        let name = arena.field(key, "MetadataIndex", "fqn").and_then(|id| arena.str(id));
        let name = name.ok_or_else(|| damaged(arena.describe(key)))?;
        // Objects that are no tensors have no offset.
        let at = arena.field(key, "MetadataIndex", "offset").and_then(|id| extents(arena, id)).unwrap_or_default();
        let field = |field: &str| arena.field(value, "_StorageInfo", field);
        let number = |name: &str| field(name).and_then(|id| arena.int(id)).and_then(|n| usize::try_from(n).ok());
        let file = field("relative_path").and_then(|id| arena.str(id));
        let (Some(file), Some(offset), Some(length)) = (file, number("offset"), number("length")) else {
            return Err(damaged(format!("{} for {}", arena.describe(value), quoted(name))));
        };
        match field("transform_descriptors").map(|id| (arena.get(id), arena.sequence(id))) {
            None | Some((Value::None, _)) | Some((_, Some([]))) => {}
            _ => {
                let reason = format!("{} is stored transformed; save it without storage extensions", quoted(name));
                return Err(Error::Unsupported { path: path.to_owned(), reason });
            }
        }
        match sections.entry((name, at)) {
            hash_map::Entry::Vacant(vacant) => vacant.insert(Section { file, offset, length }),
            hash_map::Entry::Occupied(_) => return Err(damaged(format!("two for {}", quoted(name)))),
        };
    }
    Ok(sections)
}

/// `planner_data`: `{flat name: ("model", "transformer.wte.weight")}`. Only paths of strings are of interest.
fn key_paths<'a>(arena: &Arena<'a>, planner: Option<Id>) -> HashMap<&'a str, Vec<&'a str>> {
    let items = planner.and_then(|id| arena.items(id)).unwrap_or_default();
    // One path may serve any number of names: longer than modules are nested, it is none.
    let keys = |id| arena.sequence(id).filter(|keys| keys.len() <= MAX_KEYS);
    let path = |id| keys(id)?.iter().map(|&key| arena.str(key)).collect::<Option<Vec<_>>>();
    items.iter().filter_map(|&(name, keys)| Some((arena.str(name)?, path(keys)?))).collect()
}

fn extents(arena: &Arena<'_>, id: Id) -> Option<Vec<usize>> {
    let list = arena.sequence(id).filter(|list| list.len() <= objects::MAX_RANK)?;
    list.iter().map(|&n| usize::try_from(arena.int(n)?).ok()).collect()
}

impl Metadata<'_, '_> {
    fn tensor(&self, key: &str, described: Id, files: &mut Files<'_>) -> Result<(Entry, Blocks)> {
        let wrong = |expected: &str, found: String| Error::tensor(self.path, quoted(key), expected, found);
        let field = |name: &str| self.arena.field(described, "TensorStorageMetadata", name);
        let (Some(size), Some(chunks)) = (field("size"), field("chunks").and_then(|id| self.arena.sequence(id))) else {
            return Err(wrong("a TensorStorageMetadata", self.arena.describe(described)));
        };
        let shape = extents(self.arena, size).filter(|shape| !shape.is_empty());
        let shape = shape.ok_or_else(|| wrong("a shape", self.arena.describe(size)))?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n > 0);
        let elements = elements.ok_or_else(|| wrong("one element or more", format!("shape {shape:?}")))?;
        if chunks.is_empty() || chunks.len() > MAX_BLOCKS {
            return Err(wrong(&format!("1 to {MAX_BLOCKS} blocks"), chunks.len().to_string()));
        }
        let mut blocks: Blocks = Vec::new();
        let mut scalar: Option<Scalar> = None;
        for &chunk in chunks {
            let field = |name: &str| {
                let extents =
                    self.arena.field(chunk, "ChunkStorageMetadata", name).and_then(|id| extents(self.arena, id));
                extents.filter(|extents| extents.len() == shape.len())
            };
            let (Some(at), Some(size)) = (field("offsets"), field("sizes")) else {
                return Err(wrong("a block of the tensor's rank", self.arena.describe(chunk)));
            };
            let inside =
                |((&at, &size), &extent): ((&usize, &usize), &usize)| at.checked_add(size).is_some_and(|e| e <= extent);
            if !at.iter().zip(&size).zip(&shape).all(inside) {
                return Err(wrong(&format!("blocks within {shape:?}"), format!("{size:?} at {at:?}")));
            }
            let block = self.block(key, &at, files)?;
            if block.view.shape != size {
                return Err(wrong(&format!("a block of {size:?} at {at:?}"), format!("{:?}", block.view.shape)));
            }
            if *scalar.get_or_insert(block.scalar) != block.scalar {
                return Err(wrong("one element type", "several".into()));
            }
            blocks.push((at, block));
        }
        check_cover(&blocks, elements).map_err(|m| m.of(self.path, key))?;
        let (Some(scalar), Some((_, first))) = (scalar, blocks.first()) else {
            return Err(wrong("a block", "none".into()));
        };
        let identity = match blocks.as_slice() {
            [(_, block)] => Identity {
                storage: block.record.name.clone(),
                offset: block.view.offset,
                strides: block.view.strides.clone(),
            },
            _ => Identity { storage: format!("{} and more", first.record.name), offset: 0, strides: Vec::new() },
        };
        Ok((Entry { scalar, shape, identity }, blocks))
    }

    /// Opens the section that holds the block at `at` of the tensor `key`.
    fn block(&self, key: &str, at: &[usize], files: &mut Files<'_>) -> Result<Block> {
        let tensor_error = |m: Mismatch| m.of(self.path, key);
        let section = self.sections.get(&(key, at.to_vec()));
        let section = section.ok_or_else(|| tensor_error(Mismatch::new(format!("a section for {at:?}"), "none")))?;
        names::check_file(self.path, "index", section.file)?;
        let path = files.folder.join(section.file);
        let (index, file) = files.get(section)?;
        let prefix = format!("{} at {}, ", quoted(key), section.offset);
        let archive = Archive::open(&path, file, section.offset, section.length, &prefix)?;
        let bytes = archive.pickle(&path, file)?;
        let parsed = parse_whole(&path, &format!("{prefix}data.pkl"), &bytes)?;
        let tensor = objects::tensor(&parsed.arena, parsed.root).map_err(tensor_error)?;
        let find = |key: &str| archive.storage(key).cloned();
        let (_, block) = bind(&tensor, archive.big_endian, find).map_err(|m| m.of(&path, key))?;
        Ok(Block { file: index, ..block })
    }
}

/// Checks that the blocks, each inside a tensor of `elements`, cover it and do not overlap.
fn check_cover(blocks: &Blocks, elements: usize) -> Result<(), Mismatch> {
    let covered = blocks.iter().try_fold(0usize, |sum, (_, block)| sum.checked_add(block.view.elements()));
    if covered != Some(elements) {
        let found = covered.map_or("more".into(), |n| n.to_string());
        return Err(Mismatch::new(format!("blocks of {elements} elements together"), found));
    }
    for (i, (at, block)) in blocks.iter().enumerate() {
        for (other_at, other) in &blocks[..i] {
            let apart = (0..at.len())
                .any(|d| at[d] >= other_at[d] + other.view.shape[d] || other_at[d] >= at[d] + block.view.shape[d]);
            if !apart {
                return Err(Mismatch::new("blocks side by side", format!("two at {at:?}")));
            }
        }
    }
    Ok(())
}

/// The tensor that `blocks` make up; `read` gives the elements of one.
pub(super) fn assemble<'m>(
    entry: &Entry,
    blocks: &Blocks,
    read: impl Fn(&Block) -> Result<Cow<'m, [u8]>>,
) -> Result<Vec<u8>> {
    let size = entry.scalar.size();
    let mut strides = vec![1; entry.shape.len()];
    for d in (1..strides.len()).rev() {
        strides[d - 1] = strides[d] * entry.shape[d];
    }
    let mut whole = vec![0; entry.shape.iter().product::<usize>() * size];
    for (at, block) in blocks {
        let bytes = read(block)?;
        let offset = at.iter().zip(&strides).map(|(at, stride)| at * stride).sum();
        let place = View { offset, shape: block.view.shape.clone(), strides: strides.clone() };
        let mut rest = bytes.as_ref();
        place.for_each_row(|first, length, _| {
            let (row, after) = rest.split_at(length * size);
            whole[first * size..][..row.len()].copy_from_slice(row);
            rest = after;
        });
    }
    Ok(whole)
}

/// The facts of `meta.pt`, where the folder has one.
fn extras(folder: &Path, container: String) -> Result<Extras> {
    let path = folder.join("meta.pt");
    if !path.exists() {
        return Ok(Extras { container, ..Extras::default() });
    }
    let file = Mapped::open(&path)?;
    let archive = Archive::open(&path, &file, 0, file.len(), "")?;
    let bytes = archive.pickle(&path, &file)?;
    let parsed = parse_whole(&path, "data.pkl", &bytes)?;
    Ok(state_dict::extras(&parsed.arena, parsed.root, container))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pytorch::record::Record;
    use std::sync::Arc;

    fn block(at: &[usize], shape: &[i64]) -> (Vec<usize>, Block) {
        let strides: Vec<i64> = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
        let elements = shape.iter().product::<i64>() as usize;
        let view = View::new(0, elements, 0, shape, &strides).expect("a sound view");
        let record = Arc::new(Record::raw("r".into(), 0..elements * 2));
        (at.to_vec(), Block { file: 0, record, view, scalar: Scalar::F16, big_endian: false })
    }

    #[test]
    fn blocks_are_put_where_they_belong() {
        let blocks = vec![block(&[0, 0], &[1, 3]), block(&[1, 0], &[1, 1]), block(&[1, 1], &[1, 2])];
        check_cover(&blocks, 6).expect("a cover");
        let identity = Identity { storage: String::new(), offset: 0, strides: Vec::new() };
        let entry = Entry { scalar: Scalar::F16, shape: vec![2, 3], identity };
        let whole = assemble(&entry, &blocks, |block| {
            Ok(Cow::Owned(vec![block.view.elements() as u8; block.view.elements() * 2]))
        });
        assert_eq!(whole.expect("assembled"), [3, 3, 3, 3, 3, 3, 1, 1, 2, 2, 2, 2]);
    }

    #[test]
    fn gaps_and_overlaps_are_refused() {
        assert!(check_cover(&vec![block(&[0, 0], &[1, 3])], 6).is_err());
        assert!(check_cover(&vec![block(&[0, 0], &[1, 3]), block(&[0, 0], &[1, 3])], 6).is_err());
    }
}
