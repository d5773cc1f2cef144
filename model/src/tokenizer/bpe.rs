//! Byte-pair encoding by score (sentencepiece `src/bpe_model.cc`).

use super::normalize::{PrefixMatcher, SPACE};
use super::vocabulary::Vocabulary;
use super::{PieceType, Pieces, Segment};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

#[derive(Clone, Debug)]
pub(super) struct Bpe {
    scores: Vec<f32>,
    unused: Vec<bool>,
    user_defined: PrefixMatcher,
    /// No piece has a `▁` after another character, so no merge crosses the beginning of a word, and words can be merged
    /// one after the other: the same result as over the whole text, with short queues.
    by_word: bool,
}

/// A stretch of the text that is one piece so far; a linked list in text order.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0 once merged into the symbol before it.
    length: usize,
    previous: Option<usize>,
    next: Option<usize>,
    /// A user-defined piece: takes part in no merge.
    frozen: bool,
}

/// Two neighbours whose union is a piece. The greatest score is merged first, of equal ones the leftmost.
#[derive(Clone, Copy)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Of the union when queued: tells whether a side has been merged since.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// Working memory of one text.
#[derive(Default)]
struct Work {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
    /// For pieces that may not be produced: where they were put together, as the length of the left part.
    undo: HashMap<u32, usize>,
    stack: Vec<Range<usize>>,
}

impl Bpe {
    pub(super) fn new(pieces: &Pieces) -> Bpe {
        let crosses = |token: &String| token.trim_start_matches(SPACE).contains(SPACE);
        let unused: Vec<bool> = pieces.types.iter().map(|&t| t == PieceType::Unused).collect();
        Bpe {
            // Adding zero makes -0 equal to 0 in the total order.
            scores: pieces.scores.iter().map(|score| score + 0.0).collect(),
            user_defined: PrefixMatcher::new(pieces),
            // `undo` remembers the last way to make a piece in the whole text, so with unused pieces words depend on
            // each other.
            by_word: !pieces.tokens.iter().any(crosses) && !unused.contains(&true),
            unused,
        }
    }

    /// Appends the pieces of `text`.
    pub(super) fn segment(&self, text: &[u8], vocabulary: &Vocabulary, out: &mut Vec<Segment>) {
        let mut work = Work::default();
        let space = SPACE.as_bytes();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let user_defined = self.user_defined.longest(rest);
            let length = user_defined.unwrap_or_else(|| lead_length(rest[0]).min(rest.len()));
            if self.by_word && rest.starts_with(space) && !text[..at].ends_with(space) {
                self.merge(text, vocabulary, &mut work, out);
            }
            let index = work.symbols.len();
            if let Some(last) = work.symbols.last_mut() {
                last.next = Some(index);
            }
            let previous = index.checked_sub(1);
            work.symbols.push(Symbol { start: at, length, previous, next: None, frozen: user_defined.is_some() });
            at += length;
        }
        self.merge(text, vocabulary, &mut work, out);
    }

    /// Merges the symbols in `work`, appends the pieces that result, and empties it.
    fn merge(&self, text: &[u8], vocabulary: &Vocabulary, work: &mut Work, out: &mut Vec<Segment>) {
        for right in 1..work.symbols.len() {
            self.offer(text, vocabulary, work, Some(right - 1), Some(right));
        }
        while let Some(pair) = work.queue.pop() {
            let (left, right) = (work.symbols[pair.left], work.symbols[pair.right]);
            if left.length == 0 || right.length == 0 || left.length + right.length != pair.length {
                continue;
            }
            work.symbols[pair.left].length = pair.length;
            work.symbols[pair.left].next = right.next;
            work.symbols[pair.right].length = 0;
            if let Some(next) = right.next {
                work.symbols[next].previous = Some(pair.left);
            }
            self.offer(text, vocabulary, work, left.previous, Some(pair.left));
            self.offer(text, vocabulary, work, Some(pair.left), right.next);
        }
        let mut next = if work.symbols.is_empty() { None } else { Some(0) };
        while let Some(symbol) = next.and_then(|index| work.symbols.get(index)) {
            work.stack.push(symbol.start..symbol.start + symbol.length);
            next = symbol.next;
            // Takes apart what may not be produced, left part first.
            while let Some(range) = work.stack.pop() {
                match vocabulary.text_piece(&text[range.clone()]) {
                    Some(id) if self.unused[id as usize] => match work.undo.get(&id) {
                        Some(left) => {
                            let middle = range.start + left;
                            work.stack.push(middle..range.end);
                            work.stack.push(range.start..middle);
                        }
                        None => out.push((vocabulary.unknown(), range)),
                    },
                    Some(id) => out.push((id, range)),
                    None => out.push((vocabulary.unknown(), range)),
                }
            }
        }
        work.symbols.clear();
    }

    /// Queues the union of two neighbours if it is a piece.
    fn offer(&self, text: &[u8], vocabulary: &Vocabulary, work: &mut Work, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (a, b) = (work.symbols[left], work.symbols[right]);
        if a.frozen || b.frozen {
            return;
        }
        let length = a.length + b.length;
        if let Some(id) = vocabulary.text_piece(&text[a.start..a.start + length]) {
            work.queue.push(Pair { score: self.scores[id as usize], left, right, length });
            if self.unused[id as usize] {
                work.undo.insert(id, a.length);
            }
        }
    }
}

/// Bytes of a character by its first byte, as SentencePiece counts them (1 for a stray continuation byte).
pub(super) fn lead_length(lead: u8) -> usize {
    match lead {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
        _ => 1,
    }
}
