//! PLaMo-2's segmentation: the cheapest one, found from the right; bytes for what no piece covers.
//!
//! Prices are whole numbers, `round(score * 10^4)` with the sign turned, and control pieces are ordinary ones. Of equal
//! segmentations that with the longer first piece is taken (`llm_tokenizer_plamo2`, llama-vocab.cpp).

use super::unigram::Trie;
use super::vocabulary::Vocabulary;
use super::{PieceType, Pieces};

/// The price of a character that is spelled in bytes.
const UNCOVERED: i64 = 10_000_000;

/// What some tools put before a text. It is no part of it.
const BYTE_ORDER_MARK: &str = "\u{feff}";

#[derive(Clone, Debug)]
pub(super) struct Plamo2 {
    trie: Trie,
    prices: Vec<i64>,
}

/// The best way found to segment the text from some character on.
#[derive(Clone, Copy)]
struct Rest {
    price: i64,
    /// Bytes of the first piece.
    length: usize,
    /// The first piece; `None`: a character in bytes.
    piece: Option<u32>,
}

impl Plamo2 {
    pub(super) fn new(pieces: &Pieces) -> Plamo2 {
        let mut trie = Trie::default();
        for ((id, token), kind) in (0u32..).zip(&pieces.tokens).zip(&pieces.types) {
            if !matches!(kind, PieceType::Byte | PieceType::Unused) {
                trie.insert(token.as_bytes(), id);
            }
        }
        let price = |score: &f32| -(f64::from(*score) * 1e4).round() as i64;
        Plamo2 { trie, prices: pieces.scores.iter().map(price).collect() }
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, vocabulary: &Vocabulary, out: &mut Vec<u32>) {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let end = Rest { price: 0, length: 1, piece: None };
        let mut best = vec![end; text.len() + 1];
        for (at, character) in text.char_indices().rev() {
            let length = character.len_utf8();
            let mut here = Rest { price: best[at + length].price + UNCOVERED, length, piece: None };
            let mut node = Trie::ROOT;
            for (i, byte) in text.as_bytes()[at..].iter().enumerate() {
                let Some(next) = self.trie.child(node, *byte) else { break };
                node = next;
                let Some(id) = self.trie.value(node) else { continue };
                let price = best[at + i + 1].price + self.prices[id as usize];
                if price <= here.price {
                    here = Rest { price, length: i + 1, piece: Some(id) };
                }
            }
            best[at] = here;
        }
        let mut at = 0;
        while at < text.len() {
            let Rest { length, piece, .. } = best[at];
            match (piece, &vocabulary.byte_ids) {
                (Some(id), _) => out.push(id),
                (None, Some(ids)) => out.extend(text.as_bytes()[at..at + length].iter().map(|b| ids[usize::from(*b)])),
                (None, None) => out.push(vocabulary.unknown()),
            }
            at += length;
        }
    }
}
