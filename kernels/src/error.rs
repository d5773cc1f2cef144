/// Why a model cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor could not be read.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// The device cannot do it.
    #[error(transparent)]
    Device(#[from] crate::cuda::DeviceError),
    /// A token is not in the vocabulary.
    #[error("token {token} at position {position}: expected a number below the vocabulary size {vocab_size}")]
    Token {
        /// The token.
        token: u32,
        /// Its place in the sequence.
        position: u64,
        /// Tokens that exist.
        vocab_size: usize,
    },
    /// The inputs of a map cannot be summed up exactly.
    #[error("{map}: expected inputs whose squares sum up to a number from 0 to 2^44, found {sum:e}")]
    Activations {
        /// The map's name.
        map: String,
        /// The sum of a channel's squares.
        sum: f64,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
