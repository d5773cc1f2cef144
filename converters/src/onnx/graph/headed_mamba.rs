use super::builder::{Value, dims};
use super::{BATCH, Graph, LENGTH};
use crate::onnx::operators::SELECTIVE_SCAN;
use tamborim_model::mixers::HeadedMamba;

impl Graph<'_> {
    /// Mamba with heads, as a selective scan whose step sizes, A and D are the same for all channels of a head.
    pub fn headed_mamba(&mut self, m: &HeadedMamba, x: &Value, r: &Value) -> Value {
        let HeadedMamba { heads, head_dim, d_state, d_conv, dt_rank, eps } = *m;
        let d_inner = m.d_inner();
        let projected = self.linear("ssm_in", x);
        let g = &mut self.builder;
        let by_head = g.reshape(
            &projected,
            &[0, 0, heads as i64, 2 * head_dim as i64],
            dims![BATCH, LENGTH, heads, 2 * head_dim],
        );
        let [gate, x] = [0, 1].map(|half| {
            let halves = g.split(&by_head, &[("gate", head_dim), ("x", head_dim)]);
            g.reshape(&halves[half], &[0, 0, d_inner as i64], dims![BATCH, LENGTH, d_inner])
        });
        let u = self.conv(&["ssm_conv1d"], d_conv, "conv_state", &x);
        let driven = self.linear("ssm_x", &u);
        let parts = self.builder.split(&driven, &[("B", d_state), ("C", d_state), ("dt", dt_rank)]);
        let mut normed = |name: &str, part: &Value| {
            let weight = self.block_vector(name);
            self.rms(eps, &weight, part)
        };
        let [b, c, dt] = [("ssm_b_norm", &parts[0]), ("ssm_c_norm", &parts[1]), ("ssm_dt_norm", &parts[2])]
            .map(|(n, p)| normed(n, p));
        let dt = self.product("ssm_dt", &dt);
        let delta = self.over_channels(&dt, head_dim, &[0, 0, d_inner as i64], dims![BATCH, LENGTH, d_inner]);
        let [a, d, bias] = ["ssm_a", "ssm_d", "ssm_dt.bias"].map(|name| self.block_vector(name));
        let a = self.over_channels(&a, head_dim * d_state, &[d_inner as i64, d_state as i64], dims![d_inner, d_state]);
        let d = self.over_channels(&d, head_dim, &[d_inner as i64], dims![d_inner]);
        let bias = self.over_channels(&bias, head_dim, &[d_inner as i64], dims![d_inner]);
        let past = self.past("recurrent_state", dims![d_inner, d_state]);
        let inputs = [&u, &delta, &a, &b, &c, &d, &gate, &bias, &past].map(Some);
        let outputs = [("y", dims![BATCH, LENGTH, d_inner]), ("state", past.shape.clone())];
        let [y, state] = self.samba(&SELECTIVE_SCAN, &inputs, &[], outputs);
        self.present("recurrent_state", state);
        let y = self.linear("ssm_out", &y);
        self.add(r, &y)
    }

    /// One number a head, `count` times in a row.
    fn over_channels(&mut self, x: &Value, count: usize, to: &[i64], shape: Vec<crate::onnx::node::Dim>) -> Value {
        let g = &mut self.builder;
        let ones = g.floats(format!("ones_{count}"), &vec![1.0; count]);
        let columns = g.unsqueeze(x, x.shape.len());
        let repeated = g.binary("Mul", &columns, &ones);
        g.reshape(&repeated, to, shape)
    }
}
