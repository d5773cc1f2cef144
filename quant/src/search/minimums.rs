//! Super-blocks of 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum, under two f16 scales:
//! `x = d * scale * q - dmin * minimum`. Lane `l` is sub-block `l`.

use super::scale_and_minimum;
use crate::lanes::{Lanes, store};
use crate::vector::Vector as _;

/// Sub-blocks, and elements of each.
pub(crate) const SUBS: usize = 8;
pub(crate) const SUB_LEN: usize = 32;

/// Largest integer scale and minimum.
const SUB_MAX: f32 = 63.0;

/// Tried around the nearest integer scale and minimum. A larger scale reaches as far down with a larger minimum, so the
/// two corners where one grows and the other shrinks are left out.
const STEPS: [[f32; 2]; 7] = [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -1.0]];

type Group = [Lanes<SUBS>; SUB_LEN];

/// A super-block's scales as stored: `x = d * scale * q - dmin * minimum` with levels `0..=HIGH`.
#[derive(Copy, Clone)]
pub(crate) struct Scales<const HIGH: u8> {
    /// The f16 scale of scales.
    pub(crate) d: f32,
    /// The f16 scale of minimums.
    pub(crate) dmin: f32,
    /// The integer scales.
    pub(crate) scale: Lanes<SUBS>,
    /// The integer minimums.
    pub(crate) minimum: Lanes<SUBS>,
    error: Lanes<SUBS>,
}

impl<const HIGH: u8> Scales<HIGH> {
    /// Scales of small error; `offsets` as in [`scale_and_minimum`].
    #[inline(always)]
    pub(crate) fn search(x: &Group, w: &Group, offsets: &[f32]) -> Self {
        let wanted = scale_and_minimum(x, w, HIGH as f32, false, offsets);
        let start = [wanted.0.largest() / SUB_MAX, wanted.1.largest() / SUB_MAX];
        Scales::choose(x, w, start, wanted).refit(x, w)
    }

    /// The elements' levels.
    #[inline(always)]
    pub(crate) fn levels(&self, x: &Group) -> [[i8; SUB_LEN]; SUBS] {
        let minimum = Lanes::splat(self.dmin) * self.minimum;
        let inverse = Lanes::splat(1.0).div_or_zero(Lanes::splat(self.d) * self.scale);
        store(x, |x| Self::nearest(x, minimum, inverse))
    }

    #[inline(always)]
    fn nearest(x: Lanes<SUBS>, minimum: Lanes<SUBS>, inverse: Lanes<SUBS>) -> Lanes<SUBS> {
        ((x + minimum) * inverse).clamp(0.0, HIGH as f32).round()
    }

    #[inline(always)]
    fn error(x: &Group, w: &Group, scale: Lanes<SUBS>, minimum: Lanes<SUBS>) -> Lanes<SUBS> {
        let inverse = Lanes::splat(1.0).div_or_zero(scale);
        let mut error = Lanes::ZERO;
        for i in 0..SUB_LEN {
            let e = x[i] - (scale * Self::nearest(x[i], minimum, inverse) - minimum);
            error = error + w[i] * e * e;
        }
        error
    }

    /// Integer scales and minimums nearest to what is wanted, or beside that where it turns out better.
    #[inline(always)]
    fn choose(x: &Group, w: &Group, [d, dmin]: [f32; 2], wanted: (Lanes<SUBS>, Lanes<SUBS>)) -> Self {
        let (d, dmin) = (Lanes::<SUBS>::splat(d).to_f16_grid(), Lanes::<SUBS>::splat(dmin).to_f16_grid());
        let scale = wanted.0.div_or_zero(d).clamp(0.0, SUB_MAX).round();
        let minimum = wanted.1.div_or_zero(dmin).clamp(0.0, SUB_MAX).round();
        let mut best = Scales { d: d.0[0], dmin: dmin.0[0], scale, minimum, error: Lanes::splat(f32::INFINITY) };
        for [ds, dm] in STEPS {
            let scale = (scale + Lanes::splat(ds)).clamp(0.0, SUB_MAX);
            let minimum = (minimum + Lanes::splat(dm)).clamp(0.0, SUB_MAX);
            let error = Self::error(x, w, d * scale, dmin * minimum);
            best.scale = Lanes::if_less(error, best.error, scale, best.scale);
            best.minimum = Lanes::if_less(error, best.error, minimum, best.minimum);
            best.error = best.error.min(error);
        }
        best
    }

    /// The same after a least-squares refit of `d` and `dmin` to the levels, if that is better.
    #[inline(always)]
    fn refit(self, x: &Group, w: &Group) -> Self {
        let (scale, minimum) = (Lanes::splat(self.d) * self.scale, Lanes::splat(self.dmin) * self.minimum);
        let inverse = Lanes::splat(1.0).div_or_zero(scale);
        let zero = Lanes::<SUBS>::ZERO;
        let (mut w1, mut x1, mut q1, mut q2, mut qx) = (zero, zero, zero, zero, zero);
        for i in 0..SUB_LEN {
            let q = Self::nearest(x[i], minimum, inverse);
            let wq = w[i] * q;
            w1 = w1 + w[i];
            x1 = x1 + w[i] * x[i];
            q1 = q1 + wq;
            q2 = q2 + wq * q;
            qx = qx + wq * x[i];
        }
        // Normal equations of x = d a - dmin b, where a = scale q and b = minimum.
        let (s, m) = (self.scale, self.minimum);
        let (aa, ab, bb) = ((s * s * q2).sum(), (s * m * q1).sum(), (m * m * w1).sum());
        let (ax, bx) = ((s * qx).sum(), (m * x1).sum());
        let determinant = aa * bb - ab * ab;
        let [d, dmin] = if determinant > 1e-6 * aa * bb {
            [(ax * bb - bx * ab) / determinant, (ax * ab - bx * aa) / determinant]
        } else {
            [ax / aa.max(f32::MIN_POSITIVE), 0.0]
        };
        // The sub-blocks' own best scales and minimums for these levels.
        let determinant = w1 * q2 - q1 * q1;
        let own = ((w1 * qx - x1 * q1).div_or_zero(determinant), (q1 * qx - q2 * x1).div_or_zero(determinant));
        let other = Scales::choose(x, w, [d, dmin], own);
        if other.error.sum() < self.error.sum() { other } else { self }
    }
}
