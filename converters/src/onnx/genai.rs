//! `genai_config.json`, by which onnxruntime-genai runs a model. It finds by the names of inputs which blocks have keys and
//! values and which have other states.

use super::graph::paired;
use serde_json::{Value, json};
use tamborim_model::tokenizer::Tokenizer;
use tamborim_model::{Mixer, Plan};

/// The content of `genai_config.json` beside the model `file_name`.
pub fn genai_config(plan: &Plan, tokenizer: &Tokenizer, file_name: &str) -> Value {
    let pieces = tokenizer.pieces();
    let attention = plan.blocks.iter().flat_map(|b| &b.branches).find_map(|b| match &b.mixer {
        Mixer::Attention(a) => Some((a.heads, a.groups, a.head_dim)),
        Mixer::DifferentialAttention(a) => {
            let pairs = paired(&a.differential, a.window);
            Some((pairs.heads, pairs.groups, pairs.head_dim))
        }
        Mixer::Mega(m) => Some((1, 1, m.z_dim)),
        _ => None,
    });
    // Without attention there are no keys and values that these would describe.
    let (heads, groups, head_dim) = attention.unwrap_or((1, 1, plan.d_model));
    let eos = pieces.eos.or(tokenizer.unknown()).unwrap_or(0);
    json!({
        "model": {
            "type": "decoder",
            "bos_token_id": pieces.bos.unwrap_or(eos),
            "eos_token_id": eos,
            "pad_token_id": pieces.pad.unwrap_or(eos),
            "vocab_size": plan.padded_vocab_size,
            "context_length": plan.context_length,
            "decoder": {
                "session_options": { "log_id": "onnxruntime-genai", "provider_options": [] },
                "filename": file_name,
                "head_size": head_dim,
                "hidden_size": plan.d_model,
                "num_attention_heads": heads,
                "num_key_value_heads": groups,
                "num_hidden_layers": plan.blocks.len(),
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": false,
            "max_length": plan.context_length,
            "min_length": 0,
            "num_beams": 1,
            "past_present_share_buffer": false,
        },
    })
}
