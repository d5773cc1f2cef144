use std::path::{Path, PathBuf};

/// Everything that can go wrong between a file and a model. Each message is one line that names the file, the place in
/// it, what was expected and what was found; numbers and names come from the file, never its raw bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, read, write or rename a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The path holds nothing that is read here (an HTML page, a git-lfs pointer, an empty folder, ...).
    #[error("{}: not a model: {found}", path.display())]
    NotAModel {
        /// The file or folder.
        path: PathBuf,
        /// What it looks like instead.
        found: String,
    },
    /// A container (zip, pickle stream, safetensors or GGUF header, index) is damaged, cut, or claims what the file
    /// does not hold.
    #[error("{}: {place}: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record, field or byte offset.
        place: String,
        /// What a sound file has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// A pickle asks for a class or function outside the few that hold tensors. Nothing of it was run.
    #[error("{}: {place}: refuses the pickled global `{global}`: only tensors and plain containers are read", path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// The pickle stream inside the file.
        place: String,
        /// `module.name` as written in the file.
        global: String,
    },
    /// A tensor is absent, superfluous, or has another shape, type or content than the model needs.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What the model needs.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// The configuration is missing, unreadable or describes no model of the family.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file that holds the configuration.
        path: PathBuf,
        /// What is wrong with it.
        source: tamborim_model::Error,
    },
    /// The request cannot be carried out on this input (a type without an encoder, an output format without a writer).
    #[error("{}: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not possible, and what is.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// [`Error::Io`] at `path`; made for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    /// [`Error::Damaged`] at `path`.
    pub fn damaged(
        path: &Path,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Damaged { path: path.to_owned(), place: place.into(), expected: expected.into(), found: found.into() }
    }

    /// Says in an [`Error::Tensor`] what the expectation comes from.
    pub(crate) fn by(self, origin: &str) -> Error {
        match self {
            Error::Tensor { path, tensor, expected, found } => {
                Error::Tensor { path, tensor, expected: format!("{expected} (by {origin})"), found }
            }
            other => other,
        }
    }

    /// [`Error::Tensor`] at `path`.
    pub fn tensor(
        path: &Path,
        tensor: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Tensor { path: path.to_owned(), tensor: tensor.into(), expected: expected.into(), found: found.into() }
    }
}

/// A name from a file made fit for a one-line message: control characters escaped, long ones cut.
pub(crate) fn quoted(name: &str) -> String {
    const LONGEST: usize = 100;
    let mut text = String::new();
    for c in name.chars().take(LONGEST) {
        if matches!(c, '"' | '\'') { text.push(c) } else { text.extend(c.escape_debug()) }
    }
    if name.chars().nth(LONGEST).is_some() {
        text.push_str("...");
    }
    text
}
