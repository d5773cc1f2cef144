//! Pieces by text, checked.

use super::{Kind, PieceType, Pieces};
use crate::error::one_line;
use crate::{Error, Result};
use std::collections::HashMap;

/// SentencePiece's own limit on the length of a piece.
const MAX_PIECE: usize = 8000;

/// Pieces by text.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    /// SentencePiece keeps two maps, one of text pieces and one of reserved pieces, and a text may be in both.
    by_text: HashMap<Box<[u8]>, Ids>,
    /// There is one, but for byte-level BPE.
    pub(super) unknown: Option<u32>,
    /// The id of each byte, where the model falls back to bytes.
    pub(super) byte_ids: Option<Box<[u32; 256]>>,
    /// Bytes of the longest piece of text.
    longest: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    text: Option<u32>,
    reserved: Option<u32>,
}

/// The byte that a byte piece `<0x0A>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = digits.len() == 2 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if upper { u8::from_str_radix(digits, 16).ok() } else { None }
}

impl Vocabulary {
    pub(super) fn new(pieces: &Pieces) -> Result<Vocabulary> {
        let wrong = |expected: &str, found: String| Err(Error::Tokenizer { expected: expected.into(), found });
        let n = pieces.tokens.len();
        if pieces.scores.len() != n || pieces.types.len() != n || u32::try_from(n).is_err() {
            let found = format!("{n} tokens, {} scores, {} types", pieces.scores.len(), pieces.types.len());
            return wrong("one score and one type for each token", found);
        }
        for (name, id) in [("bos", pieces.bos), ("eos", pieces.eos), ("unk", pieces.unk), ("pad", pieces.pad)] {
            if let Some(id) = id.filter(|&id| id as usize >= n) {
                return wrong(&format!("a {name} id below the vocabulary's size {n}"), id.to_string());
            }
        }
        let mut by_text: HashMap<Box<[u8]>, Ids> = HashMap::with_capacity(n);
        let (mut unknown, mut longest) = (None, 0);
        let mut bytes = [None; 256];
        for (((id, token), &kind), &score) in (0u32..).zip(&pieces.tokens).zip(&pieces.types).zip(&pieces.scores) {
            if token.is_empty() || token.len() >= MAX_PIECE {
                return wrong("pieces of 1 to 7999 bytes", format!("{} bytes at piece {id}", token.len()));
            }
            if !score.is_finite() {
                return wrong("finite scores", format!("{score} at piece {id}"));
            }
            let ids = by_text.entry(token.as_bytes().into()).or_default();
            let slot = match kind {
                PieceType::Normal | PieceType::UserDefined | PieceType::Unused => {
                    longest = longest.max(token.len());
                    &mut ids.text
                }
                PieceType::Unknown | PieceType::Control | PieceType::Byte => &mut ids.reserved,
            };
            if let Some(first) = slot.replace(id) {
                return wrong("each piece once", format!("the same text at pieces {first} and {id}"));
            }
            if kind == PieceType::Unknown
                && let Some(first) = unknown.replace(id)
            {
                return wrong("one unknown piece", format!("pieces {first} and {id}"));
            }
            if kind == PieceType::Byte {
                match byte_of(token) {
                    Some(b) => bytes[usize::from(b)] = Some(id),
                    None => {
                        return wrong("byte pieces <0x00> to <0xFF>", format!("`{}` at piece {id}", one_line(token)));
                    }
                }
            }
        }
        let agreed = unknown.filter(|&id| pieces.unk.is_none_or(|unk| unk == id));
        if agreed.is_none() && pieces.kind != Kind::ByteLevel {
            let found = unknown.map_or("none".into(), |id| format!("piece {id} beside the unk id {:?}", pieces.unk));
            return wrong("one unknown piece", found);
        }
        let present = bytes.iter().flatten().count();
        let byte_ids = match present {
            0 => None,
            256 => Some(Box::new(bytes.map(Option::unwrap_or_default))),
            _ => return wrong("all 256 byte pieces or none", format!("{present} of them")),
        };
        Ok(Vocabulary { by_text, unknown: agreed, byte_ids, longest })
    }

    /// The unknown piece of a kind that has one.
    pub(super) fn unknown(&self) -> u32 {
        self.unknown.unwrap_or_else(|| unreachable!("checked where the vocabulary was made"))
    }

    /// The piece of text (normal, user-defined or unused) that reads `text`.
    pub(super) fn text_piece(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        self.by_text.get(text)?.text
    }
}
