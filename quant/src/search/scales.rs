//! Super-blocks of sub-blocks, each with an integer scale, under one f16 scale: `x = d * sub * q`. Lane `l` is sub-block `l`.

use super::{Fit, Grid, Levels, fit, scale};
use crate::lanes::Lanes;

/// A super-block's scale (as stored), its sub-blocks' integer scales, and what they amount to.
#[derive(Copy, Clone)]
pub(crate) struct Scales<const SUBS: usize> {
    /// The f16 scale.
    pub(crate) d: f32,
    /// The integer scales.
    pub(crate) sub: Lanes<SUBS>,
    fit: Fit<SUBS>,
}

impl<const SUBS: usize> Scales<SUBS> {
    /// Scales of small error. `subs` are the integer scales there are; each of `tries` puts the element of largest
    /// magnitude of a sub-block at that level.
    #[inline(always)]
    pub(crate) fn search<const LEN: usize>(
        x: &[Lanes<SUBS>; LEN],
        w: &[Lanes<SUBS>; LEN],
        grid: impl Grid,
        subs: Levels,
        tries: &[f32],
    ) -> Self {
        let wanted = scale(x, w, grid, tries);
        Scales::choose(x, w, grid, subs, wanted.largest() / subs.low, wanted).refit(x, w, grid, subs)
    }

    /// What elements are multiplied with to compare them with the grid; 0 where the scale is.
    #[inline(always)]
    pub(crate) fn inverse(&self) -> Lanes<SUBS> {
        Lanes::splat(1.0).div_or_zero(Lanes::splat(self.d) * self.sub)
    }

    /// Integer scales under `d` nearest to `wanted`, or one beside it where that turns out better.
    #[inline(always)]
    fn choose<const LEN: usize>(
        x: &[Lanes<SUBS>; LEN],
        w: &[Lanes<SUBS>; LEN],
        grid: impl Grid,
        subs: Levels,
        d: f32,
        wanted: Lanes<SUBS>,
    ) -> Self {
        let d = Lanes::<SUBS>::splat(d).to_f16_grid();
        let nearest = wanted.div_or_zero(d).clamp(subs.low, subs.high).round();
        let mut best = Scales { d: d.0[0], sub: nearest, fit: fit(x, w, grid, d * nearest) };
        for step in [-1.0, 1.0] {
            let sub = (nearest + Lanes::splat(step)).clamp(subs.low, subs.high);
            let other = fit(x, w, grid, d * sub);
            let (old, new) = (best.fit.error, other.error);
            best.sub = Lanes::if_less(new, old, sub, best.sub);
            best.fit.qx = Lanes::if_less(new, old, other.qx, best.fit.qx);
            best.fit.qq = Lanes::if_less(new, old, other.qq, best.fit.qq);
            best.fit.error = new.min(old);
        }
        best
    }

    /// The same after a least-squares refit of `d` to the levels, if that is better.
    #[inline(always)]
    fn refit<const LEN: usize>(
        self,
        x: &[Lanes<SUBS>; LEN],
        w: &[Lanes<SUBS>; LEN],
        grid: impl Grid,
        subs: Levels,
    ) -> Self {
        let d = Lanes([(self.sub * self.fit.qx).sum()]).div_or_zero(Lanes([(self.sub * self.sub * self.fit.qq).sum()]));
        let wanted = self.fit.qx.div_or_zero(self.fit.qq);
        let other = Scales::choose(x, w, grid, subs, d.0[0], wanted);
        if other.fit.error.sum() < self.fit.error.sum() { other } else { self }
    }
}
