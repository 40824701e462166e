//! Policies against models.

use proptest::prelude::*;

use super::super::{Cache, Format, Geometry, KeyValue, Kv, Layer, Part, PolicyError, Resolved, Vectors};
use super::{kv, model, parsed, plain_model};

fn resolved(text: &str, geometry: &Geometry) -> Resolved {
    parsed(text).resolve(geometry, None).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str, geometry: &Geometry) -> PolicyError {
    parsed(text).resolve(geometry, None).expect_err(text)
}

fn window(kv: Kv, window_tokens: u64) -> Cache {
    Cache::Window { kv, window_tokens }
}

/// `K live, V live, K at rest, V at rest` of each layer's first cache.
fn said(resolved: &Resolved) -> Vec<String> {
    let cache = |layer: &super::super::ResolvedLayer| match layer.caches[0] {
        Some(held) => format!("{} {} {} {}", held.live.k, held.live.v, held.rest.k, held.rest.v),
        None => "none".to_owned(),
    };
    resolved.layers.iter().map(cache).collect()
}

#[test]
fn each_layer_gets_its_formats() {
    let found = resolved("k8v4,1:16,first=4,recent=128/rotated-3.5,2:lossless", &plain_model(3));
    assert_eq!(
        said(&found),
        [
            "affine:8:64 affine:4:64 rotated:3.5 rotated:3.5",
            "16 16 rotated:3.5 rotated:3.5",
            "affine:8:64 affine:4:64 lossless lossless"
        ]
    );
    assert_eq!((found.first_tokens, found.recent_tokens), (4, 128));
}

#[test]
fn without_a_slash_the_store_holds_what_is_live() {
    assert_eq!(said(&resolved("channel-4", &plain_model(1))), ["channel:4:64 affine:4:64 channel:4:64 affine:4:64"]);
    assert_eq!(said(&resolved("16", &plain_model(1))), ["16 16 16 16"]);
    assert_eq!(said(&resolved("lossless", &plain_model(1))), ["16 16 lossless lossless"]);
}

#[test]
fn windows_stay_plain_live_and_follow_the_policy_at_rest() {
    let geometry = model([window(kv(4, 64), 1024), Cache::Sequence(kv(4, 64))]);
    assert_eq!(
        said(&resolved("4", &geometry)),
        ["16 16 affine:4:64 affine:4:64", "affine:4:64 affine:4:64 affine:4:64 affine:4:64"]
    );
    // Its width need not suit a format that it is not held in.
    assert_eq!(said(&resolved("4/16", &model([window(kv(4, 80), 1024)]))), ["16 16 16 16"]);
}

#[test]
fn layers_without_kv_are_passed_over_and_must_not_be_named() {
    let geometry = model([
        Cache::State { bytes: 0 },
        Cache::Sequence(kv(4, 64)),
        Cache::State { bytes: 0 },
        Cache::Sequence(kv(4, 64)),
    ]);
    let found = resolved("8,3:4", &geometry);
    assert_eq!(said(&found)[0], "none");
    assert_eq!(said(&found)[3], "affine:4:64 affine:4:64 affine:4:64 affine:4:64");
    for (text, at) in [("8,1-3:4", 2), ("8,0:4", 0), ("8/4,1-2:16", 2)] {
        let error = refused(text, &geometry);
        assert!(matches!(error, PolicyError::LayerWithoutKv { layer, .. } if layer == at), "{text}: {error}");
        assert!(error.to_string().contains(&format!("layer {at} of")), "{error}");
    }
}

#[test]
fn a_range_past_the_last_layer_is_named() {
    let error = refused("8,2-36:4", &plain_model(36)).to_string();
    assert!(error.contains("layer 36 of `2-36` does not exist: the model has 36 layers, 0 to 35"), "{error}");
}

