use super::{Part, part, tabled};
use crate::tensor::Role;

/// Gated MLP: `down(silu(gate x) * (up x))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwiGlu {
    /// Hidden channels.
    pub width: usize,
    /// Biases of the three maps.
    pub bias: bool,
    /// Gate and up are one matrix, gate first. Never in the mixer's place.
    pub fused: bool,
}

impl SwiGlu {
    pub(crate) fn describe(&self) -> String {
        format!("SwiGLU, width {}", self.width)
    }

    pub(crate) fn parts(&self, d_model: usize, is_mlp: bool) -> Vec<Part> {
        let up = [self.width, d_model];
        let down = [d_model, self.width];
        if self.fused {
            let mut parts = vec![tabled(Role::FfnGateUp, "ffn_up.weight", &[2 * self.width, d_model])];
            parts.extend(self.bias.then(|| tabled(Role::Bias, "ffn_up.bias", &[2 * self.width])));
            parts.push(tabled(Role::FfnDown, "ffn_down.weight", &down));
            parts.extend(self.bias.then(|| tabled(Role::Bias, "ffn_down.bias", &[d_model])));
            return parts;
        }
        // In the mixer's place (`abl_mamba`) it must not take the names of the MLP that follows.
        let rows = if is_mlp {
            [
                (Role::FfnGate, ["ffn_gate.weight", "ffn_gate.bias"], ["w1.weight", "w1.bias"], "gate_proj.weight", up),
                (Role::FfnUp, ["ffn_up.weight", "ffn_up.bias"], ["w2.weight", "w2.bias"], "up_proj.weight", up),
                (
                    Role::FfnDown,
                    ["ffn_down.weight", "ffn_down.bias"],
                    ["w3.weight", "w3.bias"],
                    "down_proj.weight",
                    down,
                ),
            ]
        } else {
            [
                (Role::FfnGate, ["mix_gate.weight", "mix_gate.bias"], ["swiglu.w1.weight", "swiglu.w1.bias"], "", up),
                (Role::FfnUp, ["mix_up.weight", "mix_up.bias"], ["swiglu.w2.weight", "swiglu.w2.bias"], "", up),
                (Role::FfnDown, ["mix_down.weight", "mix_down.bias"], ["swiglu.w3.weight", "swiglu.w3.bias"], "", down),
            ]
        };
        let mut parts = Vec::new();
        for (role, [weight, bias], [lit_weight, lit_bias], hf, shape) in rows {
            let p = part(role, weight, lit_weight, &shape);
            parts.push(if is_mlp { p.hf(hf) } else { p.lit_only() });
            if self.bias {
                parts.push(part(Role::Bias, bias, lit_bias, &shape[..1]).lit_only());
            }
        }
        parts
    }
}
