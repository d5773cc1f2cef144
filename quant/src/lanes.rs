//! Several groups side by side: lane `l` of every value belongs to group `l`.
//!
//! A group is what shares one scale: a block, or a sub-block of a K-quant. With one group in a lane the searches read like
//! scalar code, sum each group in element order whatever the vector width, and need no horizontal sums.

use crate::vector::{ROUNDER, SIXTEEN, Sixteen, Vector};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// One number of each of `N` groups.
#[derive(Copy, Clone, Debug)]
#[repr(align(32))]
pub(crate) struct Lanes<const N: usize>(pub [f32; N]);

macro_rules! elementwise {
    ($($trait:ident $method:ident $op:tt),*) => {$(
        impl<const N: usize> $trait for Lanes<N> {
            type Output = Self;
            #[inline(always)]
            fn $method(mut self, other: Self) -> Self {
                for l in 0..N {
                    self.0[l] $op other.0[l];
                }
                self
            }
        }
    )*};
}
elementwise!(Add add +=, Sub sub -=, Mul mul *=, Div div /=);

impl<const N: usize> Neg for Lanes<N> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self.map(|x| -x)
    }
}

impl<const N: usize> Vector for Lanes<N> {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Lanes([x; N])
    }

    #[inline(always)]
    fn map(mut self, f: impl Fn(f32) -> f32) -> Self {
        for l in 0..N {
            self.0[l] = f(self.0[l]);
        }
        self
    }

    #[inline(always)]
    fn if_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        let mut r = no;
        for l in 0..N {
            r.0[l] = if a.0[l] < b.0[l] { yes.0[l] } else { no.0[l] };
        }
        r
    }

    #[inline(always)]
    fn min(mut self, other: Self) -> Self {
        for l in 0..N {
            self.0[l] = if self.0[l] < other.0[l] { self.0[l] } else { other.0[l] };
        }
        self
    }

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for l in 0..N {
            self.0[l] = if self.0[l] > other.0[l] { self.0[l] } else { other.0[l] };
        }
        self
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    fn mul_add(mut self, factor: Self, sum: Self) -> Self {
        for l in 0..N {
            self.0[l] = self.0[l].mul_add(factor.0[l], sum.0[l]);
        }
        self
    }
}

impl<const N: usize> Lanes<N> {
    pub(crate) const ZERO: Self = Lanes([0.0; N]);

    /// Integers, of integral numbers below 2^22.
    #[inline(always)]
    pub(crate) fn to_ints(self) -> [i32; N] {
        let mut ints = [0; N];
        for l in 0..N {
            ints[l] = (self.0[l] + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32;
        }
        ints
    }

    /// What `f` makes of each `LEN` lanes in a row, in all of them.
    #[inline(always)]
    pub(crate) fn each<const LEN: usize>(mut self, f: impl Fn(Lanes<LEN>) -> f32) -> Self {
        for part in self.0.as_chunks_mut::<LEN>().0 {
            *part = [f(Lanes(*part)); LEN];
        }
        self
    }

    /// Sum over lanes, in lane order.
    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        let mut sum = 0.0;
        for l in 0..N {
            sum += self.0[l];
        }
        sum
    }

    /// The number of largest magnitude, with its sign; the first one of equals.
    #[inline(always)]
    pub(crate) fn largest(self) -> f32 {
        let mut largest = 0.0f32;
        for l in 0..N {
            if self.0[l].abs() > largest.abs() {
                largest = self.0[l];
            }
        }
        largest
    }
}

/// Interleaves the first half of the rows with the second; log2(N) such rounds transpose an N by N square.
#[inline(always)]
fn interleave<const N: usize>(from: &[Lanes<N>; N], to: &mut [Lanes<N>; N]) {
    for i in 0..N / 2 {
        let (a, b) = (&from[i].0, &from[i + N / 2].0);
        for l in 0..N / 2 {
            to[2 * i].0[2 * l] = a[l];
            to[2 * i].0[2 * l + 1] = b[l];
            to[2 * i + 1].0[2 * l] = a[N / 2 + l];
            to[2 * i + 1].0[2 * l + 1] = b[N / 2 + l];
        }
    }
}