#[test]
fn the_group_follows_the_width_where_it_is_free() {
    for (width, group) in [(64, 64), (96, 32), (128, 64), (192, 64), (32, 32)] {
        let geometry = model([Cache::Sequence(kv(2, width))]);
        let found = said(&resolved("4", &geometry));
        assert_eq!(found, [vec![format!("affine:4:{group}"); 4].join(" ")]);
    }
    let error = refused("4", &model([Cache::State { bytes: 0 }, Cache::Sequence(kv(2, 80))]));
    assert!(matches!(error, PolicyError::NoGroupDivides { layer: 1, width: 80, .. }), "{error}");
    assert!(error.to_string().contains("layer 1: K is 80 numbers wide"), "{error}");
    let error = refused("16+affine:4:128", &model([Cache::Sequence(kv(2, 96))])).to_string();
    assert!(error.contains("layer 0: V is 96 numbers wide, which is no multiple of the group 128"), "{error}");
    assert!(error.contains("write `group=32`"), "{error}");
    // The group of a channel is of tokens.
    let found = said(&resolved("channel-k4v16", &model([Cache::Sequence(kv(2, 80))])));
    assert_eq!(found, ["channel:4:64 16 channel:4:64 16"]);
}

#[test]
fn rotation_needs_a_power_of_two() {
    let error = refused("8/rotated-4", &model([Cache::Sequence(kv(2, 96))]));
    assert!(matches!(error, PolicyError::WidthNotPowerOfTwo { layer: 0, width: 96, .. }), "{error}");
    assert!(error.to_string().contains("`rotated:4` needs a power of two"), "{error}");
    let error = refused("rotated-4", &model([Cache::Sequence(kv(2, 16))]));
    assert!(matches!(error, PolicyError::WidthNotPowerOfTwo { width: 16, .. }), "{error}");
}

#[test]
fn channels_come_in_sixteens() {
    let error = refused("16/channel-k4v16", &model([Cache::State { bytes: 0 }, Cache::Sequence(kv(2, 40))]));
    assert!(matches!(error, PolicyError::OddChannels { layer: 1, part: Part::Keys, width: 40, .. }), "{error}");
}

#[test]
fn keys_and_values_of_other_widths_are_settled_apart() {
    let latent = |v| {
        let vectors = KeyValue { k: Vectors { heads: 1, width: 512 }, v: Vectors { heads: 1, width: v } };
        model([Cache::Sequence(Kv { vectors, ..kv(1, 1) })])
    };
    assert_eq!(said(&resolved("4", &latent(32)))[0], "affine:4:64 affine:4:32 affine:4:64 affine:4:32");
    // An array without numbers is not there: no format is wrong for it.
    assert_eq!(said(&resolved("rotated-4", &latent(0)))[0], "rotated:4 16 rotated:4 16");
}

#[test]
fn a_layer_may_have_several_caches() {
    let caches = vec![Cache::State { bytes: 0 }, Cache::Sequence(kv(4, 64)), window(kv(4, 96), 512)];
    let geometry = Geometry { model: None, layers: vec![Layer { caches }] };
    let found = resolved("8,0:4", &geometry);
    let json = serde_json::to_value(&found).unwrap();
    let formats =
        |live: &str, rest: &str| serde_json::json!({"live": {"k": live, "v": live}, "rest": {"k": rest, "v": rest}});
    let caches = serde_json::json!([null, formats("affine:4:64", "affine:4:64"), formats("16", "affine:4:32")]);
    assert_eq!(
        json,
        serde_json::json!({
            "policy": "8,0:4", "first_tokens": 0, "recent_tokens": 0, "layers": [{"caches": caches}]
        })
    );
}

