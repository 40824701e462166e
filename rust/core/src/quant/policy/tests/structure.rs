//! The struct form in JSON and TOML.

use proptest::prelude::*;
use serde::Deserialize;

use super::super::KvPolicy;
use super::{parsed, policy_text};

#[test]
fn fields_say_what_the_text_says() {
    let cases = [
        (r#""k8v4,0-1:16/8""#, "k8v4,0-1:16/8"),
        ("8", "8"),
        (r#"{"live": 8}"#, "8"),
        (r#"{"live": {"k": 8, "v": "4"}}"#, "k8v4"),
        (r#"{"live": {"bits": 3.5, "scheme": "rotated"}, "rest": "lossless"}"#, "rotated-3.5/lossless"),
        (
            r#"{"live": {"k": "affine:8:32", "v": "rotated:4"}, "rest": null, "first_tokens": 4, "recent_tokens": 64}"#,
            "affine:8+rotated:4,group=32,first=4,recent=64",
        ),
        (
            r#"{"live": {"bits": 4, "group": 32, "layers": [{"layers": "0-1", "bits": 16}, {"layers": 7, "k": 8, "v": 4}]}}"#,
            "4,0-1:16,7:k8v4,group=32",
        ),
        (r#"{"live": {"auto": 0.35, "layers": [{"layers": "0", "bits": 16}]}}"#, "auto:0.35,0:16"),
        (r#"{"live": {"auto": "12GiB@128k"}, "rest": {"auto": 0.25}}"#, "auto:12GiB@128k/auto:0.25"),
        (r#"{"live": {"bits": 4, "scheme": "channel"}}"#, "channel-4"),
        (r#"{"live": {"k": "channel:4:32", "v": "channel:4:32"}}"#, "channel-4,group=32"),
    ];
    for (json, text) in cases {
        let policy = KvPolicy::from_json(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(policy.to_string(), text);
    }
}

/// Settings that have a policy among them.
#[derive(Deserialize)]
struct Settings {
    kv: KvPolicy,
}

#[test]
fn toml_reads_alike() {
    let document = r#"
        first_tokens = 4
        rest = "lossless"
        [live]
        k = 8
        v = 4
        [[live.layers]]
        layers = "0-1"
        bits = 16
    "#;
    assert_eq!(KvPolicy::from_toml(document).unwrap().to_string(), "k8v4,0-1:16,first=4/lossless");

    for (document, text) in [("kv = \"k8v4\"", "k8v4"), ("kv = 8", "8"), ("kv = { live = 4, rest = 8 }", "4/8")] {
        assert_eq!(toml::from_str::<Settings>(document).unwrap().kv.to_string(), text);
    }
    let message = toml::from_str::<Settings>("kv = \"rotate-4\"").err().unwrap().to_string();
    assert!(message.contains("line 1") && message.contains("did you mean `rotated`?"), "{message}");
}

#[test]
fn a_mistake_in_the_fields_is_named() {
    let cases = [
        (r#""4,0-1:7""#, "`7` (column 7): affine has 8"),
        (r#"{"live": {"k": 8}}"#, "k and v are given together"),
        (r#"{"live": {"k": 8, "v": 8, "bits": 8}}"#, "leave out k and v, or bits"),
        (r#"{"live": {}}"#, "a side needs k and v, or bits, or auto"),
        (r#"{"live": {"bits": 8, "auto": 0.5}}"#, "not both"),
        (r#"{"live": {"bits": 8, "sceme": "affine"}}"#, "unknown field `sceme`"),
        (r#"{"live": {"bits": 8, "scheme": "afine"}}"#, "did you mean `affine`?"),
        (r#"{"live": {"bits": [8]}}"#, "expected a number or a text"),
        (r#"{"live": 8, "recent": 4}"#, "unknown field `recent`"),
        (r#"{"live": 8, "first_tokens": -4}"#, "-4"),
        (r#"{"rest": 8}"#, "missing field `live`"),
        (r#"{"live": {"bits": 4, "layers": [{"layers": "3-1", "bits": 8}]}}"#, "write `1-3`"),
        (r#"{"live": {"bits": 4, "layers": [{"layers": -1, "bits": 8}]}}"#, "layers are counted from 0"),
        (r#"{"live": {"bits": 4, "layers": [{"layers": 1}]}}"#, "layers 1 need k and v, or bits"),
        (
            r#"{"live": {"bits": 4, "layers": [{"layers": "0-3", "bits": 8}, {"layers": 2, "bits": 3}]}}"#,
            "layers 2: layers of `0-3` are given formats already",
        ),
        (r#"{"live": {"bits": 4, "scheme": "rotated", "group": 64}}"#, "no format of the side has groups"),
        (r#"{"live": {"auto": 35}}"#, "write 0.35 for 35%"),
        ("true", "expected a KV policy: a text such as"),
        ("{", "EOF"),
    ];
    for (json, said) in cases {
        let message = KvPolicy::from_json(json).expect_err(json).to_string();
        assert!(message.starts_with("KV policy: ") && message.contains(said), "{json}: {message}");
    }
}

proptest! {
    #[test]
    fn a_policy_reads_back_from_its_fields(text in policy_text()) {
        let policy = parsed(&text);
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(&KvPolicy::from_json(&json).unwrap(), &policy, "{}", json);
        let document = toml::to_string(&policy).unwrap();
        prop_assert_eq!(&KvPolicy::from_toml(&document).unwrap(), &policy, "{}", document);
    }
}
