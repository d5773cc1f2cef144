//! Gated memory unit: `out(silu(in x) * memory)`.

use super::{Output, Pass};
use crate::Result;
use crate::backend::{Backend, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers;

/// The mixer. Its memory is that of the nearest Mamba below that hands it out.
pub struct GatedMemory<'a, B: Backend> {
    input: B::Linear<'a>,
    output: Output<'a, B>,
}

impl<'a, B: Backend> GatedMemory<'a, B> {
    pub fn load(_: &mixers::GatedMemory, loader: &Loader<'a, '_, B>) -> Result<Self> {
        Ok(GatedMemory { input: loader.linear("gmu_in")?, output: loader.output("gmu_out")? })
    }

    pub fn start(&self, _: &B) -> Result<()> {
        Ok(())
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        pass: &mut Pass<'_, B>,
        (): &mut (),
    ) -> Result<()> {
        let memory = pass.memory.as_ref().unwrap_or_else(|| unreachable!("a plan has a memory below a gate on it"));
        let gated = ops.gate(&ops.project(norm, &self.input, r)?, memory)?;
        self.output.add(ops, &gated, r)
    }
}
