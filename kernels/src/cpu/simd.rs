//! One body, compiled for every instruction set, picked at run time.
//!
//! A body is plain Rust over fixed-size lanes; the compiler turns it into vectors of whatever the instruction set has.
//! Multiplications and additions are never fused, so that every variant gives the same bits and the plain one is the
//! oracle of the others.

/// Numbers handled side by side: one AVX-512 register, two AVX ones.
pub const LANES: usize = 16;

/// Defines `fn name(args) -> ret` that runs `body` compiled for AVX-512, AVX2 or the baseline.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
                    // SAFETY: the processor has every feature that the function was compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the feature that the function was compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use dispatch;

/// `e^x` with a relative error below 2e-7 for `-87 <= x <= 88`; clamped outside (at most 1.7e-38 below).
///
/// Range reduction by Cody and Waite (ln 2 in two parts), then the degree-6 Taylor-like polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest whole number
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // n is what the lowest bits of `shifted` hold; 2^n has it, plus 127, as its exponent.
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `2^x` with a relative error below 2.5e-7 for `-125 <= x <= 127`; clamped outside (at most 2.4e-38 below).
///
/// The polynomial is the minimax one of degree 5 for `2^r`, `|r| <= 1/2`, that begins with `1 + r ln 2`.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // as in `exp`
    let x = x.clamp(-125.0, 127.0);
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let p = 1.330_060_7e-3_f32;
    let p = p * r + 9.669_691e-3;
    let p = p * r + 5.550_558_5e-2;
    let p = p * r + 0.240_222_83;
    let p = p * r + std::f32::consts::LN_2;
    let p = p * r + 1.0;
    // p is near 1: adding to its exponent multiplies by 2^n.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `ln(1 + x)` with a relative error below 3e-7 for `0 <= x <= 1`, by the polynomial of Cephes' `logf`.
#[inline(always)]
fn ln_1p(x: f32) -> f32 {
    // ln(1 + x) = ln((1 + x) / 2) + ln 2 above sqrt(2) - 1; either way the polynomial's argument is exact.
    let high = x > 0.414_213_57;
    let r = if high { (x - 1.0) * 0.5 } else { x };
    let p = 7.037_683_6e-2_f32;
    let p = p * r - 1.151_461e-1;
    let p = p * r + 1.167_699_9e-1;
    let p = p * r - 1.242_014_1e-1;
    let p = p * r + 1.424_932_3e-1;
    let p = p * r - 1.666_805_8e-1;
    let p = p * r + 2.000_071_4e-1;
    let p = p * r - 2.499_999_4e-1;
    let p = p * r + 3.333_333e-1;
    let square = r * r;
    let ln = r + (p * r * square - 0.5 * square);
    if high { ln + std::f32::consts::LN_2 } else { ln }
}

/// `ln(1 + e^x)` with a relative error below 5e-7 where it is above 1.7e-38.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    x.max(0.0) + ln_1p(exp(-x.abs()))
}

/// The first numbers of `x`, and zeros where there are no more.
#[inline(always)]
pub fn lanes(x: &[f32]) -> [f32; LANES] {
    match x.first_chunk() {
        Some(full) => *full,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            lanes
        }
    }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Partial sums of [`dot`]: several registers' worth, so that additions need not wait for each other.
const SUMS: usize = 4 * LANES;

dispatch! {
    /// Dot product of slices of one length, summed in [`SUMS`] partial sums.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0.0f32; SUMS];
        let (a_chunks, b_chunks) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
        let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
        for (a, b) in a_chunks.zip(b_chunks) {
            for l in 0..SUMS {
                sums[l] += a[l] * b[l];
            }
        }
        for ((s, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
            *s += a * b;
        }
        let mut half = SUMS / 2;
        while half > 0 {
            for l in 0..half {
                sums[l] += sums[l + half];
            }
            half /= 2;
        }
        sums[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_over_its_whole_range() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let truth = f64::from(x).exp();
            assert!((f64::from(exp(x)) / truth - 1.0).abs() < 2e-7, "{x}");
        }
        assert!(exp(-1e9) < 2e-38 && exp(f32::MAX).is_finite());
    }

    #[test]
    fn exp2_is_close_over_its_whole_range() {
        for i in -12500..12700 {
            let x = i as f32 * 0.01;
            let truth = f64::from(x).exp2();
            assert!((f64::from(exp2(x)) / truth - 1.0).abs() < 2.5e-7, "{x}");
        }
        assert!(exp2(-1e9) < 2.4e-38 && exp2(f32::MAX).is_finite() && exp2(f32::NAN).is_nan());
    }

    #[test]
    fn softplus_is_close_over_its_whole_range() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let truth = f64::from(x).exp().ln_1p();
            assert!((f64::from(softplus(x)) / truth - 1.0).abs() < 5e-7, "{x}: {} {truth}", softplus(x));
        }
        assert_eq!([softplus(1e30), softplus(f32::INFINITY)], [1e30, f32::INFINITY]);
        assert!(softplus(f32::NEG_INFINITY) < 2e-38 && softplus(f32::NAN).is_nan());
    }

    #[test]
    fn dot_of_odd_lengths_equals_float64() {
        for n in [0, 1, 7, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let truth: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dot(&a, &b)) - truth).abs() < 1e-5);
        }
    }
}
