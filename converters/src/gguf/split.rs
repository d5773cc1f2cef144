//! Split files: `name-00001-of-00003.gguf` and so on, opened as one.
//!
//! Each shard is a GGUF file of its own, with `split.no` (from 0, where the name counts from 1), `split.count` and
//! `split.tensors.count` (of all shards); only the first has the other keys. Source: llama.cpp `llama-gguf-split`.

use super::reader::GgufFile;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Opens the other shards of `one`, if it is a shard.
pub(super) fn complete(one: GgufFile, open: impl Fn(&Path) -> Result<GgufFile>) -> Result<GgufFile> {
    let count = one.metadata().optional::<u16>("split.count")?.unwrap_or(0);
    if count <= 1 {
        return Ok(one);
    }
    let number: u16 = one.metadata().required("split.no")?;
    let opened = one.path().to_owned();
    let paths = shard_paths(&opened, number, count)?;
    let mut whole: Option<GgufFile> = None;
    for (index, path) in (0u16..).zip(&paths) {
        let shard = open(path)?;
        let (no, of): (u16, u16) = (shard.metadata().required("split.no")?, shard.metadata().required("split.count")?);
        if (no, of) != (index, count) {
            let expected = format!("shard {index} of {count}");
            return Err(Error::damaged(path, "key split.no", expected, format!("shard {no} of {of}")));
        }
        match &mut whole {
            None => whole = Some(shard),
            Some(whole) => whole.append(shard)?,
        }
    }
    let Some(whole) = whole else { return Ok(one) };
    let total: usize = whole.metadata().required("split.tensors.count")?;
    if total != whole.tensors().len() {
        let found = format!("{} in {count} shards", whole.tensors().len());
        return Err(whole.metadata().wrong("split.tensors.count", format!("{total} tensors"), found));
    }
    Ok(whole.named(&opened))
}

/// The paths of all shards, from that of one.
fn shard_paths(path: &Path, number: u16, count: u16) -> Result<Vec<PathBuf>> {
    let suffix = |index: u32| format!("-{index:05}-of-{count:05}.gguf");
    let own = suffix(u32::from(number) + 1);
    let prefix = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(&own));
    let Some(prefix) = prefix.filter(|_| number < count) else {
        let expected = format!("the name of shard {} of {count} to end in {own}", u32::from(number) + 1);
        return Err(Error::damaged(path, "file name", expected, "another name, so that the others cannot be found"));
    };
    Ok((1..=u32::from(count)).map(|index| path.with_file_name(format!("{prefix}{}", suffix(index)))).collect())
}
