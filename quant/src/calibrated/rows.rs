//! Sixteen rows of a matrix, from the first column to the last, and again.

use super::Blocks;
use super::factor::Panels;
use super::group::{Group, descend, gather, search};
use crate::grid::{MAX_GROUPS, Scales};
use crate::simd::dispatch;
use crate::vector::{SIXTEEN, Sixteen};

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

/// Up to sixteen rows: `bytes` holds their scales, as a search left them, and takes the result.
#[inline(always)]
fn round_body<V: Sixteen>(matrix: &Matrix<'_>, values: &[f32], bytes: &mut [u8]) {
    match matrix.blocks.grid.group_len {
        16 => Rows::<V, 16>::load(matrix, values, bytes).round(bytes),
        64 => Rows::<V, 64>::load(matrix, values, bytes).round(bytes),
        128 => Rows::<V, 128>::load(matrix, values, bytes).round(bytes),
        _ => Rows::<V, 32>::load(matrix, values, bytes).round(bytes),
    }
}

struct Rows<'m, V, const LEN: usize> {
    matrix: &'m Matrix<'m>,
    w: Vec<[V; LEN]>,
    /// `w - q`, column after column; zero where nothing has been rounded yet.
    e: Vec<V>,
    groups: Vec<Group<V, LEN>>,
    /// `d` and `dmin` of each block.
    blocks: Vec<[V; 2]>,
}

impl<'m, V: Sixteen, const LEN: usize> Rows<'m, V, LEN> {
    #[inline(always)]
    fn load(matrix: &'m Matrix<'m>, values: &[f32], bytes: &[u8]) -> Self {
        let groups = matrix.panels.groups.len();
        let Blocks { len: block_len, bytes: block_bytes, row_bytes, .. } = *matrix.blocks;
        let per_block = block_len / LEN;
        let none = Group { scale: V::zero(), minimum: V::zero(), q: [V::zero(); LEN] };
        let mut rows = Rows {
            matrix,
            w: vec![[V::zero(); LEN]; groups],
            e: vec![V::zero(); groups * LEN],
            groups: vec![none; groups],
            blocks: vec![[V::zero(); 2]; groups / per_block],
        };
        let lines: Vec<&[f32]> = values.chunks_exact(matrix.cols).map(|row| &row[matrix.first..]).collect();
        for (i, w) in rows.w.as_flattened_mut().iter_mut().enumerate() {
            *w = across(|l| lines.get(l).map_or(0.0, |line| line[i]));
        }
        let start = matrix.first / block_len * block_bytes;
        for (b, block) in rows.blocks.iter_mut().enumerate() {
            let lines = bytes.chunks_exact(row_bytes).map(|row| &row[start + b * block_bytes..][..block_bytes]);
            let scales: Vec<Scales> = lines.map(matrix.blocks.grid.read).collect();
            let factor = |of: &dyn Fn(&Scales) -> f32| across(|l| scales.get(l).map_or(0.0, of));
            *block = [factor(&|s| s.d), factor(&|s| s.dmin)];
            for i in 0..per_block {
                let group = &mut rows.groups[b * per_block + i];
                (group.scale, group.minimum) = (factor(&|s| s.scale[i]), factor(&|s| s.minimum[i]));
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
    fn block_of(&self, group: usize) -> [V; 2] {
        self.blocks[group * LEN / self.matrix.blocks.len]
    }

    #[inline(always)]
    fn feed_back(&mut self) {
        for g in 0..self.groups.len() {
            let panel = &self.matrix.panels.groups[g];
            let mut base = self.w[g];
            let left = gather::<V, LEN>(&self.e[..g * LEN], &panel.before);
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
            let gradient = gather::<V, LEN>(&self.e, &panel.h);
            let present = self.groups[g];
            let mut target = present.q;
            let correction = gather::<V, LEN>(&gradient, &panel.inverse);
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
    fn take(&mut self, g: usize, found: Group<V, LEN>) {
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
        for (b, block) in self.blocks.iter().enumerate() {
            let [d, dmin] = block.map(V::store);
            let groups = &self.groups[b * per_block..][..per_block];
            let mut scales =
                [Scales { d: 0.0, dmin: 0.0, scale: [0.0; MAX_GROUPS], minimum: [0.0; MAX_GROUPS] }; SIXTEEN];
            let mut codes = [[0i8; 256]; SIXTEEN];
            for (i, group) in groups.iter().enumerate() {
                let s = block[0] * group.scale;
                let m = matrix.blocks.grid.minimum_of(s, block[1], group.minimum);
                let inverse = V::splat(1.0).div_or_zero(s);
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

/// What `of` says of every lane.
#[inline(always)]
fn across<V: Sixteen>(of: impl Fn(usize) -> f32) -> V {
    V::load(&std::array::from_fn(of))
}
