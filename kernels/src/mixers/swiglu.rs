//! SwiGLU: `down(silu(gate x) * (up x))`.

use crate::Result;
use crate::backend::{Backend, NormWeights};
use crate::loader::Loader;
use tamborim_model::mixers;

/// The mixer, as the MLP half of a block or in the mixer's place.
pub struct SwiGlu<'a, B: Backend> {
    gate_up: B::Linear<'a>,
    down: B::Linear<'a>,
}

impl<'a, B: Backend> SwiGlu<'a, B> {
    pub fn load(_: &mixers::SwiGlu, loader: &Loader<'a, '_, B>) -> Result<Self> {
        let [gate, up, down] =
            if loader.is_mlp() { ["ffn_gate", "ffn_up", "ffn_down"] } else { ["mix_gate", "mix_up", "mix_down"] };
        let gate_up = loader.backend.stack_gated(loader.map(gate)?, loader.map(up)?)?;
        Ok(SwiGlu { gate_up, down: loader.linear(down)? })
    }

    pub fn start(&self, _: &B) -> Result<()> {
        Ok(())
    }

    pub fn forward(
        &self,
        ops: &B,
        norm: &NormWeights<B::Vector>,
        r: &mut B::Rows,
        _: &B::Place,
        (): &mut (),
    ) -> Result<()> {
        let hidden = ops.project_gated(norm, &self.gate_up, r)?;
        ops.add_linear(&self.down, &hidden, r)
    }
}
