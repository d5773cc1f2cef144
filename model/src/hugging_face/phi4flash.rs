//! `Phi4FlashForCausalLM` (SambaY, arXiv 2507.06607): Phi-4-mini-flash-reasoning.
//!
//! ```text
//! even i < L/2        Mamba                      L/2 + 1             full attention, shared upwards
//! odd  i < L/2        windowed attention         even i >= L/2 + 2   gated memory
//! L/2                 Mamba, hands out memory    odd  i >= L/2 + 2   cross attention
//! ```

use super::{Auto, MAX_EXTENT, MAX_LAYERS, channels, epsilon, extent, only_silu, parse};
use crate::mixers::{
    CrossAttention, Differential, DifferentialAttention, GatedMemory, Mamba, Mixer, SelectiveScan, SwiGlu,
};
use crate::plan::{Block, Branch, Norm, NormKind, Place, Plan};
use crate::{Error, Result};
use serde::Deserialize;

/// One window for all layers that have one, or an entry for each layer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Windows {
    One(usize),
    ByLayer(Vec<Option<usize>>),
}

/// The fields that matter, with the defaults of the configuration class.
#[derive(Deserialize)]
#[serde(default)]
struct Fields {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    layer_norm_eps: f64,
    tie_word_embeddings: bool,
    sliding_window: Option<Windows>,
    layer_types: Option<Vec<String>>,
    mb_per_layer: usize,
    mamba_d_state: usize,
    mamba_d_conv: usize,
    mamba_expand: usize,
    mamba_dt_rank: Auto,
    mamba_conv_bias: Option<bool>,
    mamba_proj_bias: Option<bool>,
    mlp_bias: Option<bool>,
    lm_head_bias: Option<bool>,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields {
            vocab_size: 51200,
            hidden_size: 2560,
            intermediate_size: 9216,
            num_hidden_layers: 32,
            num_attention_heads: 40,
            num_key_value_heads: Some(4),
            hidden_act: None,
            max_position_embeddings: 4096,
            layer_norm_eps: 1e-5,
            tie_word_embeddings: true,
            sliding_window: Some(Windows::One(2047)),
            layer_types: None,
            mb_per_layer: 2,
            mamba_d_state: 16,
            mamba_d_conv: 4,
            mamba_expand: 2,
            mamba_dt_rank: Auto::Word("auto".to_owned()),
            mamba_conv_bias: None,
            mamba_proj_bias: None,
            mlp_bias: None,
            lm_head_bias: None,
        }
    }
}

pub(super) fn plan(text: &str, tensors: &[&str]) -> Result<Plan> {
    let f: Fields = parse(text)?;
    f.check()?;
    let (d, layers) = (f.hidden_size, f.num_hidden_layers);
    // What the configuration leaves open, the checkpoint knows.
    let holds = |suffix: &str, default| match tensors {
        [] => default,
        names => names.iter().any(|n| n.ends_with(suffix)),
    };
    let proj_bias = f.mamba_proj_bias.unwrap_or_else(|| holds("attn.in_proj.bias", false));
    let conv_bias = f.mamba_conv_bias.unwrap_or_else(|| holds("attn.conv1d.bias", true));
    let (qkv_bias, output_bias) = (holds("attn.Wqkv.bias", true), holds("layers.1.attn.out_proj.bias", true));
    let d_inner = channels("mamba_expand", f.mamba_expand, d)?;
    let scan = SelectiveScan {
        d_inner,
        d_state: f.mamba_d_state,
        d_conv: f.mamba_d_conv,
        dt_rank: f.mamba_dt_rank.dt_rank("mamba_dt_rank", d)?,
        conv_bias,
    };
    let mlp_bias = f.mlp_bias.unwrap_or_else(|| holds("mlp.fc1.bias", false));
    let mlp = Mixer::SwiGlu(SwiGlu { width: f.intermediate_size, bias: mlp_bias, fused: true });
    let heads = f.num_attention_heads;
    let differential = |layer| Differential {
        heads,
        groups: f.num_key_value_heads.unwrap_or(heads),
        head_dim: d / heads,
        layer,
        qkv_bias,
        output_bias,
    };
    let half = layers / 2;
    let mixer = |i: usize| -> Result<Mixer> {
        Ok(match (i.is_multiple_of(2), i >= half + 2) {
            (true, false) => Mixer::Mamba(Mamba { scan: scan.clone(), proj_bias, shares_memory: i == half }),
            (true, true) => Mixer::GatedMemory(GatedMemory { width: d_inner, proj_bias }),
            (false, false) => {
                let window = if i < half { f.window(i)? } else { None };
                Mixer::DifferentialAttention(DifferentialAttention { differential: differential(i), window })
            }
            (false, true) => Mixer::CrossAttention(CrossAttention { differential: differential(i) }),
        })
    };
    let norm = Norm { kind: NormKind::Layer, eps: epsilon("layer_norm_eps", f.layer_norm_eps)? };
    let block = |i| -> Result<Block> {
        let branches = vec![Branch::new(Place::Mixer, norm, mixer(i)?), Branch::new(Place::Mlp, norm, mlp.clone())];
        Ok(Block { branches })
    };
    Ok(Plan {
        name: "phi4flash".to_owned(),
        vocab_size: f.vocab_size,
        padded_vocab_size: f.vocab_size,
        d_model: d,
        context_length: f.max_position_embeddings,
        final_norm: norm,
        tied: f.tie_word_embeddings,
        head_bias: f.lm_head_bias.unwrap_or_else(|| holds("lm_head.bias", false)),
        blocks: (0..layers).map(block).collect::<Result<_>>()?,
    })
}

