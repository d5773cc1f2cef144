//! Output files that are either whole or not there.

use crate::{Error, Result};
use rayon::prelude::*;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Few, large writes.
const BUFFER: usize = 1 << 20;

/// A file that appears under its name only when [`AtomicFile::commit`] is called. Until then its content is in a
/// temporary file in the same folder, which dropping this value removes. What was under the name stays untouched until
/// the commit replaces it.
///
/// The content is not forced to the disk: after a power failure a file may be short, after a crash of this process not.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<NamedTempFile>,
    /// As the caller named it, for messages.
    path: PathBuf,
    /// What the rename replaces: the path, or what it links to.
    target: PathBuf,
}

impl AtomicFile {
    /// Begins a file that will be `path`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where `path` is a folder or a device; [`Error::Io`] where its folder takes no new file.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        let target = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(unsupported(path, "is a folder: name the output file itself")),
            // A rename would put a regular file in the place of the device.
            Ok(found) if !found.is_file() => return Err(unsupported(path, "is a device or pipe: output is a file")),
            Ok(_) => path.canonicalize().map_err(Error::io(path))?,
            Err(_) => path.to_owned(),
        };
        if target.file_name().is_none() {
            return Err(unsupported(path, "names no file"));
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tamborim-").suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Less the umask, as for any other new file; a temporary file's own default is private.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(Error::io(path))?;
        Ok(AtomicFile { file: BufWriter::with_capacity(BUFFER, file), path: path.to_owned(), target })
    }

    /// The file this will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `bytes`; as [`Write::write_all`], with an error that names the file.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// Appends `len` bytes, made `piece` at a time on all threads: `make` gets the offset of a piece among them, and fills it. Each
    /// is written by the thread that made it, while the processor has it at hand.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_pieces(&mut self, len: usize, piece: usize, make: impl Fn(usize, &mut [u8]) + Sync) -> Result<()> {
        self.write_pieces(len, piece, make).map_err(Error::io(&self.path))
    }

    fn write_pieces(&mut self, len: usize, piece: usize, make: impl Fn(usize, &mut [u8]) + Sync) -> io::Result<()> {
        let start = self.file.stream_position()?;
        self.file.flush()?;
        let file = self.file.get_ref().as_file();
        let offsets = (0..len.div_ceil(piece)).into_par_iter().map(|i| i * piece);
        let written = offsets.map_init(Vec::new, |buffer, offset| {
            buffer.resize(piece.min(len - offset), 0);
            make(offset, buffer);
            write_at(file, buffer, start + offset as u64)
        });
        written.collect::<io::Result<()>>()?;
        self.file.seek(io::SeekFrom::Start(start + len as u64)).map(drop)
    }

    /// Puts the file under its name.
    pub fn commit(self) -> Result<()> {
        let file = self.file.into_inner().map_err(|e| Error::io(&self.path)(e.into_error()))?;
        file.persist(&self.target).map_err(|e| Error::io(&self.path)(e.error))?;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl io::Seek for AtomicFile {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        (bytes, offset) = (&bytes[n..], offset + n as u64);
    }
    Ok(())
}

fn unsupported(path: &Path, reason: &str) -> Error {
    Error::Unsupported { path: path.to_owned(), reason: reason.into() }
}
