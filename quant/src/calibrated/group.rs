//! The scale, minimum and codes of one group of columns, for sixteen rows at once.

use super::factor::Square;
use crate::grid::{Factor, Grid};
use crate::lanes::Lanes;

/// Rows side by side.
pub(super) const LANES: usize = 16;
pub(super) type Row16 = Lanes<LANES>;

/// A group as stored: `x = d scale * level - dmin minimum`.
#[derive(Copy, Clone)]
pub(super) struct Group<const LEN: usize> {
    pub(super) scale: Row16,
    pub(super) minimum: Row16,
    /// The numbers it holds.
    pub(super) q: [Row16; LEN],
}

/// Tried around the present scale and minimum. A larger scale reaches as far down with a larger minimum.
const WITH_MINIMUM: [[f32; 2]; 9] =
    [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [2.0, 2.0], [-2.0, -2.0]];
const WITHOUT: [[f32; 2]; 7] = [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [-4.0, 0.0], [4.0, 0.0]];

/// What a step changes a float scale by, relative to it.
const SCALE_STEP: f32 = 0.015;
/// What a step changes a float minimum by, relative to the scale.
const MINIMUM_STEP: f32 = 0.25;

/// Finds, of the scales and minimums around the present ones, those whose codes have the least error, and the codes.
///
/// Errors are against `target`; column j is rounded from `base[j]` plus what the errors of the columns before leave it.
/// With `keep` the present numbers stay where nothing is better.
#[inline(always)]
pub(super) fn search<const LEN: usize>(
    grid: &Grid,
    [d, dmin]: [Row16; 2],
    target: &[Row16; LEN],
    base: &[Row16; LEN],
    square: &Square,
    present: &Group<LEN>,
    keep: bool,
) -> Group<LEN> {
    let mut best = *present;
    let mut least = if keep { error(target, base, square, &present.q) } else { Lanes::splat(f32::INFINITY) };
    let steps: &[[f32; 2]] = if matches!(grid.minimum, Factor::None) { &WITHOUT } else { &WITH_MINIMUM };
    for step in steps {
        let (scale, minimum) = moved(grid, present, *step);
        let s = d * scale;
        let m = grid.minimum_of(s, dmin, minimum);
        let inverse = Lanes::splat(1.0).div_or_zero(s);
        let mut e = [Lanes::ZERO; LEN];
        let mut q = [Lanes::ZERO; LEN];
        let mut sum = Lanes::ZERO;
        for j in 0..LEN {
            let mut x = base[j];
            for i in 0..j {
                x = x + e[i] * Lanes::splat(square.r[i * LEN + j]);
            }
            q[j] = s * grid.nearest(x + m, inverse) - m;
            e[j] = target[j] - q[j];
            let left = x - q[j];
            sum = sum + left * left * Lanes::splat(square.weight[j]);
        }
        best.scale = Lanes::if_less(sum, least, scale, best.scale);
        best.minimum = Lanes::if_less(sum, least, minimum, best.minimum);
        for j in 0..LEN {
            best.q[j] = Lanes::if_less(sum, least, q[j], best.q[j]);
        }
        least = least.min(sum);
    }
    best
}

/// The scale and minimum some steps away, as they can be stored.
#[inline(always)]
fn moved<const LEN: usize>(grid: &Grid, from: &Group<LEN>, [ds, dm]: [f32; 2]) -> (Row16, Row16) {
    let scale = match grid.scale {
        Factor::Float(_) => from.scale * Lanes::splat(1.0 + ds * SCALE_STEP),
        _ => from.scale + Lanes::splat(ds),
    };
    let minimum = match grid.minimum {
        Factor::Float(_) => from.minimum + from.scale * Lanes::splat(dm * MINIMUM_STEP),
        _ => from.minimum + Lanes::splat(dm),
    };
    (grid.scale.nearest(scale), grid.minimum.nearest(minimum))
}

/// The error of given numbers.
#[inline(always)]
fn error<const LEN: usize>(target: &[Row16; LEN], base: &[Row16; LEN], square: &Square, q: &[Row16; LEN]) -> Row16 {
    let mut sum = Lanes::ZERO;
    for j in 0..LEN {
        let mut left = base[j] - q[j];
        for i in 0..j {
            left = left + (target[i] - q[i]) * Lanes::splat(square.r[i * LEN + j]);
        }
        sum = sum + left * left * Lanes::splat(square.weight[j]);
    }
    sum
}

/// Moves codes one after the other to where the error is least, scales fixed. `h` is H_gg (n, LEN) from the group's first row on.
#[inline(always)]
pub(super) fn descend<const LEN: usize>(
    grid: &Grid,
    [d, dmin]: [Row16; 2],
    target: &[Row16; LEN],
    h: &[f32],
    group: &mut Group<LEN>,
    sweeps: usize,
) {
    let s = d * group.scale;
    let m = grid.minimum_of(s, dmin, group.minimum);
    let inverse = Lanes::splat(1.0).div_or_zero(s);
    let mut gradient = [Lanes::ZERO; LEN];
    for i in 0..LEN {
        let e = target[i] - group.q[i];
        for j in 0..LEN {
            gradient[j] = gradient[j] + e * Lanes::splat(h[i * LEN + j]);
        }
    }
    for _ in 0..sweeps {
        for j in 0..LEN {
            let wanted = group.q[j] + gradient[j] * Lanes::splat(1.0 / h[j * LEN + j]);
            let q = s * grid.nearest(wanted + m, inverse) - m;
            let change = q - group.q[j];
            group.q[j] = q;
            for i in 0..LEN {
                gradient[i] = gradient[i] - change * Lanes::splat(h[j * LEN + i]);
            }
        }
    }
}
