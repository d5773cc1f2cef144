//! One body, compiled for every instruction set, picked at run time.
//!
//! A body is plain Rust over fixed-size lanes; the compiler turns it into vectors of whatever the instruction set has.
//! Multiplications and additions are fused by name ([`super::fused`]) or not at all, so that every variant gives the
//! same bits and the plain one is the oracle of the others.

/// Numbers handled side by side: one AVX-512 register, two AVX ones.
pub const LANES: usize = 16;

/// Defines `fn name(args) -> ret` that runs `body` compiled for AVX-512, AVX2 (either with FMA) or the baseline. A body
/// of `fn name<const FUSED: bool>` is told whether what it is compiled for has [`super::fused::fma`] as an instruction;
/// callers see no parameter.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        dispatch! {
            $(#[$meta])*
            $vis fn $name<const _FUSED: bool>($($arg: $ty),*) $(-> $ret)? $body
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<const $fused:ident: bool>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const $fused: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
                        // SAFETY: the processor has every feature that the function was compiled for.
                        return unsafe { avx512($($arg),*) };
                    }
                    // SAFETY: the processor has both features that the function was compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ $crate::cpu::fused::EVERYWHERE }>($($arg),*)
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

/// Asks for the cache line of `x[at]`, if there is one, to be there when it is needed.
#[inline(always)]
pub fn prefetch(x: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(x) = x.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is one of ours, every x86-64 processor has the instruction, and it changes no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(x).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, at);
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
    fn dot_of_odd_lengths_equals_float64() {
        for n in [0, 1, 7, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let truth: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dot(&a, &b)) - truth).abs() < 1e-5);
        }
    }
}
