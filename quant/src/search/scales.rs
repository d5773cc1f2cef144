//! Super-blocks of sub-blocks, each with an integer scale, under one f16 scale: `x = d * sub * q`.
//!
//! Lane `l` is a sub-block; `SUBS` lanes in a row are a super-block.

use super::{Fit, Grid, Levels, fit, scale};
use crate::lanes::Lanes;
use crate::vector::Vector as _;

/// The scale of each super-block (as stored), its sub-blocks' integer scales, and what they amount to.
#[derive(Copy, Clone)]
pub(crate) struct Scales<const N: usize, const SUBS: usize> {
    /// The f16 scale, in each lane of its super-block.
    pub(crate) d: Lanes<N>,
    /// The integer scales.
    pub(crate) sub: Lanes<N>,
    fit: Fit<N>,
}

impl<const N: usize, const SUBS: usize> Scales<N, SUBS> {
    /// Scales of small error. `subs` are the integer scales there are; each of `tries` puts the element of largest
    /// magnitude of a sub-block at that level.
    #[inline(always)]
    pub(crate) fn search<const LEN: usize>(
        x: &[Lanes<N>; LEN],
        w: &[Lanes<N>; LEN],
        grid: impl Grid,
        subs: Levels,
        tries: &[f32],
    ) -> Self {
        let wanted = scale(x, w, grid, tries);
        let start = wanted.each::<SUBS>(Lanes::largest) / Lanes::splat(subs.low);
        Scales::choose(x, w, grid, subs, start, wanted).refit(x, w, grid, subs)
    }

    /// What elements are multiplied with to compare them with the grid; 0 where the scale is.
    #[inline(always)]
    pub(crate) fn inverse(&self) -> Lanes<N> {
        Lanes::splat(1.0).div_or_zero(self.d * self.sub)
    }

    /// Integer scales under `d` nearest to `wanted`, or one beside it where that turns out better.
    #[inline(always)]
    fn choose<const LEN: usize>(
        x: &[Lanes<N>; LEN],
        w: &[Lanes<N>; LEN],
        grid: impl Grid,
        subs: Levels,
        d: Lanes<N>,
        wanted: Lanes<N>,
    ) -> Self {
        let d = d.to_f16_grid();
        let nearest = wanted.div_or_zero(d).clamp(subs.low, subs.high).round();
        let mut best = Scales { d, sub: nearest, fit: fit(x, w, grid, d * nearest) };
        for step in [-1.0, 1.0] {
            let sub = (nearest + Lanes::splat(step)).clamp(subs.low, subs.high);
            let other = fit(x, w, grid, d * sub);
            let (old, new) = (best.fit.error, other.error);
            best.replace(new, old, Scales { d, sub, fit: other });
        }
        best
    }

    /// The same after a least-squares refit of `d` to the levels, if that is better.
    #[inline(always)]
    fn refit<const LEN: usize>(self, x: &[Lanes<N>; LEN], w: &[Lanes<N>; LEN], grid: impl Grid, subs: Levels) -> Self {
        let sum = |lanes: Lanes<N>| lanes.each::<SUBS>(Lanes::sum);
        let d = sum(self.sub * self.fit.qx).div_or_zero(sum(self.sub * self.sub * self.fit.qq));
        let wanted = self.fit.qx.div_or_zero(self.fit.qq);
        let other = Scales::choose(x, w, grid, subs, d, wanted);
        let mut best = self;
        best.replace(sum(other.fit.error), sum(self.fit.error), other);
        best
    }

    /// Takes over what `other` has where `new` is less than `old`.
    #[inline(always)]
    fn replace(&mut self, new: Lanes<N>, old: Lanes<N>, other: Self) {
        self.d = Lanes::if_less(new, old, other.d, self.d);
        self.sub = Lanes::if_less(new, old, other.sub, self.sub);
        self.fit.qx = Lanes::if_less(new, old, other.fit.qx, self.fit.qx);
        self.fit.qq = Lanes::if_less(new, old, other.fit.qq, self.fit.qq);
        self.fit.error = Lanes::if_less(new, old, other.fit.error, self.fit.error);
    }
}
