//! The search for scales and zero points, sixteen blocks side by side, and the packing of what it finds.

use super::NBits;
use crate::float16::F16_MAX;
use crate::grid::Float;
use crate::lanes::load_sixteen;
use crate::search::{Even, Levels, TINY, Weights, mean_square, steps};
use crate::simd::dispatch;
use crate::vector::{ROUNDER, SIXTEEN, Sixteen};

/// The largest scale that is made where the float could hold larger ones: squares of numbers under it stay finite.
const LARGEST_SCALE: f32 = 1e15;

/// Levels to which the element of largest magnitude may go, without zero points.
const TRIES_4: [f32; 8] = [-9.0, -8.5, -8.1, -7.7, -7.3, -6.9, 7.0, 7.5];
const FINE_TRIES_4: [f32; 24] = steps(-9.4, 0.13);
const TRIES_8: [f32; 4] = [-128.4, -128.0, -127.5, 127.0];
/// With zero points: steps over the block's range.
const RANGES_4: [f32; 10] = steps(12.8, 0.3);
const FINE_RANGES_4: [f32; 36] = steps(12.0, 0.1);
const RANGES_8: [f32; 4] = steps(254.0, 0.5);

/// Where blocks go, each array packed as the operator has it.
pub(super) struct Arrays<'a> {
    pub(super) codes: &'a mut [u8],
    pub(super) scales: &'a mut [u8],
    /// Empty without them.
    pub(super) zero_points: &'a mut [u8],
}

dispatch!(pub(super) fn encode = encode_body::<Sixteen>(
    grid: NBits,
    values: &[f32],
    importance: Option<&[f32]>,
    out: Arrays<'_>,
));

/// With `importance` a row, else any number of blocks.
#[inline(always)]
fn encode_body<V: Sixteen>(grid: NBits, values: &[f32], importance: Option<&[f32]>, out: Arrays<'_>) {
    match grid.block_len {
        16 => encode_blocks::<V, 16>(grid, values, importance, out),
        32 => encode_blocks::<V, 32>(grid, values, importance, out),
        64 => encode_blocks::<V, 64>(grid, values, importance, out),
        _ => encode_blocks::<V, 128>(grid, values, importance, out),
    }
}

/// Element errors weigh `a * sqrt(mean of x^2 over the row + x^2)` with importance `a`, as in the formats of ggml.
#[inline(always)]
fn encode_blocks<V: Sixteen, const LEN: usize>(
    grid: NBits,
    values: &[f32],
    importance: Option<&[f32]>,
    out: Arrays<'_>,
) {
    let levels = grid.levels();
    let limit = if grid.float() == Float::F16 { F16_MAX } else { LARGEST_SCALE } * levels.high;
    let row_mean = importance.map_or(0.0, |_| mean_square(values, limit));
    let tries = match (grid.zero_points, grid.bits, importance) {
        (true, 4, None) => &RANGES_4[..],
        (true, 4, Some(_)) => &FINE_RANGES_4,
        (true, ..) => &RANGES_8,
        (false, 4, None) => &TRIES_4,
        (false, 4, Some(_)) => &FINE_TRIES_4,
        (false, ..) => &TRIES_8,
    };
    let (code_bytes, scale_bytes) = (grid.code_bytes(LEN), grid.scales.block_bytes());
    let mut zero_points = out.zero_points.chunks_mut(SIXTEEN * usize::from(grid.bits) / 8);
    let batches = out.codes.chunks_mut(SIXTEEN * code_bytes).zip(out.scales.chunks_mut(SIXTEEN * scale_bytes));
    let edge = |batch: usize| values.len().min(batch * SIXTEEN * LEN);
    for (batch, (codes, scales)) in batches.enumerate() {
        let here = edge(batch)..edge(batch + 1);
        // What the next batch loads, while this one is worked on.
        for line in values[here.end..edge(batch + 2)].chunks(SIXTEEN) {
            V::prefetch(line.as_ptr());
        }
        let x = load_sixteen::<V, LEN>(&values[here.clone()], limit);
        let (scale, zero) = match importance {
            None => search(&x, &Even, grid, tries),
            Some(a) => {
                let mut w = load_sixteen::<V, LEN>(&a[here], f32::MAX);
                for i in 0..LEN {
                    w[i] = w[i] * (V::splat(row_mean) + x[i] * x[i]).map(f32::sqrt);
                }
                search(&x, &w, grid, tries)
            }
        };
        match grid.bits {
            4 => pack::<V, LEN, 8>(&x, scale, zero, grid, codes),
            _ => pack::<V, LEN, 4>(&x, scale, zero, grid, codes),
        }
        let blocks = scales.len() / scale_bytes;
        grid.scales.encode(&scale.store()[..blocks], None, scales);
        if let Some(out) = zero_points.next() {
            let zero = zero.store();
            out.fill(0);
            for (j, zero) in zero[..blocks].iter().enumerate() {
                grid.put(out, j, (*zero as i8 as u8).wrapping_add(grid.middle()));
            }
        }
    }
}

