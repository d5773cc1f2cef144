//! The layer plan: a model described once, as a list of blocks, for converters, runtime, allocator and `inspect` to walk.

use crate::config::{Config, NormClass};
use crate::mixers::{Attention, Gla, Mamba, Mega, Mixer, Part, Retention, Rope, RopeTable, SelectiveScan, SwiGlu};
use crate::naming;
use crate::tensor::{Naming, Role, Stored, TensorSpec, View};
use crate::{Error, Result};

/// Constants of the architecture that no configuration holds (microsoft/Samba at ed3ed54).
const D_STATE: usize = 16;
const D_CONV: usize = 4;
const GLA_HEAD: usize = 384;
const GLA_DECAY_RANK: usize = 16;
const MEGA_Z: usize = 128;
const MEGA_CHUNK: usize = 2048;
/// Epsilon of Mega's own norm and of the norms inside retention and gated linear attention; not `norm_eps`.
pub const INNER_NORM_EPS: f32 = 1e-5;

/// Formula of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x * rsqrt(mean(x^2) + eps) * weight`.
    Rms,
    /// `(x - mean) * rsqrt(variance + eps) * weight + bias`, biased variance.
    Layer,
}

/// A norm of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Formula.
    pub kind: NormKind,
    /// Added before the root.
    pub eps: f32,
}

/// The place of a branch in its block. Decides names only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// First half of a hybrid block.
    Mixer,
    /// Second half of a hybrid block.
    Mlp,
    /// The only branch of a pure Mamba block.
    Only,
    /// The Mamba of a Mamba-attention-MLP block.
    Ssm,
    /// The attention of a Mamba-attention-MLP block.
    Attention,
    /// Mega, which owns its norm.
    Mega,
}

impl Place {
    /// `(norm in GGUF, norm in the training code, prefix of the mixer there, norm in Hugging Face's, prefix there)`.
    fn names(self) -> (&'static str, &'static str, &'static str, Option<(&'static str, &'static str)>) {
        match self {
            Place::Mixer => ("attn_norm", "norm_1", "attn.", Some(("mixer_norm", "mixer."))),
            Place::Mlp => ("ffn_norm", "norm_2", "mlp.swiglu.", Some(("mlp_norm", "mlp."))),
            Place::Only => ("attn_norm", "norm", "mixer.", Some(("norm", "mixer."))),
            Place::Ssm => ("ssm_norm", "norm_m", "mb.", None),
            Place::Attention => ("attn_norm", "norm_attn", "attn.", None),
            Place::Mega => ("attn_norm", "attn.norm", "attn.", None),
        }
    }
}

/// One branch of the residual stream: `r += mixer(norm(r))`, Mega excepted, which gates the residual itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// Where it stands in its block.
    pub place: Place,
    /// The norm before the mixer.
    pub norm: Norm,
    /// The mixer.
    pub mixer: Mixer,
    /// RMSNorm of what the mixer adds to the residual stream, where there is one.
    pub post_norm: Option<Norm>,
}

impl Branch {
    /// A branch without a norm behind.
    pub fn new(place: Place, norm: Norm, mixer: Mixer) -> Branch {
        Branch { place, norm, mixer, post_norm: None }
    }

    /// Canonical name of the norm's tensor below the block, without `.weight` or `.bias`.
    pub fn norm_name(&self) -> &'static str {
        self.place.names().0
    }

    /// Canonical name of the weights of [`Branch::post_norm`], below the block.
    pub fn post_norm_name(&self) -> &'static str {
        if self.place == Place::Mlp { "post_ffw_norm" } else { "post_attention_norm" }
    }

    /// Its tensors in canonical order, in the block of this number: those of its norms and its mixer.
    pub fn tensors(&self, block: usize, d_model: usize) -> Vec<TensorSpec> {
        branch_tensors(block, self, d_model)
    }
}

/// A block: branches applied one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// In order.
    pub branches: Vec<Branch>,
}

