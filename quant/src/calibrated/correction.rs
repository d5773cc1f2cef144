//! What rounding aims at where the quantized model in front of a map has gone astray: weights that lead back.
//!
//! A map W meets inputs q in the quantized model where the model itself has x. The weights whose output on q is nearest to
//! what it should be are `W + E[g q^T] H^-1`, g being what the output lacks and H the second moment of inputs (least squares;
//! arXiv 2504.02692 derives rounding from the same aim).

use super::Hessian;
use super::factor::{Part, inverse_of_upper};
use super::product::{Column, ROWS, SETS, add_product, load, store};
use crate::simd::{Level, dispatch};
use crate::vector::Sixteen;
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// Columns that are made together.
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

impl Lack<'_> {
    /// What `weights`, rows of `width` numbers, make of it on all threads: of a map's outputs where this is of its input. For
    /// few outputs they are less to divide by H than it is.
    ///
    /// # Errors
    /// [`Error::HessianExtent`] if this is of another number of channels.
    pub fn of_outputs(&self, weights: &[f32], width: usize) -> Result<Vec<f64>> {
        let means = match self {
            Lack::Output(means) => return Ok(means.to_vec()),
            Lack::Input(means) if means.len() != width * width => {
                return Err(Error::HessianExtent { expected: width, found: means.len() / width.max(1) });
            }
            Lack::Input(means) => means,
        };
        let (mut rows, m) = (weights.to_vec(), narrowed(means));
        multiply(&mut rows, &m, width, [0.0, 1.0]);
        Ok(rows.into_iter().map(f64::from).collect())
    }
}

fn narrowed(numbers: &[f64]) -> Vec<f32> {
    numbers.par_iter().map(|x| *x as f32).collect()
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
        let mut solved = narrowed(means);
        let mut first = 0;
        for part in self.parts() {
            let (blocks, columns) = (Block::all(part), first..first + part.width());
            solved.par_chunks_mut(ROWS * width).for_each(|rows| solve(Level::best(), rows, width, &columns, &blocks));
            first = columns.end;
        }
        Ok(match lack {
            Lack::Input(_) => Correction::OfInput(solved),
            Lack::Output(_) => Correction::OfOutput(solved),
        })
    }
}

impl Correction {
    /// Adds a share of the correction to `weights`, rows of `width` numbers, on all threads.
    ///
    /// # Errors
    /// [`Error::HessianExtent`] if the weights are of another extent than what was corrected.
    pub fn add_to(&self, weights: &mut [f32], width: usize, share: f32) -> Result<()> {
        let (Correction::OfInput(m) | Correction::OfOutput(m)) = self;
        let expected = if matches!(self, Correction::OfInput(_)) { width * width } else { weights.len() };
        if m.len() != expected {
            return Err(Error::HessianExtent { expected, found: m.len() });
        }
        match self {
            Correction::OfInput(m) => multiply(weights, m, width, [1.0, share]),
            Correction::OfOutput(m) => weights.par_iter_mut().zip(m).for_each(|(w, added)| *w += share * added),
        }
        Ok(())
    }
}

/// Makes `own x + share (x M)` of rows x of `width` numbers, M being (width, width), on all threads.
fn multiply(rows: &mut [f32], m: &[f32], width: usize, [own, share]: [f32; 2]) {
    // (width, COLUMNS) of one group of columns after the other, zeros beyond the last.
    let panel = |first: usize| {
        let cell =
            |k: usize| if first + k % COLUMNS < width { m[k / COLUMNS * width + first + k % COLUMNS] } else { 0.0 };
        (0..width * COLUMNS).map(cell).collect()
    };
    let panels: Vec<Vec<f32>> = (0..width).into_par_iter().step_by(COLUMNS).map(panel).collect();
    rows.par_chunks_mut(ROWS * width).for_each(|rows| multiply_rows(Level::best(), rows, width, &panels, [own, share]));
}

dispatch!(
    fn multiply_rows =
        multiply_rows_body::<Sixteen>(rows: &mut [f32], width: usize, panels: &[Vec<f32>], factors: [f32; 2])
);

