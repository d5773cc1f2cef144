//! Normalization: the character map, then spaces (sentencepiece `src/normalizer.cc`).

use super::{PieceType, Pieces};
use crate::{Error, Result};

/// U+2581, what a space is written as inside pieces.
pub(super) const SPACE: &str = "\u{2581}";

/// The longest replacement of a character map; Unicode's longest (of U+FDFA) takes 33 bytes.
const LONGEST_REPLACEMENT: usize = 256;

#[derive(Clone, Debug)]
pub(super) struct Normalizer {
    map: Option<CharacterMap>,
    user_defined: PrefixMatcher,
    space: &'static [u8],
    prefix: bool,
    suffix: bool,
    remove_extra: bool,
}

impl Normalizer {
    pub(super) fn new(pieces: &Pieces) -> Result<Normalizer> {
        Ok(Normalizer {
            map: if pieces.charsmap.is_empty() { None } else { Some(CharacterMap::parse(&pieces.charsmap)?) },
            user_defined: PrefixMatcher::new(pieces),
            space: if pieces.escape_whitespaces { SPACE.as_bytes() } else { b" " },
            prefix: pieces.add_space_prefix && !pieces.whitespace_as_suffix,
            suffix: pieces.add_space_prefix && pieces.whitespace_as_suffix,
            remove_extra: pieces.remove_extra_whitespaces,
        })
    }

    /// `text` as the pieces spell it. UTF-8, unless a damaged character map makes it otherwise.
    pub(super) fn normalize(&self, text: &str) -> Vec<u8> {
        let mut rest = text.as_bytes();
        if self.remove_extra {
            while let (b" ", taken @ 1..) = self.step(rest) {
                rest = &rest[taken..];
            }
        }
        if rest.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(rest.len() + rest.len() / 2 + 3);
        if self.prefix {
            out.extend_from_slice(self.space);
        }
        let mut after_space = self.remove_extra;
        while !rest.is_empty() {
            let (mut normal, taken) = self.step(rest);
            rest = &rest[taken..];
            while after_space && let Some(less) = normal.strip_prefix(b" ") {
                normal = less;
            }
            if let Some(&last) = normal.last() {
                for &byte in normal {
                    if byte == b' ' { out.extend_from_slice(self.space) } else { out.push(byte) }
                }
                after_space = self.remove_extra && last == b' ';
            }
        }
        if self.remove_extra {
            // Takes away `▁` that the text itself contains, too, as SentencePiece does.
            while out.ends_with(self.space) {
                out.truncate(out.len() - self.space.len());
            }
        }
        if self.suffix {
            out.extend_from_slice(self.space);
        }
        out
    }

    /// What the beginning of `input` becomes, and how many of its bytes that replaces: at least one, unless it is empty.
    fn step<'a>(&'a self, input: &'a [u8]) -> (&'a [u8], usize) {
        if let Some(length) = self.user_defined.longest(input) {
            return (&input[..length], length);
        }
        if let Some((length, replacement)) = self.map.as_ref().and_then(|map| map.longest(input)) {
            return (replacement, length);
        }
        match character_length(input) {
            Some(length) => (&input[..length], length),
            // Only after a rule of a damaged map has cut a character.
            None => ("\u{fffd}".as_bytes(), usize::from(!input.is_empty())),
        }
    }
}

/// Bytes of the well-formed UTF-8 character that `input` begins with, if it does.
fn character_length(input: &[u8]) -> Option<usize> {
    let length = match *input.first()? {
        0x00..=0x7f => return Some(1),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    std::str::from_utf8(input.get(..length)?).ok().map(|_| length)
}

/// Finds the longest user-defined piece at the beginning of a text; those are never split or normalized.
#[derive(Clone, Debug)]
pub(super) struct PrefixMatcher {
    /// By first byte, longest first; empty where no piece is user-defined.
    by_first: Vec<Vec<Box<[u8]>>>,
}

impl PrefixMatcher {
    pub(super) fn new(pieces: &Pieces) -> PrefixMatcher {
        let mut by_first: Vec<Vec<Box<[u8]>>> = Vec::new();
        for (token, _) in pieces.tokens.iter().zip(&pieces.types).filter(|(_, t)| **t == PieceType::UserDefined) {
            if let Some(&first) = token.as_bytes().first() {
                by_first.resize(256, Vec::new());
                by_first[usize::from(first)].push(token.as_bytes().into());
            }
        }
        for list in &mut by_first {
            list.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
        }
        PrefixMatcher { by_first }
    }

    /// The length of the longest user-defined piece that `input` begins with.
    pub(super) fn longest(&self, input: &[u8]) -> Option<usize> {
        let list = self.by_first.get(usize::from(*input.first()?))?;
        list.iter().find(|piece| input.starts_with(piece)).map(|piece| piece.len())
    }
}

/// Rules "these bytes become those", compiled by SentencePiece:
///
/// ```text
///   u32 n | n bytes: double array of u32 units | replacements, each ended by NUL
/// ```
///
/// A unit of the double array (darts-clone, github.com/s-yata/darts-clone `darts.h`):
///
/// ```text
///   bit 31     1: a leaf, bits 0..31 are its value; else
///   bits 10..  offset to the children (shifted left by 8 more if bit 9 is set)
///   bit 8      a leaf hangs below (at label 0)
///   bits 0..8  label: the byte that leads here
/// ```
#[derive(Clone, Debug)]
struct CharacterMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharacterMap {
    fn parse(blob: &[u8]) -> Result<CharacterMap> {
        let parts = blob.split_first_chunk::<4>().and_then(|(size, rest)| {
            let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
            rest.split_at_checked(size).filter(|_| size > 0 && size.is_multiple_of(4))
        });
        let Some((units, replacements)) = parts else {
            let found = format!("{} bytes that do not hold one", blob.len());
            return Err(Error::Tokenizer { expected: "a character map of SentencePiece".into(), found });
        };
        // Text may match a rule at every character: a long replacement would make it of any size.
        if let Some(long) = replacements.split(|&byte| byte == 0).map(<[u8]>::len).find(|&n| n > LONGEST_REPLACEMENT) {
            let expected = format!("a character map with replacements of at most {LONGEST_REPLACEMENT} bytes");
            return Err(Error::Tokenizer { expected, found: format!("one of {long}") });
        }
        let units = units.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(CharacterMap { units, replacements: replacements.to_vec() })
    }

    /// The longest rule that applies at the beginning of `input`: its length, and what it puts there.
    fn longest(&self, input: &[u8]) -> Option<(usize, &[u8])> {
        let unit = |position: u32| self.units.get(position as usize).copied();
        let children = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut position = children(unit(0)?);
        let mut best = None;
        for (index, &byte) in input.iter().enumerate() {
            position ^= u32::from(byte);
            let Some(node) = unit(position) else { break };
            if node & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            position ^= children(node);
            if node >> 8 & 1 == 1 {
                let Some(leaf) = unit(position) else { break };
                best = Some((index + 1, leaf & 0x7fff_ffff));
            }
        }
        let (length, start) = best?;
        let rest = self.replacements.get(start as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        Some((length, &rest[..end]))
    }
}
