use crate::Format;

/// What `Result` means in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why numbers could not be put into a format. Messages name no tensor: the caller knows which one it asked about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A format name that the table of formats does not have.
    #[error("unknown format `{name}`, expected one of {known}", known = known_names())]
    UnknownFormat {
        /// The name as given.
        name: String,
    },
    /// The row length is not a multiple of the format's block length.
    #[error("rows of {cols} elements do not divide into {format} blocks of {}", .format.block_len())]
    RowNotWholeBlocks {
        /// The format asked for.
        format: Format,
        /// Elements of a row: the last dimension.
        cols: usize,
    },
    /// The bytes of a tensor do not match its shape and format.
    #[error("a {format} tensor of shape {shape:?} takes {expected} bytes, found {found}")]
    ByteLength {
        /// Format of the bytes.
        format: Format,
        /// Shape of the tensor, slowest dimension first.
        shape: Vec<usize>,
        /// Bytes that the shape takes in this format.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The shape's size in elements or bytes overflows `usize`.
    #[error("shape {shape:?} is too large for this machine")]
    TooLarge {
        /// Shape of the tensor, slowest dimension first.
        shape: Vec<usize>,
    },
    /// No grid of MatMulNBits.
    #[error(
        "int{bits} in blocks of {block_len}, scales {scales}: expected 4 or 8 bits, blocks of 16, 32, 64 or 128 and float scales"
    )]
    NBits {
        /// Bits of an element.
        bits: u8,
        /// Elements of a block.
        block_len: usize,
        /// What scales are stored as.
        scales: Format,
    },
    /// An array of a MatMulNBits matrix does not match its shape.
    #[error("{what} of a {shape:?} matrix take {expected} bytes, found {found}")]
    NBitsLength {
        /// Codes, scales or zero points.
        what: &'static str,
        /// Rows and columns.
        shape: [usize; 2],
        /// Bytes that the shape takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The second moments are of an input of another width than the rows.
    #[error("second moments of {found} channels for rows of {expected} elements")]
    HessianExtent {
        /// Elements of a row.
        expected: usize,
        /// Channels of the moments.
        found: usize,
    },
    /// The importance has another length than the rows it weighs.
    #[error("importance has {found} values for rows of {expected} elements")]
    ImportanceLength {
        /// Elements of a row.
        expected: usize,
        /// Values given.
        found: usize,
    },
}

fn known_names() -> String {
    Format::ALL.iter().map(|f| f.name()).collect::<Vec<_>>().join(" ")
}
