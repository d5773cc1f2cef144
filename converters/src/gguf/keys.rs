//! The layer plan as GGUF keys. Names are llama.cpp's wherever it has one; `docs/gguf.md` lists all of them.
//!
//! What a block is made of shows in its tensors, so no key repeats it; keys hold what shapes cannot tell.

use super::{Architecture, Metadata};
use tamborim_model::mixers::{Attention, Differential, Rope, RopeTable};
use tamborim_model::{Block, Mixer, NormKind, Place, Plan};

/// Tokens that exist, where the embedding may have more rows.
pub(super) const TRUE_VOCABULARY: &str = "tamborim.vocab_size";

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
    if let Some(m) = mixers().find_map(|(_, m)| if let Mixer::HeadedMamba(m) = m { Some(m) } else { None }) {
        put.count("ssm.conv_kernel", m.d_conv);
        put.count("ssm.inner_size", m.d_inner());
        put.count("ssm.state_size", m.d_state);
        put.count("ssm.time_step_rank", m.heads);
        put.count("ssm.group_count", 0);
    }
    match plan.blocks.iter().find_map(Heads::of) {
        Some(a) => write_attention(&mut put, plan, architecture, &a),
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

/// What keys say of a block's attention, whatever its kind.
struct Heads {
    heads: usize,
    groups: usize,
    head_dim: usize,
    window: Option<usize>,
    rope: Option<Rope>,
}

impl Heads {
    fn of(block: &Block) -> Option<Heads> {
        block.branches.iter().find_map(|b| match &b.mixer {
            Mixer::Attention(a) => {
                let Attention { heads, groups, head_dim, window, rope, .. } = *a;
                Some(Heads { heads, groups, head_dim, window, rope })
            }
            Mixer::DifferentialAttention(a) => Some(Heads::differential(&a.differential, a.window)),
            Mixer::CrossAttention(a) => Some(Heads::differential(&a.differential, None)),
            _ => None,
        })
    }

    fn differential(d: &Differential, window: Option<usize>) -> Heads {
        Heads { heads: d.heads, groups: d.groups, head_dim: d.head_dim, window, rope: None }
    }
}

fn write_attention(put: &mut Keys<'_>, plan: &Plan, architecture: Architecture, a: &Heads) {
    let blocks: Vec<Option<Heads>> = plan.blocks.iter().map(Heads::of).collect();
    match architecture {
        // Its loader takes the rotary width only where block 0 has heads, recurrent or not.
        Architecture::Plamo2 => {
            put.metadata.insert(put.key("attention.head_count"), vec![a.heads as i32; blocks.len()]);
        }
        _ => put.count("attention.head_count", a.heads),
    }
    put.count("attention.key_length", a.head_dim);
    put.count("attention.value_length", a.head_dim);
    // A block without keys and values is how llama.cpp's hybrids mark a recurrent one.
    let kv = blocks.iter().map(|b| b.as_ref().map_or(0, |b| b.groups as i32));
    put.metadata.insert(put.key("attention.head_count_kv"), kv.collect::<Vec<i32>>());
    let windows: Vec<usize> = blocks.iter().map(|b| b.as_ref().and_then(|b| b.window).unwrap_or(0)).collect();
    let mut different: Vec<usize> = windows.iter().copied().filter(|w| *w > 0).collect();
    different.dedup();
    match different.as_slice() {
        [] => {}
        [window] => put.count("attention.sliding_window", *window),
        _ => {
            let windows: Vec<u32> = windows.iter().map(|w| u32::try_from(*w).unwrap_or(u32::MAX)).collect();
            put.metadata.insert(put.key("attention.sliding_window"), windows);
        }
    }
    let local: Vec<bool> = windows.iter().map(|w| *w > 0).collect();
    put.metadata.insert(put.key("attention.sliding_window_pattern"), local);
    let has = |b: &Block, is: fn(&Mixer) -> bool| b.branches.iter().any(|b| is(&b.mixer));
    let recurrent = plan.blocks.iter().zip(&blocks);
    let recurrent = recurrent.map(|(b, a)| a.is_none() && !has(b, |m| matches!(m, Mixer::GatedMemory(_))));
    put.metadata.insert(put.key("attention.recurrent_layers"), recurrent.collect::<Vec<bool>>());
    if let Some(first) = plan.blocks.iter().position(|b| has(b, |m| matches!(m, Mixer::CrossAttention(_)))) {
        let own = plan.blocks[..first].iter().rposition(|b| has(b, |m| matches!(m, Mixer::DifferentialAttention(_))));
        put.count("attention.shared_kv_layers", plan.blocks.len() - 1 - own.unwrap_or(0));
    }
    if architecture == Architecture::Phi4Flash {
        return; // no positions
    }
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
