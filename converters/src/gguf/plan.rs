//! The layer plan as GGUF keys. Names are llama.cpp's wherever it has one; `docs/gguf.md` lists all of them.
//!
//! What a block is made of shows in its tensors, so no key repeats it; keys hold what shapes cannot tell.

use super::{Architecture, Metadata, Value};
use crate::error::quoted;
use crate::{Error, Result};
use tamborim_model::mixers::{Attention, Gla, Mamba, Mega, Retention, Rope, RopeTable, SelectiveScan, SwiGlu};
use tamborim_model::{Block, Branch, INNER_NORM_EPS, Mixer, Norm, NormKind, Place, Plan};

/// Tokens that exist, where the embedding may have more rows.
const TRUE_VOCABULARY: &str = "tamborim.vocab_size";
/// Largest number of blocks accepted.
const MAX_BLOCKS: usize = 4096;

/// Writes the keys of `plan`, as `architecture` has them.
pub fn write_plan(metadata: &mut Metadata, plan: &Plan, architecture: Architecture) {
    let arch = architecture.name();
    metadata.insert("general.architecture", arch);
    metadata.insert("general.type", "model");
    metadata.insert("general.name", plan.name.as_str());
    let mut put = Keys { metadata, arch };
    put.count("block_count", plan.blocks.len());
    put.count("context_length", plan.context_length);
    put.count("embedding_length", plan.d_model);
    // llama.cpp expects as many embedding rows as this says; ours may have padding beyond the true vocabulary.
    let rows = if architecture == Architecture::Samba { plan.vocab_size } else { plan.padded_vocab_size };
    put.count("vocab_size", rows);
    put.metadata.insert(TRUE_VOCABULARY, plan.vocab_size as u32);
    if architecture == Architecture::GraniteSwa {
        put.float("logit_scale", 1.0);
    }
    match plan.final_norm.kind {
        NormKind::Rms => put.float("attention.layer_norm_rms_epsilon", plan.final_norm.eps),
        NormKind::Layer => put.float("attention.layer_norm_epsilon", plan.final_norm.eps),
    }
    let mixers = || plan.blocks.iter().flat_map(|b| &b.branches).map(|b| (b.place, &b.mixer));
    let width = mixers().find_map(|(place, m)| match m {
        Mixer::SwiGlu(s) if place == Place::Mlp => Some(s.width),
        _ => None,
    });
    put.count("feed_forward_length", width.unwrap_or(0));
    let scan = mixers().find_map(|(_, m)| match m {
        Mixer::Mamba(m) => Some(&m.scan),
        Mixer::Mega(m) => Some(&m.scan),
        _ => None,
    });
    if let Some(scan) = scan {
        put.count("ssm.conv_kernel", scan.d_conv);
        put.count("ssm.inner_size", scan.d_inner);
        put.count("ssm.state_size", scan.d_state);
        put.count("ssm.time_step_rank", scan.dt_rank);
    }
    let attention = mixers().find_map(|(_, m)| if let Mixer::Attention(a) = m { Some(a) } else { None });
    match attention {
        Some(a) => write_attention(&mut put, plan, a),
        None => put.count("attention.head_count", 0),
    }
    let linear_heads = mixers().find_map(|(_, m)| match m {
        Mixer::Retention(r) => Some(r.heads),
        Mixer::Gla(g) => Some(g.heads),
        _ => None,
    });
    if let Some(heads) = linear_heads {
        put.count("linear_attention.head_count", heads);
    }
    if let Some(mega) = mixers().find_map(|(_, m)| if let Mixer::Mega(m) = m { Some(m) } else { None }) {
        put.count("mega.chunk_length", mega.chunk);
    }
}

fn write_attention(put: &mut Keys<'_>, plan: &Plan, a: &Attention) {
    put.count("attention.head_count", a.heads);
    put.count("attention.key_length", a.head_dim);
    put.count("attention.value_length", a.head_dim);
    let by_block = |f: &dyn Fn(Option<&Attention>) -> bool| -> Vec<bool> {
        let attention_of = |b: &Block| {
            b.branches.iter().find_map(|b| if let Mixer::Attention(a) = &b.mixer { Some(a.clone()) } else { None })
        };
        plan.blocks.iter().map(|b| f(attention_of(b).as_ref())).collect()
    };
    // A block without keys and values is how llama.cpp's hybrids mark a recurrent one.
    let kv = by_block(&|a| a.is_some()).into_iter().map(|is| if is { a.groups as i32 } else { 0 });
    put.metadata.insert(put.key("attention.head_count_kv"), kv.collect::<Vec<i32>>());
    let local = by_block(&|a| a.is_some_and(|a| a.window.is_some()));
    let window = plan.blocks.iter().flat_map(|b| &b.branches).find_map(|b| match &b.mixer {
        Mixer::Attention(a) => a.window,
        _ => None,
    });
    if let Some(window) = window {
        put.count("attention.sliding_window", window);
    }
    put.metadata.insert(put.key("attention.sliding_window_pattern"), local);
    put.metadata.insert(put.key("attention.recurrent_layers"), by_block(&|a| a.is_none()));
    let rope = a.rope.unwrap_or(Rope { dims: 0, base: 10000.0, condense: 1.0, table: RopeTable::F32 });
    put.count("rope.dimension_count", rope.dims);
    put.float("rope.freq_base", rope.base);
    put.text("rope.scaling.type", if rope.condense == 1.0 { "none" } else { "linear" });
    if rope.condense != 1.0 {
        put.float("rope.scaling.factor", rope.condense);
    }
    put.text("rope.table_type", if rope.table == RopeTable::Bf16 { "bf16" } else { "f32" });
}

