use std::collections::BTreeSet;

/// What the tensors of a checkpoint tell of its configuration; fills fields that a JSON leaves out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShapeHints {
    /// Blocks found.
    pub n_layer: Option<usize>,
    /// Columns of the embedding.
    pub n_embd: Option<usize>,
    /// Rows of the embedding.
    pub padded_vocab_size: Option<usize>,
    /// Rows of the MLP's gate.
    pub intermediate_size: Option<usize>,
    /// Rows of the fused attention projection.
    pub qkv_rows: Option<usize>,
    /// Whether attention and MLP have biases.
    pub bias: Option<bool>,
    /// Whether norms have biases.
    pub layer_norm: Option<bool>,
    /// Whether embedding and head are the same numbers. Shapes cannot tell: the caller fills it in.
    pub tied: Option<bool>,
    /// Layers with an attention mixer, where others are Mamba.
    pub attention_layers: Option<Vec<usize>>,
    /// Blocks are a norm and a Mamba mixer.
    pub pure_mamba: bool,
    /// Attention has short convolutions.
    pub short_conv: bool,
    /// Blocks are Mega-S6.
    pub mega: bool,
    /// Blocks hold both Mamba and attention.
    pub mamba_swa_mlp: bool,
}

impl ShapeHints {
    /// From names and shapes in the training code's naming.
    pub fn from_shapes<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> ShapeHints {
        let mut hints = ShapeHints::default();
        let (mut attention, mut mamba) = (BTreeSet::new(), BTreeSet::new());
        let (mut has_attention, mut has_bias, mut norm_bias, mut has_norm) = (false, false, false, false);
        for (name, shape) in tensors {
            if matches!(name, "transformer.wte.weight" | "lm_head.weight")
                && let [rows, cols] = shape
            {
                (hints.padded_vocab_size, hints.n_embd) = (Some(*rows), Some(*cols));
            }
            has_norm |= name == "transformer.ln_f.weight";
            norm_bias |= name == "transformer.ln_f.bias";
            let Some((layer, part)) = name.strip_prefix("transformer.h.").and_then(|n| n.split_once('.')) else {
                continue;
            };
            let Ok(layer) = layer.parse::<usize>() else { continue };
            hints.n_layer = hints.n_layer.max(layer.checked_add(1));
            match part {
                "attn.attn.weight" => {
                    has_attention = true;
                    attention.insert(layer);
                    hints.qkv_rows = shape.first().copied();
                }
                "attn.in_proj.weight" => drop(mamba.insert(layer)),
                "mlp.swiglu.w1.weight" => hints.intermediate_size = shape.first().copied(),
                "attn.attn.bias" | "mlp.swiglu.w1.bias" => has_bias = true,
                "mixer.in_proj.weight" => hints.pure_mamba = true,
                "attn.q_conv1d.weight" => hints.short_conv = true,
                "attn.mx_proj.weight" => hints.mega = true,
                "mb.in_proj.weight" => hints.mamba_swa_mlp = true,
                _ => {}
            }
        }
        hints.bias = (has_attention || hints.intermediate_size.is_some()).then_some(has_bias);
        hints.layer_norm = has_norm.then_some(norm_bias);
        hints.attention_layers = (!mamba.is_empty()).then(|| attention.into_iter().collect());
        hints
    }
}
