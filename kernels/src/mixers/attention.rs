//! Softmax attention with grouped keys and values, RoPE and an optional sliding window.

use super::Chunk;
use crate::Result;
use crate::cpu::attention::{KeyValues, Shape, attend};
use crate::cpu::conv::{CausalConv, ConvState};
use crate::cpu::rope::Table;
use crate::cpu::{Rows, linear::Linear};
use crate::loader::Loader;
use tamborim_model::mixers;

/// The mixer. The short convolutions, where there are any, come between projection and RoPE.
pub struct Attention<'a> {
    dims: mixers::Attention,
    qkv: [Linear<'a>; 3],
    convs: Option<[CausalConv; 3]>,
    output: Linear<'a>,
}

/// Keys and values that later tokens see, and the short convolutions' inputs.
#[derive(Clone, Debug, Default)]
pub struct AttentionState {
    kv: KeyValues,
    convs: [ConvState; 3],
}

impl<'a> Attention<'a> {
    pub fn load(dims: &mixers::Attention, loader: &Loader<'a, '_>) -> Result<Self> {
        let convs = match dims.short_conv {
            None => None,
            Some(width) => Some([
                loader.conv("attn_q_conv1d", width)?,
                loader.conv("attn_k_conv1d", width)?,
                loader.conv("attn_v_conv1d", width)?,
            ]),
        };
        let qkv = [loader.linear("attn_q")?, loader.linear("attn_k")?, loader.linear("attn_v")?];
        Ok(Attention { dims: dims.clone(), qkv, convs, output: loader.linear("attn_output")? })
    }

    pub fn start(&self) -> AttentionState {
        AttentionState::default()
    }

    pub fn forward(&self, x: &Rows, chunk: Chunk<'_>, state: &mut AttentionState) -> Rows {
        let [mut q, mut k, mut v] = self.qkv.each_ref().map(|w| w.apply(x));
        if let Some(convs) = &self.convs {
            for ((stream, conv), state) in [&mut q, &mut k, &mut v].into_iter().zip(convs).zip(&mut state.convs) {
                *stream = conv.apply(stream, state);
            }
        }
        let mixers::Attention { heads, groups, head_dim, window, .. } = self.dims;
        if let Some(rope) = &self.dims.rope {
            let table = Table::new(rope, chunk.position, x.rows());
            table.rotate(&mut q, head_dim);
            table.rotate(&mut k, head_dim);
        }
        state.kv.push(&k, &v);
        let mixed = attend(&q, &state.kv, Shape { heads, groups, head_dim, window });
        state.kv.trim(window, groups * head_dim);
        self.output.apply(&mixed)
    }
}
