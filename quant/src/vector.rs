//! Several numbers at once, as arithmetic on them is written: [`Lanes`] for the compiler to make vectors of, and for long
//! loops whose accumulators have to stay in registers the registers themselves (`wide.rs`), with equal results bit for bit.

use crate::float16::F16_MAX;
use crate::lanes::Lanes;
use std::ops::{Add, Div, Mul, Sub};

/// Adding this to a number below 2^22 leaves its nearest integer (ties to even) in the last bits.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// Lanes of a [`Sixteen`].
pub(crate) const SIXTEEN: usize = 16;

/// Numbers side by side.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn splat(x: f32) -> Self;

    /// `yes` where `a < b`, else `no`.
    fn if_less(a: Self, b: Self, yes: Self, no: Self) -> Self;

    /// `self` where it is less, else `other`.
    fn min(self, other: Self) -> Self;

    /// `self` where it is greater, else `other`.
    fn max(self, other: Self) -> Self;

    fn abs(self) -> Self;

    /// `self * factor + sum`, rounded once.
    fn mul_add(self, factor: Self, sum: Self) -> Self;

    fn map(self, f: impl Fn(f32) -> f32) -> Self;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    /// Into `low..=high`; NaN becomes `low`.
    #[inline(always)]
    fn clamp(self, low: f32, high: f32) -> Self {
        self.max(Self::splat(low)).min(Self::splat(high))
    }

    /// Nearest integer, ties to even, of numbers below 2^22.
    #[inline(always)]
    fn round(self) -> Self {
        self + Self::splat(ROUNDER) - Self::splat(ROUNDER)
    }

    /// `self / divisor`, or 0 where the divisor's magnitude is below 1e-30.
    #[inline(always)]
    fn div_or_zero(self, divisor: Self) -> Self {
        let tiny = Self::splat(1e-30);
        let safe = Self::if_less(divisor.abs(), tiny, Self::splat(1.0), divisor);
        Self::if_less(divisor.abs(), tiny, Self::zero(), self / safe)
    }

    /// Nearest finite f16 value: what a scale will be once stored.
    #[inline(always)]
    fn to_f16_grid(self) -> Self {
        let x = self.clamp(-F16_MAX, F16_MAX);
        // Veltkamp's splitting keeps the upper 24 - 13 = 11 bits, f16's precision.
        let t = x * Self::splat(8193.0);
        let normal = t - (t - x);
        // Below 2^-14 the grid is even, with steps of 2^-24: the last bit of numbers near 0.75.
        let subnormal = x + Self::splat(0.75) - Self::splat(0.75);
        Self::if_less(x.abs(), Self::splat(1.0 / 16384.0), subnormal, normal)
    }
}

/// Sixteen of them: a register of AVX-512, two of AVX2.
pub(crate) trait Sixteen: Vector {
    /// How many of them the registers hold.
    const REGISTERS: usize;

    /// As wide, in float64.
    type Eight: Eight;

    fn load(x: &[f32; SIXTEEN]) -> Self;

    fn store(self) -> [f32; SIXTEEN];

    /// Has the numbers at this address brought near, if there are any: a hint, for which any address will do.
    #[inline(always)]
    fn prefetch<T>(_: *const T) {}
}

/// Eight float64: a register of AVX-512, two of AVX2.
pub(crate) trait Eight: Copy {
    fn load(x: &[f64; 8]) -> Self;

    fn store(self) -> [f64; 8];

    fn splat(x: f64) -> Self;

    /// `self * factor + sum`, rounded once.
    fn mul_add(self, factor: Self, sum: Self) -> Self;
}

impl Eight for [f64; 8] {
    #[inline(always)]
    fn load(x: &[f64; 8]) -> Self {
        *x
    }

    #[inline(always)]
    fn store(self) -> [f64; 8] {
        self
    }

    #[inline(always)]
    fn splat(x: f64) -> Self {
        [x; 8]
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        std::array::from_fn(|l| self[l].mul_add(factor[l], sum[l]))
    }
}

impl Sixteen for Lanes<SIXTEEN> {
    const REGISTERS: usize = 4;
    type Eight = [f64; 8];

    #[inline(always)]
    fn load(x: &[f32; SIXTEEN]) -> Self {
        Lanes(*x)
    }

    #[inline(always)]
    fn store(self) -> [f32; SIXTEEN] {
        self.0
    }
}
