//! The data of a tokenizer, free of any file format.

use super::ByteLevel;

/// How text is cut: the SentencePiece model types that language models use, and those of two families of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Merge the neighbours whose union has the best score, until none has one (GGUF calls this model `llama`).
    Bpe,
    /// The segmentation with the greatest sum of log probabilities (GGUF: `t5`).
    Unigram,
    /// The segmentation of PLaMo-2, the cheapest by whole numbers (GGUF: `plamo2`).
    Plamo2,
    /// Bytes merged by rank inside parts that a pattern cuts (GGUF: `gpt2`).
    ByteLevel,
}

impl Kind {
    /// The kind in words, for tables.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Bpe | Kind::Unigram => "SentencePiece",
            Kind::Plamo2 => "PLaMo",
            Kind::ByteLevel => "byte-level BPE",
        }
    }
}

/// What a piece is for. The numbers are those of SentencePiece and of GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PieceType {
    /// A piece of text.
    Normal = 1,
    /// What stands for text that no piece covers.
    Unknown = 2,
    /// A mark that is never text (`<s>`).
    Control = 3,
    /// Text that is always one token.
    UserDefined = 4,
    /// Kept for its id; never produced.
    Unused = 5,
    /// One byte, `<0x0A>`.
    Byte = 6,
}

impl PieceType {
    /// The type with this number, 1 to 6.
    pub fn from_number(number: i32) -> Option<PieceType> {
        Some(match number {
            1 => PieceType::Normal,
            2 => PieceType::Unknown,
            3 => PieceType::Control,
            4 => PieceType::UserDefined,
            5 => PieceType::Unused,
            6 => PieceType::Byte,
            _ => return None,
        })
    }
}

/// Everything that defines a tokenizer. `tokens`, `scores` and `types` have one entry for each id.
#[derive(Clone, Debug, PartialEq)]
pub struct Pieces {
    /// The algorithm.
    pub kind: Kind,
    /// The text of each piece, with `▁` for a space.
    pub tokens: Vec<String>,
    /// BPE: merge priority, greatest first. Unigram: log probability.
    pub scores: Vec<f32>,
    /// What each piece is for.
    pub types: Vec<PieceType>,
    /// The token that begins a sequence.
    pub bos: Option<u32>,
    /// The token that ends a document.
    pub eos: Option<u32>,
    /// The unknown token; `None` takes the piece of type [`PieceType::Unknown`].
    pub unk: Option<u32>,
    /// The token that fills unused positions.
    pub pad: Option<u32>,
    /// Whether a runtime should put `bos` before a prompt. A `tokenizer.model` does not say; the Samba training code
    /// adds none, so reading one gives `false`.
    pub add_bos: bool,
    /// Whether a runtime should put `eos` after a text; `false` as above (a prompt is not a whole document).
    pub add_eos: bool,
    /// A space is put before the text (`add_dummy_prefix`).
    pub add_space_prefix: bool,
    /// Spaces are stripped at both ends, and runs of them become one.
    pub remove_extra_whitespaces: bool,
    /// Spaces are written as `▁` (true for every model in use).
    pub escape_whitespaces: bool,
    /// The added space goes to the end of the text rather than its beginning.
    pub whitespace_as_suffix: bool,
    /// The character map of the normalization, as SentencePiece compiles it; empty for the identity.
    pub charsmap: Vec<u8>,
    /// What the unknown token decodes to.
    pub unk_surface: String,
    /// Of [`Kind::ByteLevel`] alone.
    pub byte_level: Option<ByteLevel>,
}

impl Pieces {
    /// What an unknown token decodes to unless the model says otherwise.
    pub const UNK_SURFACE: &'static str = " \u{2047} ";
}
