//! Published models, by their config.json (values only): what a token and a sequence take.

use serde_json::{Value, json};

use super::super::Attention;
use super::{Model, of};
use crate::memory::plan::{History, Holder, LayerBytes, cache_bytes};
use crate::quant::policy::KvPolicy;

/// Of a token at a long context, and of the state, at 16 bit, in all layers.
fn bytes(config: &Value) -> (u64, u64) {
    let model = of(config);
    assert!(model.is_known);
    let history = History { prefilled_tokens: 200_000, chunk_tokens: 2048, decoded_tokens: 0 };
    let policy: KvPolicy = "16".parse().unwrap();
    let layers = cache_bytes(&model, &policy, None, Holder::MlxLm, history, 0).unwrap();
    let sum = |of: fn(&LayerBytes) -> u64| layers.iter().map(of).sum();
    (sum(|layer| layer.token_bytes), sum(|layer| layer.state_bytes))
}

fn kinds(config: &Value) -> Vec<(Attention, usize)> {
    let mut counted: Vec<(Attention, usize)> = Vec::new();
    for layer in of(config).layers {
        match counted.iter_mut().find(|(kind, _)| *kind == layer.attention) {
            Some((_, count)) => *count += 1,
            None => counted.push((layer.attention, 1)),
        }
    }
    counted
}

fn deepseek_v3() -> Value {
    json!({
        "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "intermediate_size": 18432,
        "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 256,
        "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "vocab_size": 129_280, "torch_dtype": "bfloat16",
    })
}

#[test]
fn latent_attention_is_of_each_layer() {
    // 61 layers x (512 + 64) numbers x 2 bytes.
    assert_eq!(bytes(&deepseek_v3()), (61 * 1152, 0));
    assert_eq!(61 * 1152, 70_272);
    assert_eq!(kinds(&deepseek_v3()), [(Attention::Mla, 61)]);
}

#[test]
fn an_architecture_that_decompresses_takes_what_its_heads_take() {
    let config = json!({
        "model_type": "deepseek_v2", "num_hidden_layers": 27, "hidden_size": 2048, "num_attention_heads": 16,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    });
    assert_eq!(bytes(&config), (27 * 16 * (192 + 128) * 2, 0));
}

#[test]
fn grouped_queries_take_what_their_groups_take() {
    let llama = json!({
        "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
        "num_key_value_heads": 8, "torch_dtype": "bfloat16",
    });
    assert_eq!(bytes(&llama), (32 * 2 * 8 * 128 * 2, 0));
    assert_eq!(kinds(&llama), [(Attention::Gqa, 32)]);
    let qwen = json!({
        "model_type": "qwen3", "num_hidden_layers": 28, "hidden_size": 1024, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128,
    });
    assert_eq!(bytes(&qwen), (28 * 2 * 8 * 128 * 2, 0));
}

#[test]
fn a_hybrid_is_not_all_attention_and_its_recurrent_layers_are_not_free() {
    let config = json!({
        "model_type": "qwen3_next", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    });
    assert_eq!(kinds(&config), [(Attention::GatedDelta, 36), (Attention::Gqa, 12)]);
    let convolution = 3 * (2 * 16 * 128 + 32 * 128) * 2;
    let matrices = 32 * 128 * 128 * 4;
    assert_eq!(bytes(&config), (12 * 2 * 2 * 256 * 2, 36 * (convolution + matrices)));
}

#[test]
fn a_hybrid_of_latent_attention_is_not_all_latent() {
    let config = json!({
        "model_type": "kimi_linear", "num_hidden_layers": 4, "hidden_size": 2304, "num_attention_heads": 32,
        "head_dim": 72, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "linear_attn_config": {"kda_layers": [1, 2, 3], "full_attn_layers": [4], "num_heads": 32, "head_dim": 128,
            "short_conv_kernel_size": 4},
    });
    assert_eq!(kinds(&config), [(Attention::GatedDelta, 3), (Attention::Mla, 1)]);
    assert_eq!(bytes(&config), (576 * 2, 3 * (3 * 3 * 32 * 128 * 2 + 32 * 128 * 128 * 4)));
}

