//! Numbers moved to where the error is least for the inputs that matter to a row: coordinate descent under the row's own
//! curvature, a mean of what all rows share and of the row's samples,
//!
//! ```text
//! (PRIOR H + sum of weight x x^T) / (PRIOR + sum of weights) + damping
//! ```
//!
//! of which only the squares on the diagonal that belong to groups are made: beside a row's errors there are those that they
//! make on its samples.

use super::Blocks;
use super::factor::Panels;
use super::row_inputs::RowInputs;
use crate::grid::{Factor, Grid, Scales};
use crate::lanes::Lanes;
use crate::simd::{Level, dispatch};
use crate::vector::Vector as _;
use rayon::prelude::*;
use std::array::from_fn;

/// What H counts for, as a weight: so much certainty of a row's own inputs is worth as much.
const PRIOR: f32 = 4.0;

/// Samples of a row at most, for each of its channels.
const MOST: usize = 4;

/// Visits of every group.
const PASSES: usize = 3;

/// Sweeps over a group's codes, at each visit.
const SWEEPS: usize = 2;

/// What all rows share.
pub(super) struct Shared<'s> {
    blocks: &'s Blocks<'s>,
    panels: &'s Panels,
    /// What H is damped by.
    added: f32,
    inputs: &'s RowInputs,
}

/// Moves what `encoded` holds of all rows of `values`, on all threads. `panels` are those of a whole Hessian, to whose diagonal
/// `added` was added.
pub(super) fn descend(
    blocks: &Blocks<'_>,
    panels: &Panels,
    added: f64,
    inputs: &RowInputs,
    values: &[f32],
    encoded: &mut [u8],
) {
    let shared = Shared { blocks, panels, added: added as f32, inputs };
    let level = Level::best();
    let rows = encoded.par_chunks_mut(blocks.row_bytes).zip(values.par_chunks(inputs.width()));
    rows.take(inputs.rows()).enumerate().for_each(|(row, (bytes, values))| {
        descend_row(level, &shared, row, values, bytes);
    });
}

