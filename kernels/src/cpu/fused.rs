//! Functions of single numbers by fused multiplications and additions: two thirds of the instructions, and one rounding
//! for two. Where the instruction set has none they are computed to the same bits, which takes long: a selective scan
//! 19 ns per state and token, and with AVX-512 0.16 ns.
//!
//! `FUSED` says whether it has, and comes from [`super::simd::dispatch`].

use std::f32::consts::{LN_2, LOG2_E};

/// Whether code that is compiled for nothing in particular may count on [`fma`] as an instruction.
pub const EVERYWHERE: bool = cfg!(any(target_feature = "fma", not(target_arch = "x86_64")));

/// `a * b + c`, rounded once.
#[inline(always)]
pub fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { fma_by_float64(a, b, c) }
}

/// [`fma`] without the instruction. The product is exact in float64, and the sum is rounded to odd there, so that
/// rounding it again, to float32, gives what rounding once gives (Boldo and Melquiond, "Emulation of FMA and correctly
/// rounded sums", 2008).
#[inline(always)]
fn fma_by_float64(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // What the addition lost (Knuth's TwoSum); NaN where the sum is no number, and then neither comparison holds.
    let added = sum - product;
    let lost = (product - (sum - added)) + (c - added);
    let too_far = u64::from(lost * sum < 0.0);
    let inexact = u64::from(lost < 0.0) | u64::from(lost > 0.0);
    f64::from_bits(sum.to_bits().wrapping_sub(too_far) | inexact) as f32
}

/// 1.5 * 2^23: adding it rounds to the nearest whole number, which the lowest bits then hold.
const ROUND: f32 = 12_582_912.0;

/// `2^(n + r)` for `|r| <= 1/2`, `shifted` = n + [`ROUND`]. The polynomial is the minimax one of degree 5 that begins
/// with `1 + r ln 2`.
#[inline(always)]
fn exp2_of_parts<const FUSED: bool>(shifted: f32, r: f32) -> f32 {
    let p = 1.330_060_7e-3_f32;
    let p = fma::<FUSED>(p, r, 9.669_691e-3);
    let p = fma::<FUSED>(p, r, 5.550_558_5e-2);
    let p = fma::<FUSED>(p, r, 0.240_222_83);
    let p = fma::<FUSED>(p, r, LN_2);
    let p = fma::<FUSED>(p, r, 1.0);
    // p is near 1: adding to its exponent multiplies by 2^n.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The least and the greatest power that [`exp2_of_product`] raises 2 to.
pub const POWERS: [f32; 2] = [-125.0, 127.0];

/// `2^(a b)` with a relative error below 2.5e-7 where `a b` is within [`POWERS`], in which `WITHIN` is the caller's
/// word for it. Without it, powers below give 0 and powers above 2^127.
#[inline(always)]
pub fn exp2_of_product<const FUSED: bool, const WITHIN: bool>(a: f32, b: f32) -> f32 {
    let shifted = fma::<FUSED>(a, b, ROUND);
    let power = exp2_of_parts::<FUSED>(shifted, fma::<FUSED>(a, b, -(shifted - ROUND)));
    match a * b {
        x if !WITHIN && x < POWERS[0] => 0.0,
        x if !WITHIN && x > POWERS[1] => 1.701_411_8e38,
        _ => power,
    }
}

/// `e^x` with a relative error below 2.5e-7 for `-86 <= x <= 88`; clamped outside (at most 4.5e-38 below).
#[inline(always)]
pub fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// What float32 leaves of log2(e).
    const REST: f32 = 1.925_963e-8;
    let x = x.clamp(-86.0, 88.0);
    let shifted = fma::<FUSED>(x, LOG2_E, ROUND);
    let r = fma::<FUSED>(x, LOG2_E, -(shifted - ROUND));
    exp2_of_parts::<FUSED>(shifted, fma::<FUSED>(x, REST, r))
}

