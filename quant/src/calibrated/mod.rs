//! Calibrated rounding: codes and scales of small output error, `tr((W - Q) H (W - Q)^T)` where `H` is the second moment
//! of the map's inputs.
//!
//! Rows of a matrix are independent given `H`; sixteen go side by side (`lanes.rs`). Two kinds of pass over the groups of
//! a format's blocks share one step, the search of a group's scale, minimum and codes (`group.rs`):
//!
//! 1. Error feedback. `H = R R^T` with R upper triangular (`factor.rs`): the error of output is `|(w - q) R|^2`, whose
//!    component j knows only columns up to j. So each column takes in what the columns before it have left, as in LDLQ
//!    (arXiv 2307.13304) and GPTQ (arXiv 2210.17323), which are the same.
//! 2. Refinement, repeated. With all other groups fixed, a group's best is near `q + H_gg^-1 g`, where g is the gradient:
//!    it is searched for again around there and replaced if the error shrinks. Columns before then answer to those after.

mod factor;
mod group;
mod rows;

pub use factor::Hessian;

use crate::simd::Level;
use crate::{Error, Format, Result, Tensor};
use factor::Panels;
use rayon::prelude::*;
use rows::{LANES, Matrix};

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
        let Some(grid) = to.info().grid else { return Ok(tensor) };
        if hessian.parts().iter().any(|part| !to.fits(part.width())) {
            return Ok(tensor);
        }
        let row_bytes = tensor.row_bytes();
        let level = Level::best();
        let mut first = 0;
        for part in hessian.parts() {
            let n = part.width();
            let panels = Panels::new(part, grid.group_len);
            let matrix = Matrix { format: to, grid, panels: &panels, cols, first, row_bytes, passes: effort.passes };
            tensor
                .bytes
                .to_mut()
                .par_chunks_mut(LANES * row_bytes)
                .zip(values.par_chunks(LANES * cols))
                .for_each(|(bytes, values)| rows::round(level, &matrix, values, bytes));
            first += n;
        }
        Ok(tensor)
    }
}