dispatch!(fn descend_row = descend_row_body(shared: &Shared<'_>, row: usize, values: &[f32], bytes: &mut [u8]));

#[inline(always)]
fn descend_row_body(shared: &Shared<'_>, row: usize, values: &[f32], bytes: &mut [u8]) {
    match shared.blocks.grid.group_len {
        16 => Row::<16>::descend(shared, row, values, bytes),
        64 => Row::<64>::descend(shared, row, values, bytes),
        128 => Row::<128>::descend(shared, row, values, bytes),
        _ => Row::<32>::descend(shared, row, values, bytes),
    }
}

struct Row<const LEN: usize> {
    /// Of each group the samples' channels: (groups, samples, LEN).
    x: Vec<Vec<[f32; LEN]>>,
    /// Of each sample, as a part of the mean.
    weights: Vec<f32>,
    /// How much of the damped H is part of the mean, and what is added to the diagonal for the rest.
    shared: f32,
    added: f32,
    /// What is stored, and what it is off by: (groups, LEN).
    q: Vec<[f32; LEN]>,
    e: Vec<[f32; LEN]>,
    /// `e x` of each sample.
    y: Vec<f32>,
}

impl<const LEN: usize> Row<LEN> {
    #[inline(always)]
    fn descend(shared: &Shared<'_>, row: usize, values: &[f32], bytes: &mut [u8]) {
        let Shared { blocks, panels, added, inputs } = *shared;
        let samples = inputs.of_row(row, MOST * values.len());
        if samples.is_empty() {
            return;
        }
        let groups = values.len() / LEN;
        let sum = PRIOR + samples.iter().map(|s| s.weight).sum::<f32>();
        let mut decoded = vec![0.0; values.len()];
        (blocks.decode)(bytes, &mut decoded);
        let q = decoded.as_chunks::<LEN>().0.to_vec();
        let e = q.iter().zip(values.as_chunks::<LEN>().0).map(|(q, w)| from_fn(|j| w[j] - q[j])).collect();
        let of_group = |g| samples.iter().map(|s| from_fn(|j| inputs.input(s.input)[g * LEN + j])).collect();
        let mut line = Row {
            x: (0..groups).map(of_group).collect(),
            weights: samples.iter().map(|s| s.weight / sum).collect(),
            shared: PRIOR / sum,
            added: (1.0 - PRIOR / sum) * added,
            q,
            e,
            y: vec![0.0; samples.len()],
        };
        for g in 0..groups {
            let e = line.e[g];
            line.follow(g, &e);
        }
        // No closure: it would not be compiled for the instruction set.
        let mut squares = vec![[[0.0; LEN]; LEN]; groups];
        for (g, square) in squares.iter_mut().enumerate() {
            *square = line.square(&panels.groups[g].h, g);
        }
        let mut scales: Vec<Scales> = bytes.chunks_exact(blocks.bytes).map(blocks.grid.read).collect();
        for _ in 0..PASSES {
            for g in 0..groups {
                let of_block = &mut scales[g * LEN / blocks.len];
                line.visit(blocks.grid, of_block, g, g * LEN % blocks.len / LEN, &panels.groups[g].h, &squares[g]);
            }
        }
        line.store(blocks, &scales, bytes);
    }

    /// Adds what `change` of a group's errors makes of the samples.
    #[inline(always)]
    fn follow(&mut self, g: usize, change: &[f32; LEN]) {
        for (y, x) in self.y.iter_mut().zip(&self.x[g]) {
            *y += dot(change, x);
        }
    }

    /// The square of the row's curvature that belongs to a group.
    #[inline(always)]
    fn square(&self, columns: &[f32], g: usize) -> [[f32; LEN]; LEN] {
        const ROWS: usize = 4;
        let mut h = [[0.0; LEN]; LEN];
        for first in (0..LEN).step_by(ROWS) {
            let mut sums = [[0.0; LEN]; ROWS];
            for (x, weight) in self.x[g].iter().zip(&self.weights) {
                for i in 0..ROWS {
                    let weighted = x[first + i] * weight;
                    for j in 0..LEN {
                        sums[i][j] = weighted.mul_add(x[j], sums[i][j]);
                    }
                }
            }
            h[first..][..ROWS].copy_from_slice(&sums);
        }
        for i in 0..LEN {
            for j in 0..LEN {
                h[i][j] += self.shared * columns[(g * LEN + i) * LEN + j];
            }
            h[i][i] += self.added;
        }
        h
    }

    /// Moves the codes of a group, and its scale where that is a float of its own.
    #[inline(always)]
    fn visit(
        &mut self,
        grid: &Grid,
        scales: &mut Scales,
        g: usize,
        i: usize,
        columns: &[f32],
        square: &[[f32; LEN]; LEN],
    ) {
        let mut gradient = self.gradient(g, columns);
        let before = self.q[g];
        let q = &mut self.q[g];
        let [s, m] = scale_of(grid, scales, i);
        let inverse = inverse_of(s);
        for _ in 0..SWEEPS {
            for j in 0..LEN {
                let wanted = q[j] + gradient[j] / square[j][j];
                let nearest = s * grid.nearest(Lanes([wanted + m]), inverse).0[0] - m;
                let change = nearest - q[j];
                if change != 0.0 {
                    q[j] = nearest;
                    for i in 0..LEN {
                        gradient[i] -= change * square[j][i];
                    }
                }
            }
        }
        if let (Factor::Float(float), Factor::None | Factor::OfScale(_)) = (grid.scale, grid.minimum) {
            // All numbers are multiples of the scale: along it the error is a parabola.
            let mut slope = [0.0; LEN];
            for (q, h) in q.iter().zip(square) {
                for j in 0..LEN {
                    slope[j] += q * h[j];
                }
            }
            let (first, second) = (dot(&gradient, q), dot(&slope, q));
            let scaled = float.nearest(Lanes([s + s * (first / second.max(f32::MIN_POSITIVE))])).0[0];
            let change = scaled / s - 1.0;
            if s != 0.0 && change * (2.0 * first - change * second) > 0.0 {
                scales.scale[i] = scaled;
                let [_, m_scaled] = scale_of(grid, scales, i);
                q.iter_mut().for_each(|q| *q = scaled * grid.nearest(Lanes([*q + m]), inverse).0[0] - m_scaled);
            }
        }
        let change = from_fn(|j| before[j] - self.q[g][j]);
        for j in 0..LEN {
            self.e[g][j] += change[j];
        }
        self.follow(g, &change);
    }

    #[inline(always)]
    fn gradient(&self, g: usize, columns: &[f32]) -> [f32; LEN] {
        let mut gradient = [0.0; LEN];
        for (e, h) in self.e.as_flattened().iter().zip(columns.as_chunks::<LEN>().0) {
            for j in 0..LEN {
                gradient[j] = e.mul_add(h[j], gradient[j]);
            }
        }
        for j in 0..LEN {
            gradient[j] = gradient[j] * self.shared + self.e[g][j] * self.added;
        }
        for ((x, weight), y) in self.x[g].iter().zip(&self.weights).zip(&self.y) {
            let weighted = weight * y;
            for j in 0..LEN {
                gradient[j] = weighted.mul_add(x[j], gradient[j]);
            }
        }
        gradient
    }

    #[inline(always)]
    fn store(&self, blocks: &Blocks<'_>, scales: &[Scales], bytes: &mut [u8]) {
        for (b, (bytes, scales_of_block)) in bytes.chunks_exact_mut(blocks.bytes).zip(scales).enumerate() {
            let mut codes = [0i8; 256];
            for (i, code) in codes[..blocks.len].iter_mut().enumerate() {
                let at = b * blocks.len + i;
                let [s, m] = scale_of(blocks.grid, scales_of_block, i / LEN);
                *code = blocks.grid.code(Lanes([self.q[at / LEN][at % LEN] + m]), inverse_of(s)).0[0] as i8;
            }
            (blocks.grid.write)(scales_of_block, &codes[..blocks.len], bytes);
        }
    }
}

/// Scale and minimum of group `i` of a block.
#[inline(always)]
fn scale_of(grid: &Grid, Scales { d, dmin, scale, minimum }: &Scales, i: usize) -> [f32; 2] {
    let s = d * scale[i];
    [s, grid.minimum_of(Lanes([s]), Lanes([*dmin]), Lanes([minimum[i]])).0[0]]
}

/// `1 / s`, as wherever codes are chosen.
#[inline(always)]
fn inverse_of(s: f32) -> Lanes<1> {
    Lanes([1.0]).div_or_zero(Lanes([s]))
}

/// `a b` in sixteen sums.
#[inline(always)]
fn dot<const LEN: usize>(a: &[f32; LEN], b: &[f32; LEN]) -> f32 {
    let mut sums = [0.0; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for l in 0..16 {
            sums[l] = a[l].mul_add(b[l], sums[l]);
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            sums[l] += sums[l + half];
        }
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Hessian, Moments, Tensor};

    #[test]
    fn every_instruction_set_gives_the_bytes_of_the_plain_one() {
        let (rows, cols, count) = (3, 256, 40);
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * i % 8191) as f32 - 4000.0) * 1e-4).collect() };
        let mut inputs = RowInputs::new(count, cols, rows);
        inputs.add(&numbers(count * cols), &vec![0.3; count * rows]);
        let mut moments = Moments::new(vec!["head".to_owned()], cols, cols);
        moments.count = 1;
        moments.lower = (0..cols).flat_map(|i| (0..=i).map(move |j| 0.9f64.powi((i - j) as i32))).collect();
        let (hessian, values) = (Hessian::new(&moments), numbers(rows * cols));
        for &format in Format::ALL {
            let Some(grid) = format.info().grid else { continue };
            let panels = Panels::new(&hessian.parts()[0], grid.group_len);
            let start = Tensor::quantize(&values, vec![rows, cols], format, None).unwrap();
            let decode = |bytes: &[u8], out: &mut [f32]| format.decode(bytes, out);
            let row_bytes = start.row_bytes();
            let (len, bytes) = (format.block_len(), format.block_bytes());
            let blocks = Blocks { grid, len, bytes, row_bytes, decode: &decode };
            let shared = Shared { blocks: &blocks, panels: &panels, added: 0.01, inputs: &inputs };
            let moved = |level| {
                let mut bytes = start.bytes.to_vec();
                for (row, (bytes, values)) in bytes.chunks_mut(row_bytes).zip(values.chunks(cols)).enumerate() {
                    descend_row(level, &shared, row, values, bytes);
                }
                bytes
            };
            for level in Level::available() {
                assert!(moved(level) == moved(Level::available()[0]), "{format} at {level:?}");
            }
            assert!(moved(Level::best()) != *start.bytes, "{format}");
        }
    }
}
