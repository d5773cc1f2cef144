//! Weighted least-squares searches for the scale, or scale and minimum, of groups of numbers.
//!
//! All work on `N` groups of `LEN` elements: `x[i]` holds element `i` of every group and `w[i]` its weight. Errors are
//! `sum w (x - scale q)^2`, or with a minimum `sum w (x - (scale q - minimum))^2`. Each candidate assigns levels `q`,
//! for which the best scale has a closed form; the candidate that explains most of the weighted energy wins.

pub(crate) mod minimums;
pub(crate) mod scales;

use crate::grid::Float;
use crate::lanes::{Lanes, load};
use crate::vector::Vector;

/// Groups whose magnitudes stay below this are zero: no f16 scale can hold them.
pub(crate) const TINY: f32 = 1e-15;

/// `N` candidates from `first` on, `step` apart.
pub(crate) const fn steps<const N: usize>(first: f32, step: f32) -> [f32; N] {
    let mut candidates = [first; N];
    let mut i = 1;
    while i < N {
        candidates[i] = first + step * i as f32;
        i += 1;
    }
    candidates
}

/// The numbers that a format can hold under a scale of 1.
pub(crate) trait Grid: Copy {
    /// The number nearest to `x * inverse`.
    fn nearest<V: Vector>(self, x: V, inverse: V) -> V;
}

/// All integers between two.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Levels {
    /// Least level.
    pub(crate) low: f32,
    /// Greatest level.
    pub(crate) high: f32,
}

impl Grid for Levels {
    #[inline(always)]
    fn nearest<V: Vector>(self, x: V, inverse: V) -> V {
        (x * inverse).clamp(self.low, self.high).round()
    }
}

/// What one assignment of levels `q` amounts to.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Fit<const N: usize> {
    /// `sum w (x - scale q)^2`.
    pub(crate) error: Lanes<N>,
    /// `sum w q x`.
    pub(crate) qx: Lanes<N>,
    /// `sum w q^2`.
    pub(crate) qq: Lanes<N>,
}

/// Rounds to the nearest levels under `scale` and sums.
#[inline(always)]
pub(crate) fn fit<const N: usize, const LEN: usize>(
    x: &[Lanes<N>; LEN],
    w: &[Lanes<N>; LEN],
    grid: impl Grid,
    scale: Lanes<N>,
) -> Fit<N> {
    let inverse = Lanes::splat(1.0).div_or_zero(scale);
    let mut fit = Fit { error: Lanes::ZERO, qx: Lanes::ZERO, qq: Lanes::ZERO };
    for i in 0..LEN {
        let q = grid.nearest(x[i], inverse);
        let e = x[i] - scale * q;
        fit.error = fit.error + w[i] * e * e;
        let wq = w[i] * q;
        fit.qx = fit.qx + wq * x[i];
        fit.qq = fit.qq + wq * q;
    }
    fit
}

/// The element of largest magnitude, with its sign, and where that is [`TINY`] a zero.
#[inline(always)]
fn extreme<const N: usize, const LEN: usize>(x: &[Lanes<N>; LEN]) -> Lanes<N> {
    let (mut low, mut high) = (Lanes::ZERO, Lanes::ZERO);
    for v in x {
        low = low.min(*v);
        high = high.max(*v);
    }
    let extreme = Lanes::if_less(high, -low, low, high);
    Lanes::if_less(extreme.abs(), Lanes::splat(TINY), Lanes::ZERO, extreme)
}

/// The scale that puts the element of largest magnitude at `level`.
#[inline(always)]
pub(crate) fn start_scale<const N: usize, const LEN: usize>(x: &[Lanes<N>; LEN], level: f32) -> Lanes<N> {
    extreme(x) * Lanes::splat(1.0 / level)
}

/// Least-squares scale without a minimum: each try puts the element of largest magnitude at that level.
#[inline(always)]
pub(crate) fn scale<const N: usize, const LEN: usize>(
    x: &[Lanes<N>; LEN],
    w: &[Lanes<N>; LEN],
    grid: impl Grid,
    tries: &[f32],
) -> Lanes<N> {
    let unit = Lanes::splat(1.0).div_or_zero(extreme(x));
    let (mut best, mut best_scale) = (Lanes::ZERO, Lanes::ZERO);
    for level in tries {
        let inverse = unit * Lanes::splat(*level);
        let (mut qx, mut qq) = (Lanes::ZERO, Lanes::ZERO);
        for i in 0..LEN {
            let q = grid.nearest(x[i], inverse);
            let wq = w[i] * q;
            qx = qx + wq * x[i];
            qq = qq + wq * q;
        }
        let scale = qx.div_or_zero(qq);
        let explained = scale * qx;
        best_scale = Lanes::if_less(best, explained, scale, best_scale);
        best = best.max(explained);
    }
    best_scale
}

