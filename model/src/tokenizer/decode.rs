//! Ids to text, a token at a time (sentencepiece `src/sentencepiece_processor.cc`, `Decode`).

use super::byte_level::bytes_by_character;
use super::normalize::SPACE;
use super::vocabulary::byte_of;
use super::{Kind, PieceType, Tokenizer};
use std::collections::HashMap;

/// Turns tokens into text as they come. A character whose bytes are separate tokens appears with its last byte, so
/// what has been written so far is always final.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Bytes that begin a character but do not finish it: at most 3.
    pending: Vec<u8>,
    /// The next piece may be the first one, whose leading space the encoder added.
    at_start: bool,
    /// The previous text piece was that first one.
    dropped_space: bool,
    wrote: bool,
    /// The bytes that characters of a byte-level piece stand for; empty for other kinds.
    spelling: HashMap<char, u8>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Decoder<'a> {
        let spelling = match tokenizer.pieces().kind {
            Kind::ByteLevel => bytes_by_character(),
            _ => HashMap::new(),
        };
        Decoder { tokenizer, pending: Vec::new(), at_start: true, dropped_space: false, wrote: false, spelling }
    }

    /// Appends to `out` the text that `id` completes, if any.
    pub fn push(&mut self, id: u32, out: &mut String) {
        let before = out.len();
        let pieces = self.tokenizer.pieces();
        let kind = pieces.types.get(id as usize).copied().unwrap_or(PieceType::Unknown);
        let text = self.tokenizer.piece(id).unwrap_or_default();
        match (kind, byte_of(text)) {
            (PieceType::Byte, Some(byte)) => self.push_byte(byte, out),
            (PieceType::Normal, _) if !self.spelling.is_empty() => {
                let bytes: Vec<u8> = text.chars().filter_map(|c| self.spelling.get(&c).copied()).collect();
                bytes.into_iter().for_each(|byte| self.push_byte(byte, out));
            }
            _ => {
                self.flush(out);
                if self.dropped_space || self.wrote || out.len() > before {
                    self.at_start = false;
                }
                self.dropped_space = false;
                match kind {
                    PieceType::Control => {}
                    PieceType::Unknown => out.push_str(&pieces.unk_surface),
                    _ => self.push_text(text, out),
                }
            }
        }
        self.wrote |= out.len() > before;
    }

    /// Appends U+FFFD for each byte that is still waiting for the rest of its character.
    pub fn finish(mut self, out: &mut String) {
        self.flush(out);
    }

    fn push_text(&mut self, mut text: &str, out: &mut String) {
        let pieces = self.tokenizer.pieces();
        if !pieces.escape_whitespaces {
            return out.push_str(text);
        }
        if self.at_start
            && (pieces.add_space_prefix || pieces.remove_extra_whitespaces)
            && let Some(rest) = text.strip_prefix(SPACE)
        {
            text = rest;
            // Where extra spaces are removed, every leading space goes, not only the one that was added.
            self.dropped_space = !pieces.remove_extra_whitespaces;
        }
        let mut parts = text.split(SPACE);
        out.push_str(parts.next().unwrap_or_default());
        for part in parts {
            out.push(' ');
            out.push_str(part);
        }
    }

    fn push_byte(&mut self, byte: u8, out: &mut String) {
        self.pending.push(byte);
        while !self.pending.is_empty() {
            match std::str::from_utf8(&self.pending) {
                Ok(character) => {
                    out.push_str(character);
                    self.pending.clear();
                }
                // Still the beginning of a character.
                Err(e) if e.error_len().is_none() && e.valid_up_to() == 0 => break,
                // The first byte begins none: it alone is replaced, the others get another chance.
                Err(e) if e.valid_up_to() == 0 => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.pending.remove(0);
                }
                Err(e) => {
                    let rest = self.pending.split_off(e.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(&self.pending));
                    self.pending = rest;
                }
            }
        }
    }

    fn flush(&mut self, out: &mut String) {
        out.extend(self.pending.drain(..).map(|_| char::REPLACEMENT_CHARACTER));
    }
}
