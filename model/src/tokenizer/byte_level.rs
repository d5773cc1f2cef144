//! Byte-level BPE, as GPT-2 began it and tiktoken's vocabularies have it: text is cut by a pattern, and the bytes of each part
//! are merged by rank.

use super::{PieceType, Pieces};
use crate::error::one_line;
use crate::{Error, Result};
use fancy_regex::Regex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What byte-level BPE has beside its pieces. Pieces and merges are spelled in characters that stand for bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByteLevel {
    /// Two pieces that become one, with a space between them; the first is merged first.
    pub merges: Vec<String>,
    /// What text is cut by: each match is a part, and so is what lies between matches.
    pub pattern: String,
    /// A part that is a piece as a whole is that one, whatever the merges say.
    pub ignore_merges: bool,
    /// Added tokens that take the white space before them along.
    pub strip_before: Vec<u32>,
    /// Added tokens that take the white space after them along.
    pub strip_after: Vec<u32>,
}

impl ByteLevel {
    /// The pattern of GPT-2 (`gpt-2` in llama.cpp).
    pub const GPT2: &'static str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    /// The pattern of tiktoken's o200k_base (`gpt-4o` in llama.cpp).
    pub const O200K: &'static str = concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
}

/// The character that stands for a byte: itself where it is printable Latin-1, else one from U+0100 on.
pub(super) fn character_of(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match printable(byte) {
        true => char::from(byte),
        false => {
            let rank = (0..byte).filter(|b| !printable(*b)).count() as u32;
            char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    }
}

/// The inverse of [`character_of`].
pub(super) fn bytes_by_character() -> HashMap<char, u8> {
    (0..=255).map(|byte| (character_of(byte), byte)).collect()
}

#[derive(Clone, Debug)]
pub(super) struct Bpe {
    pattern: Regex,
    /// Rank of a merge and the piece that results, by the pieces merged.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// The piece of each byte.
    bytes: Box<[u32; 256]>,
    /// Parts that are pieces as a whole, where these go before merges.
    whole: HashMap<String, u32>,
    add_space_prefix: bool,
    added: Vec<Added>,
}

/// A token that is found in text as it is, before anything else.
#[derive(Clone, Debug)]
struct Added {
    text: String,
    id: u32,
    strip_before: bool,
    strip_after: bool,
}

impl Bpe {
    pub(super) fn new(pieces: &Pieces, rules: &ByteLevel) -> Result<Bpe> {
        let wrong = |expected: &str, found: String| Error::Tokenizer { expected: expected.into(), found };
        let pattern = Regex::new(&rules.pattern)
            .map_err(|e| wrong("a pattern that text is cut by", one_line(&format!("{:?}: {e}", rules.pattern))))?;
        let (mut normal, mut added) = (HashMap::new(), Vec::new());
        for ((id, token), kind) in (0u32..).zip(&pieces.tokens).zip(&pieces.types) {
            match kind {
                PieceType::Normal => drop(normal.insert(token.as_str(), id)),
                PieceType::Control | PieceType::UserDefined => added.push(Added {
                    text: token.clone(),
                    id,
                    strip_before: rules.strip_before.contains(&id),
                    strip_after: rules.strip_after.contains(&id),
                }),
                _ => {}
            }
        }
        // Where several begin at one place the longest is meant.
        added.sort_by_key(|a| Reverse(a.text.len()));
        let piece = |text: &str| normal.get(text).copied();
        let mut bytes = Box::new([0; 256]);
        for byte in 0..=255u8 {
            let character = character_of(byte).to_string();
            let id =
                piece(&character).ok_or_else(|| wrong("a piece for every byte", format!("none for {byte:#04x}")))?;
            bytes[usize::from(byte)] = id;
        }
        let mut merges = HashMap::with_capacity(rules.merges.len());
        for (rank, merge) in (0u32..).zip(&rules.merges) {
            let found = || one_line(&format!("{merge:?}"));
            let (left, right) =
                merge.split_once(' ').ok_or_else(|| wrong("merges of two pieces, a space between them", found()))?;
            let union = format!("{left}{right}");
            let [Some(left), Some(right), Some(union)] = [left, right, &union].map(piece) else {
                return Err(wrong("merges of pieces into a piece", found()));
            };
            merges.entry((left, right)).or_insert((rank, union));
        }
        let whole = if rules.ignore_merges {
            normal.iter().map(|(t, id)| ((*t).to_owned(), *id)).collect()
        } else {
            HashMap::new()
        };
        Ok(Bpe { pattern, merges, bytes, whole, add_space_prefix: pieces.add_space_prefix, added })
    }

    /// Appends the ids of `text`, added tokens in it included.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut rest = text;
        while let Some((at, added)) = self.first_added(rest) {
            let (before, after) = (&rest[..at], &rest[at + added.text.len()..]);
            self.encode_plain(if added.strip_before { before.trim_end() } else { before }, out);
            out.push(added.id);
            rest = if added.strip_after { after.trim_start() } else { after };
        }
        self.encode_plain(rest, out);
    }

    /// The first added token in `text`.
    fn first_added(&self, text: &str) -> Option<(usize, &Added)> {
        let found = self.added.iter().filter_map(|a| text.find(&a.text).map(|at| (at, a)));
        // Of equal places the first one found, the longest, stays.
        found.reduce(|best, next| if next.0 < best.0 { next } else { best })
    }

    fn encode_plain(&self, text: &str, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let prefixed;
        let text = match self.add_space_prefix && !text.starts_with(' ') {
            true => {
                prefixed = format!(" {text}");
                &prefixed
            }
            false => text,
        };
        let mut at = 0;
        // A pattern that gives up on some text leaves it in one part.
        for part in self.pattern.find_iter(text).map_while(std::result::Result::ok) {
            self.merge(&text[at..part.start()], out);
            self.merge(part.as_str(), out);
            at = part.end();
        }
        self.merge(&text[at..], out);
    }

    /// Appends the pieces of one part: of all neighbours that merge those of the lowest rank, the leftmost first.
    fn merge(&self, part: &str, out: &mut Vec<u32>) {
        if !self.whole.is_empty()
            && let Some(id) = self.whole.get(&part.bytes().map(character_of).collect::<String>())
        {
            return out.push(*id);
        }
        // A linked list in text order; `None` once merged into the symbol before it.
        let mut ids: Vec<Option<u32>> = part.bytes().map(|b| Some(self.bytes[usize::from(b)])).collect();
        let n = ids.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<Option<usize>> = (0..n).map(|i| i.checked_sub(1)).collect();
        let mut queue = BinaryHeap::new();
        let offer = |queue: &mut BinaryHeap<_>, ids: &[Option<u32>], left: usize, right: usize| {
            if let Some([Some(a), Some(b)]) = ids.get(right).map(|b| [ids[left], *b])
                && let Some((rank, union)) = self.merges.get(&(a, b))
            {
                queue.push(Reverse((*rank, left, right, a, b, *union)));
            }
        };
        (1..n).for_each(|right| offer(&mut queue, &ids, right - 1, right));
        while let Some(Reverse((_, left, right, a, b, union))) = queue.pop() {
            // One of them may have been merged since, and what stands there now be another.
            if ids[left] != Some(a) || ids[right] != Some(b) || next[left] != right {
                continue;
            }
            ids[left] = Some(union);
            ids[right] = None;
            next[left] = next[right];
            if let Some(before) = previous.get_mut(next[left]) {
                *before = Some(left);
            }
            if let Some(before) = previous[left] {
                offer(&mut queue, &ids, before, left);
            }
            let after = next[left];
            offer(&mut queue, &ids, left, after);
        }
        out.extend(ids.into_iter().flatten());
    }
}
