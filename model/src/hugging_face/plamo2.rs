//! `Plamo2ForCausalLM`: PLaMo-2 of Preferred Networks.
//!
//! `attention_window_size` is not looked at: the runtimes of the model's makers, llama.cpp and mlx-lm attend to everything.

use super::{MAX_EXTENT, MAX_LAYERS, channels, epsilon, extent, parse, positive};
use crate::mixers::{Attention, HeadedMamba, Mixer, Rope, RopeTable, SwiGlu};
use crate::plan::{Block, Branch, Norm, NormKind, Place, Plan};
use crate::{Error, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

/// The fields that matter, with the defaults of the configuration class.
#[derive(Deserialize)]
#[serde(default)]
struct Fields {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    /// Of attention and Mamba.
    hidden_size_per_head: usize,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    mamba_d_state: usize,
    mamba_d_conv: usize,
    mamba_num_heads: usize,
    mamba_step: usize,
    mamba_enabled: bool,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 13312,
            num_hidden_layers: 32,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            num_attention_heads: 32,
            num_key_value_heads: 4,
            hidden_size_per_head: 128,
            max_position_embeddings: 2048,
            rope_theta: None,
            rope_parameters: None,
            mamba_d_state: 64,
            mamba_d_conv: 4,
            mamba_num_heads: 64,
            mamba_step: 2,
            mamba_enabled: true,
        }
    }
}

pub(super) fn plan(text: &str) -> Result<Plan> {
    let f: Fields = parse(text)?;
    f.check()?;
    let d = f.hidden_size;
    let eps = epsilon("rms_norm_eps", f.rms_norm_eps)?;
    let norm = Norm { kind: NormKind::Rms, eps };
    let theta = f.rope_parameters.as_ref().and_then(|p| p.rope_theta).or(f.rope_theta).unwrap_or(10000.0);
    let head_dim = f.hidden_size_per_head;
    let rope = Rope { dims: head_dim, base: positive("rope_theta", theta)?, condense: 1.0, table: RopeTable::F32 };
    let attention = Mixer::Attention(Attention {
        heads: f.num_attention_heads,
        groups: f.num_key_value_heads,
        head_dim,
        window: None,
        rope: Some(rope),
        qkv_bias: false,
        output_bias: false,
        short_conv: None,
        fused: true,
        qk_norm: true,
    });
    let mamba = Mixer::HeadedMamba(HeadedMamba {
        heads: f.mamba_num_heads,
        head_dim,
        d_state: f.mamba_d_state,
        d_conv: f.mamba_d_conv,
        dt_rank: (d / 16).max(64),
        eps,
    });
    let mlp = Mixer::SwiGlu(SwiGlu { width: f.intermediate_size, bias: false, fused: true });
    let branch = |place, mixer: &Mixer| Branch { place, norm, mixer: mixer.clone(), post_norm: Some(norm) };
    let block = |i| {
        let mixer = if f.is_attention(i) { &attention } else { &mamba };
        Block { branches: vec![branch(Place::Mixer, mixer), branch(Place::Mlp, &mlp)] }
    };
    Ok(Plan {
        name: "plamo2".to_owned(),
        vocab_size: f.vocab_size,
        padded_vocab_size: f.vocab_size,
        d_model: d,
        context_length: f.max_position_embeddings,
        final_norm: norm,
        tied: f.tie_word_embeddings,
        head_bias: false,
        blocks: (0..f.num_hidden_layers).map(block).collect(),
    })
}

impl Fields {
    fn is_attention(&self, layer: usize) -> bool {
        let half = self.mamba_step / 2;
        match (self.mamba_enabled, self.num_hidden_layers <= half) {
            (false, _) => true,
            (true, true) => layer + 1 == self.num_hidden_layers,
            (true, false) => layer % self.mamba_step == half,
        }
    }

    fn check(&self) -> Result<()> {
        for (field, value, max) in [
            ("vocab_size", self.vocab_size, MAX_EXTENT),
            ("hidden_size", self.hidden_size, MAX_EXTENT),
            ("intermediate_size", self.intermediate_size, MAX_EXTENT / 2),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_EXTENT),
            ("num_key_value_heads", self.num_key_value_heads, MAX_EXTENT),
            ("hidden_size_per_head", self.hidden_size_per_head, MAX_EXTENT),
            ("mamba_d_state", self.mamba_d_state, 1 << 16),
            ("mamba_d_conv", self.mamba_d_conv, 1 << 10),
            ("mamba_num_heads", self.mamba_num_heads, MAX_EXTENT),
        ] {
            extent(field, value, max)?;
        }
        let (heads, groups, head_dim) = (self.num_attention_heads, self.num_key_value_heads, self.hidden_size_per_head);
        if self.mamba_enabled && self.mamba_step < 2 {
            return Err(Error::config("mamba_step", "at least 2", self.mamba_step));
        }
        if !heads.is_multiple_of(groups) {
            return Err(Error::config("num_key_value_heads", format!("a divisor of {heads}"), groups));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(Error::config("hidden_size_per_head", "an even number of channels", head_dim));
        }
        channels("num_attention_heads", heads + 2 * groups, head_dim)?;
        channels("mamba_num_heads", 2 * self.mamba_num_heads, head_dim)?;
        Ok(())
    }
}
