//! flash-linear-attention's `SambaForCausalLM` and transformers' `MambaForCausalLM`.

use super::{Auto, extent, only_silu, parse};
use crate::mixers::{Attention, Mamba, Mixer, Rope, RopeTable, SelectiveScan, SwiGlu};
use crate::plan::{Block, Branch, Norm, NormKind, Place, Plan};
use crate::{Error, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct AttentionFields {
    layers: Vec<usize>,
    num_heads: usize,
    num_kv_heads: Option<usize>,
    #[serde(default)]
    qkv_bias: bool,
    window_size: Option<usize>,
    rope_theta: Option<f32>,
}

fn yes() -> bool {
    true
}

/// The fields that matter, of both kinds.
#[derive(Deserialize)]
struct Fields {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
    state_size: usize,
    conv_kernel: usize,
    expand: usize,
    time_step_rank: Auto,
    #[serde(default)]
    use_bias: bool,
    #[serde(default = "yes")]
    use_conv_bias: bool,
    #[serde(alias = "layer_norm_epsilon")]
    norm_eps: f32,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    attn: Option<AttentionFields>,
    hidden_ratio: Option<usize>,
    #[serde(alias = "activation_function")]
    hidden_act: Option<String>,
}

pub(super) fn plan(text: &str) -> Result<Plan> {
    let f: Fields = parse(text)?;
    f.check()?;
    let d = f.hidden_size;
    let d_inner = f.expand * d;
    let dt_rank = f.time_step_rank.dt_rank("time_step_rank", d)?;
    let scan =
        SelectiveScan { d_inner, d_state: f.state_size, d_conv: f.conv_kernel, dt_rank, conv_bias: f.use_conv_bias };
    let mamba = Mixer::Mamba(Mamba { scan, proj_bias: f.use_bias, shares_memory: false });
    let norm = Norm { kind: NormKind::Rms, eps: f.norm_eps };
    let branch = |place, mixer| Branch::new(place, norm, mixer);
    let blocks = match (f.model_type.as_str(), &f.attn) {
        ("mamba", None) => {
            vec![Block { branches: vec![branch(Place::Only, mamba)] }; f.num_hidden_layers]
        }
        ("samba", a) => {
            let attention = a.as_ref().map(|a| f.attention(a)).transpose()?;
            let is_attention = |i| a.as_ref().is_some_and(|a| a.layers.contains(&i));
            let mlp = Mixer::SwiGlu(SwiGlu { width: f.mlp_width()?, bias: false, fused: false });
            (0..f.num_hidden_layers)
                .map(|i| {
                    let mixer = attention.as_ref().filter(|_| is_attention(i)).unwrap_or(&mamba).clone();
                    Block { branches: vec![branch(Place::Mixer, mixer), branch(Place::Mlp, mlp.clone())] }
                })
                .collect()
        }
        (kind, _) => return Err(Error::config("model_type", "samba or mamba (without attn)", kind)),
    };
    Ok(Plan {
        name: f.model_type.clone(),
        vocab_size: f.vocab_size,
        padded_vocab_size: f.vocab_size,
        d_model: d,
        context_length: f.max_position_embeddings.unwrap_or(2048),
        final_norm: norm,
        // The two libraries differ in what they take for granted.
        tied: f.tie_word_embeddings.unwrap_or(f.model_type == "mamba"),
        head_bias: false,
        blocks,
    })
}

impl Fields {
    fn check(&self) -> Result<()> {
        let extents = [
            ("hidden_size", self.hidden_size, 1 << 24),
            ("num_hidden_layers", self.num_hidden_layers, 4096),
            ("vocab_size", self.vocab_size, 1 << 24),
            ("state_size", self.state_size, 1 << 16),
            ("conv_kernel", self.conv_kernel, 1 << 10),
            ("expand", self.expand, 1 << 10),
        ];
        for (field, value, max) in extents {
            extent(field, value, max)?;
        }
        if self.expand * self.hidden_size > 1 << 24 {
            let expected = "at most 16777216 channels, hidden_size times this";
            return Err(Error::config("expand", expected, self.expand * self.hidden_size));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(Error::config("norm_eps", "a number between 0 and 1", self.norm_eps));
        }
        only_silu(self.hidden_act.as_deref())
    }

    fn attention(&self, a: &AttentionFields) -> Result<Mixer> {
        let groups = a.num_kv_heads.unwrap_or(a.num_heads);
        if a.num_heads == 0 || !self.hidden_size.is_multiple_of(a.num_heads) {
            let expected = format!("a divisor of hidden_size = {}", self.hidden_size);
            return Err(Error::config("attn.num_heads", expected, a.num_heads));
        }
        if groups == 0 || !a.num_heads.is_multiple_of(groups) {
            return Err(Error::config("attn.num_kv_heads", format!("a divisor of {}", a.num_heads), groups));
        }
        let head_dim = self.hidden_size / a.num_heads;
        if !head_dim.is_multiple_of(2) {
            return Err(Error::config("attn.num_heads", "an even number of channels a head", head_dim));
        }
        Ok(Mixer::Attention(Attention {
            heads: a.num_heads,
            groups,
            head_dim,
            window: a.window_size.filter(|w| *w > 0),
            rope: Some(Rope { dims: head_dim, base: self.rope_base(a)?, condense: 1.0, table: RopeTable::F32 }),
            qkv_bias: a.qkv_bias,
            output_bias: false,
            short_conv: None,
            fused: false,
            qk_norm: false,
        }))
    }

    fn rope_base(&self, a: &AttentionFields) -> Result<f32> {
        match a.rope_theta.unwrap_or(10000.0) {
            base if base > 0.0 && base.is_finite() => Ok(base),
            base => Err(Error::config("attn.rope_theta", "a positive number", base)),
        }
    }

    /// flash-linear-attention's `GatedMLP`: two thirds of `hidden_ratio` times the width, rounded up to 256. The
    /// configuration's `intermediate_size` is Mamba's inner width, not this.
    fn mlp_width(&self) -> Result<usize> {
        let ratio = self.hidden_ratio.unwrap_or(4);
        if !(1..=1 << 10).contains(&ratio) {
            return Err(Error::config("hidden_ratio", "a whole number from 1 to 1024", ratio));
        }
        match (self.hidden_size * ratio * 2 / 3).next_multiple_of(256) {
            width @ ..=0x100_0000 => Ok(width),
            width => Err(Error::config("hidden_ratio", "an MLP of at most 16777216 channels", width)),
        }
    }
}
