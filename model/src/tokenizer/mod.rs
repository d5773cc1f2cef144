//! Text to token ids and back: exactly as Google's SentencePiece does it, and as the tokenizers of Phi-4-mini-flash-reasoning
//! (byte-level BPE) and PLaMo-2 (its own) do it.
//!
//! ```text
//!   text --normalize--> "▁The▁cat" --bpe | unigram--> pieces --byte fallback--> ids
//!                                                      ids --Decoder--> text
//! ```
//!
//! A tokenizer is its [`Pieces`]: everything that a `tokenizer.model`, a `tokenizer.json` or the `tokenizer.ggml.*` keys of a
//! GGUF say.
//! Semantics follow github.com/google/sentencepiece 0.2 (`src/normalizer.cc`, `bpe_model.cc`, `unigram_model.cc`,
//! `sentencepiece_processor.cc`). This is our own code because no pure Rust library tried was equal to it: kitoken 0.11
//! agrees on byte-level BPE with the identity normalization, but reverses fallback bytes in unigram models, leaves the
//! character map of a model unused, and panics on models with whitespace as suffix.

mod bpe;
mod byte_level;
mod decode;
mod hugging_face;
mod normalize;
mod pieces;
mod plamo2;
mod proto;
mod unigram;
mod vocabulary;

pub use byte_level::ByteLevel;
pub use decode::Decoder;
pub use pieces::{Kind, PieceType, Pieces};

use crate::Result;
use bpe::Bpe;
use normalize::Normalizer;
use plamo2::Plamo2;
use std::ops::Range;
use unigram::Unigram;
use vocabulary::Vocabulary;

/// A loaded tokenizer.
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
    Plamo2(Plamo2),
    ByteLevel(byte_level::Bpe),
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

    /// Reads the texts of a Hugging Face `tokenizer.json` of byte-level BPE and, if there is one, the `tokenizer_config.json`
    /// beside it.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] for other models, normalizers and pre-tokenizers, and for all that
    /// [`Tokenizer::from_pieces`] refuses.
    pub fn from_hugging_face(file: &str, settings: Option<&str>) -> Result<Tokenizer> {
        Tokenizer::from_pieces(hugging_face::byte_level(file, settings)?)
    }

    /// Reads the texts of PLaMo-2's `tokenizer.jsonl` and, if there is one, the `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] for lines that are no pieces, and for all that [`Tokenizer::from_pieces`] refuses.
    pub fn from_plamo2(lines: &str, settings: Option<&str>) -> Result<Tokenizer> {
        Tokenizer::from_pieces(hugging_face::plamo2(lines, settings)?)
    }

    /// Builds the tokenizer that `pieces` describes.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] where SentencePiece would refuse the model: an empty, overlong or repeated piece, no unknown
    /// piece or two of them, some but not all 256 byte pieces; and for lists of unequal length, special ids beyond the
    /// vocabulary, scores that are not finite, or a damaged character map. Byte-level BPE has no unknown piece, and wants one
    /// for every byte, merges of pieces into pieces and a sound pattern.
    pub fn from_pieces(pieces: Pieces) -> Result<Tokenizer> {
        let vocabulary = Vocabulary::new(&pieces)?;
        let normalizer = Normalizer::new(&pieces)?;
        let segmenter = match pieces.kind {
            Kind::Bpe => Segmenter::Bpe(Bpe::new(&pieces)),
            Kind::Unigram => Segmenter::Unigram(Unigram::new(&pieces, &vocabulary)),
            Kind::Plamo2 => Segmenter::Plamo2(Plamo2::new(&pieces)),
            Kind::ByteLevel => {
                let rules = pieces.byte_level.clone().unwrap_or_default();
                Segmenter::ByteLevel(byte_level::Bpe::new(&pieces, &rules)?)
            }
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

    /// The token that begins a sequence, where the vocabulary has one and, SentencePiece aside, which cannot say, the
    /// tokenizer puts it there. The Samba training code does not use it.
    pub fn bos(&self) -> Option<u32> {
        let says = matches!(self.pieces.kind, Kind::Plamo2 | Kind::ByteLevel);
        self.pieces.bos.filter(|_| self.pieces.add_bos || !says)
    }

    /// The token that ends a document.
    pub fn eos(&self) -> Option<u32> {
        self.pieces.eos
    }

    /// The token for text that no piece covers; byte-level BPE has none.
    pub fn unknown(&self) -> Option<u32> {
        self.vocabulary.unknown
    }

    /// The ids of `text`, without a beginning or end token. Control tokens spelled out in the text (`</s>`) are plain
    /// text to SentencePiece, but themselves to the other kinds.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let (normalized, mut segments, mut ids) = (self.normalizer.normalize(text), Vec::new(), Vec::new());
        match &self.segmenter {
            Segmenter::Bpe(bpe) => bpe.segment(&normalized, &self.vocabulary, &mut segments),
            Segmenter::Unigram(unigram) => unigram.segment(&normalized, &mut segments),
            Segmenter::Plamo2(plamo2) => {
                plamo2.encode(text, &self.vocabulary, &mut ids);
                return ids;
            }
            Segmenter::ByteLevel(bpe) => {
                bpe.encode(text, &mut ids);
                return ids;
            }
        }
        self.spelled(&normalized, segments)
    }

    /// Ids of segments, bytes for what no piece covers.
    fn spelled(&self, normalized: &[u8], segments: Vec<Segment>) -> Vec<u32> {
        let mut ids = Vec::with_capacity(segments.len());
        let mut after_unknown = false;
        for (id, range) in segments {
            let unknown = Some(id) == self.vocabulary.unknown;
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