/// A model of the family.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Tokens that exist; rows of the embedding beyond are padding and never sampled.
    pub vocab_size: usize,
    /// Rows of the embedding and the head.
    pub padded_vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Context length in training. No limit of the model.
    pub context_length: usize,
    /// The norm before the head.
    pub final_norm: Norm,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether logits have a bias.
    pub head_bias: bool,
    /// The blocks.
    pub blocks: Vec<Block>,
}

impl Plan {
    /// The plan of a configuration of the training code.
    ///
    /// # Errors
    /// [`Error::NoForward`] and [`Error::Config`] where the configuration describes no model that runs.
    pub fn from_config(c: &Config) -> Result<Plan> {
        let (d, eps) = (c.n_embd, c.norm_eps as f32);
        let kind = match (c.mamba, c.norm_class) {
            (true, _) if c.rms_norm => NormKind::Rms,
            (true, _) | (_, NormClass::LayerNorm) => NormKind::Layer,
            _ => NormKind::Rms,
        };
        let norm = Norm { kind, eps };
        let mut blocks = Vec::with_capacity(c.n_layer);
        for i in 0..c.n_layer {
            let mut branches = Vec::new();
            if c.mamba {
                branches.push(Branch::new(Place::Only, norm, mamba(d)));
                blocks.push(Block { branches });
                continue;
            }
            if c.mamba_swa_mlp {
                branches.push(Branch::new(Place::Ssm, norm, mamba(d)));
                branches.push(Branch::new(Place::Attention, norm, attention(c, i)?));
            } else if c.use_mega {
                let scan = scan(d, d.div_ceil(32));
                let mixer = Mixer::Mega(Mega { scan, z_dim: MEGA_Z, chunk: MEGA_CHUNK });
                let norm = Norm { kind: NormKind::Rms, eps: INNER_NORM_EPS };
                branches.push(Branch::new(Place::Mega, norm, mixer));
            } else {
                branches.push(Branch::new(Place::Mixer, norm, hybrid_mixer(c, i)?));
            }
            if c.mlp {
                let mixer = Mixer::SwiGlu(SwiGlu { width: c.intermediate_size, bias: c.bias, fused: false });
                branches.push(Branch::new(Place::Mlp, norm, mixer));
            }
            blocks.push(Block { branches });
        }
        Ok(Plan {
            name: if c.name.is_empty() { "samba".to_owned() } else { c.name.clone() },
            vocab_size: c.vocab_size,
            padded_vocab_size: c.padded_vocab_size,
            d_model: d,
            context_length: c.block_size,
            final_norm: norm,
            tied: c.tied(),
            head_bias: false,
            blocks,
        })
    }

