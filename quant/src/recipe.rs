//! Which format each tensor gets.

use crate::Format;
use std::fmt;
use std::str::FromStr;
use tamborim_model::{Role, TensorSpec};

/// What the user asked for: a recommended mix, or one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// 8 bits everywhere: Q8_0.
    Int8,
    /// Mostly 4 bits, given to roles by what they lose per bit (measured on a trained Samba of 61M parameters): the MLP
    /// Q4_K; embedding, head, attention and Mamba's projections Q5_K; the small matrices that steer the scan (`ssm_x`,
    /// `ssm_dt`) Q8_0. About as large as Q4_K with a Q6_K embedding.
    Int4,
    /// One format; for those of 4 and 5 bits the embedding or head is Q6_K, as llama.cpp's quantizer does it.
    Uniform(Format),
}

impl FromStr for Recipe {
    type Err = String;

    fn from_str(s: &str) -> Result<Recipe, String> {
        match s {
            "int8" => Ok(Recipe::Int8),
            "int4" => Ok(Recipe::Int4),
            other => Format::from_name(other).map(Recipe::Uniform).ok_or_else(|| {
                let names: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
                format!("expected int8, int4, {}; found {other}", names.join(", "))
            }),
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipe::Int8 => f.write_str("int8"),
            Recipe::Int4 => f.write_str("int4"),
            Recipe::Uniform(format) => f.write_str(format.name()),
        }
    }
}

/// The format of one tensor, and the one it would have had if its rows fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What it is stored in.
    pub format: Format,
    /// What was wanted, where rows are not whole blocks of it.
    pub instead_of: Option<Format>,
}

impl Recipe {
    /// The format for a tensor. `wanted` is what a user's rule says, if one matches; it applies to linear maps only, all
    /// other tensors stay float32.
    pub fn choose(self, spec: &TensorSpec, wanted: Option<Format>) -> Choice {
        if !spec.role.is_linear() {
            return Choice { format: Format::F32, instead_of: None };
        }
        let wanted = wanted.unwrap_or_else(|| self.wanted(spec.role));
        let cols = spec.shape.last().copied().unwrap_or(1);
        let format = fitting(wanted, cols);
        Choice { format, instead_of: (format != wanted).then_some(wanted) }
    }

    /// Bits of a role's integers in files that hold integers of 4 and 8 bits only (ONNX); `None` for formats that these do
    /// not have. As in GGUF, what steers the scan keeps 8 bits, and so do embedding and head.
    pub fn integer_bits(self, role: Role) -> Option<u8> {
        match (self, role) {
            (Recipe::Int8, _) => Some(8),
            (Recipe::Int4, Role::SsmX | Role::SsmDt | Role::Embedding | Role::Head) => Some(8),
            (Recipe::Int4, _) => Some(4),
            (Recipe::Uniform(_), _) => None,
        }
    }

    /// What the whole of a large model takes by a recommended mix: as much as llama.cpp's Q8_0, or Q4_K with a Q6_K head. With
    /// measured losses a better mix of that size is found than by role.
    pub fn bits_per_weight(self) -> Option<f64> {
        match self {
            Recipe::Int8 => Some(8.56),
            Recipe::Int4 => Some(5.12),
            Recipe::Uniform(_) => None,
        }
    }

    fn wanted(self, role: Role) -> Format {
        match (self, role) {
            (Recipe::Int8, _) => Format::Q8_0,
            (Recipe::Int4, Role::SsmX | Role::SsmDt) => Format::Q8_0,
            (Recipe::Int4, Role::FfnGate | Role::FfnUp | Role::FfnDown) => Format::Q4K,
            (Recipe::Int4, _) => Format::Q5K,
            (Recipe::Uniform(format), Role::Embedding | Role::Head) if format.bits_per_weight() < 6.0 => Format::Q6K,
            (Recipe::Uniform(format), _) => format,
        }
    }
}

/// What takes the place of formats in blocks of 256 where rows are not whole blocks: formats in blocks of 32, as llama.cpp
/// chooses them (`tensor_type_fallback`, llama-quant.cpp). Q5_K is the exception: theirs is Q5_1, which we do not write.
const FALLBACKS: [(Format, Format); 4] = [
    (Format::Q4K, Format::Q5_0),
    (Format::Q5K, Format::Q8_0),
    (Format::Q6K, Format::Q8_0),
    (Format::Iq4Xs, Format::Iq4Nl),
];

/// `wanted` where rows are whole blocks of it, else its fallback, else F16.
fn fitting(wanted: Format, cols: usize) -> Format {
    let fallback = FALLBACKS.iter().find(|(format, _)| *format == wanted).map(|(_, fallback)| *fallback);
    [Some(wanted), fallback].into_iter().flatten().find(|f| f.fits(cols)).unwrap_or(Format::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_fit_get_the_format_of_llama_cpp() {
        let cases = [
            (Format::Q4K, Format::Q5_0),
            (Format::Q5K, Format::Q8_0),
            (Format::Q6K, Format::Q8_0),
            (Format::Iq4Xs, Format::Iq4Nl),
            (Format::Iq4Nl, Format::Iq4Nl),
            (Format::Q4_1, Format::Q4_1),
        ];
        for (wanted, instead) in cases {
            assert_eq!(fitting(wanted, 512), wanted);
            assert_eq!(fitting(wanted, 96), instead, "{wanted}");
            assert_eq!(fitting(wanted, 144), Format::F16, "{wanted}");
        }
        assert_eq!(fitting(Format::F32, 7), Format::F32);
    }

    #[test]
    fn every_format_has_a_fallback_or_blocks_of_32() {
        for &format in Format::ALL {
            assert!(format.block_len() <= 32 || fitting(format, 32) != Format::F16, "{format}");
        }
    }

    #[test]
    fn head_and_embedding_of_few_bits_get_6() {
        for &format in Format::ALL {
            let kept = !format.is_quantized() || matches!(format, Format::Q8_0);
            let expected = if kept { format } else { Format::Q6K };
            for role in [Role::Embedding, Role::Head] {
                assert_eq!(Recipe::Uniform(format).wanted(role), expected, "{format}");
            }
            assert_eq!(Recipe::Uniform(format).wanted(Role::SsmX), format);
        }
    }
}
