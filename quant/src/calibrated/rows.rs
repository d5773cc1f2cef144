//! Some rows of a matrix, side by side, from the first column to the last, and again.

use super::Blocks;
use super::factor::Panels;
use super::group::{Group, descend, errors, search};
use super::product::{Column, SETS, add_product, load};
use crate::grid::{MAX_GROUPS, Scales};
use crate::simd::dispatch;
use crate::vector::{SIXTEEN, Sixteen};
use std::array::from_fn;

/// Sweeps of coordinate descent over a group's codes, at each visit.
const SWEEPS: usize = 2;

/// What all rows of a matrix share.
pub(super) struct Matrix<'m> {
    pub(super) blocks: &'m Blocks<'m>,
    pub(super) panels: &'m Panels,
    /// Columns of a row, and the first of those that the panels are about.
    pub(super) cols: usize,
    pub(super) first: usize,
    pub(super) passes: usize,
}

dispatch!(pub(super) fn round = round_body::<Sixteen>(matrix: &Matrix<'_>, values: &[f32], bytes: &mut [u8]));

/// Up to [`ROWS`](super::product::ROWS) rows: `bytes` holds their scales, as a search left them, and takes the result.
#[inline(always)]
fn round_body<V: Sixteen>(matrix: &Matrix<'_>, values: &[f32], bytes: &mut [u8]) {
    match matrix.blocks.grid.group_len {
        16 => Rows::<V, 16>::begin(matrix, values, bytes).round(bytes),
        64 => Rows::<V, 64>::begin(matrix, values, bytes).round(bytes),
        128 => Rows::<V, 128>::begin(matrix, values, bytes).round(bytes),
        _ => Rows::<V, 32>::begin(matrix, values, bytes).round(bytes),
    }
}

struct Rows<'m, V, const LEN: usize> {
    matrix: &'m Matrix<'m>,
    w: Vec<Column<V>>,
    /// `w - q`, column after column; zero where nothing has been rounded yet.
    e: Vec<Column<V>>,
    groups: Vec<[Group<V, LEN>; SETS]>,
    /// `d` and `dmin` of each block.
    blocks: Vec<[[V; 2]; SETS]>,
}

impl<'m, V: Sixteen, const LEN: usize> Rows<'m, V, LEN> {
    #[inline(always)]
    fn begin(matrix: &'m Matrix<'m>, values: &[f32], bytes: &[u8]) -> Self {
        let groups = matrix.panels.groups.len();
        let Blocks { len: block_len, bytes: block_bytes, row_bytes, .. } = *matrix.blocks;
        let per_block = block_len / LEN;
        let none = Group { scale: V::zero(), minimum: V::zero(), q: [V::zero(); LEN] };
        let mut rows = Rows {
            matrix,
            w: load(values, matrix.cols, matrix.first..matrix.first + groups * LEN),
            e: vec![[V::zero(); SETS]; groups * LEN],
            groups: vec![[none; SETS]; groups],
            blocks: vec![[[V::zero(); 2]; SETS]; groups / per_block],
        };
        let start = matrix.first / block_len * block_bytes;
        for (s, bytes) in bytes.chunks(SIXTEEN * row_bytes).enumerate() {
            for b in 0..rows.blocks.len() {
                let lines = bytes.chunks_exact(row_bytes).map(|row| &row[start + b * block_bytes..][..block_bytes]);
                let scales: Vec<Scales> = lines.map(matrix.blocks.grid.read).collect();
                let factor = |of: &dyn Fn(&Scales) -> f32| V::load(&from_fn(|l| scales.get(l).map_or(0.0, of)));
                rows.blocks[b][s] = [factor(&|s| s.d), factor(&|s| s.dmin)];
                for i in 0..per_block {
                    let group = &mut rows.groups[b * per_block + i][s];
                    (group.scale, group.minimum) = (factor(&|s| s.scale[i]), factor(&|s| s.minimum[i]));
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
    fn blocks_of(&self, group: usize) -> [[V; 2]; SETS] {
        self.blocks[group * LEN / self.matrix.blocks.len]
    }

    #[inline(always)]
    fn feed_back(&mut self) {
        for g in 0..self.groups.len() {
            let panel = &self.matrix.panels.groups[g];
            let w = self.w.as_chunks().0[g];
            let mut base = w;
            add_product(&self.e[..g * LEN], &panel.before, &mut base);
            let (grid, blocks, present) = (self.matrix.blocks.grid, self.blocks_of(g), self.groups[g]);
            let nothing = V::splat(f32::INFINITY);
            for s in 0..SETS {
                let (target, base) = (set(&w, s), set(&base, s));
                self.groups[g][s] = search(grid, blocks[s], &target, &base, &panel.feedback, &present[s], nothing);
            }
            self.note_errors(g);
        }
    }

    #[inline(always)]
    fn refine(&mut self) {
        for g in 0..self.groups.len() {
            let panel = &self.matrix.panels.groups[g];
            let mut gradient = [[V::zero(); SETS]; LEN];
            add_product(&self.e, &panel.h, &mut gradient);
            // The differences from the target, H_gg^-1 g, are what the present numbers have to answer for.
            let mut differences = [[V::zero(); SETS]; LEN];
            add_product(&gradient, &panel.inverse, &mut differences);
            let (grid, blocks, mut groups) = (self.matrix.blocks.grid, self.blocks_of(g), self.groups[g]);
            let least = errors(&differences, &panel.refinement);
            let mut target = differences;
            for s in 0..SETS {
                for j in 0..LEN {
                    target[j][s] = target[j][s] + groups[s].q[j];
                }
                let target = set(&target, s);
                groups[s] = search(grid, blocks[s], &target, &target, &panel.refinement, &groups[s], least[s]);
            }
            descend(grid, blocks, &target, &panel.h[g * LEN * LEN..][..LEN * LEN], &mut groups, SWEEPS);
            self.groups[g] = groups;
            self.note_errors(g);
        }
    }

    #[inline(always)]
    fn note_errors(&mut self, g: usize) {
        for j in 0..LEN {
            for s in 0..SETS {
                self.e[g * LEN + j][s] = self.w[g * LEN + j][s] - self.groups[g][s].q[j];
            }
        }
    }

    #[inline(always)]
    fn store(&self, bytes: &mut [u8]) {
        let matrix = self.matrix;
        let Blocks { len: block_len, bytes: block_bytes, row_bytes, .. } = *matrix.blocks;
        let per_block = block_len / LEN;
        let start = matrix.first / block_len * block_bytes;
        for (s, bytes) in bytes.chunks_mut(SIXTEEN * row_bytes).enumerate() {
            for (b, blocks) in self.blocks.iter().enumerate() {
                let [d, dmin] = blocks[s].map(V::store);
                let groups = &self.groups[b * per_block..][..per_block];
                let mut scales =
                    [Scales { d: 0.0, dmin: 0.0, scale: [0.0; MAX_GROUPS], minimum: [0.0; MAX_GROUPS] }; SIXTEEN];
                let mut codes = [[0i8; 256]; SIXTEEN];
                for (i, group) in groups.iter().enumerate() {
                    let group = &group[s];
                    let step = blocks[s][0] * group.scale;
                    let m = matrix.blocks.grid.minimum_of(step, blocks[s][1], group.minimum);
                    let inverse = V::splat(1.0).div_or_zero(step);
                    let (scale, minimum) = (group.scale.store(), group.minimum.store());
                    for l in 0..SIXTEEN {
                        (scales[l].d, scales[l].dmin) = (d[l], dmin[l]);
                        (scales[l].scale[i], scales[l].minimum[i]) = (scale[l], minimum[l]);
                    }
                    for j in 0..LEN {
                        let code = matrix.blocks.grid.code(group.q[j] + m, inverse).store();
                        for l in 0..SIXTEEN {
                            codes[l][i * LEN + j] = code[l] as i8;
                        }
                    }
                }
                for (l, row) in bytes.chunks_exact_mut(row_bytes).enumerate() {
                    let block = &mut row[start + b * block_bytes..][..block_bytes];
                    (matrix.blocks.grid.write)(&scales[l], &codes[l][..block_len], block);
                }
            }
        }
    }
}

/// One set's.
#[inline(always)]
fn set<V: Sixteen, const LEN: usize>(columns: &[Column<V>; LEN], s: usize) -> [V; LEN] {
    let mut of_set = [V::zero(); LEN];
    for j in 0..LEN {
        of_set[j] = columns[j][s];
    }
    of_set
}
