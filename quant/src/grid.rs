//! What a block of a format can hold, as calibrated rounding sees it: groups of elements `x = scale * level - minimum`,
//! with scales and minimums that are stored themselves. One [`Grid`] in each quantized format's file.

use crate::codebook::Codebook;
use crate::float16::{bf16_to_f32, f32_to_bf16};
use crate::search::{Grid as _, Levels};
use crate::vector::Vector;

/// The most groups that a block has.
pub(crate) const MAX_GROUPS: usize = 16;

/// A format's numbers.
#[derive(Debug)]
pub(crate) struct Grid {
    /// Elements under one scale.
    pub(crate) group_len: usize,
    /// What an element's code stands for.
    pub(crate) codes: Codes,
    /// What a group's scale is.
    pub(crate) scale: Factor,
    /// What a group's minimum is.
    pub(crate) minimum: Factor,
    /// Scales of a block.
    pub(crate) read: fn(&[u8]) -> Scales,
    /// A block of these scales and codes.
    pub(crate) write: fn(&Scales, &[i8], &mut [u8]),
}

/// What codes stand for.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Codes {
    /// Themselves, between two.
    Integers(Levels),
    /// Values of the table in `codebook.rs`.
    Table,
}

/// How a factor of a group is stored.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Factor {
    /// Always zero.
    None,
    /// A float of its own.
    Float(Float),
    /// An integer between two under an f16 of the block's.
    Under(Levels),
    /// An integer between two, times the group's scale: a zero point.
    OfScale(Levels),
}

/// The floats that scales are stored as.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Float {
    F16,
    Bf16,
    F32,
}

/// The scales of a block: of group `g` they are `d * scale[g]` and `dmin * minimum[g]`. What is [`Factor::Float`] or
/// [`Factor::OfScale`] stands in `scale` or `minimum`, with `d` or `dmin` 1.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Scales {
    pub(crate) d: f32,
    pub(crate) dmin: f32,
    pub(crate) scale: [f32; MAX_GROUPS],
    pub(crate) minimum: [f32; MAX_GROUPS],
}

impl Scales {
    /// Of a block that is one group.
    pub(crate) fn single(scale: f32, minimum: f32) -> Scales {
        let mut scales = Scales { d: 1.0, dmin: 1.0, scale: [0.0; MAX_GROUPS], minimum: [0.0; MAX_GROUPS] };
        (scales.scale[0], scales.minimum[0]) = (scale, minimum);
        scales
    }
}

impl Grid {
    /// The level nearest to `x * inverse`.
    #[inline(always)]
    pub(crate) fn nearest<V: Vector>(&self, x: V, inverse: V) -> V {
        match self.codes {
            Codes::Integers(levels) => levels.nearest(x, inverse),
            Codes::Table => Codebook.nearest(x, inverse),
        }
    }

    /// The minimums that groups of scale `s` have by their factors.
    #[inline(always)]
    pub(crate) fn minimum_of<V: Vector>(&self, s: V, dmin: V, factor: V) -> V {
        match self.minimum {
            Factor::OfScale(_) => s * factor,
            _ => dmin * factor,
        }
    }

    /// The code of the level nearest to `x * inverse`.
    #[inline(always)]
    pub(crate) fn code<V: Vector>(&self, x: V, inverse: V) -> V {
        match self.codes {
            Codes::Integers(levels) => levels.nearest(x, inverse),
            Codes::Table => Codebook.index(x, inverse),
        }
    }
}

impl Factor {
    /// What can be stored nearest to `x`.
    #[inline(always)]
    pub(crate) fn nearest<V: Vector>(self, x: V) -> V {
        match self {
            Factor::None => V::zero(),
            Factor::Float(float) => float.nearest(x),
            Factor::Under(levels) | Factor::OfScale(levels) => x.clamp(levels.low, levels.high).round(),
        }
    }
}

impl Float {
    /// The nearest finite number.
    #[inline(always)]
    pub(crate) fn nearest<V: Vector>(self, x: V) -> V {
        match self {
            Float::F16 => x.to_f16_grid(),
            Float::Bf16 => x.map(|x| bf16_to_f32(f32_to_bf16(x))),
            Float::F32 => x,
        }
    }
}
