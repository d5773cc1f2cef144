//! Blocks while they are worked on: all that belongs to one lies together, so that rounding treats them as any format's.
//!
//! ```text
//! byte   0 ... 3 | 4       | 5 ...
//!        f32 d   | i8 zero | i8 level[block_len]     x = d * (level - zero), levels from -2^(bits - 1)
//! ```

use super::NBits;
use crate::float16::F16_MAX;
use crate::grid::{Codes, Factor, Float, Grid, Scales};
use crate::lanes::{Lanes, load, store};
use crate::search::{Grid as _, Levels, TINY, mean_square, refine, scale, steps, weights};
use crate::simd::dispatch;
use crate::vector::Vector as _;

const HEADER: usize = 5;
const LANES: usize = 16;

/// The largest scale that is made where the float could hold larger ones: squares of numbers under it stay finite.
const LARGEST_SCALE: f32 = 1e15;

/// Levels to which the element of largest magnitude may go, without zero points.
const TRIES_4: [f32; 8] = [-9.0, -8.5, -8.1, -7.7, -7.3, -6.9, 7.0, 7.5];
const FINE_TRIES_4: [f32; 24] = steps(-9.4, 0.13);
const TRIES_8: [f32; 4] = [-128.4, -128.0, -127.5, 127.0];
/// With zero points: what is added to the number of steps between the least and the greatest level, over the block's range.
const OFFSETS_4: [f32; 12] = steps(-2.2, 0.25);
const FINE_OFFSETS_4: [f32; 36] = steps(-3.0, 0.1);
const OFFSETS_8: [f32; 4] = steps(-1.0, 0.5);

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
                join(scales.scale[0], scales.minimum[0], levels, block);
            },
        }
    }

    fn levels(self) -> Levels {
        let middle = f32::from(self.middle());
        Levels { low: -middle, high: middle - 1.0 }
    }
}

/// Scale, zero point and levels of a working block, the latter as two's complement.
pub(super) fn split(block: &[u8]) -> (f32, u8, &[u8]) {
    (f32::from_le_bytes([block[0], block[1], block[2], block[3]]), block[4], &block[HEADER..])
}

fn join(scale: f32, zero: f32, levels: &[i8], block: &mut [u8]) {
    block[..4].copy_from_slice(&scale.to_le_bytes());
    block[4] = zero as i8 as u8;
    for (byte, level) in block[HEADER..].iter_mut().zip(levels) {
        *byte = *level as u8;
    }
}

dispatch!(pub(super) fn encode = encode_body(grid: NBits, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]));

#[inline(always)]
fn encode_body(grid: NBits, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    match grid.block_len {
        16 => encode_blocks::<16>(grid, values, importance, out),
        32 => encode_blocks::<32>(grid, values, importance, out),
        64 => encode_blocks::<64>(grid, values, importance, out),
        _ => encode_blocks::<128>(grid, values, importance, out),
    }
}

/// Element errors weigh `a * sqrt(mean of x^2 over the row + x^2)` with importance `a`, as in the formats of ggml.
#[inline(always)]
fn encode_blocks<const LEN: usize>(grid: NBits, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let (levels, stored) = (grid.levels(), grid.float());
    let limit = if stored == Float::F16 { F16_MAX } else { LARGEST_SCALE } * levels.high;
    let row_mean = importance.map_or(0.0, |_| mean_square(values, limit));
    let (step, bytes) = (LANES * LEN, grid.working_bytes());
    for (batch, out) in out.chunks_mut(LANES * bytes).enumerate() {
        let here = batch * step..values.len().min((batch + 1) * step);
        let x = load::<LANES, LEN>(&values[here.clone()], limit);
        let w = weights(&x, importance.map(|a| &a[here]), Some(Lanes::splat(row_mean)));
        let fine = importance.is_some();
        let (d, zero) = match (grid.zero_points, grid.bits) {
            (false, 4) => (scale(&x, &w, levels, if fine { &FINE_TRIES_4[..] } else { &TRIES_4[..] }), Lanes::ZERO),
            (false, _) => (scale(&x, &w, levels, &TRIES_8), Lanes::ZERO),
            (true, 4) => {
                scale_and_zero(&x, &w, levels, stored, if fine { &FINE_OFFSETS_4[..] } else { &OFFSETS_4[..] })
            }
            (true, _) => scale_and_zero(&x, &w, levels, stored, &OFFSETS_8),
        };
        let d = if grid.zero_points { d } else { refine(&x, &w, levels, stored, d, 1) };
        let inverse = Lanes::splat(1.0).div_or_zero(d);
        let q = store(&x, |x| shifted(x, inverse, zero, levels) + zero);
        for (l, block) in out.chunks_exact_mut(bytes).enumerate() {
            join(d.0[l], zero.0[l], &q[l], block);
        }
    }
}

