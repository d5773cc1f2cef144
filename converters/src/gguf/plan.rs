//! The layer plan from a file: what a block is made of shows in its tensors, the rest are keys.

use super::keys::{TRUE_VOCABULARY, write_plan};
use super::{Architecture, Metadata, Value};
use crate::error::quoted;
use crate::{Error, Result};
use tamborim_model::mixers::{
    Attention, CrossAttention, Differential, DifferentialAttention, GatedMemory, Gla, HeadedMamba, Mamba, Mega,
    Retention, Rope, RopeTable, SelectiveScan, SwiGlu,
};
use tamborim_model::{Block, Branch, INNER_NORM_EPS, Mixer, Norm, NormKind, Place, Plan};

/// Largest number of blocks accepted.
const MAX_BLOCKS: usize = 4096;

/// Reads the plan of a file: what each block is from its tensors, of which `shape` knows the shapes, the rest from keys.
///
/// # Errors
/// [`Error::Unsupported`] for another architecture, [`Error::Damaged`] for keys that are missing or contradict the tensors.
pub fn read_plan<'f>(metadata: &'f Metadata, shape: &dyn Fn(&str) -> Option<&'f [usize]>) -> Result<Plan> {
    let arch = metadata.required::<&str>("general.architecture")?;
    let architecture = Architecture::from_name(metadata.path(), arch)?;
    let r = Reader { metadata, shape, arch, architecture };
    let embedding = r.shape("token_embd.weight")?;
    let [rows, d_model] = embedding else {
        return Err(Error::tensor(metadata.path(), "token_embd.weight", "two dimensions", format!("{embedding:?}")));
    };
    let n = r.count("block_count", None)?;
    if !(1..=MAX_BLOCKS).contains(&n) {
        return Err(metadata.wrong(&r.key("block_count"), format!("1 to {MAX_BLOCKS}"), n.to_string()));
    }
    let kind = if r.has("output_norm.bias") { NormKind::Layer } else { NormKind::Rms };
    let eps_key =
        if kind == NormKind::Rms { "attention.layer_norm_rms_epsilon" } else { "attention.layer_norm_epsilon" };
    let eps: f32 = metadata.required(&r.key(eps_key))?;
    if !(eps > 0.0 && eps < 1.0) {
        return Err(metadata.wrong(&r.key(eps_key), "a number between 0 and 1", eps.to_string()));
    }
    let norm = Norm { kind, eps };
    let mut blocks = (0..n).map(|i| r.block(i, n, norm)).collect::<Result<Vec<_>>>()?;
    r.link(&mut blocks)?;
    let vocab_size = match metadata.optional(TRUE_VOCABULARY)? {
        Some(n) => n,
        None => r.count("vocab_size", Some(*rows))?,
    };
    if vocab_size == 0 || vocab_size > *rows {
        return Err(metadata.wrong(
            &r.key("vocab_size"),
            format!("1 to the embedding's {rows} rows"),
            vocab_size.to_string(),
        ));
    }
    let plan = Plan {
        name: metadata.optional::<&str>("general.name")?.unwrap_or(arch).to_owned(),
        vocab_size,
        padded_vocab_size: *rows,
        d_model: *d_model,
        context_length: r.count("context_length", Some(0))?,
        final_norm: norm,
        tied: !r.has("output.weight"),
        head_bias: r.has("output.bias"),
        blocks: only_mamba(blocks),
    };
    check_counts(metadata, &plan, architecture)?;
    Ok(plan)
}

/// Every count that the file states must be the one that its tensors make: other readers go by the keys.
fn check_counts(metadata: &Metadata, plan: &Plan, architecture: Architecture) -> Result<()> {
    let mut own = Metadata::new(metadata.path());
    write_plan(&mut own, plan, architecture);
    for (key, expected) in own.iter() {
        let Some(found) = metadata.get(key) else { continue };
        let agrees = match (expected.integer(), expected.integers(), found.integer(), found.integers()) {
            (Some(expected), _, Some(found), _) => expected == found,
            // Some tools write a list, a number for each block, with 0 where a block has no such thing.
            (Some(expected), _, _, Some(list)) => list.iter().all(|n| *n == expected || *n == 0),
            (_, Some(expected), _, Some(found)) if key.ends_with("head_count") => {
                expected.len() == found.len() && expected.iter().zip(&found).all(|(e, f)| e == f || *f == 0)
            }
            (_, Some(expected), _, Some(found)) => expected == found,
            _ => true,
        };
        if !agrees {
            return Err(metadata.wrong(key, format!("{expected}, as the tensors have it"), found.describe()));
        }
    }
    Ok(())
}

