//! How a mixer ends: its output projection, added to the residual stream.

use crate::Result;
use crate::backend::{Backend, NormWeights};

/// The projection, and the norm behind it where the branch has one.
pub struct Output<'a, B: Backend> {
    pub map: B::Linear<'a>,
    pub post_norm: Option<NormWeights<B::Vector>>,
}

impl<B: Backend> Output<'_, B> {
    /// `r += map(x)`, or `r += norm(map(x))`.
    pub fn add(&self, ops: &B, x: &B::Rows, r: &mut B::Rows) -> Result<()> {
        match &self.post_norm {
            None => ops.add_linear(&self.map, x, r),
            Some(norm) => ops.add_normed(norm, &ops.linear(&self.map, x)?, r),
        }
    }
}
