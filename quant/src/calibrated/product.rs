//! Products of rows with a panel of columns: most of what rounding does.
//!
//! Every sum runs over the panel's rows from first to last, each product fused to it, whatever tiles the work is cut into.

use crate::vector::{SIXTEEN, Sixteen};
use std::array::from_fn;
use std::ops::Range;

/// Registers of rows that go together: with AVX-512 a tile of three by [`WIDTH`] columns keeps both multipliers busy, and
/// a panel is read a third as often.
pub(super) const SETS: usize = 3;

/// Rows that go together.
pub(super) const ROWS: usize = SETS * SIXTEEN;

/// A number of each of [`ROWS`] rows.
pub(super) type Column<V> = [V; SETS];

/// Columns of a tile. Panels are as wide as several.
const WIDTH: usize = 8;

/// Rows of a panel that stay in the nearest cache from one tile to the next.
const DEPTH: usize = 64;

/// `sums += x M` of M (x.len(), LEN).
#[inline(always)]
pub(super) fn add_product<V: Sixteen, const LEN: usize>(x: &[Column<V>], m: &[f32], sums: &mut [Column<V>; LEN]) {
    let (m, rest) = m.as_chunks::<LEN>();
    assert!(x.len() == m.len() && rest.is_empty(), "a row for each column");
    for (x, m) in x.chunks(DEPTH).zip(m.chunks(DEPTH)) {
        for first in (0..LEN).step_by(WIDTH) {
            if V::REGISTERS > SETS * WIDTH {
                tile::<V, LEN, SETS, WIDTH>(x, m, 0, first, sums);
            } else {
                for set in 0..SETS {
                    tile::<V, LEN, 1, { WIDTH / 2 }>(x, m, set, first, sums);
                    tile::<V, LEN, 1, { WIDTH / 2 }>(x, m, set, first + WIDTH / 2, sums);
                }
            }
        }
    }
}

/// The part of it that is about some sets and columns, held in registers.
#[inline(always)]
fn tile<V: Sixteen, const LEN: usize, const HEIGHT: usize, const WIDTH: usize>(
    x: &[Column<V>],
    m: &[[f32; LEN]],
    set: usize,
    column: usize,
    sums: &mut [Column<V>; LEN],
) {
    let mut held = [[V::zero(); WIDTH]; HEIGHT];
    for s in 0..HEIGHT {
        for c in 0..WIDTH {
            held[s][c] = sums[column + c][set + s];
        }
    }
    for (x, m) in x.iter().zip(m) {
        // What the tiles of the next rows begin with: a set, of which every tile takes another, and its own columns.
        V::prefetch((&raw const x[column / WIDTH % SETS]).wrapping_add(DEPTH * SETS));
        V::prefetch((&raw const m[column]).wrapping_add(DEPTH * LEN));
        for c in 0..WIDTH {
            let factor = V::splat(m[column + c]);
            for s in 0..HEIGHT {
                held[s][c] = x[set + s].mul_add(factor, held[s][c]);
            }
        }
    }
    for s in 0..HEIGHT {
        for c in 0..WIDTH {
            sums[column + c][set + s] = held[s][c];
        }
    }
}

/// Some columns of up to [`ROWS`] rows (.., width); zeros for rows that are missing.
#[inline(always)]
pub(super) fn load<V: Sixteen>(rows: &[f32], width: usize, columns: Range<usize>) -> Vec<Column<V>> {
    let mut loaded = vec![[V::zero(); SETS]; columns.len()];
    for (s, rows) in rows.chunks(SIXTEEN * width).enumerate() {
        let lines: Vec<&[f32]> = rows.chunks_exact(width).map(|row| &row[columns.clone()]).collect();
        for (i, column) in loaded.iter_mut().enumerate() {
            column[s] = V::load(&from_fn(|l| lines.get(l).map_or(0.0, |line| line[i])));
        }
    }
    loaded
}

/// The way back.
#[inline(always)]
pub(super) fn store<V: Sixteen>(stored: &[Column<V>], rows: &mut [f32], width: usize, columns: Range<usize>) {
    for (s, rows) in rows.chunks_mut(SIXTEEN * width).enumerate() {
        for (i, column) in columns.clone().zip(stored) {
            for (row, x) in rows.chunks_exact_mut(width).zip(column[s].store()) {
                row[i] = x;
            }
        }
    }
}