/// Keys below an architecture's name.
struct Keys<'m> {
    metadata: &'m mut Metadata,
    arch: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn count(&mut self, name: &str, value: usize) {
        let key = self.key(name);
        self.metadata.insert(key, u32::try_from(value).unwrap_or(u32::MAX));
    }

    fn float(&mut self, name: &str, value: f32) {
        let key = self.key(name);
        self.metadata.insert(key, value);
    }

    fn text(&mut self, name: &str, value: &str) {
        let key = self.key(name);
        self.metadata.insert(key, value);
    }
}

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
    let blocks = (0..n).map(|i| r.block(i, n, norm)).collect::<Result<Vec<_>>>()?;
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
        let mut push = |place, norm, mixer| branches.push(Branch { place, norm, mixer });
        let both = has("ssm_norm.weight");
        if has("mega_mix.weight") {
            push(Place::Mega, Norm { kind: NormKind::Rms, eps: INNER_NORM_EPS }, Mixer::Mega(self.mega(i)?));
        } else if has("ssm_in.weight") {
            let mamba = Mamba { scan: self.scan(i)?, proj_bias: has("ssm_in.bias") };
            push(if both { Place::Ssm } else { Place::Mixer }, norm, Mixer::Mamba(mamba));
        }
        if has("attn_decay_a.weight") {
            push(Place::Mixer, norm, Mixer::Gla(self.gla(i)?));
        } else if has("attn_gate.weight") {
            push(Place::Mixer, norm, Mixer::Retention(self.retention(i)?));
        } else if has("attn_q.weight") {
            let place = if both { Place::Attention } else { Place::Mixer };
            push(place, norm, Mixer::Attention(self.attention(i, n)?));
        } else if has("mix_gate.weight") {
            push(Place::Mixer, norm, Mixer::SwiGlu(self.swiglu(i, "mix")?));
        }
        if has("ffn_gate.weight") {
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
        Ok(SwiGlu {
            width: self.extent(&format!("blk.{i}.{prefix}_gate.weight"), 0)?,
            bias: self.has(&format!("blk.{i}.{prefix}_gate.bias")),
        })
    }

    /// `total` split evenly over `heads`.
    fn split(&self, total: usize, heads: usize, key: &str) -> Result<usize> {
        match total.checked_rem(heads) {
            Some(0) => Ok(total / heads),
            _ => Err(self.metadata.wrong(&self.key(key), format!("a divisor of {total}"), heads.to_string())),
        }
    }

    fn attention(&self, i: usize, n: usize) -> Result<Attention> {
        let metadata = self.metadata;
        let at = |name: &str| format!("blk.{i}.{name}");
        let heads = self.count("attention.head_count", None)?;
        let head_dim = self.split(self.extent(&at("attn_q.weight"), 0)?, heads, "attention.head_count")?;
        let groups = self.extent(&at("attn_k.weight"), 0)?.checked_div(head_dim).unwrap_or(0);
        self.split(heads, groups, "attention.head_count_kv")?;
        let flags: Option<&[bool]> = metadata.optional(&self.key("attention.sliding_window_pattern")).unwrap_or(None);
        if let Some(flags) = flags.filter(|f| f.len() != n) {
            let key = self.key("attention.sliding_window_pattern");
            return Err(metadata.wrong(&key, format!("{n} flags"), flags.len().to_string()));
        }
        let window = self.count("attention.sliding_window", Some(0))?;
        let local = flags.and_then(|f| f.get(i).copied()).unwrap_or(true);
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
            window: (local && window > 0).then_some(window),
            rope: (dims > 0).then_some(rope),
            qkv_bias: self.has(&at("attn_q.bias")),
            output_bias: self.has(&at("attn_output.bias")),
            short_conv: if self.has(&conv) { Some(self.extent(&conv, 1)?) } else { None },
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
