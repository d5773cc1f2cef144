//! Multi-scale retention: a decayed outer-product recurrence with RoPE, a norm per head and an output gate.

use super::Chunk;
use super::gated_output::GatedOutput;
use crate::Result;
use crate::cpu::recurrence::{Heads, OuterState, decayed_outer_scan};
use crate::cpu::{Rows, linear::Linear, rope::Table};
use crate::loader::Loader;
use tamborim_model::mixers::{self, Rope, RopeTable};

/// The mixer.
pub struct Retention<'a> {
    heads: Heads,
    rope: Rope,
    qkv: [Linear<'a>; 3],
    output: GatedOutput<'a>,
}

impl<'a> Retention<'a> {
    pub fn load(dims: &mixers::Retention, loader: &Loader<'a, '_>) -> Result<Self> {
        Ok(Retention {
            heads: Heads { count: dims.heads, keys: dims.key_dim, values: dims.value_dim },
            rope: Rope { dims: dims.key_dim, base: 10000.0, condense: 1.0, table: RopeTable::F32 },
            qkv: [loader.linear("attn_q")?, loader.linear("attn_k")?, loader.linear("attn_v")?],
            output: GatedOutput::load(loader)?,
        })
    }

    pub fn start(&self) -> OuterState {
        OuterState::start(self.heads)
    }

    pub fn forward(&self, x: &Rows, chunk: Chunk<'_>, state: &mut OuterState) -> Rows {
        let [mut q, mut k, v] = self.qkv.each_ref().map(|w| w.apply(x));
        let table = Table::new(&self.rope, chunk.position, x.rows());
        table.rotate(&mut q, self.heads.keys);
        table.rotate(&mut k, self.heads.keys);
        let scale = 1.0 / (self.heads.keys as f32).sqrt();
        q.data.iter_mut().for_each(|q| *q *= scale);
        // gamma = 1 - 2^-(5 + head), the same for all channels of a head.
        let row: Vec<f32> = (0..self.heads.count)
            .flat_map(|h| std::iter::repeat_n(1.0 - (-5.0 - h as f32).exp2(), self.heads.keys))
            .collect();
        let decay = Rows { data: row.repeat(x.rows()), cols: row.len() };
        let o = decayed_outer_scan(&q, &k, &v, &decay, self.heads, state);
        self.output.apply(o, x)
    }
}
