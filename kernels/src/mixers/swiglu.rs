//! SwiGLU: `down(silu(gate x) * (up x))`.

use super::Chunk;
use crate::Result;
use crate::cpu::{Rows, elementwise, linear::Linear};
use crate::loader::Loader;
use tamborim_model::mixers;

/// The mixer, as the MLP half of a block or in the mixer's place.
pub struct SwiGlu<'a> {
    gate: Linear<'a>,
    up: Linear<'a>,
    down: Linear<'a>,
}

impl<'a> SwiGlu<'a> {
    pub fn load(_: &mixers::SwiGlu, loader: &Loader<'a, '_>) -> Result<Self> {
        let [gate, up, down] =
            if loader.is_mlp() { ["ffn_gate", "ffn_up", "ffn_down"] } else { ["mix_gate", "mix_up", "mix_down"] };
        Ok(SwiGlu { gate: loader.linear(gate)?, up: loader.linear(up)?, down: loader.linear(down)? })
    }

    pub fn start(&self) {}

    pub fn forward(&self, x: &Rows, _: Chunk<'_>, _: &mut ()) -> Rows {
        let mut hidden = self.gate.apply(x);
        elementwise::silu_times(&mut hidden, &self.up.apply(x));
        self.down.apply(&hidden)
    }
}
