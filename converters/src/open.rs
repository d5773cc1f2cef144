//! Which reader a path needs, told by its content rather than its name.

use crate::{
    Checkpoint, Error, Result, error::quoted, mapped::Mapped, pytorch::METADATA, pytorch::TorchCheckpoint,
    pytorch::ZIP_MAGIC, safetensors::SafetensorsCheckpoint, shards::ShardedCheckpoint,
};
use std::path::{Path, PathBuf};

/// What a folder may hold, best first: a complete single file before shards, safetensors before pickles.
const FILES: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "checkpoint.pth",
];
/// What such files are called otherwise.
const SUFFIXES: [&str; 4] = [".index.json", ".safetensors", ".pth", ".ckpt"];

/// Opens the checkpoint at `path`: a file of torch.save (zip archive or legacy), a safetensors file, an index of
/// shards of either, or a folder that holds one of these or a distributed checkpoint.
///
/// # Errors
///
/// [`Error::NotAModel`] says what the path is instead; [`Error::Unsupported`] for GGUF, which has its own reader; else
/// what the reader of the format gives.
pub fn open_checkpoint(path: &Path) -> Result<Box<dyn Checkpoint>> {
    if path.is_dir() {
        return match in_folder(path)? {
            InFolder::Distributed => Ok(Box::new(TorchCheckpoint::open_distributed(path)?)),
            InFolder::File(file) => open_checkpoint(&file),
        };
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == METADATA {
        return Ok(Box::new(TorchCheckpoint::open_distributed(path.parent().unwrap_or(Path::new("")))?));
    }
    let file = Mapped::open(path)?;
    // A file damaged beyond recognition goes to the reader that its name asks for, which tells best what is wrong.
    let named_safetensors = name.ends_with(".safetensors");
    match sniff(&file) {
        Sniffed::Torch => Ok(Box::new(TorchCheckpoint::from_mapped(path, file)?.without_wrappers())),
        Sniffed::Text(_) if name.ends_with(".index.json") => Ok(Box::new(ShardedCheckpoint::open(path)?)),
        Sniffed::Unknown(found) if !named_safetensors => Err(Error::NotAModel { path: path.to_owned(), found }),
        Sniffed::Safetensors | Sniffed::Unknown(_) => {
            Ok(Box::new(SafetensorsCheckpoint::from_mapped(path, file)?.without_wrappers()))
        }
        Sniffed::Gguf => {
            let reason = "a GGUF file, which the GGUF reader opens, not the checkpoint reader".into();
            Err(Error::Unsupported { path: path.to_owned(), reason })
        }
        Sniffed::Text(found) | Sniffed::Other(found) => Err(Error::NotAModel { path: path.to_owned(), found }),
    }
}

/// What to open in a folder.
enum InFolder {
    Distributed,
    File(PathBuf),
}

fn in_folder(folder: &Path) -> Result<InFolder> {
    if folder.join(METADATA).is_file() {
        return Ok(InFolder::Distributed);
    }
    if let Some(file) = FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
        return Ok(InFolder::File(file));
    }
    // Other names will do where there is no choice to make.
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        names.extend(entry.map_err(Error::io(folder))?.file_name().into_string());
    }
    for suffix in SUFFIXES {
        let mut fitting = names.iter().filter(|name| name.ends_with(suffix));
        match (fitting.next(), fitting.count()) {
            (None, _) => {}
            (Some(name), 0) => return Ok(InFolder::File(folder.join(name))),
            (Some(_), others) => {
                let found = format!("a folder with {} *{suffix} files; give the path of one", others + 1);
                return Err(Error::NotAModel { path: folder.to_owned(), found });
            }
        }
    }
    let found = format!("a folder without {METADATA}, {} or a *{}", FILES.join(", "), SUFFIXES.join(", *"));
    Err(Error::NotAModel { path: folder.to_owned(), found })
}

