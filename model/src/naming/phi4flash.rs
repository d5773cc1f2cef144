//! Phi-4-mini-flash-reasoning: every mixer is called `attn`, whatever it is.

use super::{Row, Table};
use crate::tensor::{Naming, View};

pub(super) const TABLE: Table = Table {
    naming: Naming::Phi4Flash,
    top: &[
        whole("token_embd.weight", "model.embed_tokens.weight"),
        whole("output_norm.weight", "model.final_layernorm.weight"),
        whole("output_norm.bias", "model.final_layernorm.bias"),
        whole("output.weight", "lm_head.weight"),
        whole("output.bias", "lm_head.bias"),
    ],
    blocks: "model.layers.",
    block: &[
        whole("attn_norm.weight", "input_layernorm.weight"),
        whole("attn_norm.bias", "input_layernorm.bias"),
        whole("ffn_norm.weight", "post_attention_layernorm.weight"),
        whole("ffn_norm.bias", "post_attention_layernorm.bias"),
        whole("ffn_up.weight", "mlp.fc1.weight"),
        whole("ffn_up.bias", "mlp.fc1.bias"),
        whole("ffn_down.weight", "mlp.fc2.weight"),
        whole("ffn_down.bias", "mlp.fc2.bias"),
        whole("ssm_in.weight", "attn.in_proj.weight"),
        whole("ssm_in.bias", "attn.in_proj.bias"),
        ("ssm_conv1d.weight", "attn.conv1d.weight", View::Squeeze),
        whole("ssm_conv1d.bias", "attn.conv1d.bias"),
        whole("ssm_x.weight", "attn.x_proj.weight"),
        whole("ssm_dt.weight", "attn.dt_proj.weight"),
        whole("ssm_dt.bias", "attn.dt_proj.bias"),
        ("ssm_a", "attn.A_log", View::NegExp),
        whole("ssm_d", "attn.D"),
        whole("ssm_out.weight", "attn.out_proj.weight"),
        whole("ssm_out.bias", "attn.out_proj.bias"),
        whole("gmu_in.weight", "attn.in_proj.weight"),
        whole("gmu_in.bias", "attn.in_proj.bias"),
        whole("gmu_out.weight", "attn.out_proj.weight"),
        whole("gmu_out.bias", "attn.out_proj.bias"),
        whole("attn_qkv.weight", "attn.Wqkv.weight"),
        whole("attn_qkv.bias", "attn.Wqkv.bias"),
        whole("attn_q.weight", "attn.Wqkv.weight"),
        whole("attn_q.bias", "attn.Wqkv.bias"),
        whole("attn_lambda_q1.weight", "attn.inner_cross_attn.lambda_q1"),
        whole("attn_lambda_k1.weight", "attn.inner_cross_attn.lambda_k1"),
        whole("attn_lambda_q2.weight", "attn.inner_cross_attn.lambda_q2"),
        whole("attn_lambda_k2.weight", "attn.inner_cross_attn.lambda_k2"),
        whole("attn_subln.weight", "attn.inner_cross_attn.subln.weight"),
        whole("attn_output.weight", "attn.out_proj.weight"),
        whole("attn_output.bias", "attn.out_proj.bias"),
    ],
};

const fn whole(canonical: &'static str, key: &'static str) -> Row {
    (canonical, key, View::Whole)
}
