//! Sixteen numbers in registers, or eight of float64.
//!
//! Every operation is the one that [`Lanes`](crate::lanes::Lanes) writes out, rounded the same: fused where that says
//! `mul_add`, and nowhere else. They are inlined into functions compiled for the instruction set, which only run where it
//! is there (`simd.rs`).

use crate::vector::{Eight, SIXTEEN, Sixteen, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

/// One register. Values are made in functions that [`Level`](crate::simd::Level) guards only.
#[derive(Copy, Clone)]
pub(crate) struct Avx512(__m512);

/// Two registers. Values are made in functions that [`Level`](crate::simd::Level) guards only.
#[derive(Copy, Clone)]
pub(crate) struct Avx2(__m256, __m256);

/// One register. Values are made in functions that [`Level`](crate::simd::Level) guards only.
#[derive(Copy, Clone)]
pub(crate) struct Avx512Doubles(__m512d);

/// Two registers. Values are made in functions that [`Level`](crate::simd::Level) guards only.
#[derive(Copy, Clone)]
pub(crate) struct Avx2Doubles(__m256d, __m256d);

macro_rules! operators {
    ($($trait:ident $method:ident $wide:ident $half:ident),*) => {$(
        impl $trait for Avx512 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: see the type.
                Avx512(unsafe { $wide(self.0, other.0) })
            }
        }
        impl $trait for Avx2 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: see the type.
                unsafe { Avx2($half(self.0, other.0), $half(self.1, other.1)) }
            }
        }
    )*};
}
operators!(
    Add add _mm512_add_ps _mm256_add_ps,
    Sub sub _mm512_sub_ps _mm256_sub_ps,
    Mul mul _mm512_mul_ps _mm256_mul_ps,
    Div div _mm512_div_ps _mm256_div_ps
);

impl Vector for Avx512 {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        Avx512(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn if_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        // SAFETY: see the type.
        Avx512(unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0), no.0, yes.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see the type.
        Avx512(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see the type.
        Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see the type.
        Avx512(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: see the type.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self::load(&self.store().map(f))
    }
}

impl Sixteen for Avx512 {
    const REGISTERS: usize = 32;
    type Eight = Avx512Doubles;

    #[inline(always)]
    fn load(x: &[f32; SIXTEEN]) -> Self {
        // SAFETY: see the type; the pointer is to sixteen numbers.
        Avx512(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }

    #[inline(always)]
    fn store(self) -> [f32; SIXTEEN] {
        let mut x = [0.0; SIXTEEN];
        // SAFETY: see the type; the pointer is to sixteen numbers.
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), self.0) };
        x
    }

    #[inline(always)]
    fn prefetch<T>(x: *const T) {
        // SAFETY: nothing is read, and every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.cast()) };
    }
}

impl Vector for Avx2 {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        let half = unsafe { _mm256_set1_ps(x) };
        Avx2(half, half)
    }

    #[inline(always)]
    fn if_less(a: Self, b: Self, yes: Self, no: Self) -> Self {
        // SAFETY: see the type.
        unsafe {
            Avx2(
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see the type.
        unsafe { Avx2(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see the type.
        unsafe { Avx2(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see the type.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Avx2(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: see the type.
        unsafe { Avx2(_mm256_fmadd_ps(self.0, factor.0, sum.0), _mm256_fmadd_ps(self.1, factor.1, sum.1)) }
    }

    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self::load(&self.store().map(f))
    }
}

impl Sixteen for Avx2 {
    const REGISTERS: usize = 8;
    type Eight = Avx2Doubles;

    #[inline(always)]
    fn load(x: &[f32; SIXTEEN]) -> Self {
        let (low, high) = x.split_at(SIXTEEN / 2);
        // SAFETY: see the type; the pointers are to eight numbers each.
        unsafe { Avx2(_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())) }
    }

    #[inline(always)]
    fn store(self) -> [f32; SIXTEEN] {
        let mut x = [0.0; SIXTEEN];
        let (low, high) = x.split_at_mut(SIXTEEN / 2);
        // SAFETY: see the type; the pointers are to eight numbers each.
        unsafe {
            _mm256_storeu_ps(low.as_mut_ptr(), self.0);
            _mm256_storeu_ps(high.as_mut_ptr(), self.1);
        }
        x
    }

    #[inline(always)]
    fn prefetch<T>(x: *const T) {
        // SAFETY: nothing is read, and every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.cast()) };
    }
}

impl Eight for Avx512Doubles {
    #[inline(always)]
    fn load(x: &[f64; 8]) -> Self {
        // SAFETY: see the type; the pointer is to eight numbers.
        Avx512Doubles(unsafe { _mm512_loadu_pd(x.as_ptr()) })
    }

    #[inline(always)]
    fn store(self) -> [f64; 8] {
        let mut x = [0.0; 8];
        // SAFETY: see the type; the pointer is to eight numbers.
        unsafe { _mm512_storeu_pd(x.as_mut_ptr(), self.0) };
        x
    }

    #[inline(always)]
    fn splat(x: f64) -> Self {
        // SAFETY: see the type.
        Avx512Doubles(unsafe { _mm512_set1_pd(x) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: see the type.
        Avx512Doubles(unsafe { _mm512_fmadd_pd(self.0, factor.0, sum.0) })
    }
}

impl Eight for Avx2Doubles {
    #[inline(always)]
    fn load(x: &[f64; 8]) -> Self {
        let (low, high) = x.split_at(4);
        // SAFETY: see the type; the pointers are to four numbers each.
        unsafe { Avx2Doubles(_mm256_loadu_pd(low.as_ptr()), _mm256_loadu_pd(high.as_ptr())) }
    }

    #[inline(always)]
    fn store(self) -> [f64; 8] {
        let mut x = [0.0; 8];
        let (low, high) = x.split_at_mut(4);
        // SAFETY: see the type; the pointers are to four numbers each.
        unsafe {
            _mm256_storeu_pd(low.as_mut_ptr(), self.0);
            _mm256_storeu_pd(high.as_mut_ptr(), self.1);
        }
        x
    }

    #[inline(always)]
    fn splat(x: f64) -> Self {
        // SAFETY: see the type.
        let half = unsafe { _mm256_set1_pd(x) };
        Avx2Doubles(half, half)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: see the type.
        unsafe { Avx2Doubles(_mm256_fmadd_pd(self.0, factor.0, sum.0), _mm256_fmadd_pd(self.1, factor.1, sum.1)) }
    }
}
