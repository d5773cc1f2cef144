//! The most probable segmentation (sentencepiece `src/unigram_model.cc`, `EncodeOptimized`).

use super::bpe::lead_length;
use super::vocabulary::Vocabulary;
use super::{PieceType, Pieces, Segment};
use std::collections::HashMap;

/// How much less probable an unknown character is than the least probable piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Sums greater than this are counted from zero again, so that a long text keeps its precision (as in sentencepiece
/// 0.2.3; sums are in single precision there and here, since equal sums decide which segmentation is taken).
const RESET: f32 = 100_000.0;

#[derive(Clone, Debug)]
pub(super) struct Unigram {
    trie: Trie,
    scores: Vec<f32>,
    user_defined: Vec<bool>,
    unknown: u32,
    unknown_score: f32,
}

/// The best way found so far to reach a byte of the text.
#[derive(Clone, Copy)]
struct Arrival {
    score: f32,
    /// Where its last piece begins, and that piece; `None` while nothing reaches here.
    last: Option<(usize, u32)>,
}

impl Unigram {
    pub(super) fn new(pieces: &Pieces, vocabulary: &Vocabulary) -> Unigram {
        let mut least = f32::MAX;
        let mut trie = Trie::default();
        for (((id, token), kind), &score) in (0u32..).zip(&pieces.tokens).zip(&pieces.types).zip(&pieces.scores) {
            if *kind == PieceType::Normal {
                least = least.min(score);
            }
            if matches!(kind, PieceType::Normal | PieceType::UserDefined) {
                trie.insert(token.as_bytes(), id);
            }
        }
        Unigram {
            trie,
            scores: pieces.scores.clone(),
            user_defined: pieces.types.iter().map(|&t| t == PieceType::UserDefined).collect(),
            unknown: vocabulary.unknown(),
            unknown_score: least - UNKNOWN_PENALTY,
        }
    }

    /// Appends the pieces of `text`.
    pub(super) fn segment(&self, text: &[u8], out: &mut Vec<Segment>) {
        let mut arrivals = vec![Arrival { score: 0.0, last: None }; text.len() + 1];
        let (mut start, mut frontier) = (0, 0);
        while start < text.len() {
            let mut here = arrivals[start].score;
            if here.abs() > RESET {
                for arrival in &mut arrivals[start..=frontier] {
                    arrival.score -= here;
                }
                here = 0.0;
            }
            let character = lead_length(text[start]).min(text.len() - start);
            let mut reached_next = false;
            let mut node = Trie::ROOT;
            for end in start + 1..=text.len() {
                let Some(next) = self.trie.child(node, text[end - 1]) else { break };
                node = next;
                let Some(id) = self.trie.value(node) else { continue };
                let length = end - start;
                // A user-defined piece is more probable than any other.
                let score = match self.user_defined[id as usize] {
                    true => (0.1 * (length - 1) as f64) as f32,
                    false => self.scores[id as usize],
                };
                arrivals[end].offer(score + here, start, id);
                frontier = frontier.max(end);
                reached_next |= length == character;
            }
            if !reached_next {
                arrivals[start + character].offer(self.unknown_score + here, start, self.unknown);
                frontier = frontier.max(start + character);
            }
            start += character;
        }
        let first = out.len();
        let mut end = text.len();
        while let Some((start, id)) = arrivals[end].last {
            out.push((id, start..end));
            end = start;
        }
        out[first..].reverse();
    }
}

impl Arrival {
    fn offer(&mut self, score: f32, start: usize, id: u32) {
        if self.last.is_none() || score > self.score {
            *self = Arrival { score, last: Some((start, id)) };
        }
    }
}

/// Pieces by prefix.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    /// (node, byte) to node.
    edges: HashMap<(u32, u8), u32>,
    values: Vec<Option<u32>>,
}

impl Default for Trie {
    fn default() -> Trie {
        Trie { edges: HashMap::new(), values: vec![None] }
    }
}

impl Trie {
    pub(super) const ROOT: u32 = 0;

    pub(super) fn insert(&mut self, key: &[u8], value: u32) {
        let mut node = Trie::ROOT;
        for &byte in key {
            // Fewer nodes than bytes in the file; a file of 4 GiB of pieces does not get this far.
            let fresh = self.values.len() as u32;
            node = *self.edges.entry((node, byte)).or_insert(fresh);
            if node == fresh {
                self.values.push(None);
            }
        }
        self.values[node as usize] = Some(value);
    }

    pub(super) fn child(&self, node: u32, byte: u8) -> Option<u32> {
        self.edges.get(&(node, byte)).copied()
    }

    pub(super) fn value(&self, node: u32) -> Option<u32> {
        self.values[node as usize]
    }
}