#[test]
fn a_geometry_that_cannot_be_is_refused() {
    let vectors = r#""k": {"heads": 8, "width": 128}, "v": {"heads": 8, "width": 128}, "element": "bfloat16""#;
    let cache = |fields: &str| format!(r#"{{"layers": [{{"caches": [{fields}]}}]}}"#);
    let good = [
        cache(&format!(r#"{{"kind": "sequence", {vectors}, "window_tokens": null}}"#)),
        cache(&format!(r#"{{"kind": "window", {vectors}, "window_tokens": 512}}"#)),
        cache(r#"{"kind": "state"}"#),
        cache(r#"{"kind": "state", "k": null, "v": null, "element": "float32", "window_tokens": null}"#),
    ];
    for text in good {
        let geometry = Geometry::from_json(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let again = serde_json::to_string(&geometry).unwrap();
        assert_eq!(Geometry::from_json(&again).unwrap(), geometry);
    }
    let bad = [
        (cache(r#"{"kind": "sequence"}"#), "needs k, v and element"),
        (cache(&format!(r#"{{"kind": "window", {vectors}}}"#)), "needs window_tokens above 0"),
        (cache(&format!(r#"{{"kind": "state", {vectors}}}"#)), "the kind state has no k and v"),
        (cache(&format!(r#"{{"kind": "sequence", {vectors}, "window_tokens": 3}}"#)), "has no window_tokens"),
        (cache(&format!(r#"{{"kind": "ring", {vectors}}}"#)), "unknown variant `ring`"),
        (cache(&format!(r#"{{"kind": "sequence", {}}}"#, vectors.replace("128", "4000000"))), "layer 0: K has more"),
        (r#"{"layers": []}"#.to_owned(), "no layers"),
        ("[".to_owned(), "KV geometry: EOF"),
    ];
    for (text, said) in bad {
        let message = Geometry::from_json(&text).expect_err(&text).to_string();
        assert!(message.starts_with("KV geometry: ") && message.contains(said), "{text}: {message}");
    }
}

#[test]
fn precision_is_ordered_within_a_scheme() {
    let at_least = |one: &str, other: &str| {
        let format = |text: &str| text.parse::<Format>().unwrap();
        format(one).is_at_least_as_precise_as(format(other))
    };
    let finer = [
        ("16", "affine:2:64"),
        ("lossless", "16"),
        ("16", "lossless"),
        ("affine:8:64", "affine:4:64"),
        ("affine:8:64", "affine:4:32"),
        ("affine:4:32", "affine:4:64"),
        ("rotated:4", "rotated:3.5"),
    ];
    for (one, other) in finer {
        assert!(at_least(one, other) && at_least(one, one), "{one} {other}");
    }
    let coarser = [
        ("affine:4:64", "16"),
        ("affine:4:64", "affine:8:64"),
        ("affine:4:64", "affine:4:32"),
        ("affine:8:64", "rotated:4"),
        ("channel:8:64", "affine:8:64"),
    ];
    for (one, other) in coarser {
        assert!(!at_least(one, other), "{one} {other}");
    }
}

fn format() -> impl Strategy<Value = Format> {
    let grouped = || {
        (
            prop::sample::select(super::super::AFFINE_BITS.as_slice()),
            prop::sample::select(super::super::GROUPS.as_slice()),
        )
    };
    prop_oneof![
        Just(Format::Plain),
        Just(Format::Lossless),
        grouped().prop_map(|(bits, group)| Format::Affine { bits, group }),
        grouped().prop_map(|(bits, group)| Format::Channel { bits, group }),
        (2_u8..=16).prop_map(|half_bits| Format::Rotated { half_bits }),
    ]
}

proptest! {
    #[test]
    fn precision_is_a_preorder(one in format(), two in format(), three in format()) {
        prop_assert!(one.is_at_least_as_precise_as(one));
        if one.is_at_least_as_precise_as(two) && two.is_at_least_as_precise_as(three) {
            prop_assert!(one.is_at_least_as_precise_as(three));
        }
        if one != two && one.is_lossy() && one.is_at_least_as_precise_as(two) {
            prop_assert!(!two.is_at_least_as_precise_as(one));
        }
    }

    #[test]
    fn a_settled_format_reads_back_from_its_text(format in format()) {
        let text = serde_json::to_string(&format).unwrap();
        prop_assert_eq!(text.trim_matches('"'), format.to_string());
        prop_assert_eq!(serde_json::from_str::<Format>(&text).unwrap(), format);
    }
}