impl Fields {
    fn check(&self) -> Result<()> {
        for (field, value, max) in [
            ("vocab_size", self.vocab_size, MAX_EXTENT),
            ("hidden_size", self.hidden_size, MAX_EXTENT),
            ("intermediate_size", self.intermediate_size, MAX_EXTENT / 2),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_EXTENT),
            ("num_key_value_heads", self.num_key_value_heads.unwrap_or(1), MAX_EXTENT),
            ("mamba_d_state", self.mamba_d_state, 1 << 16),
            ("mamba_d_conv", self.mamba_d_conv, 1 << 10),
            ("mamba_expand", self.mamba_expand, 1 << 10),
        ] {
            extent(field, value, max)?;
        }
        only_silu(self.hidden_act.as_deref())?;
        if !self.num_hidden_layers.is_multiple_of(4) {
            return Err(Error::config("num_hidden_layers", "a multiple of 4", self.num_hidden_layers));
        }
        if self.mb_per_layer != 2 {
            return Err(Error::config("mb_per_layer", "2, the only arrangement that exists", self.mb_per_layer));
        }
        let heads = self.num_attention_heads;
        if !heads.is_multiple_of(2) || !self.hidden_size.is_multiple_of(heads) {
            let expected = format!("an even divisor of hidden_size = {}", self.hidden_size);
            return Err(Error::config("num_attention_heads", expected, heads));
        }
        let groups = self.num_key_value_heads.unwrap_or(heads);
        if !groups.is_multiple_of(2) || !heads.is_multiple_of(groups) {
            return Err(Error::config("num_key_value_heads", format!("an even divisor of {heads}"), groups));
        }
        Ok(())
    }

    /// The window of a layer that may have one, in any of the three spellings.
    fn window(&self, layer: usize) -> Result<Option<usize>> {
        let per_layer = |field, len: usize| match len == self.num_hidden_layers {
            true => Ok(()),
            false => Err(Error::config(field, format!("{} entries", self.num_hidden_layers), len)),
        };
        let window = match &self.sliding_window {
            None => None,
            Some(Windows::ByLayer(list)) => {
                per_layer("sliding_window", list.len())?;
                list[layer]
            }
            Some(Windows::One(window)) => match &self.layer_types {
                None => Some(*window),
                Some(types) => {
                    per_layer("layer_types", types.len())?;
                    (types[layer] == "sliding_attention").then_some(*window)
                }
            },
        };
        window.map(|w| extent("sliding_window", w, 1 << 40)).transpose()
    }
}
