use super::{Part, tabled};
use crate::tensor::Role;

/// Gated memory unit (arXiv 2507.06607): `out(silu(in x) * memory)`, memory from the nearest [`Mamba`](super::Mamba) below that
/// hands it out, of the same position. It carries nothing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatedMemory {
    /// Channels of the memory.
    pub width: usize,
    /// Biases of the two projections.
    pub proj_bias: bool,
}

impl GatedMemory {
    pub(crate) fn describe(&self) -> String {
        format!("gated memory, {} channels", self.width)
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let mut parts = vec![tabled(Role::MemoryIn, "gmu_in.weight", &[self.width, d_model])];
        parts.extend(self.proj_bias.then(|| tabled(Role::Bias, "gmu_in.bias", &[self.width])));
        parts.push(tabled(Role::MemoryOut, "gmu_out.weight", &[d_model, self.width]));
        parts.extend(self.proj_bias.then(|| tabled(Role::Bias, "gmu_out.bias", &[d_model])));
        parts
    }
}
