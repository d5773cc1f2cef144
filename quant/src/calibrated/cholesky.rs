//! Cholesky factors in float64, on all threads.
//!
//! Every sum runs over columns from first to last, each product fused to it: bits depend neither on the number of threads
//! nor on the instruction set.

use crate::simd::{Level, dispatch};
use crate::vector::{Eight, Sixteen};
use rayon::prelude::*;
use std::array::from_fn;

/// Columns that are finished together. Extents are whole multiples of it.
const STEP: usize = 64;

/// Rows that a thread takes at a time.
const ROWS: usize = 32;

/// Squares of a panel that stay in a near cache from one tile to the next: rows are read in runs long enough to be foreseen.
const DEPTH: usize = 4;

/// A number of each of [`STEP`] columns.
type Line = [f64; STEP];
type Square = [Line; STEP];

/// The extent to pad a matrix to: an odd number of steps, so that rows do not all fall on the same lines of a cache.
pub(super) fn extent(n: usize) -> usize {
    STEP * (n.div_ceil(STEP) | 1)
}

/// Puts L of `A = L L^T` in the place of A (n, n), of which only the lower triangle counts. Pivots are at least `floor`,
/// which is above zero. What is above the diagonal afterwards means nothing.
pub(super) fn factor(level: Level, a: &mut [f64], n: usize, floor: f64) {
    for first in (0..n).step_by(STEP) {
        let rows = &mut a[first * n..];
        let mut panel = vec![[[0.0; STEP]; STEP]; first / STEP];
        panel.par_iter_mut().enumerate().for_each(|(i, lines)| {
            for (c, row) in rows.chunks_exact(n).take(STEP).enumerate() {
                lines.iter_mut().zip(&row[i * STEP..]).for_each(|(line, x)| line[c] = *x);
            }
        });
        rows.par_chunks_mut(ROWS * n).for_each(|rows| subtract_products(level, rows, n, first, &panel));
        let (own, below) = rows.split_at_mut(STEP * n);
        let mut square = [[0.0; STEP]; STEP];
        factor_square(level, own, n, first, floor, &mut square);
        below.par_chunks_mut(ROWS * n).for_each(|rows| solve(level, rows, n, first, &square));
    }
}

dispatch!(
    fn subtract_products = subtract_products_body::<Sixteen>(rows: &mut [f64], n: usize, first: usize, panel: &[Square])
);

/// Subtracts from columns `first..` of rows (.., n) the products of the columns before with `panel`.
#[inline(always)]
fn subtract_products_body<V: Sixteen>(rows: &mut [f64], n: usize, first: usize, panel: &[Square]) {
    for (panel, before) in panel.chunks(DEPTH).zip((0..).step_by(DEPTH * STEP)) {
        if V::REGISTERS >= 32 {
            rows.chunks_exact_mut(8 * n).for_each(|rows| tiles::<V::Eight, 8>(rows, n, first, before, panel));
        } else {
            rows.chunks_exact_mut(2 * n).for_each(|rows| tiles::<V::Eight, 2>(rows, n, first, before, panel));
        }
    }
}

/// The same for some rows and the columns from `before` on, a tile of two registers a row at a time.
#[inline(always)]
fn tiles<V: Eight, const HEIGHT: usize>(rows: &mut [f64], n: usize, first: usize, before: usize, panel: &[Square]) {
    for column in (0..STEP).step_by(16) {
        let at = |r: usize| r * n + first + column;
        let mut held: [[V; 2]; HEIGHT] =
            from_fn(|r| [V::load(chunk(&rows[at(r)..])), V::load(chunk(&rows[at(r) + 8..]))]);
        for (lines, before) in panel.iter().zip((before..).step_by(STEP)) {
            let factors: [&Line; HEIGHT] = from_fn(|r| chunk(&rows[r * n + before..]));
            for k in 0..STEP {
                let line = [V::load(chunk(&lines[k][column..])), V::load(chunk(&lines[k][column + 8..]))];
                for r in 0..HEIGHT {
                    let factor = V::splat(-factors[r][k]);
                    for c in 0..2 {
                        held[r][c] = factor.mul_add(line[c], held[r][c]);
                    }
                }
            }
        }
        for r in 0..HEIGHT {
            let row = &mut rows[at(r)..][..16];
            row[..8].copy_from_slice(&held[r][0].store());
            row[8..].copy_from_slice(&held[r][1].store());
        }
    }
}

/// The first numbers, of as many as there must be: extents are whole multiples of a step.
#[inline(always)]
fn chunk<const N: usize>(x: &[f64]) -> &[f64; N] {
    let Some(chunk) = x.first_chunk() else { unreachable!("whole steps") };
    chunk
}

/// The same.
#[inline(always)]
fn chunk_mut<const N: usize>(x: &mut [f64]) -> &mut [f64; N] {
    let Some(chunk) = x.first_chunk_mut() else { unreachable!("whole steps") };
    chunk
}

dispatch!(
    fn factor_square = factor_square_body(rows: &mut [f64], n: usize, first: usize, floor: f64, square: &mut Square)
);

/// Factors the square that begins at column `first` of rows (STEP, n). `square`, zeros at first, takes the columns of its L.
#[inline(always)]
fn factor_square_body(rows: &mut [f64], n: usize, first: usize, floor: f64, square: &mut Square) {
    for (i, row) in rows.chunks_exact_mut(n).enumerate() {
        let row = chunk_mut(&mut row[first..]);
        eliminate(row, &square[..i]);
        let pivot = row[..i].iter().fold(row[i], |pivot, x| (-x).mul_add(*x, pivot));
        row[i] = pivot.max(floor).sqrt();
        square.iter_mut().zip(&row[..=i]).for_each(|(line, x)| line[i] = *x);
    }
}

dispatch!(fn solve = solve_body(rows: &mut [f64], n: usize, first: usize, square: &Square));

/// Divides columns `first..` of rows (.., n) by the transpose of the square's L.
#[inline(always)]
fn solve_body(rows: &mut [f64], n: usize, first: usize, square: &Square) {
    rows.chunks_exact_mut(n).for_each(|row| eliminate(chunk_mut(&mut row[first..]), square));
}

/// The first numbers of a row of L, as many as there are columns of the square's; the others less the products with these.
#[inline(always)]
fn eliminate(row: &mut Line, square: &[Line]) {
    for (j, line) in square.iter().enumerate() {
        let x = row[j] / line[j];
        // Above the diagonal are zeros: numbers that are done stay.
        for c in 0..STEP {
            row[c] = (-x).mul_add(line[c], row[c]);
        }
        row[j] = x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix_on_every_instruction_set() {
        let n = 6 * STEP;
        let at = |i: usize, j: usize| 0.9f64.powi(i.abs_diff(j) as i32) + 0.3 * ((i * 7 % 13) * (j * 7 % 13)) as f64;
        let lower = |level| {
            let mut l: Vec<f64> = (0..n * n).map(|k| at(k / n, k % n)).collect();
            factor(level, &mut l, n, 1e-9);
            (0..n).for_each(|i| l[i * n + i + 1..(i + 1) * n].fill(0.0));
            l
        };
        let plain = lower(Level::available()[0]);
        for level in Level::available() {
            assert!(lower(level) == plain, "{level:?}");
        }
        for i in 0..n {
            for j in 0..=i {
                let sum: f64 = (0..=j).map(|k| plain[i * n + k] * plain[j * n + k]).sum();
                assert!((sum - at(i, j)).abs() < 1e-12 * at(i, i), "{i}, {j}: {sum} for {}", at(i, j));
            }
        }
    }
}