    /// All tensors in canonical order: embedding, blocks, final norm, head.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (v, d) = (self.padded_vocab_size, self.d_model);
        let top = |name: &str, role, shape: &[usize], lit: &str, hf: &str| {
            let whole = |naming, key: &str| (naming, Stored { key: key.to_owned(), view: View::Whole });
            let mut stored = vec![whole(Naming::Lit, lit), whole(Naming::HuggingFace, hf)];
            stored.extend(naming::stored(None, name));
            TensorSpec { name: name.to_owned(), shape: shape.to_vec(), role, block: None, stored }
        };
        let mut all = vec![top(
            "token_embd.weight",
            Role::Embedding,
            &[v, d],
            "transformer.wte.weight",
            "backbone.embeddings.weight",
        )];
        for (i, block) in self.blocks.iter().enumerate() {
            for branch in &block.branches {
                all.extend(branch.tensors(i, d));
            }
        }
        let norm = |part: &str| {
            let [name, lit, hf] = ["output_norm", "transformer.ln_f", "backbone.norm_f"].map(|n| format!("{n}.{part}"));
            top(&name, Role::Norm, &[d], &lit, &hf)
        };
        all.push(norm("weight"));
        if self.final_norm.kind == NormKind::Layer {
            all.push(norm("bias"));
        }
        if !self.tied {
            all.push(top("output.weight", Role::Head, &[v, d], "lm_head.weight", "lm_head.weight"));
        }
        if self.head_bias {
            all.push(top("output.bias", Role::Bias, &[v], "lm_head.bias", "lm_head.bias"));
        }
        all
    }

    /// Numbers in the model, a tied head counted once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(TensorSpec::elements).sum()
    }

    /// The share of the blocks' multiplications by weights that a prefill makes for the last token alone, since nothing that comes
    /// that late leaves anything behind for later tokens: 0 to 1.
    pub fn last_token_share(&self) -> f64 {
        let (mut all, mut tail) = (0, 0);
        for (i, branch) in self.blocks.iter().enumerate().flat_map(|(i, b)| b.branches.iter().map(move |b| (i, b))) {
            let linear = branch_tensors(i, branch, self.d_model).into_iter().filter(|t| t.role.is_linear());
            let weights: usize = linear.map(|t| t.elements()).sum();
            all += weights;
            tail = if branch.mixer.has_state() { 0 } else { tail + weights };
        }
        tail as f64 / all.max(1) as f64
    }

    /// The plan in one line a block: `0  Mamba, ...  ->  SwiGLU, ...`.
    pub fn diagram(&self) -> Vec<String> {
        self.blocks
            .iter()
            .enumerate()
            .map(|(i, b)| {
                let branches: Vec<String> = b.branches.iter().map(|b| b.mixer.describe()).collect();
                format!("{i:>3}  {}", branches.join("  ->  "))
            })
            .collect()
    }

    /// The architecture in words: `Samba (Mamba / sliding-window attention / SwiGLU)`.
    pub fn architecture(&self) -> String {
        let mut kinds: Vec<&str> = Vec::new();
        for branch in self.blocks.iter().flat_map(|b| &b.branches) {
            let kind = match &branch.mixer {
                Mixer::Mamba(_) => "Mamba",
                Mixer::Attention(a) if a.window.is_some() => "sliding-window attention",
                Mixer::Attention(_) => "full attention",
                Mixer::SwiGlu(_) => "SwiGLU",
                Mixer::Retention(_) => "retention",
                Mixer::Gla(_) => "gated linear attention",
                Mixer::Mega(_) => "Mega-S6",
                Mixer::DifferentialAttention(a) if a.window.is_some() => "sliding-window differential attention",
                Mixer::DifferentialAttention(_) => "full differential attention",
                Mixer::CrossAttention(_) => "cross attention",
                Mixer::GatedMemory(_) => "gated memory",
                Mixer::HeadedMamba(_) => "multi-head Mamba",
            };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds.join(" / ")
    }
}

fn scan(d_inner: usize, dt_rank: usize) -> SelectiveScan {
    SelectiveScan { d_inner, d_state: D_STATE, d_conv: D_CONV, dt_rank, conv_bias: true }
}

fn mamba(d: usize) -> Mixer {
    Mixer::Mamba(Mamba { scan: scan(2 * d, d.div_ceil(16)), proj_bias: false, shares_memory: false })
}

fn attention(c: &Config, layer: usize) -> Result<Mixer> {
    let head_dim = c.head_size();
    // A local layer with a positive window is limited; -1 and 0 both mean unlimited.
    let local = layer % c.full_per_layer != c.full_per_layer - 1;
    let dims = (c.rotary_percentage * head_dim as f64) as usize;
    if !c.nope && !dims.is_multiple_of(2) {
        return Err(Error::config("rotary_percentage", "an even number of rotated channels", dims));
    }
    Ok(Mixer::Attention(Attention {
        heads: c.n_head,
        groups: c.n_query_groups,
        head_dim,
        window: (local && c.local_window > 0).then_some(c.local_window as usize),
        rope: (!c.nope && dims > 0).then_some(Rope {
            dims,
            base: 10000.0,
            condense: c.condense_ratio as f32,
            table: RopeTable::Bf16,
        }),
        qkv_bias: c.bias,
        output_bias: c.bias,
        short_conv: c.sc_attn.then_some(D_CONV),
        fused: false,
        qk_norm: false,
    }))
}

