use proptest::prelude::*;
use serde_json::{Value, json};

use super::allocation::{batched_window, chunked, held, live_sequence, own_sequence, own_window};
use super::*;
use crate::quant::policy::Format;

fn history(prefilled: u64, chunk: u64, decoded: u64) -> History {
    History { prefilled_tokens: prefilled, chunk_tokens: chunk, decoded_tokens: decoded }
}

#[test]
fn mlx_lms_caches_grow_by_whole_steps() {
    let of = |prefilled, chunk, decoded| own_sequence(history(prefilled, chunk, decoded));
    assert_eq!([1, 255, 256, 257, 1000].map(|tokens| of(tokens, 4096, 0)), [256, 256, 256, 512, 1024]);
    assert_eq!(of(4096, 2048, 1), 4096 + 256);
    // What is behind a part of a step is dropped when the next chunk does not fit into it.
    assert_eq!(of(600, 300, 0), 300 + 512);
    assert_eq!(of(255, 4096, 2), 512);
}

#[test]
fn ours_keep_the_place_of_the_answer_and_grow_by_an_eighth() {
    assert_eq!(reserve_tokens(1000, 256), 1280);
    assert_eq!(reserve_tokens(1000, 100_000), 2048);
    assert_eq!(reserve_tokens(100_000, 100_000), 125_184);
    assert_eq!(live_sequence(history(1000, 512, 200), 1280).tokens, 1280);
    let grown = live_sequence(history(1000, 512, 1000), 1280);
    assert_eq!((grown.tokens, grown.before_last_growth), (2304, 1792));
    assert_eq!(live_sequence(history(257, 4096, 0), 0).tokens, 768);
}

#[test]
fn encoded_tokens_leave_the_first_and_the_last_plain() {
    let affine = Format::Affine { bits: 4, group: 64 };
    let (grown, plain) = held(history(1000, 512, 24), affine, 4, 100, 1280);
    assert_eq!((grown.tokens, plain), (1276, 104));
    let channel = Format::Channel { bits: 4, group: 64 };
    let (grown, plain) = held(history(1000, 512, 30), channel, 0, 0, 1280);
    assert_eq!((grown.tokens, plain), (1280, 1030 - 1024));
}

#[test]
fn windows_hold_a_chunk_more_while_they_are_filled() {
    assert_eq!(
        [1, 255, 256, 257, 1000].map(|tokens| own_window(history(tokens, 4096, 0), 300)),
        [256, 255, 256, 257, 1000]
    );
    assert_eq!(own_window(history(1000, 400, 0), 300), 299 + 200);
    assert_eq!(own_window(history(1000, 4096, 1), 300), 300);
    assert_eq!(own_window(history(250, 4096, 3), 300), 300);
    assert_eq!(batched_window(history(250, 4096, 0), 300), 250);
    assert_eq!(batched_window(history(1000, 4096, 5), 300), 300);
    assert_eq!(chunked(history(1000, 4096, 0), 300), (1024, 1024));
}