/// What a file looks like from its first bytes.
#[derive(Debug)]
pub(crate) enum Sniffed {
    /// A zip archive or a pickle.
    Torch,
    /// A plausible header length, then JSON.
    Safetensors,
    /// The magic of GGUF.
    Gguf,
    /// Readable text, in words.
    Text(String),
    /// Another format, or nothing at all, in words.
    Other(String),
    /// Bytes that tell nothing, in words.
    Unknown(String),
}

/// Other formats by their first bytes, for the message.
const OTHER_MAGIC: [(&[u8], &str); 10] = [
    (b"\x1f\x8b", "gzip data; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it first"),
    (b"BZh", "bzip2 data; unpack it first"),
    (b"\xfd7zXZ\x00", "xz data; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"%PDF", "a PDF document"),
    (b"ggjt", "an old llama.cpp file, older than GGUF"),
    (b"lmgg", "an old llama.cpp file, older than GGUF"),
];

pub(crate) fn sniff(file: &[u8]) -> Sniffed {
    let head = &file[..file.len().min(512)];
    if file.is_empty() {
        return Sniffed::Other("an empty file".into());
    }
    if head.starts_with(b"GGUF") {
        return Sniffed::Gguf;
    }
    // A pickle of protocol 2 or later begins with PROTO; older ones cannot hold torch's magic number.
    if ZIP_MAGIC.iter().any(|magic| head.starts_with(magic)) || matches!(head, [0x80, 2..=5, ..]) {
        return Sniffed::Torch;
    }
    if let Some((length, json)) = head.split_first_chunk::<8>()
        && u64::from_le_bytes(*length) <= file.len() as u64
        && json.starts_with(b"{")
    {
        return Sniffed::Safetensors;
    }
    if let Some((_, what)) = OTHER_MAGIC.into_iter().find(|(magic, _)| head.starts_with(magic)) {
        return Sniffed::Other(what.into());
    }
    if head.get(257..262) == Some(b"ustar") {
        return Sniffed::Other(
            "a tar archive; unpack it, or save the checkpoint again with PyTorch 1.6 or later".into(),
        );
    }
    text(head).map_or_else(|| Sniffed::Unknown(unknown(head)), Sniffed::Text)
}

/// What a text file is, or nothing where it is none.
fn text(head: &[u8]) -> Option<String> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut at 512 bytes may go through a character.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    if text.is_empty() || text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let start = text.trim_start().to_ascii_lowercase();
    Some(if start.starts_with("version https://git-lfs") {
        "a git-lfs pointer instead of the file; run `git lfs pull`".into()
    } else if start.starts_with("<!doctype html") || start.starts_with("<html") {
        "an HTML page, so the download failed".into()
    } else if start.starts_with("<?xml") {
        "an XML document, so the download failed".into()
    } else {
        let line: String = text.trim_start().lines().next().unwrap_or_default().chars().take(40).collect();
        format!("a text file that begins `{}`", quoted(&line))
    })
}

fn unknown(head: &[u8]) -> String {
    let bytes: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("data of no known format, beginning with the bytes {}", bytes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_first_bytes() {
        let words = |bytes: &[u8]| match sniff(bytes) {
            Sniffed::Other(words) | Sniffed::Text(words) | Sniffed::Unknown(words) => words,
            other => format!("{other:?}"),
        };
        assert_eq!(words(b"PK\x03\x04"), "Torch");
        assert_eq!(words(b"\x80\x02\x8a"), "Torch");
        assert_eq!(words(b"GGUF\x03\x00\x00\x00"), "Gguf");
        assert_eq!(words(b"\x02\0\0\0\0\0\0\0{}"), "Safetensors");
        assert!(words(b"").contains("empty"));
        assert!(words(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
        assert!(words(b"\n <!DOCTYPE html>").contains("HTML"));
        assert!(words("é".repeat(300).as_bytes()).contains("text file"));
        assert!(words(&[1, 2, 3, 255]).contains("01 02 03 ff"));
    }
}
