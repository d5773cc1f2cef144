//! SwiGLU: `down(silu(gate x) * (up x))`.

use super::{Output, Pass};
use crate::Result;
use crate::backend::{Backend, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers;

/// The mixer, as the MLP half of a block or in the mixer's place.
pub struct SwiGlu<'a, B: Backend> {
    gate_up: B::Linear<'a>,
    down: Output<'a, B>,
}

impl<'a, B: Backend> SwiGlu<'a, B> {
    pub fn load(dims: &mixers::SwiGlu, loader: &Loader<'a, '_, B>) -> Result<Self> {
        if dims.fused {
            let both = loader.map("ffn_up")?;
            let (gate, up) = (both.outputs(0..dims.width), both.outputs(dims.width..2 * dims.width));
            return Ok(SwiGlu { gate_up: loader.backend.stack_gated(gate, up)?, down: loader.output("ffn_down")? });
        }
        let [gate, up, down] =
            if loader.is_mlp() { ["ffn_gate", "ffn_up", "ffn_down"] } else { ["mix_gate", "mix_up", "mix_down"] };
        let gate_up = loader.backend.stack_gated(loader.map(gate)?, loader.map(up)?)?;
        Ok(SwiGlu { gate_up, down: loader.output(down)? })
    }

    pub fn start(&self, _: &B) -> Result<()> {
        Ok(())
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        _: &mut Pass<'_, B>,
        (): &mut (),
    ) -> Result<()> {
        let hidden = ops.project_gated(norm, &self.gate_up, r)?;
        self.down.add(ops, &hidden, r)
    }
}
