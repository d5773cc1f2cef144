//! The configuration of the training code (`lit_gpt.config.Config` of microsoft/Samba, commit ed3ed54): every field, its
//! default there, and the checks that the code itself leaves to chance.

use crate::error::one_line;
use crate::{Error, Result, ShapeHints};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Largest value accepted for any extent; keeps every product of two of them inside 64 bits.
const MAX_EXTENT: i64 = 1 << 24;
/// Largest number of layers accepted.
const MAX_LAYERS: i64 = 4096;

/// Normalization of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormClass {
    /// The fused kernel; same formula as [`NormClass::RMSNorm`].
    FusedRMSNorm,
    /// `x * rsqrt(mean(x^2) + eps) * weight`.
    RMSNorm,
    /// Mean and biased variance removed, weight and bias applied.
    LayerNorm,
}

/// All fields of the training code's configuration, resolved: nothing is left to be derived.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Who trained it.
    pub org: String,
    /// Its name.
    pub name: String,
    /// Training context length, in tokens. No limit of the model.
    pub block_size: usize,
    /// Tokens that exist.
    pub vocab_size: usize,
    /// What [`Config::padded_vocab_size`] was rounded up to.
    pub padding_multiple: usize,
    /// Rows of the embedding; those from `vocab_size` on are padding.
    pub padded_vocab_size: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Query heads (pure Mamba ignores it).
    pub n_head: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Share of each head's channels that RoPE turns.
    pub rotary_percentage: f64,
    /// Attention and MLP side by side. No forward pass exists.
    pub parallel_residual: bool,
    /// Biases in attention and MLP.
    pub bias: bool,
    /// Keys that a local attention layer sees, itself included; `<= 0`: all.
    pub local_window: i64,
    /// Whether blocks have an MLP half.
    pub mlp: bool,
    /// Every n-th attention layer is not local.
    pub full_per_layer: usize,
    /// Every n-th layer is Mamba, from layer 0; `<= 0`: none.
    pub mb_per_layer: i64,
    /// Every n-th layer is retention.
    pub ret_per_layer: i64,
    /// Every n-th layer is gated linear attention.
    pub gla_per_layer: i64,
    /// No rotary position embedding.
    pub nope: bool,
    /// Pure Mamba.
    pub mamba: bool,
    /// Short convolutions on q, k and v.
    pub sc_attn: bool,
    /// Pure Mamba only: RMSNorm instead of LayerNorm.
    pub rms_norm: bool,
    /// Training precision of the residual; no effect here.
    pub residual_in_fp32: bool,
    /// Kernel choice; no effect here.
    pub fused_add_norm: bool,
    /// Mamba's weight initialization, which also ties the head to the embedding.
    pub mamba_init: bool,
    /// Layers that are attention, all others being Mamba; wins over the `*_per_layer` fields.
    #[serde(serialize_with = "as_python_list")]
    pub attn_layer_pos: Option<Vec<usize>>,
    /// Mega-S6 blocks.
    pub use_mega: bool,
    /// SwiGLU of width 2 d in the place of Mamba.
    pub abl_mamba: bool,
    /// Mamba, attention and MLP in every block.
    pub mamba_swa_mlp: bool,
    /// Key/value heads.
    pub n_query_groups: usize,
    /// One norm for both halves. No forward pass exists.
    pub shared_attention_norm: bool,
    /// Norm of the residual stream, pure Mamba excepted.
    #[serde(rename = "_norm_class")]
    pub norm_class: NormClass,
    /// Added to the mean square before the root.
    pub norm_eps: f64,
    /// `LLaMAMLP`, the only one that exists.
    #[serde(rename = "_mlp_class")]
    pub mlp_class: String,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Positions are divided by this before RoPE.
    pub condense_ratio: usize,
}

/// `attn_layer_pos` is a string holding a Python list in the training code.
fn as_python_list<S: serde::Serializer>(list: &Option<Vec<usize>>, s: S) -> std::result::Result<S::Ok, S::Error> {
    match list {
        None => s.serialize_none(),
        Some(l) => s.serialize_str(&format!("{l:?}")),
    }
}

