//! Blocks while calibrated rounding works on them: all that belongs to one lies together, as in any format's.
//!
//! ```text
//! byte   0 ... 3 | 4       | 5 ...
//!        f32 d   | i8 zero | i8 level[block_len]     x = d * (level - zero), levels from -2^(bits - 1)
//! ```

use super::{NBits, NBitsMatrix};
use crate::Tensor;
use crate::grid::{Codes, Factor, Grid, Scales};
use crate::search::Levels;

const HEADER: usize = 5;

impl NBits {
    /// Bytes of a working block.
    pub(super) fn working_bytes(self) -> usize {
        HEADER + self.block_len
    }

    /// What working blocks hold.
    pub(super) fn working_grid(self) -> Grid {
        Grid {
            group_len: self.block_len,
            codes: Codes::Integers(self.levels()),
            scale: Factor::Float(self.float()),
            minimum: if self.zero_points { Factor::OfScale(self.levels()) } else { Factor::None },
            read: |block| {
                let (scale, zero, _) = split(block);
                Scales::single(scale, f32::from(zero as i8))
            },
            write: |scales, levels, block| {
                join(scales.scale[0], scales.minimum[0] as i8, levels.iter().copied(), block);
            },
        }
    }

    /// Numbers of working blocks.
    pub(super) fn decode_working(self, blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.chunks_exact(self.working_bytes()).zip(out.chunks_exact_mut(self.block_len)) {
            let (scale, zero, levels) = split(block);
            for (x, level) in out.iter_mut().zip(levels) {
                *x = scale * f32::from(*level as i8) - scale * f32::from(zero as i8);
            }
        }
    }

    pub(super) fn levels(self) -> Levels {
        let middle = f32::from(self.middle());
        Levels { low: -middle, high: middle - 1.0 }
    }
}

impl NBitsMatrix<'static> {
    /// Its working blocks, row after row.
    pub(super) fn to_blocks(&self) -> Vec<u8> {
        let (grid, per_row) = (self.grid, self.grid.blocks(self.cols));
        let (scales, code_bytes) = (self.scales.to_f32(), grid.code_bytes(grid.block_len));
        let level = |code: u8| code.wrapping_sub(grid.middle()) as i8;
        let mut blocks = vec![0; self.rows * per_row * grid.working_bytes()];
        for (at, block) in blocks.chunks_exact_mut(grid.working_bytes()).enumerate() {
            let codes = &self.codes[at * code_bytes..][..code_bytes];
            let levels = (0..grid.block_len).map(|j| level(grid.code(codes, j)));
            join(scales[at], level(self.zero_point(at / per_row, at % per_row)), levels, block);
        }
        blocks
    }

    /// From working blocks.
    pub(super) fn from_blocks(blocks: &[u8], [rows, cols]: [usize; 2], grid: NBits) -> Self {
        let per_row = grid.blocks(cols);
        let code = |level: &u8| level.wrapping_add(grid.middle());
        let mut codes = Vec::with_capacity(rows * grid.code_bytes(cols));
        let mut zero_points = Vec::with_capacity(rows * grid.zero_point_bytes(cols));
        let mut scales = Vec::with_capacity(rows * per_row);
        for row in blocks.chunks_exact((per_row * grid.working_bytes()).max(1)) {
            let parts = || row.chunks_exact(grid.working_bytes()).map(split);
            for (scale, _, levels) in parts() {
                scales.push(scale);
                grid.pack(levels.iter().map(code), &mut codes);
            }
            if grid.zero_points {
                grid.pack(parts().map(|(_, zero, _)| code(&zero)), &mut zero_points);
            }
        }
        let mut bytes = vec![0; scales.len() * grid.scales.block_bytes()];
        grid.scales.encode(&scales, None, &mut bytes);
        let scales = Tensor { format: grid.scales, shape: vec![rows, per_row], bytes: bytes.into() };
        NBitsMatrix { grid, rows, cols, codes: codes.into(), scales, zero_points: zero_points.into() }
    }
}

/// Scale, zero point and levels of a working block, the latter as two's complement.
fn split(block: &[u8]) -> (f32, u8, &[u8]) {
    (f32::from_le_bytes([block[0], block[1], block[2], block[3]]), block[4], &block[HEADER..])
}

fn join(scale: f32, zero: i8, levels: impl Iterator<Item = i8>, block: &mut [u8]) {
    block[..4].copy_from_slice(&scale.to_le_bytes());
    block[4] = zero as u8;
    for (byte, level) in block[HEADER..].iter_mut().zip(levels) {
        *byte = level as u8;
    }
}
