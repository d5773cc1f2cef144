//! The sixteen levels of `iq4_nl` and `iq4_xs`: denser around zero, where weights are. Source: `kvalues_iq4nl` in
//! ggml-common.h.

use crate::search::{Grid, steps};
use crate::vector::Vector;

/// What each 4-bit index stands for.
pub(crate) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Boundary between the values of index `i - 1` and `i`: halfway.
const BOUNDARIES: [f32; 16] = {
    let mut boundaries = [0.0; 16];
    let mut i = 1;
    while i < 16 {
        boundaries[i] = 0.5 * (VALUES[i - 1] as f32 + VALUES[i] as f32);
        i += 1;
    }
    boundaries
};

/// Levels to which the element of largest magnitude may go.
pub(crate) const TRIES: [f32; 12] =
    [-142.0, -136.0, -130.0, -125.0, -120.0, -115.0, -110.0, -104.0, 104.0, 110.0, 116.0, 122.0];

/// The same with importance: a few heavy elements decide, and a fine search finds levels that meet them.
pub(crate) const FINE_TRIES: [f32; 32] = {
    let (mut tries, above): ([f32; 32], [f32; 8]) = (steps(-146.0, 2.0), steps(100.0, 4.0));
    let mut i = 0;
    while i < above.len() {
        tries[24 + i] = above[i];
        i += 1;
    }
    tries
};

/// [`VALUES`] as a grid.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Codebook;

impl Grid for Codebook {
    #[inline(always)]
    fn nearest<V: Vector>(self, x: V, inverse: V) -> V {
        nearest(x * inverse, |i| VALUES[i] as f32)
    }
}

impl Codebook {
    /// The index of the value nearest to `x * inverse`.
    #[inline(always)]
    pub(crate) fn index<V: Vector>(self, x: V, inverse: V) -> V {
        nearest(x * inverse, |i| i as f32)
    }
}

/// What `of` says for the index of the value nearest to `x`.
#[inline(always)]
fn nearest<V: Vector>(x: V, of: impl Fn(usize) -> f32) -> V {
    let mut found = V::splat(of(0));
    for i in 1..16 {
        found = V::if_less(V::splat(BOUNDARIES[i]), x, V::splat(of(i)), found);
    }
    found
}
