//! One body, compiled once for each instruction set, chosen when the program runs.
//!
//! A body is a plain `#[inline(always)]` function without intrinsics. [`dispatch!`] wraps it in functions that differ only
//! in what the compiler may emit, so the plain one is the oracle of the others. They agree bit for bit because Rust never
//! reassociates or contracts float arithmetic: bodies say their own order of summation, and `mul_add` where they want it
//! fused, which takes long where there is no instruction for it.

/// An instruction set that this machine was seen to have: holding one is what makes calling a wide variant sound.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Level(Set);

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Set {
    /// What the target always has.
    Plain,
    /// AVX2, 8 floats wide.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL, 16 floats wide.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The widest set of this machine. The detection is cached by std: this costs a load and a test.
    #[inline]
    pub(crate) fn best() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            if Level::has_avx512() {
                return Level(Set::Avx512);
            }
            if Level::has_avx2() {
                return Level(Set::Avx2);
            }
        }
        Level(Set::Plain)
    }

    /// Every set of this machine, the plain one first.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Level> {
        let mut levels = vec![Level(Set::Plain)];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(Level::has_avx2().then_some(Level(Set::Avx2)));
            levels.extend(Level::has_avx512().then_some(Level(Set::Avx512)));
        }
        levels
    }

    pub(crate) fn set(self) -> Set {
        self.0
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn has_avx512() -> bool {
        Level::has_avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }
}

/// `dispatch!(pub(crate) fn decode = decode_body(bytes: &[u8], out: &mut [f32]))` defines
/// `decode(level: Level, bytes: &[u8], out: &mut [f32])`, which runs `decode_body` as compiled for `level`. A body that says
/// `body::<Sixteen>(...)` is generic over the level's [`Sixteen`](crate::vector::Sixteen).
macro_rules! dispatch {
    ($vis:vis fn $name:ident = $body:ident::<Sixteen>($($arg:ident: $type:ty),* $(,)?)) => {
        $vis fn $name(level: $crate::simd::Level, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) {
                $body::<$crate::wide::Avx2>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) {
                $body::<$crate::wide::Avx512>($($arg),*)
            }

            $crate::simd::dispatch!(@call level, $body::<$crate::lanes::Lanes<16>>, $($arg),*)
        }
    };
    ($vis:vis fn $name:ident = $body:ident($($arg:ident: $type:ty),* $(,)?)) => {
        $vis fn $name(level: $crate::simd::Level, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) {
                $body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) {
                $body($($arg),*)
            }

            $crate::simd::dispatch!(@call level, $body, $($arg),*)
        }
    };
    (@call $level:ident, $plain:expr, $($arg:ident),*) => {
        match $level.set() {
            $crate::simd::Set::Plain => $plain($($arg),*),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Level` of this set is only made after each of these features was detected.
            $crate::simd::Set::Avx2 => unsafe { avx2($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Level` of this set is only made after each of these features was detected.
            $crate::simd::Set::Avx512 => unsafe { avx512($($arg),*) },
        }
    };
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    /// Floats of every size and sign, and the special ones now and then.
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let special =
            [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-41, 65519.9, 65520.0, f32::NAN, f32::INFINITY];
        (0..n)
            .map(|i| match (i / 256) % 4 {
                0 => f32::from_bits(draw() as u32 & 0xbfff_ffff),
                1 if draw() % 61 == 0 => special[draw() as usize % special.len()],
                2 => (draw() as i32 as f32) * 1e-14,
                _ => (draw() as i32 as f32) * 1e-10,
            })
            .collect()
    }

    #[test]
    fn every_variant_gives_the_bits_of_the_plain_one() {
        let levels = Level::available();
        let values = values(256 * 4 * 37, 7);
        let importance: Vec<f32> = (0..values.len()).map(|i| (i % 13) as f32).collect();
        for &format in Format::ALL {
            let info = format.info();
            for importance in [None, Some(&importance[..])] {
                let encoded: Vec<Vec<u8>> = levels
                    .iter()
                    .map(|&level| {
                        let mut out = vec![0; format.row_bytes(values.len()).unwrap()];
                        (info.encode)(level, &values, importance, &mut out);
                        out
                    })
                    .collect();
                let decoded: Vec<Vec<u32>> = levels
                    .iter()
                    .map(|&level| {
                        let mut out = vec![0.0; values.len()];
                        (info.decode)(level, &encoded[0], &mut out);
                        out.iter().map(|x| x.to_bits()).collect()
                    })
                    .collect();
                for (i, level) in levels.iter().enumerate() {
                    assert!(encoded[i] == encoded[0], "{format} encoder differs at {level:?}");
                    assert!(decoded[i] == decoded[0], "{format} decoder differs at {level:?}");
                }
            }
        }
    }
}