/// Reads fields out of a JSON object, naming the culprit; what is left at the end is unknown.
struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|v| !v.is_null())
    }

    fn bool(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(b),
            Some(v) => Err(Error::config(name, "true or false", v)),
        }
    }

    fn maybe_bool(&mut self, name: &str, hint: Option<bool>, default: bool) -> Result<bool> {
        self.bool(name, hint.unwrap_or(default))
    }

    fn int(&mut self, name: &str, default: i64) -> Result<i64> {
        match self.take(name) {
            None => Ok(default),
            Some(v) => v.as_i64().ok_or_else(|| Error::config(name, "a whole number", v)),
        }
    }

    /// An extent: 1 to `max`.
    fn extent(&mut self, name: &str, default: Option<usize>, max: i64) -> Result<Option<usize>> {
        let Some(v) = self.take(name) else { return Ok(default) };
        match v.as_i64() {
            Some(n) if (1..=max).contains(&n) => Ok(Some(n as usize)),
            _ => Err(Error::config(name, format!("a whole number from 1 to {max}"), v)),
        }
    }

    fn float(&mut self, name: &str, default: f64, ok: impl Fn(f64) -> bool, expected: &str) -> Result<f64> {
        match self.take(name) {
            None => Ok(default),
            Some(v) => v.as_f64().filter(|x| x.is_finite() && ok(*x)).ok_or_else(|| Error::config(name, expected, v)),
        }
    }

    fn text(&mut self, name: &str, default: &str) -> Result<String> {
        match self.take(name) {
            None => Ok(default.to_owned()),
            Some(Value::String(s)) => Ok(s),
            Some(v) => Err(Error::config(name, "a string", v)),
        }
    }
}

/// Parses `"[1,5]"` or `"[0,]"`: a literal list of layer numbers, never evaluated. A JSON list is accepted too.
fn layer_list(value: Value, n_layer: usize) -> Result<Vec<usize>> {
    let bad = |v: &Value| Error::config("attn_layer_pos", "a list of layer numbers such as \"[1,5]\"", v);
    let numbers: Vec<usize> = match &value {
        Value::String(s) => {
            let inner = s.trim().strip_prefix('[').and_then(|s| s.strip_suffix(']')).ok_or_else(|| bad(&value))?;
            let inner = inner.trim();
            let inner = inner.strip_suffix(',').unwrap_or(inner);
            if inner.trim().is_empty() {
                Vec::new()
            } else {
                let parsed: Option<Vec<usize>> = inner.split(',').map(|n| n.trim().parse().ok()).collect();
                parsed.ok_or_else(|| bad(&value))?
            }
        }
        Value::Array(list) => {
            let parsed: Option<Vec<usize>> = list.iter().map(|n| n.as_u64().map(|n| n as usize)).collect();
            parsed.ok_or_else(|| bad(&value))?
        }
        _ => return Err(bad(&value)),
    };
    match numbers.iter().find(|&&n| n >= n_layer) {
        Some(n) => Err(Error::config("attn_layer_pos", format!("layers below n_layer = {n_layer}"), n)),
        None => Ok(numbers),
    }
}

