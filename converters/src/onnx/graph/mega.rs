//! Mega-S6: features of a selective scan give queries, keys and gates of a single-head attention inside fixed chunks.

use super::builder::{Value, dims};
use super::place::Tokens;
use super::{Graph, LENGTH, PAST, TOTAL};
use crate::onnx::proto::DataType;
use tamborim_model::mixers::Mega;

impl Graph<'_> {
    /// The mixer; it gates the residual `r` instead of adding to it.
    pub fn mega(&mut self, m: &Mega, x: &Value, r: &Value) -> Value {
        let (d, z) = (m.scan.d_inner, m.z_dim);
        let v = self.linear("mega_v", x);
        let features = self.scan_mixer(&m.scan, x, None);
        let features = self.builder.silu(&features);
        let mixed = self.linear("mega_mix", &features);
        let parts = self.builder.split(&mixed, &[("u", d), ("z", z), ("r", d), ("h", d)]);
        let [u, z, gate, h] = parts.try_into().unwrap_or_else(|_| unreachable!("four parts give four values"));
        let z = self.builder.silu(&z);
        let values = self.builder.silu(&v);
        let [q, k] = [0, 1].map(|which| self.affine(which, &z));
        let attended = self.chunk_attention(m, [&q, &k, &values]);
        let gate = self.builder.silu(&gate);
        let attended = self.builder.binary("Mul", &attended, &gate);
        let y = self.linear("mega_output", &attended);
        let g = &mut self.builder;
        let y = g.binary("Add", &y, &h);
        let y = g.silu(&y);
        let change = g.binary("Sub", &y, r);
        let share = g.unary("Sigmoid", &u);
        let change = g.binary("Mul", &share, &change);
        g.binary("Add", r, &change)
    }

    /// `z gamma + beta`, of queries (0) or keys (1).
    fn affine(&mut self, which: i64, z: &Value) -> Value {
        let [gamma, beta] = ["mega_gamma", "mega_beta"].map(|name| {
            let both = self.block_vector(name);
            let which = self.builder.int(which);
            self.builder.node("Gather", &[&both, &which], vec![], DataType::Float, both.shape[1..].to_vec())
        });
        let scaled = self.builder.binary("Mul", z, &gamma);
        self.builder.binary("Add", &scaled, &beta)
    }

    /// Softmax attention of one head inside chunks, with a position bias; (batch, length, d).
    fn chunk_attention(&mut self, m: &Mega, [q, k, v]: [&Value; 3]) -> Value {
        let (d, z, chunk) = (m.scan.d_inner, m.z_dim, m.chunk);
        let past_k = self.past("key", dims![1, PAST, z]);
        let past_v = self.past("value", dims![1, PAST, d]);
        let turned = [("mega_position_alpha", Tokens::New), ("mega_position_beta", Tokens::All)]
            .map(|(name, which)| self.turned(name, which, chunk, z));
        let sees = self.place.sees(&mut self.builder, None, Some(chunk));
        let g = &mut self.builder;
        let [keys, values] = [(k, &past_k), (v, &past_v)].map(|(new, past)| {
            let new = g.unsqueeze(new, 1);
            g.concat(&[past, &new], 2, TOTAL)
        });
        let queries = g.unsqueeze(q, 1);
        let scale = g.float(1.0 / (z as f32).sqrt());
        let queries = g.binary("Mul", &queries, &scale);
        let across = g.transpose(&keys, &[0, 1, 3, 2]);
        let scores = g.matmul(&queries, &across);
        let [of_queries, of_keys] = turned;
        let of_keys = g.transpose(&of_keys, &[1, 0]);
        let bias = g.matmul(&of_queries, &of_keys);
        let never = g.float(f32::NEG_INFINITY);
        let bias = g.node("Where", &[&sees, &bias, &never], vec![], DataType::Float, dims![LENGTH, TOTAL]);
        let scores = g.binary("Add", &scores, &bias);
        let weights =
            g.node("Softmax", &[&scores], vec![("axis", (-1i64).into())], DataType::Float, scores.shape.clone());
        let mixed = g.matmul(&weights, &values);
        self.present("key", keys);
        self.present("value", values);
        self.builder.squeeze(&mixed, 1)
    }

    /// R(p) v for the place p of every token in its chunk: rotate-half with frequencies `10000^(-i / half)`, in float32 as
    /// trained.
    fn turned(&mut self, name: &str, which: Tokens, chunk: usize, z: usize) -> Value {
        let half = z / 2;
        let step = -(10000f64.ln() / half as f64) as f32;
        let frequencies: Vec<f32> = (0..half).map(|i| (i as f32 * step).exp()).collect();
        let [cos, sin] = self.place.chunk_rope(&mut self.builder, which, chunk, &frequencies);
        let v = self.block_vector(name);
        let g = &mut self.builder;
        let parts = g.split(&v, &[("low", half), ("high", half)]);
        let [low_cos, low_sin] = [&cos, &sin].map(|t| g.binary("Mul", t, &parts[0]));
        let [high_cos, high_sin] = [&cos, &sin].map(|t| g.binary("Mul", t, &parts[1]));
        let low = g.binary("Sub", &low_cos, &high_sin);
        let high = g.binary("Add", &high_cos, &low_sin);
        g.concat(&[&low, &high], 1, z)
    }
}
