//! Text to token ids and back, exactly as Google's SentencePiece does it.
//!
//! ```text
//!   text --normalize--> "▁The▁cat" --bpe | unigram--> pieces --byte fallback--> ids
//!                                                      ids --Decoder--> text
//! ```
//!
//! A tokenizer is its [`Pieces`]: everything that a `tokenizer.model` or the `tokenizer.ggml.*` keys of a GGUF say.
//! Semantics follow github.com/google/sentencepiece 0.2 (`src/normalizer.cc`, `bpe_model.cc`, `unigram_model.cc`,
//! `sentencepiece_processor.cc`). This is our own code because no pure Rust library tried was equal to it: kitoken 0.11
//! agrees on byte-level BPE with the identity normalization, but reverses fallback bytes in unigram models, leaves the
//! character map of a model unused, and panics on models with whitespace as suffix.

mod bpe;
mod decode;
mod normalize;
mod pieces;
mod proto;
mod unigram;
mod vocabulary;

pub use decode::Decoder;
pub use pieces::{Kind, PieceType, Pieces};

use crate::Result;
use bpe::Bpe;
use normalize::Normalizer;
use std::ops::Range;
use unigram::Unigram;
use vocabulary::Vocabulary;

/// A loaded SentencePiece tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pieces: Pieces,
    vocabulary: Vocabulary,
    normalizer: Normalizer,
    segmenter: Segmenter,
}

/// How normalized text is cut into pieces.
#[derive(Clone, Debug)]
enum Segmenter {
    Bpe(Bpe),
    Unigram(Unigram),
}

/// A piece found in normalized text: its id, and the bytes that it covers.
type Segment = (u32, Range<usize>);

impl Tokenizer {
    /// Reads the content of a SentencePiece `tokenizer.model` (a protobuf `ModelProto`).
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] for bytes that are no such message, for word and character models, and for all that
    /// [`Tokenizer::from_pieces`] refuses.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Tokenizer> {
        Tokenizer::from_pieces(proto::parse(bytes)?)
    }

    /// Builds the tokenizer that `pieces` describes.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] where SentencePiece would refuse the model: an empty, overlong or repeated piece, no unknown
    /// piece or two of them, some but not all 256 byte pieces; and for lists of unequal length, special ids beyond the
    /// vocabulary, scores that are not finite, or a damaged character map.
    pub fn from_pieces(pieces: Pieces) -> Result<Tokenizer> {
        let vocabulary = Vocabulary::new(&pieces)?;
        let normalizer = Normalizer::new(&pieces)?;
        let segmenter = match pieces.kind {
            Kind::Bpe => Segmenter::Bpe(Bpe::new(&pieces)),
            Kind::Unigram => Segmenter::Unigram(Unigram::new(&pieces, &vocabulary)),
        };
        Ok(Tokenizer { pieces, vocabulary, normalizer, segmenter })
    }

    /// All that defines this tokenizer, for writing it elsewhere.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Number of pieces. A model's embedding may be padded to more rows than this.
    pub fn vocab_size(&self) -> usize {
        self.pieces.tokens.len()
    }

    /// The text of piece `id`, with `▁` for a space, as it stands in the vocabulary.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.tokens.get(id as usize).map(String::as_str)
    }

    /// The token that begins a sequence, where the vocabulary has one. The Samba training code does not use it.
    pub fn bos(&self) -> Option<u32> {
        self.pieces.bos
    }

    /// The token that ends a document.
    pub fn eos(&self) -> Option<u32> {
        self.pieces.eos
    }

    /// The token for text that no piece covers.
    pub fn unknown(&self) -> u32 {
        self.vocabulary.unknown
    }

    /// The ids of `text`, without a beginning or end token. Control tokens spelled out in the text (`</s>`) are plain
    /// text here, as in SentencePiece.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let normalized = self.normalizer.normalize(text);
        let mut segments = Vec::with_capacity(normalized.len() / 3);
        match &self.segmenter {
            Segmenter::Bpe(bpe) => bpe.segment(&normalized, &self.vocabulary, &mut segments),
            Segmenter::Unigram(unigram) => unigram.segment(&normalized, &mut segments),
        }
        let mut ids = Vec::with_capacity(segments.len());
        let mut after_unknown = false;
        for (id, range) in segments {
            let unknown = id == self.vocabulary.unknown;
            match (unknown, &self.vocabulary.byte_ids) {
                (true, Some(byte_ids)) => {
                    let bytes = normalized.get(range).unwrap_or_default();
                    ids.extend(bytes.iter().map(|&b| byte_ids[usize::from(b)]));
                }
                // A run of unknown characters is one unknown token.
                (true, None) if after_unknown => {}
                _ => ids.push(id),
            }
            after_unknown = unknown;
        }
        ids
    }

    /// The text of `ids`. Control tokens give no text; byte tokens join into characters, and bytes that form none give
    /// U+FFFD each; an id beyond the vocabulary gives the unknown token's surface (` ⁇ `).
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::with_capacity(ids.len() * 4);
        let mut decoder = self.decoder();
        for &id in ids {
            decoder.push(id, &mut text);
        }
        decoder.finish(&mut text);
        text
    }

    /// A decoder that is given one token at a time, as they are generated.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }
}