/// `ln(1 + x)` with a relative error below 3e-7 for `0 <= x <= 1`, by the polynomial of Cephes' `logf`.
#[inline(always)]
fn ln_1p<const FUSED: bool>(x: f32) -> f32 {
    // ln(1 + x) = ln((1 + x) / 2) + ln 2 above sqrt(2) - 1; either way the polynomial's argument is exact.
    let high = x > 0.414_213_57;
    let r = if high { (x - 1.0) * 0.5 } else { x };
    let p = 7.037_683_6e-2_f32;
    let p = fma::<FUSED>(p, r, -1.151_461e-1);
    let p = fma::<FUSED>(p, r, 1.167_699_9e-1);
    let p = fma::<FUSED>(p, r, -1.242_014_1e-1);
    let p = fma::<FUSED>(p, r, 1.424_932_3e-1);
    let p = fma::<FUSED>(p, r, -1.666_805_8e-1);
    let p = fma::<FUSED>(p, r, 2.000_071_4e-1);
    let p = fma::<FUSED>(p, r, -2.499_999_4e-1);
    let p = fma::<FUSED>(p, r, 3.333_333e-1);
    let ln = fma::<FUSED>(r * r, fma::<FUSED>(p, r, -0.5), r);
    if high { ln + LN_2 } else { ln }
}

/// `ln(1 + e^x)` with a relative error below 5e-7 where it is above 4.5e-38.
#[inline(always)]
pub fn softplus<const FUSED: bool>(x: f32) -> f32 {
    x.max(0.0) + ln_1p::<FUSED>(exp::<FUSED>(-x.abs()))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_instruction_the_bits_are_the_same() {
        let mut random = fastrand::Rng::with_seed(0);
        let special = [0.0, -0.0, 1.0, f32::MIN_POSITIVE, 1e-45, -3e-42, f32::MAX, f32::INFINITY, 1.0 + f32::EPSILON];
        let special_ones = special.into_iter().flat_map(|a| special.map(|b| (a, b)));
        let special_ones =
            special_ones.flat_map(|(a, b)| special.into_iter().flat_map(move |c| [(a, b, c), (a, -b, c)]));
        // Sums of like size, where halves of units in the last place meet; and any bits at all.
        let near = |random: &mut fastrand::Rng| f32::from_bits(random.u32(0x3f00_0000..0x4000_0000) & !random.u32(..));
        let random_ones = (0..1_000_000).map(|i| match i % 2 {
            0 => (near(&mut random), near(&mut random), -near(&mut random) * (random.u32(0..40) as f32 - 32.0).exp2()),
            _ => (f32::from_bits(random.u32(..)), f32::from_bits(random.u32(..)), f32::from_bits(random.u32(..))),
        });
        for (a, b, c) in special_ones.chain(random_ones) {
            let (found, expected) = (fma::<false>(a, b, c), a.mul_add(b, c));
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{a:e} * {b:e} + {c:e} = {expected:e}, found {found:e}");
        }
    }

    #[test]
    fn exp_is_close_over_its_whole_range() {
        for i in -8600..8800 {
            let x = i as f32 * 0.01;
            let truth = f64::from(x).exp();
            assert!((f64::from(exp::<true>(x)) / truth - 1.0).abs() < 2.5e-7, "{x}");
        }
        assert!(exp::<true>(-1e9) < 4.5e-38 && exp::<true>(f32::MAX).is_finite() && exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn powers_of_two_are_close_over_their_whole_range() {
        for i in -12500..=12700 {
            let (a, b) = (i as f32 * 0.03, 1.0f32 / 3.0);
            let truth = (f64::from(a) * f64::from(b)).exp2();
            let found = exp2_of_product::<true, false>(a, b);
            assert!((f64::from(found) / truth - 1.0).abs() < 2.5e-7, "{a}: {found:e} {truth:e}");
            assert_eq!(found, exp2_of_product::<true, true>(a, b));
        }
        assert_eq!(
            [(-1e9, 1.0), (-63.0, 2.0), (1e30, 1e30)].map(|(a, b)| exp2_of_product::<true, false>(a, b)),
            [0.0, 0.0, 127f32.exp2()]
        );
        assert!(exp2_of_product::<true, false>(f32::NAN, 1.0).is_nan());
    }

    #[test]
    fn softplus_is_close_over_its_whole_range() {
        for i in -8600..8800 {
            let x = i as f32 * 0.01;
            let truth = f64::from(x).exp().ln_1p();
            let found = softplus::<true>(x);
            assert!((f64::from(found) / truth - 1.0).abs() < 5e-7, "{x}: {found} {truth}");
        }
        assert_eq!([softplus::<true>(1e30), softplus::<true>(f32::INFINITY)], [1e30, f32::INFINITY]);
        assert!(softplus::<true>(f32::NEG_INFINITY) < 4.5e-38 && softplus::<true>(f32::NAN).is_nan());
    }
}
