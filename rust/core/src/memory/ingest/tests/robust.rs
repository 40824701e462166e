//! Nothing that stands in a file makes the parsers panic, hang or take much memory.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::weights::of_header;
use super::super::{Model, known_types};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-8_i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z_*-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map("[a-z_]{1,12}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn settings() -> impl Strategy<Value = Vec<&'static str>> {
    const NAMES: [&str; 22] = [
        "num_hidden_layers",
        "num_layers",
        "n_layer",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "layer_types",
        "sliding_window",
        "sliding_window_pattern",
        "kv_lora_rank",
        "qk_rope_head_dim",
        "block_configs",
        "hybrid_override_pattern",
        "linear_attn_config",
        "num_kv_shared_layers",
        "full_attn_idxs",
        "block_types",
        "text_config",
        "tie_word_embeddings",
        "mamba_d_state",
        "attn_config",
    ];
    proptest::sample::subsequence(NAMES.to_vec(), 0..NAMES.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_configuration_panics(
        model_type in proptest::sample::select(known_types().collect::<Vec<_>>()),
        names in settings(),
        values in vec(any_json(), 22),
    ) {
        let mut config = json!({"model_type": model_type, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3});
        for (name, value) in names.iter().zip(values) {
            config[*name] = value;
        }
        if let Ok(model) = Model::of_config(&config.to_string()) {
            prop_assert!(model.layers.len() <= 2 * 4096 + 1);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Model::of_config(&text);
    }

    #[test]
    fn no_header_panics(length in prop_oneof![Just(None), (0_u64..200).prop_map(Some)], header in any::<Vec<u8>>(), size in any::<u64>()) {
        let mut start = length.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
        start.extend(&header);
        let _ = of_header(&start, size);
        let _ = of_header(&start, start.len() as u64);
    }

    #[test]
    fn no_entry_of_a_header_panics(
        dtype in "(F16|BF16|F8_E4M3|U32|X)",
        shape in vec(any::<u64>(), 0..4),
        offsets in any::<(u64, u64)>(),
        more in any_json(),
    ) {
        let header = json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": [offsets.0, offsets.1]}, "b": more}).to_string();
        let mut start = (header.len() as u64).to_le_bytes().to_vec();
        start.extend(header.as_bytes());
        let _ = of_header(&start, u64::MAX);
    }
}
