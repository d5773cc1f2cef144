use super::builder::{Value, dims};
use super::{BATCH, Graph, LENGTH};
use crate::onnx::operators::SELECTIVE_SCAN;
use tamborim_model::mixers::{Mamba, SelectiveScan};

impl Graph<'_> {
    /// Mamba: `out(scan(silu(conv(x))) * silu(z))`, `[x, z] = in(u)`.
    pub fn mamba(&mut self, m: &Mamba, u: &Value, r: &Value) -> Value {
        let xz = self.linear("ssm_in", u);
        let d_inner = m.scan.d_inner;
        let xz = self.builder.split(&xz, &[("x", d_inner), ("z", d_inner)]);
        let y = match self.scans_are_gated {
            true => self.scan_mixer(&m.scan, &xz[0], Some(&xz[1])),
            false => {
                let y = self.scan_mixer(&m.scan, &xz[0], None);
                if m.shares_memory {
                    self.memory = Some(y.clone());
                }
                let gate = self.builder.silu(&xz[1]);
                self.builder.binary("Mul", &gate, &y)
            }
        };
        let y = self.linear("ssm_out", &y);
        self.add(r, &y)
    }

    /// Convolution and selective scan, with the projections that drive the scan.
    pub fn scan_mixer(&mut self, s: &SelectiveScan, x: &Value, gate: Option<&Value>) -> Value {
        let SelectiveScan { d_inner, d_state, d_conv, dt_rank, .. } = *s;
        let u = self.conv(&["ssm_conv1d"], d_conv, "conv_state", x);
        let driven = self.linear("ssm_x", &u);
        let parts = self.builder.split(&driven, &[("dt", dt_rank), ("B", d_state), ("C", d_state)]);
        let delta = self.product("ssm_dt", &parts[0]);
        let [a, d, bias] = ["ssm_a", "ssm_d", "ssm_dt.bias"].map(|name| self.block_vector(name));
        let past = self.past("recurrent_state", dims![d_inner, d_state]);
        let inputs = [&u, &delta, &a, &parts[1], &parts[2], &d].map(Some);
        let inputs = [&inputs[..], &[gate, Some(&bias), Some(&past)]].concat();
        let without: &[&str] = if gate.is_some() { &[] } else { &["z"] };
        let outputs = [("y", dims![BATCH, LENGTH, d_inner]), ("state", past.shape.clone())];
        let [y, state] = self.samba(&SELECTIVE_SCAN, &inputs, without, outputs);
        self.present("recurrent_state", state);
        y
    }
}
