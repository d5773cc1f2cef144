//! The two 16-bit floats, without branches, so that loops over them become vector code.
//!
//! ```text
//! f16   s eeeee mmmmmmmmmm        bias 15, largest 65504, smallest normal 2^-14, smallest 2^-24
//! bf16  s eeeeeeee mmmmmmm        the upper half of an f32
//! ```

/// Largest finite f16.
pub(crate) const F16_MAX: f32 = 65504.0;

/// f16 bits to f32, exact; NaN payloads are kept.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = (bits as u32 & 0x7fff) << 13;
    let sign = (bits as u32 & 0x8000) << 16;
    // The shifted pattern read as f32 is the value times 2^-112, subnormals too: one exact product fixes the exponent.
    let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let value = if magnitude >= 0x7c00 << 13 { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(sign | value)
}

/// f32 to f16 bits, to nearest, ties to even. A finite value too large for f16 becomes the largest finite f16;
/// infinities and NaN stay what they are.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let sign = (x.to_bits() >> 16) & 0x8000;
    // Normal: move the exponent and round the 13 dropped bits; a carry into the exponent is right.
    let normal = (magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + ((magnitude >> 13) & 1))) >> 13;
    // Subnormal: adding 0.5 puts the unit of f16's subnormals, 2^-24, at the last bit of the f32 sum.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    let finite = if finite > 0x7bff || magnitude >= 143 << 23 { 0x7bff } else { finite };
    let special = if magnitude > 0x7f80_0000 { 0x7e00 | ((magnitude >> 13) & 0x1ff) } else { 0x7c00 };
    (sign | if magnitude >= 0x7f80_0000 { special } else { finite }) as u16
}

/// bf16 bits to f32, exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// f32 to bf16 bits, to nearest, ties to even. A finite value too large for bf16 becomes the largest finite bf16;
/// infinities stay, NaN becomes quiet.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = (magnitude.wrapping_add(0x7fff + ((magnitude >> 16) & 1))) >> 16;
    let finite = if rounded > 0x7f7f { 0x7f7f } else { rounded };
    let special = if magnitude > 0x7f80_0000 { (magnitude >> 16) | 0x40 } else { 0x7f80 };
    (((bits >> 16) & 0x8000) | if magnitude >= 0x7f80_0000 { special } else { finite }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_f16_and_bf16_widens_exactly_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (f, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            if !f.is_nan() {
                assert_eq!(f16_to_f32(bits).to_bits(), f.to_f32().to_bits(), "f16 {bits:#06x}");
                assert_eq!(f32_to_f16(f16_to_f32(bits)), bits);
            } else {
                assert!(f16_to_f32(bits).is_nan());
            }
            assert_eq!(bf16_to_f32(bits).to_bits(), (bits as u32) << 16);
            if !b.is_nan() {
                assert_eq!(f32_to_bf16(bf16_to_f32(bits)), bits);
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_and_finite_stays_finite() {
        // Every exponent, and mantissas around each rounding boundary.
        for high in 0..=u16::MAX as u32 {
            for low in [0u32, 1, 0xfff, 0x1000, 0x1001, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(high << 16 | low);
                let (f, b) = (f16::from_f32(x), bf16::from_f32(x));
                let saturated = |infinite: bool, max: u16, bits: u16| {
                    if infinite && x.is_finite() { max | (bits & 0x8000) } else { bits }
                };
                if x.is_nan() {
                    assert!(f16::from_bits(f32_to_f16(x)).is_nan() && bf16::from_bits(f32_to_bf16(x)).is_nan());
                } else {
                    assert_eq!(f32_to_f16(x), saturated(f.is_infinite(), 0x7bff, f.to_bits()), "{x:e}");
                    assert_eq!(f32_to_bf16(x), saturated(b.is_infinite(), 0x7f7f, b.to_bits()), "{x:e}");
                }
            }
        }
    }
}
