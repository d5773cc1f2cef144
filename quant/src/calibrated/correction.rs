//! What rounding aims at where the quantized model in front of a map has gone astray: weights that lead back.
//!
//! A map W meets inputs q in the quantized model where the model itself has x. The weights whose output on q is nearest to
//! what it should be are `W + E[g q^T] H^-1`, g being what the output lacks and H the second moment of inputs (least squares;
//! arXiv 2504.02692 derives rounding from the same aim).

use super::Hessian;
use super::group::gather;
use crate::simd::{Level, dispatch};
use crate::vector::{SIXTEEN, Sixteen};
use crate::{Error, Result};
use rayon::prelude::*;

/// A number of each of sixteen rows.
type Lanes = [f32; SIXTEEN];

/// Columns of a product that are made together.
const COLUMNS: usize = 32;

/// What a map lacks in the quantized model, as means over tokens; of q, the map's input there, it has all the channels.
#[derive(Clone, Copy, Debug)]
pub enum Lack<'m> {
    /// `E[(x - q) q^T]`: of its input. (channels, channels)
    Input(&'m [f64]),
    /// `E[g q^T]`, where g is what its output lacks. (outputs, channels)
    Output(&'m [f64]),
}

/// What makes up for a lack, in the map's weights.
#[derive(Clone, Debug)]
pub enum Correction {
    /// `E[(x - q) q^T] H^-1`, by which weights are multiplied: (channels, channels).
    OfInput(Vec<f32>),
    /// `E[g q^T] H^-1`: (outputs, channels).
    OfOutput(Vec<f32>),
}

impl Hessian {
    /// What makes up for `lack`, in float32 on all threads: relative to what the inputs' energy makes of them, numbers are
    /// as exact as that.
    ///
    /// # Errors
    /// [`Error::HessianExtent`] if `lack` is of another number of channels.
    pub fn correction(&self, lack: Lack<'_>) -> Result<Correction> {
        let width = self.width();
        let (Lack::Input(means) | Lack::Output(means)) = lack;
        let fits = match lack {
            Lack::Input(_) => means.len() == width * width,
            Lack::Output(_) => means.len().is_multiple_of(width),
        };
        if !fits {
            return Err(Error::HessianExtent { expected: width, found: means.len() / width });
        }
        let mut solved: Vec<f32> = means.par_iter().map(|x| *x as f32).collect();
        let mut first = 0;
        for part in self.parts() {
            let n = part.width();
            let upper: Vec<f32> = part.upper().par_iter().map(|x| *x as f32).collect();
            solved.par_chunks_mut(SIXTEEN * width).for_each(|rows| {
                let mut lanes = across(rows.chunks_exact(width).map(|row| &row[first..][..n]), n);
                substitute(Level::best(), &upper, &mut lanes);
                for (l, row) in rows.chunks_exact_mut(width).enumerate() {
                    row[first..][..n].iter_mut().zip(&lanes).for_each(|(x, lane)| *x = lane[l]);
                }
            });
            first += n;
        }
        Ok(match lack {
            Lack::Input(_) => Correction::OfInput(solved),
            Lack::Output(_) => Correction::OfOutput(solved),
        })
    }
}

impl Correction {
    /// `weights`, rows of `width` numbers, with a share of the correction, on all threads.
    ///
    /// # Errors
    /// [`Error::HessianExtent`] if the weights are of another extent than what was corrected.
    pub fn add_to(&self, weights: &[f32], width: usize, share: f32) -> Result<Vec<f32>> {
        let (Correction::OfInput(m) | Correction::OfOutput(m)) = self;
        let expected = if matches!(self, Correction::OfInput(_)) { width * width } else { weights.len() };
        if m.len() != expected {
            return Err(Error::HessianExtent { expected, found: m.len() });
        }
        let mut corrected = weights.to_vec();
        if matches!(self, Correction::OfOutput(_)) {
            corrected.par_iter_mut().zip(m).for_each(|(w, added)| *w += share * added);
            return Ok(corrected);
        }
        // (channels, COLUMNS) of one group of columns after the other, zeros beyond the last.
        let panel = |first: usize| {
            let cell =
                |k: usize| if first + k % COLUMNS < width { m[k / COLUMNS * width + first + k % COLUMNS] } else { 0.0 };
            (0..width * COLUMNS).map(cell).collect()
        };
        let panels: Vec<Vec<f32>> = (0..width).into_par_iter().step_by(COLUMNS).map(panel).collect();
        corrected.par_chunks_mut(SIXTEEN * width).for_each(|rows| {
            let lanes = across(rows.chunks_exact(width), width);
            for (panel, first) in panels.iter().zip((0..width).step_by(COLUMNS)) {
                let mut added = [[0.0; SIXTEEN]; COLUMNS];
                multiply(Level::best(), &lanes, panel, &mut added);
                for (l, row) in rows.chunks_exact_mut(width).enumerate() {
                    row[first..].iter_mut().zip(&added).for_each(|(w, added)| *w += share * added[l]);
                }
            }
        });
        Ok(corrected)
    }
}

/// Up to sixteen rows side by side, column after column.
fn across<'r>(rows: impl Iterator<Item = &'r [f32]>, columns: usize) -> Vec<Lanes> {
    let mut lanes = vec![[0.0; SIXTEEN]; columns];
    for (l, row) in rows.enumerate() {
        lanes.iter_mut().zip(row).for_each(|(lane, x)| lane[l] = *x);
    }
    lanes
}

