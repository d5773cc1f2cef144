//! PLaMo-2: `layers` comes twice, and norms hold how far they are from a constant.

use super::{Row, Table};
use crate::tensor::{Naming, View};

/// What is added to the stored weight of a norm after an MLP: 5^-1.5.
const POST_MLP: f64 = 0.089_442_719_099_991_59;

pub(super) const TABLE: Table = Table {
    naming: Naming::Plamo2,
    top: &[
        whole("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight", View::Plus(1.0)),
        whole("output.weight", "lm_head.weight"),
        whole("output.bias", "lm_head.bias"),
    ],
    blocks: "model.layers.layers.",
    block: &[
        ("attn_norm.weight", "pre_mixer_norm.weight", View::Plus(1.0)),
        ("post_attention_norm", "post_mixer_norm.weight", View::Plus(0.2)),
        ("ffn_norm.weight", "pre_mlp_norm.weight", View::Plus(1.0)),
        ("post_ffw_norm", "post_mlp_norm.weight", View::Plus(POST_MLP)),
        whole("ffn_up.weight", "mlp.gate_up_proj.weight"),
        whole("ffn_down.weight", "mlp.down_proj.weight"),
        whole("attn_qkv.weight", "mixer.qkv_proj.weight"),
        whole("attn_q_norm.weight", "mixer.q_weight"),
        whole("attn_k_norm.weight", "mixer.k_weight"),
        whole("attn_output.weight", "mixer.o_proj.weight"),
        whole("ssm_in.weight", "mixer.in_proj.weight"),
        ("ssm_conv1d.weight", "mixer.conv1d.weight", View::Squeeze),
        whole("ssm_x.weight", "mixer.bcdt_proj.weight"),
        whole("ssm_dt.weight", "mixer.dt_proj.weight"),
        whole("ssm_dt.bias", "mixer.dt_bias"),
        ("ssm_a", "mixer.A_log", View::NegExp),
        whole("ssm_d", "mixer.D"),
        whole("ssm_dt_norm", "mixer.dt_norm_weight"),
        whole("ssm_b_norm", "mixer.B_norm_weight"),
        whole("ssm_c_norm", "mixer.C_norm_weight"),
        whole("ssm_out.weight", "mixer.out_proj.weight"),
    ],
};

const fn whole(canonical: &'static str, key: &'static str) -> Row {
    (canonical, key, View::Whole)
}
