/// Documents below this number are cut: fewer blocks say nothing about how blocks differ.
const FEWEST_DOCUMENTS: usize = 20;
/// Blocks that a text of fewer documents is cut into, about.
const PIECES: usize = 32;
/// The least that is cut off, in positions: neighbours depend on each other.
const SHORTEST_PIECE: usize = 16;

/// Blocks of text, within which positions depend on each other and between which they hardly do: the unit of resampling.
/// Documents, or pieces of them where there are fewer than twenty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The block of each position.
    pub of: Vec<u32>,
    /// How many there are.
    pub count: usize,
    /// They are whole documents.
    pub whole_documents: bool,
}

impl Blocks {
    /// Of `positions` positions, of documents that begin at `starts`, which ascend.
    pub fn new(positions: usize, starts: &[usize]) -> Blocks {
        let mut starts: Vec<usize> = starts.iter().copied().filter(|s| *s < positions).collect();
        if starts.first() != Some(&0) && positions > 0 {
            starts.insert(0, 0);
        }
        let whole_documents = starts.len() >= FEWEST_DOCUMENTS;
        let longest = if whole_documents { positions } else { positions.div_ceil(PIECES).max(SHORTEST_PIECE) };
        let mut of = Vec::with_capacity(positions);
        let mut count = 0;
        for (i, start) in starts.iter().enumerate() {
            let len = starts.get(i + 1).unwrap_or(&positions) - start;
            let pieces = len.div_ceil(longest);
            of.extend((0..len).map(|p| (count + p * pieces / len) as u32));
            count += pieces;
        }
        Blocks { of, count, whole_documents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_documents_are_blocks_as_they_are() {
        let starts: Vec<usize> = (0..25).map(|i| i * i).collect();
        let blocks = Blocks::new(700, &starts);
        assert_eq!((blocks.count, blocks.whole_documents, blocks.of.len()), (25, true, 700));
        assert!(blocks.of.iter().enumerate().all(|(p, b)| *b as usize == starts.partition_point(|s| *s <= p) - 1));
    }

    #[test]
    fn few_documents_are_cut_at_even_places() {
        let blocks = Blocks::new(3200, &[0, 1000]);
        assert_eq!((blocks.count, blocks.whole_documents), (32, false));
        assert!(blocks.of.is_sorted() && blocks.of[999] != blocks.of[1000]);
        let longest = (0..32).map(|b| blocks.of.iter().filter(|of| **of == b).count()).max();
        assert_eq!(longest, Some(100));
        // Text that starts in the middle of a document, and hardly any text.
        assert_eq!(Blocks::new(20, &[10]).of, [[0; 10], [1; 10]].concat());
        assert_eq!(Blocks::new(0, &[0]).count, 0);
    }
}