fn llama(settings: &Value) -> Model {
    let mut config = json!({
        "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 1000,
        "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    });
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    Model::of_config(&config.to_string()).unwrap()
}

const KIB: u64 = 1 << 10;
const CUDA: Device = Device { kind: DeviceKind::Cuda, commit_operations: 100, commit_numbers: 1000 << 20 };

fn request(context_tokens: u64, concurrency: u64) -> Request {
    Request {
        context_tokens,
        answer_tokens: None,
        concurrency,
        chunk_tokens: 2048,
        device: CUDA,
        memory: None,
        runtime: None,
        search: false,
    }
}

fn planned(model: &Model, policy: &str, request: &Request) -> Plan {
    plan(model, &policy.parse().unwrap(), None, request).unwrap()
}

#[test]
fn a_plan_adds_up_and_counts_each_request_once() {
    let model = llama(&json!({}));
    let one = planned(&model, "16", &request(8192, 1));
    let token = 4 * 2 * 2 * 64 * 2;
    assert_eq!(one.kv_token_bytes, token);
    assert_eq!(one.kv.bytes, 8192 * token);
    assert_eq!(one.kv_used_bytes, 8192 * token);
    assert_eq!(one.layers.iter().map(|layer| layer.bytes.kv_bytes).sum::<u64>(), one.kv.bytes);
    assert_eq!(one.peak_bytes, one.weights.bytes + one.kv.bytes + one.state.bytes + one.activations.bytes);
    let five = planned(&model, "16", &request(8192, 5));
    assert_eq!((five.kv.bytes, five.kv_token_bytes), (5 * one.kv.bytes, token));
    // Four of five are copied when one leaves, and it has all five; layers are joined one after another.
    assert!(five.moments.leave_bytes > five.kv.bytes / 5 * 4);
    assert!(five.moments.join_bytes < five.kv.bytes);
    assert_eq!(five.moments.prefill_bytes, one.moments.prefill_bytes);
}

#[test]
fn fewer_bits_take_fewer_bytes() {
    let model = llama(&json!({}));
    let of = |policy| planned(&model, policy, &request(8192, 1)).kv.bytes;
    // 8 bits, and a scale and a bias of 16 each for 64 numbers.
    assert_eq!(of("8"), of("16") * 85 / 160);
    assert_eq!(of("4"), of("16") * 45 / 160);
    let error = plan(&model, &"8,9:4".parse().unwrap(), None, &request(8192, 1)).unwrap_err();
    assert!(error.to_string().contains("layer 9"));
}

#[test]
fn an_answer_past_its_place_makes_caches_grow() {
    let model = llama(&json!({}));
    let plan = planned(&model, "16", &Request { answer_tokens: Some(8000), ..request(8192, 1) });
    assert!(plan.moments.growth_bytes > plan.moments.decode_bytes);
    assert!(plan.kv.bytes > plan.kv_used_bytes);
}

#[test]
fn verdicts_and_limits_agree_with_the_peak() {
    let model = llama(&json!({}));
    let peak = planned(&model, "16", &request(8192, 2)).peak_bytes;
    let with = |bytes: u64| {
        let memory = Some(Amount { bytes, source: "given".to_owned() });
        planned(&model, "16", &Request { memory, search: true, ..request(8192, 2) })
    };
    assert_eq!(with(peak * 2).verdict, Some(Verdict::Fit));
    assert_eq!(with(peak).verdict, Some(Verdict::Tight));
    let short = with(peak - 1);
    assert_eq!(short.verdict, Some(Verdict::Fail));
    let found = short.found.unwrap();
    assert_eq!(found.most_requests, 1);
    let longest = found.longest_context.unwrap();
    assert!(longest.tokens < 8192 && !longest.is_models_limit);
    assert!(planned(&model, "16", &request(longest.tokens, 2)).peak_bytes < peak);
    assert!(planned(&model, "16", &request(longest.tokens + 1, 2)).peak_bytes >= peak);
    // Encoded caches are smaller, and are not copied when a request joins.
    assert!(found.policies.iter().any(|fit| fit.peak_bytes < found.policies[0].peak_bytes));
    assert!(found.policy.is_some_and(|policy| policy != "16"));
    let ample = with(1 << 40).found.unwrap();
    assert!(ample.longest_context.unwrap().is_models_limit);
    assert_eq!(with(KIB).found.unwrap().longest_context, None);
}

#[test]
fn what_is_not_known_is_bounded_and_says_so() {
    let model = llama(&json!({"model_type": "nobody knows"}));
    let plan = planned(&model, "16", &request(1000, 2));
    assert!(!plan.is_known && plan.kv.source.contains("at most"));
    assert_eq!(plan.kv_at_least_bytes, 0);
    // Keys and values of all 8 heads, and a matrix of 64 x 64 for each.
    assert_eq!(plan.kv.bytes, 2 * 4 * (1000 * 2 * 8 * 64 * 2 + 8 * 64 * 64 * 4));
}

fn any_model() -> impl Strategy<Value = Model> {
    let windows = json!({"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "sliding_window": 700});
    let linear = json!({"model_type": "qwen3_next", "full_attention_interval": 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4});
    let latent = json!({"model_type": "deepseek_v3", "kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32,
        "v_head_dim": 32});
    prop_oneof![Just(json!({})), Just(windows), Just(linear), Just(latent), Just(json!({"model_type": "unknown"}))]
        .prop_map(|settings| llama(&settings))
}

proptest! {
    #[test]
    fn more_context_and_more_requests_never_need_less(
        model in any_model(),
        policy in prop_oneof![Just("16"), Just("8"), Just("k8v4,first=4,recent=64"), Just("channel-4")],
        kind in prop_oneof![Just(DeviceKind::Cpu), Just(DeviceKind::Metal), Just(DeviceKind::Cuda)],
        context in 1_u64..50_000,
        more in 0_u64..3000,
        concurrency in 1_u64..9,
    ) {
        let device = Device { kind, commit_operations: 40, commit_numbers: 40 << 20 };
        let of = |context, concurrency| planned(&model, policy, &Request { device, ..request(context, concurrency) });
        let one = of(context, concurrency);
        prop_assert!(of(context + more, concurrency).peak_bytes >= one.peak_bytes);
        prop_assert!(of(context, concurrency + 1).peak_bytes >= one.peak_bytes);
        prop_assert!(one.kv_used_bytes <= one.kv.bytes);
    }

    #[test]
    fn no_numbers_overflow(context in any::<u64>(), concurrency in any::<u64>(), chunk in any::<u64>(), answer in any::<Option<u64>>()) {
        let model = llama(&json!({}));
        let device = Device { kind: DeviceKind::Cuda, commit_operations: context, commit_numbers: chunk };
        let request = Request { answer_tokens: answer, chunk_tokens: chunk, device, ..request(context, concurrency) };
        let _ = planned(&model, "4", &request);
    }
}