/// Transposes a square in place, N being 8 or 16.
#[inline(always)]
fn transpose<const N: usize>(square: &mut [Lanes<N>; N]) {
    let mut other = [Lanes::ZERO; N];
    interleave(square, &mut other);
    interleave(&other, square);
    interleave(square, &mut other);
    match N {
        8 => *square = other,
        16 => interleave(&other, square),
        _ => unreachable!("squares of 8 or 16"),
    }
}

/// Up to `N` contiguous groups of `LEN` numbers into lanes; missing groups are zero. `LEN` is a multiple of `N`.
///
/// Magnitudes are limited to `limit`, the largest the format can hold, so that nothing overflows later; NaN becomes `-limit`.
#[inline(always)]
pub(crate) fn load<const N: usize, const LEN: usize>(values: &[f32], limit: f32) -> [Lanes<N>; LEN] {
    const { assert!(LEN.is_multiple_of(N)) };
    let mut lanes = [Lanes::ZERO; LEN];
    let groups = values.as_chunks::<LEN>().0;
    for part in 0..LEN / N {
        let mut square = [Lanes::ZERO; N];
        for (row, group) in square.iter_mut().zip(groups) {
            row.0.copy_from_slice(&group[part * N..][..N]);
            *row = row.clamp(-limit, limit);
        }
        transpose(&mut square);
        lanes[part * N..][..N].copy_from_slice(&square);
    }
    lanes
}

/// The same for sixteen groups, into registers.
#[inline(always)]
pub(crate) fn load_sixteen<V: Sixteen, const LEN: usize>(values: &[f32], limit: f32) -> [V; LEN] {
    let mut lanes = [V::zero(); LEN];
    let groups = values.as_chunks::<LEN>().0;
    for (part, lanes) in lanes.as_chunks_mut::<SIXTEEN>().0.iter_mut().enumerate() {
        let mut square = [Lanes::ZERO; SIXTEEN];
        for (row, group) in square.iter_mut().zip(groups) {
            row.0 = V::load(&group.as_chunks().0[part]).clamp(-limit, limit).store();
        }
        transpose(&mut square);
        for (lanes, row) in lanes.iter_mut().zip(&square) {
            *lanes = V::load(&row.0);
        }
    }
    lanes
}

/// The way back: what `level` makes of each element, an integer, as bytes, group after group.
#[inline(always)]
pub(crate) fn store<const N: usize, const LEN: usize>(
    lanes: &[Lanes<N>; LEN],
    level: impl Fn(Lanes<N>) -> Lanes<N>,
) -> [[i8; LEN]; N] {
    let mut groups = [[0; LEN]; N];
    for part in 0..LEN / N {
        let mut square = [Lanes::ZERO; N];
        for i in 0..N {
            square[i] = level(lanes[part * N + i]);
        }
        transpose(&mut square);
        for (group, row) in groups.iter_mut().zip(&square) {
            for (byte, int) in group[part * N..][..N].iter_mut().zip(row.to_ints()) {
                *byte = int as i8;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float16::F16_MAX;
    use half::f16;

    #[test]
    fn f16_grid_holds_the_nearest_f16() {
        for i in 0..200_000u32 {
            let x = f32::from_bits(0x3000_0000 + i * 5003 + (i & 1) * 0x8000_0000);
            let got = Lanes([x]).to_f16_grid().0[0];
            let want = f16::from_f32(x.clamp(-F16_MAX, F16_MAX)).to_f32();
            // Both are nearest: they may differ in which way a tie goes.
            assert_eq!((got - x).abs(), (want - x).abs().min((got - x).abs()), "{x:e}: {got:e} {want:e}");
            assert_eq!(f16::from_f32(got).to_f32(), got, "{x:e}");
        }
    }

    #[test]
    fn rounds_to_even_and_gives_integers() {
        let x = Lanes([0.5, 1.5, -0.5, -1.5, 2.4999, -127.7, 31.0, 0.0]);
        assert_eq!(x.round().0, [0.0, 2.0, 0.0, -2.0, 2.0, -128.0, 31.0, 0.0]);
        assert_eq!(x.round().to_ints(), [0, 2, 0, -2, 2, -128, 31, 0]);
    }
}
