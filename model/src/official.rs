//! The 46 named configurations of the training code (`lit_gpt/config.py` of microsoft/Samba at ed3ed54).

use crate::error::one_line;
use crate::{Config, Error, Result, ShapeHints};
use serde_json::{Map, Value, json};

/// What the mixers of a named configuration are.
#[derive(Clone, Copy)]
enum Kind {
    Attention,
    /// Local layers, every second one full.
    HalfLocal,
    Samba,
    SambaNope,
    /// SwiGLU where Samba has Mamba.
    AblMamba,
    MambaSwaMlp,
    /// Attention at the listed layers, Mamba elsewhere.
    AttentionAt(&'static str),
    Gla,
    Retention,
    Mega,
    PureMamba,
    /// Has no forward pass.
    Parallel,
}

/// One configuration: name, mixers, layers, n_embd, heads, key/value heads, MLP width, window, context, tied head.
struct Row(&'static str, Kind, usize, usize, usize, usize, usize, i64, usize, bool);

use Kind::*;
#[rustfmt::skip]
const TABLE: [Row; 46] = [
    Row("LLaMA_438M",               Attention,             12, 1536, 12, 12, 4096,   -1,  4096, false),
    Row("LLaMA_438M2k",             Attention,             12, 1536, 12, 12, 4096,   -1,  2048, false),
    Row("S6Mega_438M",              Mega,                  12, 1536, 12, 12, 4096,   -1,  4096, true),
    Row("LLaMA_438M_SWA",           Attention,             12, 1536, 12, 12, 4096, 2048,  4096, false),
    Row("LLaMA_438M8k_SWA",         Attention,             12, 1536, 12, 12, 4096, 2048,  8192, false),
    Row("LLaMA_438M16k_SWA",        Attention,             12, 1536, 12, 12, 4096, 2048, 16384, false),
    Row("LLaMA_438M32k_SWA",        Attention,             12, 1536, 12, 12, 4096, 2048, 32768, false),
    Row("LLaMA_438M_SWA_full",      HalfLocal,             12, 1536, 12, 12, 4096, 2048,  4096, false),
    Row("LLaMA_438M_SWA_mqa",       Attention,             12, 1536, 12,  1, 4608, 2048,  4096, false),
    Row("LLaMA_438M_SWA_mqa6",      Attention,             12, 1536,  6,  1, 4608, 2048,  4096, false),
    Row("LLaMA_438M_SWA_gqa2",      Attention,             12, 1536, 12,  2, 4608, 2048,  4096, false),
    Row("LLaMA_438M_SWA_gqa4",      Attention,             12, 1536, 12,  4, 4608, 2048,  4096, false),
    Row("LLaMA_438M_SWA_paral",     Parallel,              14, 1536, 12, 12, 4096, 2048,  4096, true),
    Row("LLaMA_438M_SWA_8k4k",      Attention,             14, 1536, 12, 12, 4096, 4096,  8192, true),
    Row("LLaMA_438M_SWA_8k2k",      Attention,             14, 1536, 12, 12, 4096, 2048,  8192, true),
    Row("Samba_421M",               Samba,                 12, 1536, 12, 12, 4096, 2048,  4096, true),
    Row("Samba_421M_nope",          SambaNope,             12, 1536, 12, 12, 4096, 2048,  4096, true),
    Row("Samba_421M_1k_window",     Samba,                 12, 1536, 12, 12, 4096, 1024,  4096, true),
    Row("Samba_421M_512_window",    Samba,                 12, 1536, 12, 12, 4096,  512,  4096, true),
    Row("Samba_421M_abl_mamba",     AblMamba,              12, 1536, 12, 12, 4096, 2048,  4096, true),
    Row("Mamba_SWA_MLP_400M",       MambaSwaMlp,            8, 1536, 12, 12, 4096, 2048,  4096, true),
    Row("LLaMA_449M_full_mamba_0",  AttentionAt("[0,]"),   12, 1536, 12, 12, 4096,   -1,  4096, true),
    Row("LLaMA_449M_full_mamba_11", AttentionAt("[11,]"),  12, 1536, 12, 12, 4096,   -1,  4096, true),
    Row("LLaMA_449M_full_mamba_5",  AttentionAt("[5,]"),   12, 1536, 12, 12, 4096,   -1,  4096, true),
    Row("LLaMA_443M_full_mamba_1,5",AttentionAt("[1,5]"),  12, 1536, 12, 12, 4096,   -1,  4096, true),
    Row("Samba_421M_mqa",           Samba,                 12, 1536, 12,  1, 4608, 2048,  4096, true),
    Row("Samba_421M_gqa4",          Samba,                 12, 1536, 12,  4, 4608, 2048,  4096, true),
    Row("Samba_421M_gqa2",          Samba,                 12, 1536, 12,  2, 4608, 2048,  4096, true),
    Row("Samba_421M_mqa6",          Samba,                 12, 1536,  6,  1, 4608, 2048,  4096, true),
    Row("LLaMA_438M_SWA_gla",       Gla,                   12, 1536, 12, 12, 4096, 2048,  4096, false),
    Row("LLaMA_446M_SWA_ret",       Retention,             12, 1536, 12, 12, 4096, 2048,  4096, true),
    Row("Samba_1.3B",               Samba,                 18, 2304, 18, 18, 6144, 2048,  4096, true),
    Row("Samba_1.3B_nope",          SambaNope,             18, 2304, 18, 18, 6144, 2048,  4096, true),
    Row("Samba_1.3B_abl_mamba",     AblMamba,              18, 2304, 18, 18, 6144, 2048,  4096, true),
    Row("Mamba_SWA_MLP_1.3B",       MambaSwaMlp,           12, 2304, 18, 18, 6144, 2048,  4096, true),
    Row("S6Mega_1.3B",              Mega,                  18, 2304, 18, 18, 6144,   -1,  4096, true),
    Row("LLaMA_1.2B_SWA_gla",       Gla,                   18, 2304, 18, 18, 6144, 2048,  4096, true),
    Row("LLaMA_1.4B_SWA_ret",       Retention,             18, 2304, 18, 18, 6144, 2048,  4096, true),
    Row("LLaMA_1.3B_SWA",           Attention,             20, 2304, 18, 18, 6144, 2048,  4096, true),
    Row("LLaMA_1.3B_SWA_8k4k",      Attention,             20, 2304, 18, 18, 6144, 4096,  8192, true),
    Row("LLaMA_1.3B_SWA_8k2k",      Attention,             20, 2304, 18, 18, 6144, 2048,  8192, true),
    Row("LLaMA_1.3B",               Attention,             20, 2304, 18, 18, 6144,   -1,  4096, true),
    Row("LLaMA_2.9B",               Attention,             24, 3072, 24, 24, 8192,   -1,  2048, false),
    Row("Mamba_370M",               PureMamba,             48, 1024, 32, 32, 4096,   -1,  4096, true),
    Row("Mamba_430M",               PureMamba,             60, 1024, 32, 32, 4096,   -1,  4096, true),
    Row("Mamba_1.3B",               PureMamba,             48, 2048, 32, 32, 8192,   -1,  4096, true),
];

impl Row {
    fn fields(&self) -> Map<String, Value> {
        let Row(name, kind, layers, embd, heads, groups, width, window, context, tied) = *self;
        let all = json!({
            "org": "Microsoft", "name": name, "block_size": context, "vocab_size": 32000, "padding_multiple": 64,
            "n_layer": layers, "n_head": heads, "n_embd": embd, "n_query_groups": groups,
            "rotary_percentage": 1.0, "parallel_residual": false, "shared_attention_norm": false, "bias": false,
            "_norm_class": "FusedRMSNorm", "norm_eps": 1e-5, "_mlp_class": "LLaMAMLP", "intermediate_size": width,
            "local_window": window, "mamba_init": tied,
        });
        let extra = match kind {
            Attention => json!({}),
            HalfLocal => json!({ "full_per_layer": 2 }),
            Samba => json!({ "mb_per_layer": 2 }),
            SambaNope => json!({ "mb_per_layer": 2, "nope": true }),
            AblMamba => json!({ "mb_per_layer": 2, "abl_mamba": true }),
            MambaSwaMlp => json!({ "mamba_swa_mlp": true }),
            AttentionAt(list) => json!({ "attn_layer_pos": list }),
            Gla => json!({ "gla_per_layer": 2 }),
            Retention => json!({ "ret_per_layer": 2 }),
            Mega => json!({ "use_mega": true }),
            PureMamba => json!({ "mamba": true }),
            Parallel => json!({ "parallel_residual": true, "shared_attention_norm": true }),
        };
        match (all, extra) {
            (Value::Object(mut all), Value::Object(extra)) => {
                all.extend(extra);
                all
            }
            _ => Map::new(),
        }
    }
}

/// The names of all official configurations.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.0)
}

/// The official configuration called `name`.
///
/// # Errors
/// [`Error::UnknownName`] with the closest names; [`Error::NoForward`] for the one that the training code cannot run.
pub fn config(name: &str) -> Result<Config> {
    match TABLE.iter().find(|row| row.0 == name) {
        Some(row) => Config::from_fields(row.fields(), &ShapeHints::default()),
        None => Err(Error::UnknownName { name: one_line(name), close: closest(name).join(", ") }),
    }
}

/// Up to three official names with the longest common prefix with `name`, letter case ignored.
fn closest(name: &str) -> Vec<&'static str> {
    let name = name.to_lowercase();
    let shared = |other: &str| {
        let other = other.to_lowercase();
        name.chars().zip(other.chars()).take_while(|(a, b)| a == b).count()
    };
    let mut all: Vec<_> = names().collect();
    all.sort_by_key(|n| (std::cmp::Reverse(shared(n)), n.len()));
    all.truncate(3);
    all
}
