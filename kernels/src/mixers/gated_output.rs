//! The end of retention and gated linear attention: a norm per head, a gate from the input, the output projection.

use crate::Result;
use crate::cpu::{Rows, elementwise, linear::Linear, norm};
use crate::loader::Loader;
use rayon::prelude::*;
use tamborim_model::INNER_NORM_EPS;

/// `output(rms(o per head) * weight * silu(gate x))`.
pub struct GatedOutput<'a> {
    gate: Linear<'a>,
    norm: Vec<f32>,
    output: Linear<'a>,
}

impl<'a> GatedOutput<'a> {
    pub fn load(loader: &Loader<'a, '_>) -> Result<Self> {
        Ok(GatedOutput {
            gate: loader.linear("attn_gate")?,
            norm: loader.vector("attn_sub_norm.weight")?,
            output: loader.linear("attn_output")?,
        })
    }

    pub fn apply(&self, mut o: Rows, x: &Rows) -> Rows {
        o.data.par_chunks_mut(self.norm.len()).for_each(|head| norm::rms(head, &self.norm, INNER_NORM_EPS));
        let mut gate = self.gate.apply(x);
        elementwise::silu_times(&mut gate, &o);
        self.output.apply(&gate)
    }
}
