//! Retention and gated linear attention: projections, a recurrence, a norm per head, a gate, the output.

use super::builder::{Value, dims};
use super::{BATCH, Graph, LENGTH};
use crate::onnx::operators::{GATED_LINEAR_ATTENTION, Operator, RETENTION};
use tamborim_model::INNER_NORM_EPS;
use tamborim_model::mixers::{Gla, Retention, Rope, RopeTable};

/// Gated linear attention forgets by `sigmoid(gate)^(1 / NORMALIZER)`.
const NORMALIZER: f32 = 16.0;

/// Dimensions of the recurrence.
#[derive(Clone, Copy)]
struct Heads {
    count: usize,
    keys: usize,
    values: usize,
}

impl Graph<'_> {
    /// Multi-scale retention, with RoPE on queries and keys.
    pub fn retention(&mut self, m: &Retention, x: &Value, r: &Value) -> Value {
        let heads = Heads { count: m.heads, keys: m.key_dim, values: m.value_dim };
        let rope = Rope { dims: m.key_dim, base: 10000.0, condense: 1.0, table: RopeTable::F32 };
        let [q, k] = ["attn_q", "attn_k"].map(|name| self.linear(name, x));
        let [q, k] = [q, k].map(|part| self.rotate(&rope, &part, m.key_dim));
        // gamma = 1 - 2^-(5 + head)
        let decay: Vec<f32> = (0..m.heads).map(|h| 1.0 - (-5.0 - h as f32).exp2()).collect();
        let decay = self.builder.floats(format!("retention_decay_{}", m.heads), &decay);
        self.recurrence(&RETENTION, heads, [&q, &k], &decay, x, r)
    }

    /// Gated linear attention.
    pub fn gla(&mut self, m: &Gla, x: &Value, r: &Value) -> Value {
        let heads = Heads { count: m.heads, keys: m.key_dim, values: m.value_dim };
        let [q, k] = ["attn_q", "attn_k"].map(|name| self.linear(name, x));
        let low = self.linear("attn_decay_a", x);
        let gate = self.linear("attn_decay_b", &low);
        // log sigmoid(g) = -softplus(-g)
        let g = &mut self.builder;
        let opposite = g.unary("Neg", &gate);
        let opposite = g.unary("Softplus", &opposite);
        let share = g.float(-1.0 / NORMALIZER);
        let decay = g.binary("Mul", &opposite, &share);
        let decay = self.by_head(&decay, heads.count);
        self.recurrence(&GATED_LINEAR_ATTENTION, heads, [&q, &k], &decay, x, r)
    }

    /// (batch, length, channels) as (batch, length, heads, channels of a head).
    fn by_head(&mut self, x: &Value, heads: usize) -> Value {
        let channels = x.channels() / heads;
        self.builder.reshape(x, &[0, 0, heads as i64, channels as i64], dims![BATCH, LENGTH, heads, channels])
    }

    fn recurrence(
        &mut self,
        operator: &Operator,
        heads: Heads,
        [q, k]: [&Value; 2],
        decay: &Value,
        x: &Value,
        r: &Value,
    ) -> Value {
        let [v, gate] = ["attn_v", "attn_gate"].map(|name| self.linear(name, x));
        let [q, k, v, gate] = [q, k, &v, &gate].map(|part| self.by_head(part, heads.count));
        let past = self.past("recurrent_state", dims![heads.count, heads.keys, heads.values]);
        let outputs = [("y", v.shape.clone()), ("state", past.shape.clone())];
        let [y, state] = self.samba(operator, &[&q, &k, &v, decay, &past].map(Some), &[], outputs);
        self.present("recurrent_state", state);
        let weight = self.block_vector("attn_sub_norm.weight");
        let y = self.rms(INNER_NORM_EPS, &weight, &y);
        let gate = self.builder.silu(&gate);
        let gated = self.builder.binary("Mul", &y, &gate);
        let channels = heads.count * heads.values;
        let y = self.builder.reshape(&gated, &[0, 0, channels as i64], dims![BATCH, LENGTH, channels]);
        let y = self.linear("attn_output", &y);
        self.builder.binary("Add", r, &y)
    }
}