/// Codes of the nearest levels, `CODES` of them in a 32-bit word.
#[inline(always)]
fn pack<V: Sixteen, const LEN: usize, const CODES: usize>(
    x: &[V; LEN],
    scale: V,
    zero: V,
    grid: NBits,
    out: &mut [u8],
) {
    let inverse = V::splat(1.0).div_or_zero(scale);
    let mut words = [[0; SIXTEEN]; LEN];
    for (words, x) in words.iter_mut().zip(x.as_chunks::<CODES>().0) {
        let (low, high) = x.split_at(CODES / 2);
        let (low, high) = (half_word(low, inverse, zero, grid), half_word(high, inverse, zero, grid));
        for l in 0..SIXTEEN {
            words[l] = low[l].to_bits() & 0xffff | high[l].to_bits() << 16;
        }
    }
    for (l, block) in out.chunks_exact_mut(LEN / CODES * 4).enumerate() {
        for (k, bytes) in block.as_chunks_mut().0.iter_mut().enumerate() {
            *bytes = words[k][l].to_le_bytes();
        }
    }
}

/// Codes in the last 16 bits of floats, the first one lowest.
#[inline(always)]
fn half_word<V: Sixteen>(x: &[V], inverse: V, zero: V, grid: NBits) -> [f32; SIXTEEN] {
    let middle = V::splat(f32::from(grid.middle()));
    let (shift, radix) = (zero + V::splat(ROUNDER), middle + middle);
    let mut sum = V::zero();
    for x in x.iter().rev() {
        sum = sum * radix + (nearest(*x, inverse, shift, grid.levels()) + (zero + middle));
    }
    (sum + V::splat(ROUNDER)).store()
}

/// The nearest of the levels less the zero point, `shift` being that and [`ROUNDER`].
#[inline(always)]
fn nearest<V: Sixteen>(x: V, inverse: V, shift: V, levels: Levels) -> V {
    (x * inverse + shift).clamp(ROUNDER + levels.low, ROUNDER + levels.high) - shift
}

/// The nearest levels' products with the numbers and with themselves; their quotient is the best scale.
#[inline(always)]
fn products<V: Sixteen, W: Weights<V>, const LEN: usize>(
    x: &[V; LEN],
    w: &W,
    inverse: V,
    zero: V,
    levels: Levels,
) -> (V, V) {
    let shift = zero + V::splat(ROUNDER);
    let (mut qx, mut qq) = (V::zero(), V::zero());
    for i in 0..LEN {
        let q = nearest(x[i], inverse, shift, levels);
        let wq = w.weigh(i, q);
        qx = qx + wq * x[i];
        qq = qq + wq * q;
    }
    (qx, qq)
}

/// Least-squares scale, as stored, and zero point: `x = scale (level - zero)`. Tries as inverse scales what puts the
/// element of largest magnitude to a level or, with zero points, what gives the range so many steps; then the zero points
/// beside the best.
#[inline(always)]
fn search<V: Sixteen, W: Weights<V>, const LEN: usize>(x: &[V; LEN], w: &W, grid: NBits, tries: &[f32]) -> (V, V) {
    let (levels, stored) = (grid.levels(), grid.float());
    let (mut least, mut largest) = (V::zero(), V::zero());
    for x in x {
        least = least.min(*x);
        largest = largest.max(*x);
    }
    let extent =
        if grid.zero_points { largest - least } else { V::if_less(largest, V::zero() - least, least, largest) };
    let extent = V::if_less(extent.abs(), V::splat(TINY), V::zero(), extent);
    let unit = V::splat(1.0).div_or_zero(extent);
    let (mut best, mut best_scale, mut best_zero) = (V::zero(), V::zero(), V::zero());
    for steps in tries {
        let inverse = unit * V::splat(*steps);
        let zero = if grid.zero_points {
            (V::splat(levels.low) - least * inverse).clamp(levels.low, levels.high).round()
        } else {
            V::zero()
        };
        let (qx, qq) = products(x, w, inverse, zero, levels);
        let scale = qx.div_or_zero(qq);
        let explained = scale * qx;
        best_scale = V::if_less(best, explained, scale, best_scale);
        best_zero = V::if_less(best, explained, zero, best_zero);
        best = best.max(explained);
    }
    let (start, middle) = (best_scale, best_zero);
    best = V::splat(f32::NEG_INFINITY);
    for beside in if grid.zero_points { &[0.0, -1.0, 1.0][..] } else { &[0.0] } {
        let zero = (middle + V::splat(*beside)).clamp(levels.low, levels.high);
        let mut scale = stored.nearest(start);
        for _ in 0..2 {
            let (qx, qq) = products(x, w, V::splat(1.0).div_or_zero(scale), zero, levels);
            // What the stored scale explains: 2 s qx - s^2 qq.
            let explained = scale * (qx + qx - scale * qq);
            best_scale = V::if_less(best, explained, scale, best_scale);
            best_zero = V::if_less(best, explained, zero, best_zero);
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
                for importance in [None, Some(&importance[..])] {
                    let encoded = |level| {
                        let blocks = values.len() / block_len;
                        let mut codes = vec![0; grid.code_bytes(values.len())];
                        let mut stored = vec![0; blocks * grid.scales.block_bytes()];
                        let mut zeros = vec![0; grid.zero_point_bytes(values.len())];
                        let out = Arrays { codes: &mut codes, scales: &mut stored, zero_points: &mut zeros };
                        encode(level, grid, &values, importance, out);
                        (codes, stored, zeros)
                    };
                    for level in Level::available() {
                        assert!(encoded(level) == encoded(Level::available()[0]), "{grid} at {level:?}");
                    }
                }
            }
        }
    }
}
