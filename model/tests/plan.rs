//! The plan of every official configuration has the size that the official constructor gives it.

use tamborim_model::{Config, Error, Naming, Plan, Role, ShapeHints, official};

/// Parameters counted by the official constructor, a tied head once.
#[rustfmt::skip]
const PARAMETERS: &[(&str, usize)] = &[
    ("LLaMA_438M", 438_081_024), ("LLaMA_438M2k", 438_081_024), ("S6Mega_438M", 422_486_016),
    ("LLaMA_438M_SWA", 438_081_024), ("LLaMA_438M8k_SWA", 438_081_024), ("LLaMA_438M16k_SWA", 438_081_024),
    ("LLaMA_438M32k_SWA", 438_081_024), ("LLaMA_438M_SWA_full", 438_081_024), ("LLaMA_438M_SWA_mqa", 414_488_064),
    ("LLaMA_438M_SWA_mqa6", 419_206_656), ("LLaMA_438M_SWA_gqa2", 419_206_656), ("LLaMA_438M_SWA_gqa4", 428_643_840),
    ("LLaMA_438M_SWA_8k4k", 445_558_272), ("LLaMA_438M_SWA_8k2k", 445_558_272), ("Samba_421M", 421_793_280),
    ("Samba_421M_nope", 421_793_280), ("Samba_421M_1k_window", 421_793_280), ("Samba_421M_512_window", 421_793_280),
    ("Samba_421M_abl_mamba", 417_240_576), ("Mamba_SWA_MLP_400M", 394_999_296),
    ("LLaMA_449M_full_mamba_0", 449_180_160), ("LLaMA_449M_full_mamba_11", 449_180_160),
    ("LLaMA_449M_full_mamba_5", 449_180_160), ("LLaMA_443M_full_mamba_1,5", 443_702_784),
    ("Samba_421M_mqa", 424_152_576), ("Samba_421M_gqa4", 431_230_464), ("Samba_421M_gqa2", 426_511_872),
    ("Samba_421M_mqa6", 426_511_872), ("LLaMA_438M_SWA_gla", 438_309_120), ("LLaMA_446M_SWA_ret", 445_555_200),
    ("Samba_1.3B", 1_330_207_488), ("Samba_1.3B_nope", 1_330_207_488), ("Samba_1.3B_abl_mamba", 1_315_982_592),
    ("Mamba_SWA_MLP_1.3B", 1_239_397_632), ("S6Mega_1.3B", 1_329_767_424), ("LLaMA_1.2B_SWA_gla", 1_220_942_592),
    ("LLaMA_1.4B_SWA_ret", 1_411_538_688), ("LLaMA_1.3B_SWA", 1_347_842_304), ("LLaMA_1.3B_SWA_8k4k", 1_347_842_304),
    ("LLaMA_1.3B_SWA_8k2k", 1_347_842_304), ("LLaMA_1.3B", 1_347_842_304), ("LLaMA_2.9B", 2_914_667_520),
    ("Mamba_370M", 352_797_696), ("Mamba_430M", 432_804_864), ("Mamba_1.3B", 1_334_740_992),
];

#[test]
fn every_official_configuration_has_the_official_number_of_parameters() {
    assert_eq!(official::names().count(), 46);
    for &(name, parameters) in PARAMETERS {
        let config = official::config(name).expect(name);
        let plan = Plan::from_config(&config).expect(name);
        assert_eq!(plan.parameters(), parameters, "{name}");
    }
}

#[test]
fn the_configuration_without_a_forward_pass_is_refused() {
    assert!(matches!(official::config("LLaMA_438M_SWA_paral"), Err(Error::NoForward { .. })));
}

#[test]
fn a_misspelt_name_is_answered_with_close_ones() {
    let error = official::config("samba_421m_nop").unwrap_err().to_string();
    assert!(error.contains("Samba_421M_nope"), "{error}");
}

#[test]
fn tensor_names_are_unique_and_fit_gguf() {
    for name in official::names().filter(|n| *n != "LLaMA_438M_SWA_paral") {
        let plan = Plan::from_config(&official::config(name).unwrap()).unwrap();
        let tensors = plan.tensors();
        let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), tensors.len(), "{name}");
        assert!(names.iter().all(|n| n.len() < 64), "{name}");
    }
}

#[test]
fn the_fused_projection_is_shared_by_queries_keys_and_values() {
    let plan = Plan::from_config(&official::config("Samba_421M_gqa4").unwrap()).unwrap();
    let tensors = plan.tensors();
    for role in [Role::AttnQ, Role::AttnK, Role::AttnV] {
        let spec = tensors.iter().find(|t| t.role == role).unwrap();
        let stored = spec.stored(Naming::Lit).unwrap();
        assert_eq!(stored.key, "transformer.h.1.attn.attn.weight");
        assert_eq!(spec.stored_shape(stored), [(12 + 2 * 4) * 128, 1536]);
    }
}

#[test]
fn attn_layer_pos_is_read_as_a_literal_and_never_evaluated() {
    for (text, layers) in [
        ("\"[0,]\"", Some(vec![0])),
        ("\"[1, 3]\"", Some(vec![1, 3])),
        ("\"[]\"", Some(vec![])),
        ("[1]", Some(vec![1])),
        ("\"range(10)\"", None),
        ("\"[9]\"", None),
        ("\"[-1]\"", None),
        ("3", None),
    ] {
        let json = format!(
            r#"{{"n_layer": 4, "n_head": 2, "n_embd": 64, "mb_per_layer": 2, "_mlp_class": "LLaMAMLP",
                "parallel_residual": false, "intermediate_size": 96, "attn_layer_pos": {text}}}"#
        );
        match layers {
            Some(l) => assert_eq!(Config::from_json(&json, &ShapeHints::default()).unwrap().attn_layer_pos, Some(l)),
            None => {
                let e = Config::from_json(&json, &ShapeHints::default()).unwrap_err();
                assert!(e.to_string().contains("attn_layer_pos"), "{e}");
            }
        }
    }
}