/// The mixer of hybrid block `layer`; the first rule that matches wins.
fn hybrid_mixer(c: &Config, layer: usize) -> Result<Mixer> {
    let every = |n: i64| n > 0 && (layer as i64) % n == 0;
    let d = c.n_embd;
    let is_ssm = match &c.attn_layer_pos {
        Some(list) if list.contains(&layer) => return attention(c, layer),
        Some(_) => true,
        None => every(c.mb_per_layer),
    };
    if is_ssm {
        return Ok(match c.abl_mamba {
            true => Mixer::SwiGlu(SwiGlu { width: 2 * d, bias: c.bias, fused: false }),
            false => mamba(d),
        });
    }
    if every(c.ret_per_layer) {
        let heads = c.n_head / 2;
        if heads == 0 || !d.is_multiple_of(heads) || !(d / heads).is_multiple_of(2) {
            return Err(Error::config("n_head", "half of it dividing n_embd into even heads for retention", c.n_head));
        }
        return Ok(Mixer::Retention(Retention { heads, key_dim: d / heads, value_dim: 2 * d / heads }));
    }
    if every(c.gla_per_layer) {
        let heads = d / GLA_HEAD;
        if heads == 0 || !(d / 2).is_multiple_of(heads) || !d.is_multiple_of(heads) {
            let expected = format!("at least {GLA_HEAD} and divisible into heads for gated linear attention");
            return Err(Error::config("n_embd", expected, d));
        }
        let gla = Gla { heads, key_dim: d / 2 / heads, value_dim: d / heads, decay_rank: GLA_DECAY_RANK };
        return Ok(Mixer::Gla(gla));
    }
    attention(c, layer)
}

fn branch_tensors(block: usize, branch: &Branch, d: usize) -> Vec<TensorSpec> {
    let (norm, lit_norm, lit_prefix, hf) = branch.place.names();
    let spec = |name: &str, role, shape: &[usize], lit: Option<(String, View)>, hf: Option<(String, View)>| {
        let own = |naming, prefix: &str, (key, view)| (naming, Stored { key: format!("{prefix}{block}.{key}"), view });
        let mut stored: Vec<(Naming, Stored)> = Vec::new();
        stored.extend(lit.map(|lit| own(Naming::Lit, "transformer.h.", lit)));
        stored.extend(hf.map(|hf| own(Naming::HuggingFace, "backbone.layers.", hf)));
        stored.extend(naming::stored(Some(block), name));
        TensorSpec { name: format!("blk.{block}.{name}"), shape: shape.to_vec(), role, block: Some(block), stored }
    };
    let norm_part = |part: &str| {
        let hf = hf.map(|(n, _)| (format!("{n}.{part}"), View::Whole));
        spec(&format!("{norm}.{part}"), Role::Norm, &[d], Some((format!("{lit_norm}.{part}"), View::Whole)), hf)
    };
    let mut all = vec![norm_part("weight")];
    if branch.norm.kind == NormKind::Layer {
        all.push(norm_part("bias"));
    }
    for Part { role, name, shape, lit, hf: hf_part } in branch.mixer.parts(d, branch.place == Place::Mlp) {
        let lit = lit.map(|(key, view)| (format!("{lit_prefix}{key}"), view));
        let hf_stored = hf.zip(hf_part).map(|((_, prefix), (key, view))| (format!("{prefix}{key}"), view));
        all.push(spec(name, role, &shape, lit, hf_stored));
    }
    if branch.post_norm.is_some() {
        all.push(spec(branch.post_norm_name(), Role::Norm, &[d], None, None));
    }
    all
}