/// Blocks that are all a lone Mamba are a pure Mamba's, which checkpoints name differently.
fn only_mamba(mut blocks: Vec<Block>) -> Vec<Block> {
    let lone = |b: &Block| matches!(b.branches.as_slice(), [Branch { mixer: Mixer::Mamba(_), .. }]);
    if blocks.iter().all(lone) {
        blocks.iter_mut().flat_map(|b| &mut b.branches).for_each(|b| b.place = Place::Only);
    }
    blocks
}

struct Reader<'f, 'r> {
    metadata: &'f Metadata,
    shape: &'r dyn Fn(&str) -> Option<&'f [usize]>,
    arch: &'f str,
    architecture: Architecture,
}

impl<'f> Reader<'f, '_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn has(&self, tensor: &str) -> bool {
        (self.shape)(tensor).is_some()
    }

    fn shape(&self, tensor: &str) -> Result<&'f [usize]> {
        (self.shape)(tensor).ok_or_else(|| Error::tensor(self.metadata.path(), tensor, "a tensor", "none"))
    }

    /// The extent of dimension `d` of a tensor.
    fn extent(&self, tensor: &str, d: usize) -> Result<usize> {
        let shape = self.shape(tensor)?;
        let wrong =
            || Error::tensor(self.metadata.path(), tensor, format!("{} dimensions", d + 1), format!("{shape:?}"));
        shape.get(d).copied().ok_or_else(wrong)
    }

    /// A count; some tools write one number for all blocks where others write a list: the largest counts.
    fn count(&self, name: &str, default: Option<usize>) -> Result<usize> {
        let (key, metadata) = (self.key(name), self.metadata);
        if let Some(Value::Array(list)) = metadata.get(&key)
            && list.len() <= MAX_BLOCKS
            && let Ok(Some(list)) = metadata.optional::<Vec<usize>>(&key)
        {
            return Ok(list.into_iter().max().unwrap_or(0));
        }
        match (metadata.optional(&key)?, default) {
            (Some(value), _) | (None, Some(value)) => Ok(value),
            (None, None) => metadata.required(&key),
        }
    }

    fn block(&self, i: usize, n: usize, norm: Norm) -> Result<Block> {
        let has = |name: &str| self.has(&format!("blk.{i}.{name}"));
        let mut branches = Vec::new();
        let mut push = |place, norm, mixer| {
            let mut branch = Branch::new(place, norm, mixer);
            branch.post_norm = has(branch.post_norm_name()).then_some(norm);
            branches.push(branch);
        };
        let both = has("ssm_norm.weight");
        if has("mega_mix.weight") {
            push(Place::Mega, Norm { kind: NormKind::Rms, eps: INNER_NORM_EPS }, Mixer::Mega(self.mega(i)?));
        } else if has("ssm_b_norm") {
            push(Place::Mixer, norm, Mixer::HeadedMamba(self.headed_mamba(i, norm.eps)?));
        } else if has("gmu_in.weight") {
            let width = self.extent(&format!("blk.{i}.gmu_in.weight"), 0)?;
            push(Place::Mixer, norm, Mixer::GatedMemory(GatedMemory { width, proj_bias: has("gmu_in.bias") }));
        } else if has("ssm_in.weight") {
            let mamba = Mamba { scan: self.scan(i)?, proj_bias: has("ssm_in.bias"), shares_memory: false };
            push(if both { Place::Ssm } else { Place::Mixer }, norm, Mixer::Mamba(mamba));
        }
        if has("attn_decay_a.weight") {
            push(Place::Mixer, norm, Mixer::Gla(self.gla(i)?));
        } else if has("attn_gate.weight") {
            push(Place::Mixer, norm, Mixer::Retention(self.retention(i)?));
        } else if has("attn_subln.weight") && has("attn_qkv.weight") {
            let window = self.window(i, n)?;
            let differential = self.differential(i, "attn_qkv")?;
            let attention = DifferentialAttention { differential, window };
            push(Place::Mixer, norm, Mixer::DifferentialAttention(attention));
        } else if has("attn_subln.weight") {
            let attention = CrossAttention { differential: self.differential(i, "attn_q")? };
            push(Place::Mixer, norm, Mixer::CrossAttention(attention));
        } else if has("attn_q.weight") || has("attn_qkv.weight") {
            let place = if both { Place::Attention } else { Place::Mixer };
            push(place, norm, Mixer::Attention(self.attention(i, n)?));
        } else if has("mix_gate.weight") {
            push(Place::Mixer, norm, Mixer::SwiGlu(self.swiglu(i, "mix")?));
        }
        if has("ffn_up.weight") {
            push(Place::Mlp, norm, Mixer::SwiGlu(self.swiglu(i, "ffn")?));
        }
        match branches.is_empty() {
            false => Ok(Block { branches }),
            true => {
                let expected = "the tensors of a mixer (ssm_in, attn_q, ...)";
                Err(Error::tensor(self.metadata.path(), format!("blk.{i}"), expected, "none"))
            }
        }
    }

    fn scan(&self, i: usize) -> Result<SelectiveScan> {
        let at = |name: &str| format!("blk.{i}.{name}");
        Ok(SelectiveScan {
            d_inner: self.extent(&at("ssm_a"), 0)?,
            d_state: self.extent(&at("ssm_a"), 1)?,
            d_conv: self.extent(&at("ssm_conv1d.weight"), 1)?,
            dt_rank: self.extent(&at("ssm_dt.weight"), 1)?,
            conv_bias: self.has(&at("ssm_conv1d.bias")),
        })
    }

    fn swiglu(&self, i: usize, prefix: &str) -> Result<SwiGlu> {
        let fused = !self.has(&format!("blk.{i}.{prefix}_gate.weight"));
        Ok(SwiGlu {
            width: self.extent(&format!("blk.{i}.{prefix}_up.weight"), 0)? / if fused { 2 } else { 1 },
            bias: self.has(&format!("blk.{i}.{prefix}_up.bias")),
            fused,
        })
    }

    fn headed_mamba(&self, i: usize, eps: f32) -> Result<HeadedMamba> {
        let at = |name: &str| format!("blk.{i}.{name}");
        let heads = self.extent(&at("ssm_a"), 0)?;
        Ok(HeadedMamba {
            heads,
            head_dim: self.split(self.extent(&at("ssm_conv1d.weight"), 0)?, heads, "ssm.time_step_rank")?,
            d_state: self.extent(&at("ssm_b_norm"), 0)?,
            d_conv: self.extent(&at("ssm_conv1d.weight"), 1)?,
            dt_rank: self.extent(&at("ssm_dt_norm"), 0)?,
            eps,
        })
    }

    /// Heads from the output projection, groups from the fused one; those of cross attention are not known yet.
    fn differential(&self, i: usize, projection: &str) -> Result<Differential> {
        let at = |name: &str| format!("blk.{i}.{name}");
        let (rows, width) =
            (self.extent(&at(&format!("{projection}.weight")), 0)?, self.extent(&at("attn_output.weight"), 1)?);
        let pair = self.extent(&at("attn_subln.weight"), 0)?;
        let wrong =
            |expected: String| Error::tensor(self.metadata.path(), at("attn_subln.weight"), expected, pair.to_string());
        if pair < 2 || !pair.is_multiple_of(2) || !width.is_multiple_of(pair) {
            return Err(wrong(format!("the channels of a pair of heads, of {width} together")));
        }
        let keys = rows.saturating_sub(width);
        let groups = keys / pair;
        if keys != groups * pair
            || !groups.is_multiple_of(2)
            || groups > 0 && !(2 * width / pair).is_multiple_of(groups)
        {
            return Err(wrong(format!("the channels of a pair of heads, of {keys} of keys and values")));
        }
        Ok(Differential {
            heads: 2 * width / pair,
            groups,
            head_dim: pair / 2,
            layer: i,
            qkv_bias: self.has(&at(&format!("{projection}.bias"))),
            output_bias: self.has(&at("attn_output.bias")),
        })
    }

    /// Joins gates to the memory below them and cross attention to the keys and values below it.
    fn link(&self, blocks: &mut [Block]) -> Result<()> {
        let (mut memory, mut keys): (Option<usize>, Option<DifferentialAttention>) = (None, None);
        for i in 0..blocks.len() {
            let (below, rest) = blocks.split_at_mut(i);
            let [branch, ..] = rest[0].branches.as_mut_slice() else { continue };
            let wrong = |name: &str, expected: String, found: String| {
                Error::tensor(self.metadata.path(), format!("blk.{i}.{name}"), expected, found)
            };
            match &mut branch.mixer {
                Mixer::Mamba(_) => memory = Some(i),
                Mixer::DifferentialAttention(a) if a.differential.groups == 0 => {
                    return Err(wrong("attn_qkv.weight", "queries, keys and values".into(), "queries alone".into()));
                }
                Mixer::DifferentialAttention(a) => keys = Some(a.clone()),
                Mixer::CrossAttention(a) => {
                    let d = &mut a.differential;
                    let fits = keys.as_ref().filter(|k| {
                        let own = &k.differential;
                        k.window.is_none() && own.head_dim == d.head_dim && d.heads.is_multiple_of(own.groups)
                    });
                    let Some(fits) = fits.filter(|_| d.groups == 0) else {
                        let expected = "queries alone, and keys of as wide heads in full attention below";
                        return Err(wrong("attn_q.weight", expected.into(), "others".into()));
                    };
                    d.groups = fits.differential.groups;
                }
                Mixer::GatedMemory(g) => match memory.and_then(|m| below[m].branches.first_mut()).map(|b| &mut b.mixer)
                {
                    Some(Mixer::Mamba(m)) if m.scan.d_inner == g.width => m.shares_memory = true,
                    _ => {
                        let expected = format!("a Mamba of {} channels below", g.width);
                        return Err(wrong("gmu_in.weight", expected, "none".into()));
                    }
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// `total` split evenly over `heads`.
    fn split(&self, total: usize, heads: usize, key: &str) -> Result<usize> {
        match total.checked_rem(heads) {
            Some(0) => Ok(total / heads),
            _ => Err(self.metadata.wrong(&self.key(key), format!("a divisor of {total}"), heads.to_string())),
        }
    }

    /// Keys that a token sees.
    fn window(&self, i: usize, n: usize) -> Result<Option<usize>> {
        let metadata = self.metadata;
        let flags: Option<&[bool]> = metadata.optional(&self.key("attention.sliding_window_pattern")).unwrap_or(None);
        if let Some(flags) = flags.filter(|f| f.len() != n) {
            let key = self.key("attention.sliding_window_pattern");
            return Err(metadata.wrong(&key, format!("{n} flags"), flags.len().to_string()));
        }
        let key = self.key("attention.sliding_window");
        let by_block: Option<Vec<usize>> = match metadata.get(&key) {
            Some(Value::Array(list)) if list.len() == n => metadata.optional(&key)?,
            _ => None,
        };
        let window = match by_block {
            Some(windows) => windows[i],
            None => self.count("attention.sliding_window", Some(0))?,
        };
        let local = flags.and_then(|f| f.get(i).copied()).unwrap_or(true);
        Ok((local && window > 0).then_some(window))
    }

    fn attention(&self, i: usize, n: usize) -> Result<Attention> {
        let metadata = self.metadata;
        let at = |name: &str| format!("blk.{i}.{name}");
        let fused = self.has(&at("attn_qkv.weight"));
        let qk_norm = self.has(&at("attn_q_norm.weight"));
        let heads = match qk_norm {
            true => self.extent(&at("attn_q_norm.weight"), 0)?,
            false => self.count("attention.head_count", None)?,
        };
        let head_dim = self.split(self.extent(&at("attn_output.weight"), 1)?, heads, "attention.head_count")?;
        let keys = match fused {
            true => self.extent(&at("attn_qkv.weight"), 0)?.saturating_sub(heads * head_dim) / 2,
            false => self.extent(&at("attn_k.weight"), 0)?,
        };
        let groups = keys.checked_div(head_dim).unwrap_or(0);
        self.split(heads, groups, "attention.head_count_kv")?;
        let dims = self.count("rope.dimension_count", Some(head_dim))?;
        if dims > head_dim || !dims.is_multiple_of(2) {
            let expected = format!("an even number up to the head's {head_dim} channels");
            return Err(metadata.wrong(&self.key("rope.dimension_count"), expected, dims.to_string()));
        }
        let float = |name: &str, default: f32| -> Result<f32> {
            let value = metadata.optional(&self.key(name))?.unwrap_or(default);
            match value > 0.0 && value < f32::INFINITY {
                true => Ok(value),
                false => Err(metadata.wrong(&self.key(name), "a positive number", value.to_string())),
            }
        };
        let table = match metadata.optional::<&str>(&self.key("rope.table_type"))? {
            // The training code's table; what llama.cpp's own architectures were trained with is float32.
            None if self.architecture == Architecture::Samba => RopeTable::Bf16,
            Some("bf16") => RopeTable::Bf16,
            None | Some("f32") => RopeTable::F32,
            Some(other) => return Err(metadata.wrong(&self.key("rope.table_type"), "bf16 or f32", quoted(other))),
        };
        let rope =
            Rope { dims, base: float("rope.freq_base", 10000.0)?, condense: float("rope.scaling.factor", 1.0)?, table };
        let conv = at("attn_q_conv1d.weight");
        Ok(Attention {
            heads,
            groups,
            head_dim,
            window: self.window(i, n)?,
            rope: (dims > 0).then_some(rope),
            qkv_bias: self.has(&at(if fused { "attn_qkv.bias" } else { "attn_q.bias" })),
            output_bias: self.has(&at("attn_output.bias")),
            short_conv: if self.has(&conv) { Some(self.extent(&conv, 1)?) } else { None },
            fused,
            qk_norm,
        })
    }

    /// Heads of linear attention, key channels, value channels of a head.
    fn linear_heads(&self, i: usize) -> Result<[usize; 3]> {
        let key = "linear_attention.head_count";
        let heads = self.count(key, None)?;
        let of = |name: &str| self.split(self.extent(&format!("blk.{i}.{name}.weight"), 0)?, heads, key);
        Ok([heads, of("attn_q")?, of("attn_v")?])
    }

    fn retention(&self, i: usize) -> Result<Retention> {
        let [heads, key_dim, value_dim] = self.linear_heads(i)?;
        if !key_dim.is_multiple_of(2) {
            let key = self.key("linear_attention.head_count");
            return Err(self.metadata.wrong(&key, "an even number of key channels a head", key_dim.to_string()));
        }
        Ok(Retention { heads, key_dim, value_dim })
    }

    fn gla(&self, i: usize) -> Result<Gla> {
        let [heads, key_dim, value_dim] = self.linear_heads(i)?;
        Ok(Gla { heads, key_dim, value_dim, decay_rank: self.extent(&format!("blk.{i}.attn_decay_a.weight"), 0)? })
    }

    fn mega(&self, i: usize) -> Result<Mega> {
        let z_dim = self.extent(&format!("blk.{i}.mega_gamma"), 1)?;
        let chunk = self.count("mega.chunk_length", None)?;
        if !z_dim.is_multiple_of(2) || !(1..=1 << 20).contains(&chunk) {
            let key = self.key("mega.chunk_length");
            return Err(self.metadata.wrong(&key, "1 to 1048576, and an even width of gamma", chunk.to_string()));
        }
        Ok(Mega { scan: self.scan(i)?, z_dim, chunk })
    }
}
