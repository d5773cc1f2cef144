//! What calibration knows: the second moments of every linear map's input, and the text they were gathered on.

use crate::SourceError;

/// Sums over calibration tokens of the products `x[i] x[j]` of one input's channels.
///
/// Maps that multiply the same activations (queries, keys and values; gate and up) share one. Where the input is too wide
/// for a whole matrix only diagonal blocks are kept: `block` channels each, the last one maybe fewer.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Canonical names of the maps that multiply this input.
    pub maps: Vec<String>,
    /// Channels of the input.
    pub width: usize,
    /// Channels of a diagonal block; `width` where the matrix is whole.
    pub block: usize,
    /// Tokens summed over.
    pub count: u64,
    /// Lower triangles, block after block: row `i` of a block has `i + 1` sums.
    pub lower: Vec<f64>,
}

impl Moments {
    /// Sums over no tokens.
    pub fn new(maps: Vec<String>, width: usize, block: usize) -> Moments {
        let block = block.clamp(1, width.max(1));
        let len = blocks(width, block).map(|n| n * (n + 1) / 2).sum();
        Moments { maps, width, block, count: 0, lower: vec![0.0; len] }
    }

    /// Lower triangles with their extents, in order.
    pub fn triangles(&self) -> impl Iterator<Item = (usize, &[f64])> {
        let mut rest = &self.lower[..];
        blocks(self.width, self.block).map(move |n| {
            let (triangle, after) = rest.split_at(n * (n + 1) / 2);
            rest = after;
            (n, triangle)
        })
    }

    /// Sums of squares, one for each channel: what an importance matrix holds (`in_sum2`).
    pub fn squares(&self) -> Vec<f64> {
        self.triangles().flat_map(|(n, triangle)| (0..n).map(|i| triangle[i * (i + 3) / 2])).collect()
    }

    /// Mean squares, one for each channel; ones where nothing was seen.
    pub fn importance(&self) -> Vec<f32> {
        match self.count {
            0 => vec![1.0; self.width],
            n => self.squares().iter().map(|s| (s / n as f64) as f32).collect(),
        }
    }
}

/// Extents of the diagonal blocks.
fn blocks(width: usize, block: usize) -> impl Iterator<Item = usize> {
    (0..width).step_by(block).map(move |first| block.min(width - first))
}

/// A calibration, its moments read when asked for: they may be larger than the model.
pub trait Calibration: Send + Sync {
    /// Of the input of the map of this canonical name; `None` where it was never seen. A tied embedding's input is the
    /// head's.
    ///
    /// # Errors
    /// Whatever the file has wrong, in one line.
    fn moments(&self, map: &str) -> Result<Option<Moments>, SourceError>;

    /// Mean squares of the channels of the same input: [`Moments::importance`].
    ///
    /// # Errors
    /// As [`Calibration::moments`].
    fn importance(&self, map: &str) -> Result<Option<Vec<f32>>, SourceError> {
        Ok(self.moments(map)?.map(|m| m.importance()))
    }

    /// The tokens: each window was run from a fresh state. None where only sums were kept.
    fn windows(&self) -> &[Vec<u32>];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_wide_input_are_side_by_side() {
        let mut m = Moments::new(vec!["blk.0.ffn_down.weight".to_owned()], 5, 2);
        assert_eq!(m.lower.len(), 3 + 3 + 1);
        m.lower = vec![1.0, 9.0, 2.0, 3.0, 9.0, 4.0, 5.0];
        m.count = 2;
        assert_eq!(m.squares(), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(m.importance(), [0.5, 1.0, 1.5, 2.0, 2.5]);
        assert_eq!(m.triangles().map(|(n, t)| (n, t.len())).collect::<Vec<_>>(), [(2, 3), (2, 3), (1, 1)]);
    }
}
