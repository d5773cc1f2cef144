//! What a block of a format can hold, as calibrated rounding sees it: groups of elements `x = scale * level - minimum`,
//! with scales and minimums that are stored themselves. One [`Grid`] in each quantized format's file.

use crate::codebook::Codebook;
use crate::lanes::Lanes;
use crate::search::{Grid as _, Levels};

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
    /// An f16 of its own.
    Own,
    /// An integer between two under an f16 of the block's.
    Under(Levels),
}

/// The scales of a block: of group `g` they are `d * scale[g]` and `dmin * minimum[g]`. What is [`Factor::Own`] stands in
/// `scale` or `minimum`, with `d` or `dmin` 1.
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
    pub(crate) fn nearest<const N: usize>(&self, x: Lanes<N>, inverse: Lanes<N>) -> Lanes<N> {
        match self.codes {
            Codes::Integers(levels) => levels.nearest(x, inverse),
            Codes::Table => Codebook.nearest(x, inverse),
        }
    }

    /// The code of the level nearest to `x * inverse`.
    #[inline(always)]
    pub(crate) fn code<const N: usize>(&self, x: Lanes<N>, inverse: Lanes<N>) -> Lanes<N> {
        match self.codes {
            Codes::Integers(levels) => levels.nearest(x, inverse),
            Codes::Table => Codebook.index(x, inverse),
        }
    }
}

impl Factor {
    /// What can be stored nearest to `x`.
    #[inline(always)]
    pub(crate) fn nearest<const N: usize>(self, x: Lanes<N>) -> Lanes<N> {
        match self {
            Factor::None => Lanes::ZERO,
            Factor::Own => x.to_f16_grid(),
            Factor::Under(levels) => x.clamp(levels.low, levels.high).round(),
        }
    }
}