/// Improves a scale that will be stored as a float: rounds it, assigns levels, refits, `passes` times; the best one seen.
#[inline(always)]
pub(crate) fn refine<const N: usize, const LEN: usize>(
    x: &[Lanes<N>; LEN],
    w: &[Lanes<N>; LEN],
    grid: impl Grid,
    stored: Float,
    start: Lanes<N>,
    passes: usize,
) -> Lanes<N> {
    let mut best_scale = stored.nearest(start);
    let mut last = fit(x, w, grid, best_scale);
    let mut best = last.error;
    for _ in 0..passes {
        let scale = stored.nearest(last.qx.div_or_zero(last.qq));
        last = fit(x, w, grid, scale);
        best_scale = Lanes::if_less(last.error, best, scale, best_scale);
        best = best.min(last.error);
    }
    best_scale
}

/// Least-squares scale and minimum: `x = scale q - minimum` with levels `0..=high`. The minimum is at least 0, unless
/// `any_sign`.
///
/// Tries `(high + offset) / (largest - least)` as inverse scales, for each of `offsets`.
#[inline(always)]
pub(crate) fn scale_and_minimum<const N: usize, const LEN: usize>(
    x: &[Lanes<N>; LEN],
    w: &[Lanes<N>; LEN],
    high: f32,
    any_sign: bool,
    offsets: &[f32],
) -> (Lanes<N>, Lanes<N>) {
    let (mut least, mut largest) = (Lanes::ZERO, x[0]);
    let (mut sum_w, mut sum_x) = (Lanes::ZERO, Lanes::ZERO);
    for i in 0..LEN {
        least = least.min(x[i]);
        largest = largest.max(x[i]);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    let range = largest - least;
    let unit = Lanes::splat(1.0).div_or_zero(Lanes::if_less(range, Lanes::splat(TINY), Lanes::ZERO, range));
    // Without a range one level is enough: the minimum alone.
    let (mut best_scale, mut best_minimum) = (Lanes::ZERO, -least);
    let mut best = Lanes::ZERO;
    for offset in offsets {
        let inverse = unit * Lanes::splat(high + offset);
        let (mut q1, mut q2, mut qx) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
        for i in 0..LEN {
            let q = ((x[i] - least) * inverse).min(Lanes::splat(high)).round();
            let wq = w[i] * q;
            q1 = q1 + wq;
            q2 = q2 + wq * q;
            qx = qx + wq * x[i];
        }
        // All elements at one level leave nothing to tell scale from offset: only rounding noise is in the determinant.
        let determinant = sum_w * q2 - q1 * q1;
        let noise = Lanes::splat(1e-6) * sum_w * q2;
        let determinant = Lanes::if_less(noise, determinant, determinant, Lanes::ZERO);
        let scale = (sum_w * qx - sum_x * q1).div_or_zero(determinant);
        let offset = (q2 * sum_x - q1 * qx).div_or_zero(determinant);
        // A positive offset cannot be stored: the best is then none.
        let unfit = if any_sign { Lanes::ZERO } else { offset };
        let alone = Lanes::if_less(Lanes::ZERO, unfit, Lanes::ZERO, determinant);
        let scale = Lanes::if_less(Lanes::ZERO, alone, scale, qx.div_or_zero(q2));
        let offset = Lanes::if_less(Lanes::ZERO, alone, offset, Lanes::ZERO);
        let explained = scale * qx + offset * sum_x;
        best_scale = Lanes::if_less(best, explained, scale, best_scale);
        best_minimum = Lanes::if_less(best, explained, -offset, best_minimum);
        best = best.max(explained);
    }
    (best_scale.max(Lanes::ZERO), best_minimum)
}

/// Weights of element errors, as a factor of them.
pub(crate) trait Weights<V> {
    /// `x` times the weight of element `i`.
    fn weigh(&self, i: usize, x: V) -> V;
}

/// All weights are 1.
pub(crate) struct Even;

impl<V> Weights<V> for Even {
    #[inline(always)]
    fn weigh(&self, _: usize, x: V) -> V {
        x
    }
}

impl<V: Vector, const LEN: usize> Weights<V> for [V; LEN] {
    #[inline(always)]
    fn weigh(&self, i: usize, x: V) -> V {
        self[i] * x
    }
}

/// Weights of a batch: 1 without importance, else `a`, or `a * sqrt(spread + x^2)` if a spread is given.
#[inline(always)]
pub(crate) fn weights<const N: usize, const LEN: usize>(
    x: &[Lanes<N>; LEN],
    importance: Option<&[f32]>,
    spread: Option<Lanes<N>>,
) -> [Lanes<N>; LEN] {
    let Some(importance) = importance else { return [Lanes::splat(1.0); LEN] };
    let mut w = load::<N, LEN>(importance, f32::MAX);
    if let Some(spread) = spread {
        for i in 0..LEN {
            w[i] = w[i] * (spread + x[i] * x[i]).map(f32::sqrt);
        }
    }
    w
}

/// Mean of squares of numbers limited to `limit`, summed in sixteen lanes.
#[inline(always)]
pub(crate) fn mean_square(values: &[f32], limit: f32) -> f32 {
    let mut sum = Lanes::<16>::ZERO;
    for chunk in values.chunks(16) {
        let mut x = Lanes::ZERO;
        x.0[..chunk.len()].copy_from_slice(chunk);
        let x = x.clamp(-limit, limit);
        sum = sum + x * x;
    }
    sum.sum() / values.len() as f32
}