/// The nearest of the levels less `zero`.
#[inline(always)]
fn shifted<const N: usize>(x: Lanes<N>, inverse: Lanes<N>, zero: Lanes<N>, levels: Levels) -> Lanes<N> {
    levels.nearest(x * inverse + zero, Lanes::splat(1.0)) - zero
}

/// Least-squares scale, as stored, and zero point: `x = scale (level - zero)`. Tries `(steps + offset) / (largest - least)`
/// as inverse scales, for each of `offsets`, then the zero points beside the best.
#[inline(always)]
fn scale_and_zero<const N: usize, const LEN: usize>(
    x: &[Lanes<N>; LEN],
    w: &[Lanes<N>; LEN],
    levels: Levels,
    stored: Float,
    offsets: &[f32],
) -> (Lanes<N>, Lanes<N>) {
    let (mut least, mut largest) = (Lanes::ZERO, Lanes::ZERO);
    for x in x {
        least = least.min(*x);
        largest = largest.max(*x);
    }
    let range = largest - least;
    let unit = Lanes::splat(1.0).div_or_zero(Lanes::if_less(range, Lanes::splat(TINY), Lanes::ZERO, range));
    let low = Lanes::splat(levels.low);
    let zero_beside = |zero: Lanes<N>| zero.clamp(levels.low, levels.high).round();
    // Levels' products with the numbers and with themselves; their quotient is the best scale.
    let products = |inverse: Lanes<N>, zero: Lanes<N>| {
        let (mut qx, mut qq) = (Lanes::ZERO, Lanes::ZERO);
        for i in 0..LEN {
            let q = shifted(x[i], inverse, zero, levels);
            qx = qx + w[i] * q * x[i];
            qq = qq + w[i] * q * q;
        }
        (qx, qq)
    };
    let (mut best, mut best_scale, mut best_zero) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
    for offset in offsets {
        let inverse = unit * Lanes::splat(levels.high - levels.low + offset);
        let zero = zero_beside(low - least * inverse);
        let (qx, qq) = products(inverse, zero);
        let scale = qx.div_or_zero(qq);
        let explained = scale * qx;
        best_scale = Lanes::if_less(best, explained, scale, best_scale);
        best_zero = Lanes::if_less(best, explained, zero, best_zero);
        best = best.max(explained);
    }
    let (start, middle) = (best_scale, best_zero);
    best = Lanes::splat(f32::NEG_INFINITY);
    for beside in [0.0, -1.0, 1.0] {
        let zero = zero_beside(middle + Lanes::splat(beside));
        let mut scale = stored.nearest(start);
        for _ in 0..2 {
            let (qx, qq) = products(Lanes::splat(1.0).div_or_zero(scale), zero);
            // What the stored scale explains: 2 s qx - s^2 qq.
            let explained = scale * (qx + qx - scale * qq);
            best_scale = Lanes::if_less(best, explained, scale, best_scale);
            best_zero = Lanes::if_less(best, explained, zero, best_zero);
            best = best.max(explained);
            scale = stored.nearest(qx.div_or_zero(qq));
        }
    }
    (best_scale, best_zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::simd::Level;

    #[test]
    fn every_instruction_set_gives_the_bytes_of_the_plain_one() {
        let values: Vec<f32> = (0..128 * 21).map(|i| ((i * i % 8191) as f32 - 3000.0) * 1e-4).collect();
        let importance: Vec<f32> = (0..values.len()).map(|i| (i % 13) as f32 + 0.1).collect();
        for (bits, block_len, zero_points) in [(4, 32, true), (4, 16, false), (8, 128, true), (8, 64, false)] {
            for scales in [Format::F32, Format::F16, Format::Bf16] {
                let grid = NBits::new(bits, block_len, zero_points, scales).unwrap();
                let encoded = |level| {
                    let mut out = vec![0; values.len() / block_len * grid.working_bytes()];
                    encode(level, grid, &values, Some(&importance), &mut out);
                    out
                };
                for level in Level::available() {
                    assert!(encoded(level) == encoded(Level::available()[0]), "{grid} at {level:?}");
                }
            }
        }
    }
}