impl Config {
    /// Reads a JSON object of fields. Absent fields take the training code's defaults, except that what `hints` tell (the
    /// shapes of the checkpoint at hand) comes first.
    ///
    /// # Errors
    /// Unknown fields, wrong types, extents out of range and contradictions, each naming the field.
    pub fn from_json(text: &str, hints: &ShapeHints) -> Result<Config> {
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Config::from_fields(map, hints),
            Ok(other) => Err(Error::Json { reason: format!("expected a JSON object, found {}", kind_of(&other)) }),
            Err(e) => Err(Error::Json { reason: one_line(&format!("not valid JSON: {e}")) }),
        }
    }

    /// [`Config::from_json`] on an object already parsed.
    ///
    /// # Errors
    /// As there.
    pub fn from_fields(map: Map<String, Value>, hints: &ShapeHints) -> Result<Config> {
        // Names and shapes of a checkpoint are no more to be believed than its configuration.
        for (field, hint, max) in [
            ("n_layer", hints.n_layer, MAX_LAYERS),
            ("n_embd", hints.n_embd, MAX_EXTENT),
            ("padded_vocab_size", hints.padded_vocab_size, MAX_EXTENT),
            ("intermediate_size", hints.intermediate_size, MAX_EXTENT),
        ] {
            if let Some(n) = hint.filter(|n| !(1..=max as usize).contains(n)) {
                return Err(Error::config(field, format!("tensors for 1 to {max}"), format!("tensors for {n}")));
            }
        }
        let mut f = Fields { map };
        let needed = |v: Option<usize>, name: &str| v.ok_or_else(|| Error::config(name, "a value", "nothing"));
        let layers = f.extent("n_layer", hints.n_layer.or(Some(16)), MAX_LAYERS)?;
        let n_layer = needed(layers, "n_layer")?;
        let embd = f.extent("n_embd", hints.n_embd.or(Some(4096)), MAX_EXTENT)?;
        let n_embd = needed(embd, "n_embd")?;
        let mamba = f.bool("mamba", hints.pure_mamba)?;
        let explicit_heads = f.map.contains_key("n_head");
        let n_head = f.extent("n_head", Some(32), MAX_EXTENT)?.unwrap_or(32);
        let padding_multiple = f.extent("padding_multiple", Some(512), MAX_EXTENT)?.unwrap_or(512);
        let vocab = f.extent("vocab_size", None, MAX_EXTENT)?;
        let padded = f.extent("padded_vocab_size", None, MAX_EXTENT)?;
        let vocab_size = vocab.or(padded).or(hints.padded_vocab_size).unwrap_or(50254);
        let padded_vocab_size = match padded {
            Some(p) => p,
            None if vocab.is_none() => {
                hints.padded_vocab_size.unwrap_or(vocab_size.div_ceil(padding_multiple) * padding_multiple)
            }
            None => vocab_size.div_ceil(padding_multiple) * padding_multiple,
        };
        let attn_layer_pos = match f.take("attn_layer_pos") {
            Some(v) => Some(layer_list(v, n_layer)?),
            None => None,
        };
        let per_layer_given =
            ["mb_per_layer", "ret_per_layer", "gla_per_layer", "abl_mamba", "use_mega", "mamba_swa_mlp"]
                .iter()
                .any(|k| f.map.contains_key(*k));
        let mut c = Config {
            org: f.text("org", "")?,
            name: f.text("name", "")?,
            block_size: f.extent("block_size", Some(4096), 1 << 40)?.unwrap_or(4096),
            vocab_size,
            padding_multiple,
            padded_vocab_size,
            n_layer,
            n_head,
            n_embd,
            rotary_percentage: f.float(
                "rotary_percentage",
                0.25,
                |x| (0.0..=1.0).contains(&x),
                "a number from 0 to 1",
            )?,
            parallel_residual: f.bool("parallel_residual", true)?,
            bias: f.maybe_bool("bias", hints.bias, true)?,
            local_window: f.int("local_window", -1)?,
            mlp: f.bool("mlp", true)?,
            full_per_layer: f.extent("full_per_layer", Some(1_000_000), i64::MAX)?.unwrap_or(1_000_000),
            mb_per_layer: f.int("mb_per_layer", -1)?,
            ret_per_layer: f.int("ret_per_layer", -1)?,
            gla_per_layer: f.int("gla_per_layer", -1)?,
            nope: f.bool("nope", false)?,
            mamba,
            sc_attn: f.bool("sc_attn", hints.short_conv)?,
            rms_norm: f.maybe_bool("rms_norm", hints.layer_norm.map(|l| !l), true)?,
            residual_in_fp32: f.bool("residual_in_fp32", true)?,
            fused_add_norm: f.bool("fused_add_norm", true)?,
            mamba_init: f.maybe_bool("mamba_init", hints.tied, false)?,
            attn_layer_pos: attn_layer_pos
                .or_else(|| hints.attention_layers.clone().filter(|_| !per_layer_given && !mamba)),
            use_mega: f.bool("use_mega", hints.mega)?,
            abl_mamba: f.bool("abl_mamba", false)?,
            mamba_swa_mlp: f.bool("mamba_swa_mlp", hints.mamba_swa_mlp)?,
            n_query_groups: 0,
            shared_attention_norm: f.bool("shared_attention_norm", false)?,
            norm_class: match f.take("_norm_class") {
                None if hints.layer_norm == Some(false) => NormClass::RMSNorm,
                None => NormClass::LayerNorm,
                Some(v) => serde_json::from_value(v.clone())
                    .map_err(|_| Error::config("_norm_class", "FusedRMSNorm, RMSNorm or LayerNorm", v))?,
            },
            norm_eps: f.float("norm_eps", 1e-5, |x| x as f32 > 0.0 && (x as f32) < 1.0, "a number between 0 and 1")?,
            mlp_class: f
                .text("_mlp_class", if hints.intermediate_size.is_some() { "LLaMAMLP" } else { "GptNeoxMLP" })?,
            intermediate_size: 0,
            condense_ratio: f.extent("condense_ratio", Some(1), MAX_EXTENT)?.unwrap_or(1),
        };
        let groups = f.extent("n_query_groups", None, MAX_EXTENT)?;
        let width = f.extent("intermediate_size", hints.intermediate_size, MAX_EXTENT)?;
        f.map.remove("head_size");
        if let Some(name) = f.map.keys().next() {
            return Err(Error::config(
                name.as_str(),
                "a field of the training code's configuration",
                "an unknown field",
            ));
        }
        if !c.mamba && !explicit_heads && hints.qkv_rows.is_some() {
            return Err(Error::config("n_head", "the number of query heads, which shapes cannot tell", "nothing"));
        }
        c.n_query_groups = match (groups, hints.qkv_rows) {
            (Some(g), _) => g,
            (None, Some(rows)) if n_embd % n_head == 0 => {
                // rows = (heads + 2 groups) * head size; anything odd is caught when shapes are compared.
                let head = n_embd / n_head;
                rows.saturating_sub(n_embd).checked_div(2 * head).filter(|g| *g > 0).unwrap_or(n_head)
            }
            (None, _) => n_head,
        };
        c.intermediate_size = match width {
            Some(w) => w,
            None if c.mlp && !c.mamba => return Err(Error::config("intermediate_size", "the MLP's width", "nothing")),
            None => 4 * n_embd,
        };
        c.check()?;
        Ok(c)
    }

    /// Channels of one attention head.
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Whether the head is the embedding.
    pub fn tied(&self) -> bool {
        self.mamba || self.mamba_init
    }

    /// Contradictions that the training code finds late or never. Pure Mamba leaves the attention fields unused, so they
    /// are not looked at there.
    fn check(&self) -> Result<()> {
        if self.padded_vocab_size < self.vocab_size {
            let expected = format!("at least vocab_size = {}", self.vocab_size);
            return Err(Error::config("padded_vocab_size", expected, self.padded_vocab_size));
        }
        if self.mamba {
            return Ok(());
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(Error::config("n_head", format!("a divisor of n_embd = {}", self.n_embd), self.n_head));
        }
        if !self.n_head.is_multiple_of(self.n_query_groups) {
            let expected = format!("a divisor of n_head = {}", self.n_head);
            return Err(Error::config("n_query_groups", expected, self.n_query_groups));
        }
        if self.mlp && self.mlp_class != "LLaMAMLP" {
            return Err(Error::config("_mlp_class", "LLaMAMLP, the only one that exists", &self.mlp_class));
        }
        for (set, field) in
            [(self.parallel_residual, "parallel_residual"), (self.shared_attention_norm, "shared_attention_norm")]
        {
            if set && self.mlp {
                return Err(Error::NoForward { name: one_line(&self.name), reason: format!("{field} is true") });
            }
        }
        Ok(())
    }
}

fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