#[test]
fn windows_end_and_sinks_are_told() {
    let config = json!({
        "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128, "num_local_experts": 32, "num_experts_per_tok": 4,
        "layer_types": (0..24).map(|layer| if layer % 2 == 0 { "sliding_attention" } else { "full_attention" }).collect::<Vec<_>>(),
    });
    assert_eq!(kinds(&config), [(Attention::SlidingWindow, 12), (Attention::Gqa, 12)]);
    assert_eq!(bytes(&config), (12 * 2 * 8 * 64 * 2, 0));
    assert!(of(&config).layers.iter().all(|layer| layer.sinks && layer.experts));
}

#[test]
fn the_text_model_is_found_within_a_multimodal_one() {
    // google/gemma-3-4b-it leaves out what its class has by itself.
    let config = json!({
        "model_type": "gemma3", "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "sliding_window": 1024},
    });
    assert_eq!(kinds(&config), [(Attention::SlidingWindow, 29), (Attention::Gqa, 5)]);
    assert_eq!(bytes(&config), (5 * 2 * 4 * 256 * 2, 0));
    for nested in ["language_config", "llm_config"] {
        let config = json!({
            "model_type": "a wrapper that nobody knows",
            nested: {"model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 896, "num_attention_heads": 14,
                "num_key_value_heads": 2},
        });
        assert_eq!(bytes(&config), (2 * 2 * 2 * 64 * 2, 0));
    }
}

#[test]
fn layers_that_share_keys_and_values_take_none() {
    let types: Vec<&str> =
        (0..6).map(|layer| if layer == 4 { "full_attention" } else { "sliding_attention" }).collect();
    let config = json!({
        "model_type": "gemma3n", "text_config": {"num_hidden_layers": 6, "num_kv_shared_layers": 1, "hidden_size": 2048,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "sliding_window": 512,
            "layer_types": types, "intermediate_size": [8192, 8192, 8192, 8192, 8192, 8192]},
    });
    let model = of(&config);
    assert_eq!(model.layers[5].attention, Attention::SharedKv);
    assert_eq!(model.layers[5].cache, None);
    assert_eq!(model.geometry.layers.len(), 5);
    assert_eq!(bytes(&config), (2 * 2 * 256 * 2, 0));
}

#[test]
fn nothing_is_guessed_of_what_is_not_known() {
    let config = json!({
        "model_type": "an architecture of tomorrow", "num_hidden_layers": 3, "hidden_size": 1024,
        "num_attention_heads": 8, "num_key_value_heads": 2,
    });
    let model = of(&config);
    assert!(!model.is_known);
    assert!(model.layers.iter().all(|layer| layer.attention == Attention::Unknown));
    let bounds = model.layers[0].bounds.unwrap();
    assert_eq!(bounds.token_bytes_at_most, 2 * 8 * 128 * 2);
    assert_eq!(bounds.state_bytes_at_most, 8 * 128 * 128 * 4);
    // Of a known architecture, the layers whose kind is known keep what is known of them.
    let config = json!({
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 1024, "num_attention_heads": 8,
        "layer_types": ["full_attention", "dreaming_attention"],
    });
    let model = of(&config);
    assert_eq!(
        model.layers.iter().map(|layer| layer.attention).collect::<Vec<_>>(),
        [Attention::Mha, Attention::Unknown]
    );
    assert!(model.layers[1].source.contains("layer_types"));
}

#[test]
fn no_heads_are_an_error_and_not_a_cache_of_no_bytes() {
    for heads in [json!({"num_key_value_heads": 0}), json!({"num_attention_heads": 0, "num_key_value_heads": null})] {
        let mut config = json!({
            "model_type": "qwen3", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "head_dim": 64,
        });
        config.as_object_mut().unwrap().extend(heads.as_object().unwrap().clone());
        let error = Model::of_config(&config.to_string()).unwrap_err().to_string();
        assert!(error.contains("`kv_heads` is 0"), "{error}");
    }
}
