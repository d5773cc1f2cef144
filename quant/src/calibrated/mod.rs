//! Calibrated rounding: codes and scales of small output error, `tr((W - Q) H (W - Q)^T)` where `H` is the second moment
//! of the map's inputs.
//!
//! Rows of a matrix are independent given `H`; some go side by side, so that what is read of `H` serves them all
//! (`product.rs`). Two kinds of pass over the groups of a format's blocks share one step, the search of a group's scale,
//! minimum and codes (`group.rs`):
//!
//! 1. Error feedback. `H = R R^T` with R upper triangular (`factor.rs`, `cholesky.rs`): the error of output is
//!    `|(w - q) R|^2`, whose component j knows only columns up to j. So each column takes in what the columns before it
//!    have left, as in LDLQ (arXiv 2307.13304) and GPTQ (arXiv 2210.17323), which are the same.
//! 2. Refinement, repeated. With all other groups fixed, a group's best is near `q + H_gg^-1 g`, where g is the gradient:
//!    it is searched for again around there and replaced if the error shrinks. Columns before then answer to those after.
//!
//! Rows of a head have a curvature of their own beside H: `row_inputs.rs` samples it, `row_descent.rs` moves numbers for it.

mod cholesky;
mod correction;
mod factor;
mod group;
mod product;
mod row_descent;
mod row_inputs;
mod rows;

pub use correction::{Correction, Lack};
pub use factor::Hessian;
pub use row_inputs::RowInputs;

use crate::grid::Grid;
use crate::simd::Level;
use crate::{Error, Format, Result, Tensor};
use factor::Panels;
use product::ROWS;
use rayon::prelude::*;
use rows::Matrix;

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Passes of refinement after the pass of error feedback.
    pub passes: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { passes: 2 }
    }
}

impl Tensor<'_> {
    /// Encodes numbers so that products with inputs of second moment `hessian` change least, on all threads. Formats that
    /// are floats take the nearest. Where the Hessian's diagonal blocks are not whole blocks of the format, as those of an
    /// importance matrix, which are single channels, only its diagonal counts, as in [`Format::encode`].
    ///
    /// # Errors
    /// As [`Tensor::quantize`]; [`Error::HessianExtent`] if the Hessian is of another input.
    pub fn quantize_calibrated(
        values: &[f32],
        shape: Vec<usize>,
        to: Format,
        hessian: &Hessian,
        effort: Effort,
    ) -> Result<Tensor<'static>> {
        let cols = shape.last().copied().unwrap_or(1);
        if hessian.width() != cols {
            return Err(Error::HessianExtent { expected: cols, found: hessian.width() });
        }
        // Where the passes begin: the search that knows the diagonal alone.
        let mut tensor = Tensor::quantize(values, shape, to, Some(&hessian.importance()))?;
        if let Some(grid) = to.info().grid {
            let row_bytes = tensor.row_bytes();
            let decode = |bytes: &[u8], out: &mut [f32]| to.decode(bytes, out);
            let blocks = Blocks { grid, len: to.block_len(), bytes: to.block_bytes(), row_bytes, decode: &decode };
            round(&blocks, values, hessian, effort, tensor.bytes.to_mut());
        }
        Ok(tensor)
    }
}

/// How rows are cut into blocks.
pub(crate) struct Blocks<'g> {
    pub(crate) grid: &'g Grid,
    /// Elements of a block.
    pub(crate) len: usize,
    /// Bytes of a block.
    pub(crate) bytes: usize,
    /// Bytes of a row.
    pub(crate) row_bytes: usize,
    /// Numbers of a row.
    pub(crate) decode: &'g (dyn Fn(&[u8], &mut [f32]) + Sync),
}

/// Rounds `values` anew, on all threads: `encoded` holds what a search that knows only the diagonal made of them, and takes
/// the result. Nothing is done where diagonal blocks of the Hessian are not whole blocks.
pub(crate) fn round(blocks: &Blocks<'_>, values: &[f32], hessian: &Hessian, effort: Effort, encoded: &mut [u8]) {
    if hessian.parts().iter().any(|part| !part.width().is_multiple_of(blocks.len)) {
        return;
    }
    let cols = hessian.width();
    let level = Level::best();
    let mut first = 0;
    for part in hessian.parts() {
        let panels = Panels::new(part, blocks.grid.group_len);
        let matrix = Matrix { blocks, panels: &panels, cols, first, passes: effort.passes };
        encoded
            .par_chunks_mut(ROWS * blocks.row_bytes)
            .zip(values.par_chunks(ROWS * cols))
            .for_each(|(bytes, values)| rows::round(level, &matrix, values, bytes));
        first += part.width();
        if let Some(inputs) = hessian.row_inputs(blocks.len) {
            row_descent::descend(blocks, &panels, hessian.added(), inputs, values, encoded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Moments;

    #[test]
    fn every_instruction_set_gives_the_bytes_of_the_plain_one() {
        let (rows, cols) = (19, 256);
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * i % 8191) as f32 - 4000.0) * 1e-4).collect();
        let mut moments = Moments::new(vec!["map".to_owned()], cols, cols);
        moments.count = 1;
        let near = (0..cols).flat_map(|i| (0..=i).map(move |j| 0.9f64.powi((i - j) as i32)));
        moments.lower = near.collect();
        let hessian = Hessian::new(&moments);
        for &format in Format::ALL {
            let Some(grid) = format.info().grid else { continue };
            let panels = Panels::new(&hessian.parts()[0], grid.group_len);
            let row_bytes = format.row_bytes(cols).unwrap();
            let blocks =
                Blocks { grid, len: format.block_len(), bytes: format.block_bytes(), row_bytes, decode: &|_, _| {} };
            let matrix = Matrix { blocks: &blocks, panels: &panels, cols, first: 0, passes: 1 };
            let start = Tensor::quantize(&values, vec![rows, cols], format, None).unwrap();
            let rounded = |level| {
                let mut bytes = start.bytes.to_vec();
                for (bytes, values) in bytes.chunks_mut(ROWS * row_bytes).zip(values.chunks(ROWS * cols)) {
                    rows::round(level, &matrix, values, bytes);
                }
                bytes
            };
            for level in Level::available() {
                assert!(rounded(level) == rounded(Level::available()[0]), "{format} at {level:?}");
            }
        }
    }
}
