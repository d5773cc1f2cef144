//! Sixteen rows of a matrix, from the first column to the last, and again.

use super::Blocks;
use super::factor::Panels;
pub(super) use super::group::LANES;
use super::group::{Group, Row16, descend, search};
use crate::grid::{MAX_GROUPS, Scales};
use crate::lanes::Lanes;
use crate::simd::dispatch;

/// Sweeps of coordinate descent over a group's codes, at each visit.
const SWEEPS: usize = 2;
/// Columns whose sums are taken together.
const WIDTH: usize = 16;

/// What all rows of a matrix share.
pub(super) struct Matrix<'m> {
    pub(super) blocks: &'m Blocks<'m>,
    pub(super) panels: &'m Panels,
    /// Columns of a row, and the first of those that the panels are about.
    pub(super) cols: usize,
    pub(super) first: usize,
    pub(super) passes: usize,
}

dispatch!(pub(super) fn round = round_body(matrix: &Matrix<'_>, values: &[f32], bytes: &mut [u8]));

/// Up to sixteen rows: `bytes` holds their scales, as a search left them, and takes the result.
#[inline(always)]
fn round_body(matrix: &Matrix<'_>, values: &[f32], bytes: &mut [u8]) {
    match matrix.blocks.grid.group_len {
        16 => Rows::<16>::load(matrix, values, bytes).round(bytes),
        64 => Rows::<64>::load(matrix, values, bytes).round(bytes),
        128 => Rows::<128>::load(matrix, values, bytes).round(bytes),
        _ => Rows::<32>::load(matrix, values, bytes).round(bytes),
    }
}

struct Rows<'m, const LEN: usize> {
    matrix: &'m Matrix<'m>,
    w: Vec<[Row16; LEN]>,
    /// `w - q`, column after column; zero where nothing has been rounded yet.
    e: Vec<Row16>,
    groups: Vec<Group<LEN>>,
    /// `d` and `dmin` of each block.
    blocks: Vec<[Row16; 2]>,
}

impl<'m, const LEN: usize> Rows<'m, LEN> {
    #[inline(always)]
    fn load(matrix: &'m Matrix<'m>, values: &[f32], bytes: &[u8]) -> Self {
        let groups = matrix.panels.groups.len();
        let Blocks { len: block_len, bytes: block_bytes, row_bytes, .. } = *matrix.blocks;
        let per_block = block_len / LEN;
        let none = Group { scale: Lanes::ZERO, minimum: Lanes::ZERO, q: [Lanes::ZERO; LEN] };
        let mut rows = Rows {
            matrix,
            w: vec![[Lanes::ZERO; LEN]; groups],
            e: vec![Lanes::ZERO; groups * LEN],
            groups: vec![none; groups],
            blocks: vec![[Lanes::ZERO; 2]; groups / per_block],
        };
        for (l, row) in values.chunks_exact(matrix.cols).enumerate() {
            for (g, values) in row[matrix.first..][..groups * LEN].as_chunks::<LEN>().0.iter().enumerate() {
                for j in 0..LEN {
                    rows.w[g][j].0[l] = values[j];
                }
            }
        }
        let start = matrix.first / block_len * block_bytes;
        for (l, row) in bytes.chunks_exact(row_bytes).enumerate() {
            for b in 0..rows.blocks.len() {
                let scales = (matrix.blocks.grid.read)(&row[start + b * block_bytes..][..block_bytes]);
                (rows.blocks[b][0].0[l], rows.blocks[b][1].0[l]) = (scales.d, scales.dmin);
                for i in 0..per_block {
                    let group = &mut rows.groups[b * per_block + i];
                    (group.scale.0[l], group.minimum.0[l]) = (scales.scale[i], scales.minimum[i]);
                }
            }
        }
        rows
    }

    #[inline(always)]
    fn round(mut self, bytes: &mut [u8]) {
        self.feed_back();
        for _ in 0..self.matrix.passes {
            self.refine();
        }
        self.store(bytes);
    }

    #[inline(always)]
    fn block_of(&self, group: usize) -> [Row16; 2] {
        self.blocks[group * LEN / self.matrix.blocks.len]
    }

    #[inline(always)]
    fn feed_back(&mut self) {
        for g in 0..self.groups.len() {
            let panel = &self.matrix.panels.groups[g];
            let mut base = self.w[g];
            let left = gather::<LEN>(&self.e[..g * LEN], &panel.before);
            for j in 0..LEN {
                base[j] = base[j] + left[j];
            }
            let (grid, block) = (self.matrix.blocks.grid, self.block_of(g));
            let found = search(grid, block, &self.w[g], &base, &panel.feedback, &self.groups[g], false);
            self.take(g, found);
        }
    }

    #[inline(always)]
    fn refine(&mut self) {
        for g in 0..self.groups.len() {
            let panel = &self.matrix.panels.groups[g];
            let gradient = gather::<LEN>(&self.e, &panel.h);
            let present = self.groups[g];
            let mut target = present.q;
            let correction = multiply(&panel.inverse, &gradient);
            for j in 0..LEN {
                target[j] = target[j] + correction[j];
            }
            let (grid, block) = (self.matrix.blocks.grid, self.block_of(g));
            let mut found = search(grid, block, &target, &target, &panel.refinement, &present, true);
            descend(grid, block, &target, &panel.h[g * LEN * LEN..][..LEN * LEN], &mut found, SWEEPS);
            self.take(g, found);
        }
    }

    #[inline(always)]
    fn take(&mut self, g: usize, found: Group<LEN>) {
        for j in 0..LEN {
            self.e[g * LEN + j] = self.w[g][j] - found.q[j];
        }
        self.groups[g] = found;
    }

    #[inline(always)]
    fn store(&self, bytes: &mut [u8]) {
        let matrix = self.matrix;
        let Blocks { len: block_len, bytes: block_bytes, row_bytes, .. } = *matrix.blocks;
        let per_block = block_len / LEN;
        let start = matrix.first / block_len * block_bytes;
        let codes: Vec<[Row16; LEN]> = (0..self.groups.len())
            .map(|g| {
                let ([d, dmin], group) = (self.block_of(g), &self.groups[g]);
                let s = d * group.scale;
                let m = matrix.blocks.grid.minimum_of(s, dmin, group.minimum);
                let inverse = Lanes::splat(1.0).div_or_zero(s);
                group.q.map(|q| matrix.blocks.grid.code(q + m, inverse))
            })
            .collect();
        for (l, row) in bytes.chunks_exact_mut(row_bytes).enumerate() {
            for (b, [d, dmin]) in self.blocks.iter().enumerate() {
                let mut scales =
                    Scales { d: d.0[l], dmin: dmin.0[l], scale: [0.0; MAX_GROUPS], minimum: [0.0; MAX_GROUPS] };
                let mut block_codes = [0i8; 256];
                for i in 0..per_block {
                    let g = b * per_block + i;
                    scales.scale[i] = self.groups[g].scale.0[l];
                    scales.minimum[i] = self.groups[g].minimum.0[l];
                    for j in 0..LEN {
                        block_codes[i * LEN + j] = codes[g][j].0[l] as i8;
                    }
                }
                let block = &mut row[start + b * block_bytes..][..block_bytes];
                (matrix.blocks.grid.write)(&scales, &block_codes[..block_len], block);
            }
        }
    }
}

/// `x M` of M (x.len(), LEN).
#[inline(always)]
fn gather<const LEN: usize>(x: &[Row16], m: &[f32]) -> [Row16; LEN] {
    let mut out = [Lanes::ZERO; LEN];
    for part in 0..LEN / WIDTH {
        let mut sums = [Lanes::ZERO; WIDTH];
        for (x, m) in x.iter().zip(m.as_chunks::<LEN>().0) {
            for j in 0..WIDTH {
                sums[j] = sums[j] + *x * Lanes::splat(m[part * WIDTH + j]);
            }
        }
        out[part * WIDTH..][..WIDTH].copy_from_slice(&sums);
    }
    out
}

/// `x M` of a symmetric M (LEN, LEN).
#[inline(always)]
fn multiply<const LEN: usize>(m: &[f32], x: &[Row16; LEN]) -> [Row16; LEN] {
    gather::<LEN>(x, m)
}