/// The same for up to [`ROWS`] rows and panels (width, COLUMNS) of M.
#[inline(always)]
fn multiply_rows_body<V: Sixteen>(rows: &mut [f32], width: usize, panels: &[Vec<f32>], factors: [f32; 2]) {
    let x = load::<V>(rows, width, 0..width);
    let [own, share] = [V::splat(factors[0]), V::splat(factors[1])];
    for (panel, first) in panels.iter().zip((0..width).step_by(COLUMNS)) {
        let mut sums = [[V::zero(); SETS]; COLUMNS];
        add_product(&x, panel, &mut sums);
        for (sums, x) in sums.iter_mut().zip(&x[first..]) {
            for s in 0..SETS {
                sums[s] = sums[s].mul_add(share, own * x[s]);
            }
        }
        store(&sums, rows, width, first..width.min(first + COLUMNS));
    }
}

/// Some columns of R, upper triangular, in the forms that a substitution wants; ones on the diagonal behind it.
struct Block {
    /// -R[above the block, block]: (first column of the block, COLUMNS).
    before: Vec<f32>,
    /// The transpose of -R[block, beyond the block]: (columns beyond the block, COLUMNS).
    beyond: Vec<f32>,
    /// R[block, block]^-1 and its transpose: (COLUMNS, COLUMNS).
    inverse: [Vec<f32>; 2],
}

impl Block {
    fn all(part: &Part) -> Vec<Block> {
        let (n, r) = (part.width(), part.upper());
        let at = |i: usize, j: usize| if i < n && j < n { r[i * n + j] } else { f64::from(u8::from(i == j)) };
        let padded = n.next_multiple_of(COLUMNS);
        let block = |first: usize| {
            let last = first + COLUMNS;
            let own: Vec<f64> = (0..COLUMNS * COLUMNS).map(|k| at(first + k / COLUMNS, first + k % COLUMNS)).collect();
            let own = inverse_of_upper(&own, COLUMNS);
            let cells = |rows: Range<usize>, of: &dyn Fn(usize, usize) -> f64| {
                rows.flat_map(|k| (first..last).map(move |c| (k, c))).map(|(k, c)| of(k, c) as f32).collect()
            };
            Block {
                before: cells(0..first, &|k, c| -at(k, c)),
                beyond: cells(last..padded, &|k, c| -at(c, k)),
                inverse: [
                    cells(first..last, &|k, c| own[(k - first) * COLUMNS + c - first]),
                    cells(first..last, &|k, c| own[(c - first) * COLUMNS + k - first]),
                ],
            }
        };
        (0..n).into_par_iter().step_by(COLUMNS).map(block).collect()
    }
}

dispatch!(
    fn solve = solve_body::<Sixteen>(rows: &mut [f32], width: usize, columns: &Range<usize>, blocks: &[Block])
);

/// `X (R R^T)^-1` for some columns X of up to [`ROWS`] rows (.., width), in their place.
#[inline(always)]
fn solve_body<V: Sixteen>(rows: &mut [f32], width: usize, columns: &Range<usize>, blocks: &[Block]) {
    let mut x: Vec<Column<V>> = load(rows, width, columns.clone());
    x.resize(blocks.len() * COLUMNS, [V::zero(); SETS]);
    // Y R^T = X, from the last columns.
    for (b, block) in blocks.iter().enumerate().rev() {
        let (rest, beyond) = x.split_at_mut((b + 1) * COLUMNS);
        substitute(rest, beyond, &block.beyond, &block.inverse[1]);
    }
    // Z R = Y, from the first.
    for (b, block) in blocks.iter().enumerate() {
        let (before, rest) = x.split_at_mut(b * COLUMNS);
        substitute(&mut rest[..COLUMNS], before, &block.before, &block.inverse[0]);
    }
    store(&x, rows, width, columns.clone());
}

/// `(x + y M) inverse` for the last COLUMNS columns x.
#[inline(always)]
fn substitute<V: Sixteen>(x: &mut [Column<V>], y: &[Column<V>], m: &[f32], inverse: &[f32]) {
    let Some(x) = x.last_chunk_mut::<COLUMNS>() else { unreachable!("whole blocks") };
    add_product(y, m, x);
    let left = *x;
    *x = [[V::zero(); SETS]; COLUMNS];
    add_product(&left, inverse, x);
}
