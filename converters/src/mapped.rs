//! Files seen as memory.

use crate::{Error, Result};
use memmap2::Mmap;
use std::{fs::File, ops::Deref, path::Path};

/// The bytes of a file, mapped rather than read: opening costs no memory, and only touched pages are loaded.
///
/// A file that another process shortens while it is mapped ends this process with SIGBUS; one that is rewritten in
/// place is read as the mixture that is there. Neither breaks memory safety of the readers built on this: they check
/// lengths against the mapping, whose length never changes, and trust no bytes twice.
#[derive(Debug)]
pub(crate) enum Mapped {
    /// A mapped file.
    File(Mmap),
    /// Bytes that were in memory already (fuzzing), or an empty file, which cannot be mapped.
    Memory(Vec<u8>),
}

impl Mapped {
    /// Maps the file at `path`; refuses what is not a regular file, since mapping or sniffing a pipe or device could
    /// block for ever.
    pub(crate) fn open(path: &Path) -> Result<Mapped> {
        let file_type = std::fs::metadata(path).map_err(Error::io(path))?;
        if !file_type.is_file() {
            let found = if file_type.is_dir() { "a folder" } else { "a pipe, socket or device" };
            return Err(Error::NotAModel { path: path.to_owned(), found: found.into() });
        }
        let file = File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Ok(Mapped::Memory(Vec::new()));
        }
        // SAFETY: the mapping is private to this value and read-only. The one requirement that cannot be enforced is
        // that nobody changes the file meanwhile; see the type's documentation for what happens then.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Mapped::File(map))
    }
}

impl Mapped {
    /// Gives the pages loaded so far back to the system, so that reading a file once costs no more memory than what is in
    /// use. Touching them again loads them again.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let Mapped::File(map) = self {
            // SAFETY: the mapping is of a file and read-only, so dropped pages come back with the file's bytes; slices that
            // are still borrowed stay valid. What can change is only what the type's documentation already excludes.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Mapped::File(map) => map,
            Mapped::Memory(bytes) => bytes,
        }
    }
}
