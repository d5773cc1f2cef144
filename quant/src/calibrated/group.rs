//! The scale, minimum and codes of one group of columns, for sixteen rows at once.

use super::factor::Square;
use super::product::{Column, SETS, add_product};
use crate::grid::{Factor, Grid};
use crate::vector::Sixteen;

/// A group as stored: `x = d scale * level - minimum`, where the grid says what minimums are.
#[derive(Copy, Clone)]
pub(super) struct Group<V, const LEN: usize> {
    pub(super) scale: V,
    pub(super) minimum: V,
    /// The numbers it holds.
    pub(super) q: [V; LEN],
}

/// Candidates of a search: as many additions as are under way at a time.
const CANDIDATES: usize = 8;

/// Steps of scale and minimum, tried around the present ones. A larger scale reaches as far down with a larger minimum.
type Steps = [[f32; 2]; CANDIDATES];
const WITH_MINIMUM: Steps =
    [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [2.0, 2.0]];
const WITH_ZERO_POINT: Steps =
    [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [-2.0, 0.0], [2.0, 0.0], [-4.0, 0.0]];
const WITHOUT: Steps =
    [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [-3.0, 0.0], [-4.0, 0.0], [4.0, 0.0]];

/// What a step changes a float scale by, relative to it.
const SCALE_STEP: f32 = 0.015;
/// What a step changes a float minimum by, relative to the scale.
const MINIMUM_STEP: f32 = 0.25;

/// Finds, of the scales and minimums around the present ones, those whose codes have the least error, and the codes.
///
/// Errors are against `target`; column j is rounded from `base[j]` plus what the errors of the columns before leave it.
/// The present numbers stay where nothing has an error below `least`.
#[inline(always)]
pub(super) fn search<V: Sixteen, const LEN: usize>(
    grid: &Grid,
    [d, dmin]: [V; 2],
    target: &[V; LEN],
    base: &[V; LEN],
    square: &Square,
    present: &Group<V, LEN>,
    mut least: V,
) -> Group<V, LEN> {
    let steps = match grid.minimum {
        Factor::None => &WITHOUT,
        Factor::OfScale(_) => &WITH_ZERO_POINT,
        _ => &WITH_MINIMUM,
    };
    let none = [V::zero(); CANDIDATES];
    let (mut scale_factors, mut minimum_factors) = (none, none);
    let (mut scales, mut minimums, mut inverses) = (none, none, none);
    for c in 0..CANDIDATES {
        (scale_factors[c], minimum_factors[c]) = moved(grid, present, steps[c]);
        scales[c] = d * scale_factors[c];
        minimums[c] = grid.minimum_of(scales[c], dmin, minimum_factors[c]);
        inverses[c] = V::splat(1.0).div_or_zero(scales[c]);
    }
    // All candidates go from column to column together: each has its own chain of additions.
    let mut e = [[V::zero(); CANDIDATES]; LEN];
    let mut sums = none;
    for j in 0..LEN {
        let mut x = [base[j]; CANDIDATES];
        for i in 0..j {
            let r = V::splat(square.r[i * LEN + j]);
            for c in 0..CANDIDATES {
                x[c] = e[i][c].mul_add(r, x[c]);
            }
        }
        let weight = V::splat(square.weight[j]);
        for c in 0..CANDIDATES {
            let q = scales[c] * grid.nearest(x[c] + minimums[c], inverses[c]) - minimums[c];
            e[j][c] = target[j] - q;
            let left = x[c] - q;
            sums[c] = (left * weight).mul_add(left, sums[c]);
        }
    }
    let mut best = *present;
    for c in 0..CANDIDATES {
        best.scale = V::if_less(sums[c], least, scale_factors[c], best.scale);
        best.minimum = V::if_less(sums[c], least, minimum_factors[c], best.minimum);
        for j in 0..LEN {
            best.q[j] = V::if_less(sums[c], least, target[j] - e[j][c], best.q[j]);
        }
        least = sums[c].min(least);
    }
    best
}

/// The scale and minimum some steps away, as they can be stored.
#[inline(always)]
fn moved<V: Sixteen, const LEN: usize>(grid: &Grid, from: &Group<V, LEN>, [ds, dm]: [f32; 2]) -> (V, V) {
    let scale = match grid.scale {
        Factor::Float(_) => from.scale * V::splat(1.0 + ds * SCALE_STEP),
        _ => from.scale + V::splat(ds),
    };
    let minimum = match grid.minimum {
        Factor::Float(_) => from.minimum + from.scale * V::splat(dm * MINIMUM_STEP),
        _ => from.minimum + V::splat(dm),
    };
    (grid.scale.nearest(scale), grid.minimum.nearest(minimum))
}

/// The errors that numbers have by their differences from the target.
#[inline(always)]
pub(super) fn errors<V: Sixteen, const LEN: usize>(differences: &[Column<V>; LEN], square: &Square) -> Column<V> {
    let mut left = *differences;
    add_product(differences, &square.r, &mut left);
    let mut sums = [V::zero(); SETS];
    for j in 0..LEN {
        for s in 0..SETS {
            sums[s] = (left[j][s] * V::splat(square.weight[j])).mul_add(left[j][s], sums[s]);
        }
    }
    sums
}

/// Moves codes one after the other to where the error is least, scales fixed. `h` is H_gg (LEN, LEN).
#[inline(always)]
pub(super) fn descend<V: Sixteen, const LEN: usize>(
    grid: &Grid,
    blocks: [[V; 2]; SETS],
    target: &[Column<V>; LEN],
    h: &[f32],
    groups: &mut [Group<V, LEN>; SETS],
    sweeps: usize,
) {
    let none = [V::zero(); SETS];
    let (mut s, mut m, mut inverse) = (none, none, none);
    let (mut differences, mut gradient) = ([none; LEN], [none; LEN]);
    for k in 0..SETS {
        s[k] = blocks[k][0] * groups[k].scale;
        m[k] = grid.minimum_of(s[k], blocks[k][1], groups[k].minimum);
        inverse[k] = V::splat(1.0).div_or_zero(s[k]);
        for j in 0..LEN {
            differences[j][k] = target[j][k] - groups[k].q[j];
        }
    }
    add_product(&differences, h, &mut gradient);
    for _ in 0..sweeps {
        for j in 0..LEN {
            let h = &h[j * LEN..][..LEN];
            let step = V::splat(1.0 / h[j]);
            for k in 0..SETS {
                let wanted = gradient[j][k].mul_add(step, groups[k].q[j]);
                let q = s[k] * grid.nearest(wanted + m[k], inverse[k]) - m[k];
                let back = groups[k].q[j] - q;
                groups[k].q[j] = q;
                for i in 0..LEN {
                    gradient[i][k] = back.mul_add(V::splat(h[i]), gradient[i][k]);
                }
            }
        }
    }
}
