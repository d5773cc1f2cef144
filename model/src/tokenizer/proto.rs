//! The protobuf messages of a `tokenizer.model`: field numbers and defaults of sentencepiece's
//! `src/sentencepiece_model.proto`, only the fields that encoding and decoding need.

use super::{Kind, PieceType, Pieces};
use crate::{Error, Result};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
    #[prost(message, optional, tag = "5")]
    denormalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct SentencePiece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    r#type: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(string, optional, tag = "44", default = " \u{2047} ")]
    unk_surface: Option<String>,
    #[prost(string, optional, tag = "46", default = "<s>")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    eos_piece: Option<String>,
    #[prost(string, optional, tag = "48", default = "<pad>")]
    pad_piece: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

/// What `bytes` say, checked only as far as the message itself goes.
pub(super) fn parse(bytes: &[u8]) -> Result<Pieces> {
    let wrong = |expected: &str, found: String| Error::Tokenizer { expected: expected.into(), found };
    let model = ModelProto::decode(bytes)
        .map_err(|e| wrong("a SentencePiece model (protobuf)", format!("other bytes ({e})")))?;
    let trainer = model.trainer_spec.unwrap_or_default();
    let normalizer = model.normalizer_spec.unwrap_or_default();
    if !model.denormalizer_spec.unwrap_or_default().precompiled_charsmap().is_empty() {
        return Err(wrong("a model without a denormalizer", "one with a denormalizer".into()));
    }
    let kind = match trainer.model_type() {
        1 => Kind::Unigram,
        2 => Kind::Bpe,
        other => {
            let found = match other {
                3 => "a word model".into(),
                4 => "a character model".into(),
                _ => format!("model type {other}"),
            };
            return Err(wrong("a BPE or unigram model", found));
        }
    };
    let mut pieces = Pieces {
        kind,
        tokens: Vec::with_capacity(model.pieces.len()),
        scores: Vec::with_capacity(model.pieces.len()),
        types: Vec::with_capacity(model.pieces.len()),
        bos: None,
        eos: None,
        unk: None,
        pad: None,
        add_bos: false,
        add_eos: false,
        add_space_prefix: normalizer.add_dummy_prefix(),
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces(),
        escape_whitespaces: normalizer.escape_whitespaces(),
        whitespace_as_suffix: trainer.treat_whitespace_as_suffix(),
        charsmap: normalizer.precompiled_charsmap().to_vec(),
        unk_surface: trainer.unk_surface().to_owned(),
        byte_level: None,
    };
    for (id, piece) in (0u32..).zip(model.pieces) {
        let number = piece.r#type();
        let kind = PieceType::from_number(number)
            .ok_or_else(|| wrong("piece types 1 to 6", format!("type {number} at piece {id}")))?;
        let score = piece.score();
        let text = piece.piece.unwrap_or_default();
        match kind {
            // Like SentencePiece's `bos_id()`: by name, and only where that piece is a control piece.
            PieceType::Control => {
                for (slot, name) in [
                    (&mut pieces.bos, trainer.bos_piece()),
                    (&mut pieces.eos, trainer.eos_piece()),
                    (&mut pieces.pad, trainer.pad_piece()),
                ] {
                    if text == name {
                        slot.get_or_insert(id);
                    }
                }
            }
            PieceType::Unknown => {
                pieces.unk.get_or_insert(id);
            }
            PieceType::Byte if !trainer.byte_fallback() => {
                return Err(wrong("no byte pieces in a model without byte fallback", format!("piece {id}")));
            }
            _ => {}
        }
        pieces.tokens.push(text);
        pieces.scores.push(score);
        pieces.types.push(kind);
    }
    if trainer.byte_fallback() && !pieces.types.contains(&PieceType::Byte) {
        return Err(wrong("256 byte pieces in a model with byte fallback", "none".into()));
    }
    Ok(pieces)
}