dispatch!(fn substitute = substitute_body::<Sixteen>(r: &[f32], x: &mut [Lanes]));

/// `x (R R^T)^-1` of an upper triangular R (x.len(), x.len()).
#[inline(always)]
fn substitute_body<V: Sixteen>(r: &[f32], x: &mut [Lanes]) {
    let n = x.len();
    // y R^T = x, from the last column.
    for i in (0..n).rev() {
        let row = &r[i * n..][..n];
        // Four chains of additions, or each would wait for the one before.
        let mut sums = [V::zero(); 4];
        let ((r, r_rest), (y, y_rest)) = (row[i + 1..].as_chunks::<4>(), x[i + 1..].as_chunks::<4>());
        for (r, y) in r.iter().zip(y) {
            for c in 0..4 {
                sums[c] = sums[c] + V::load(&y[c]) * V::splat(r[c]);
            }
        }
        for (r, y) in r_rest.iter().zip(y_rest) {
            sums[0] = sums[0] + V::load(y) * V::splat(*r);
        }
        let left = V::load(&x[i]) - ((sums[0] + sums[1]) + (sums[2] + sums[3]));
        x[i] = (left * V::splat(1.0 / row[i])).store();
    }
    // z R = y, from the first.
    for i in 0..n {
        let row = &r[i * n..][..n];
        let z = V::load(&x[i]) * V::splat(1.0 / row[i]);
        x[i] = z.store();
        for (r, x) in row[i + 1..].iter().zip(&mut x[i + 1..]) {
            *x = (V::load(x) - z * V::splat(*r)).store();
        }
    }
}

dispatch!(fn multiply = multiply_body::<Sixteen>(rows: &[Lanes], panel: &[f32], out: &mut [Lanes; COLUMNS]));

/// `rows M` of M (rows.len(), COLUMNS).
#[inline(always)]
fn multiply_body<V: Sixteen>(rows: &[Lanes], panel: &[f32], out: &mut [Lanes; COLUMNS]) {
    const ROWS: usize = 64;
    let mut sums = [V::zero(); COLUMNS];
    let mut some = [V::zero(); ROWS];
    for (rows, panel) in rows.chunks(ROWS).zip(panel.chunks(ROWS * COLUMNS)) {
        for (x, row) in some.iter_mut().zip(rows) {
            *x = V::load(row);
        }
        let products = gather::<V, COLUMNS>(&some[..rows.len()], panel);
        for (sum, product) in sums.iter_mut().zip(products) {
            *sum = *sum + product;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum.store();
    }
}
