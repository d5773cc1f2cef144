use super::{Part, SelectiveScan, part};
use crate::tensor::Role;

/// Mega-S6: features of a selective scan drive a single-head attention inside fixed chunks, and the residual is gated
/// instead of added (`S6GatedAttention` of the training code). It brings its own norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mega {
    /// The scan that replaces the moving average; as wide as the model.
    pub scan: SelectiveScan,
    /// Channels of query and key.
    pub z_dim: usize,
    /// Tokens that attend to each other.
    pub chunk: usize,
}

impl Mega {
    pub(crate) fn describe(&self) -> String {
        format!("Mega-S6, {} channels x {} states, chunks of {}", self.scan.d_inner, self.scan.d_state, self.chunk)
    }

    pub(crate) fn parts(&self, d_model: usize) -> Vec<Part> {
        let z = self.z_dim;
        let mut parts = vec![
            part(Role::AttnV, "mega_v.weight", "v_proj.weight", &[d_model, d_model]),
            part(Role::Bias, "mega_v.bias", "v_proj.bias", &[d_model]),
        ];
        let scan_keys = [
            ("conv1d.weight", "move.conv1d.weight"),
            ("conv1d.bias", "move.conv1d.bias"),
            ("x_proj.weight", "move.x_proj.weight"),
            ("dt_proj.weight", "move.dt_proj.weight"),
            ("dt_proj.bias", "move.dt_proj.bias"),
            ("A_log", "move.A_log"),
            ("D", "move.D"),
        ];
        for mut p in self.scan.parts() {
            if let Some((key, _)) = &mut p.lit
                && let Some((_, below_move)) = scan_keys.iter().find(|(k, _)| k == key)
            {
                *key = below_move;
            }
            parts.push(p);
        }
        parts.extend([
            part(Role::MegaMix, "mega_mix.weight", "mx_proj.weight", &[3 * d_model + z, d_model]),
            part(Role::Bias, "mega_mix.bias", "mx_proj.bias", &[3 * d_model + z]),
            part(Role::MegaVector, "mega_gamma", "gamma", &[2, z]),
            part(Role::MegaVector, "mega_beta", "beta", &[2, z]),
            part(Role::MegaVector, "mega_position_alpha", "rel_pos_bias.alpha", &[1, z]),
            part(Role::MegaVector, "mega_position_beta", "rel_pos_bias.beta", &[1, z]),
            part(Role::AttnOutput, "mega_output.weight", "h_proj.weight", &[d_model, d_model]),
            part(Role::Bias, "mega_output.bias", "h_proj.bias", &[d_model]),
        ]);
        parts.into_iter().map(Part::lit_only).collect()
    }
}
