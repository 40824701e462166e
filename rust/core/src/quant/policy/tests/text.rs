//! The text form: what it reads as, how it is written back, and what is said of what it cannot be.

use proptest::prelude::*;

use super::super::{Base, Budget, FormatSpec, KeyValue, KvPolicy, PolicyError, Problem};
use super::{parsed, policy_text};

fn affine(bits: u8) -> FormatSpec {
    FormatSpec::Affine { bits, group: None }
}

fn formats(text: &str) -> KeyValue<FormatSpec> {
    match parsed(text).live().base() {
        Base::Formats(formats) => *formats,
        Base::Auto(budget) => panic!("{budget}"),
    }
}

#[test]
fn formats_read_as_people_mean_them() {
    let alike = |format| KeyValue { k: format, v: format };
    let cases = [
        ("8", alike(affine(8))),
        ("16", alike(FormatSpec::Plain)),
        ("K8V4", KeyValue { k: affine(8), v: affine(4) }),
        ("lossless", alike(FormatSpec::Lossless)),
        ("rotated-4", alike(FormatSpec::Rotated { half_bits: 8 })),
        ("Rotated:3.5", alike(FormatSpec::Rotated { half_bits: 7 })),
        ("rotated-1", alike(FormatSpec::Rotated { half_bits: 2 })),
        ("affine-k8v4", KeyValue { k: affine(8), v: affine(4) }),
        ("affine-4.0", alike(affine(4))),
        ("affine:4:32", alike(FormatSpec::Affine { bits: 4, group: Some(32) })),
        ("4,group=32", alike(FormatSpec::Affine { bits: 4, group: Some(32) })),
        // Values of the scheme `channel` are affine (KIVI).
        ("channel-4", KeyValue { k: FormatSpec::Channel { bits: 4, group: None }, v: affine(4) }),
        ("channel-k2v16", KeyValue { k: FormatSpec::Channel { bits: 2, group: None }, v: FormatSpec::Plain }),
        ("rotated-k16v4", KeyValue { k: FormatSpec::Plain, v: FormatSpec::Rotated { half_bits: 8 } }),
        (
            "affine:8:32 + rotated-4",
            KeyValue { k: FormatSpec::Affine { bits: 8, group: Some(32) }, v: FormatSpec::Rotated { half_bits: 8 } },
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(formats(text), expected, "{text}");
    }
}

#[test]
fn layers_have_what_their_range_says() {
    let policy = parsed("4, 0-1:16, 34-35:k8v4, 7:lossless");
    let of = |layer| policy.live().override_of(layer).map(|each| each.formats);
    assert_eq!(of(0), of(1));
    assert_eq!(of(1), Some(KeyValue { k: FormatSpec::Plain, v: FormatSpec::Plain }));
    assert_eq!((of(2), of(33), of(36)), (None, None, None));
    assert_eq!(of(35), Some(KeyValue { k: affine(8), v: affine(4) }));
    assert_eq!(of(7), Some(KeyValue { k: FormatSpec::Lossless, v: FormatSpec::Lossless }));
}

#[test]
fn bits_alone_are_of_the_scheme_of_the_side() {
    let policy = parsed("rotated-4,0:8,1:affine-8/4,0:8");
    let of = |layer: u32| policy.live().override_of(layer).map(|each| each.formats.k);
    assert_eq!(of(0), Some(FormatSpec::Rotated { half_bits: 16 }));
    assert_eq!(of(1), Some(affine(8)));
    assert_eq!(policy.rest().and_then(|rest| rest.override_of(0)).map(|each| each.formats.k), Some(affine(8)));
}

#[test]
fn settings_and_budgets_are_read() {
    let policy = parsed("auto:12GiB@128k,first=4,recent=2k/lossless");
    assert_eq!((policy.first_tokens(), policy.recent_tokens()), (4, 2048));
    assert_eq!(*policy.live().base(), Base::Auto(Budget::Bytes { bytes: 12 << 30, tokens: 131_072 }));
    let Base::Auto(Budget::Share(share)) = *parsed("auto:0.35").live().base() else { panic!("a share") };
    assert!((share.get() - 0.35).abs() < f64::EPSILON);
    for (text, bytes, tokens) in [
        ("auto:1.5GiB@131072", 3 << 29, 131_072),
        ("auto:500mb@1m", 500_000_000, 1 << 20),
        ("auto:7B@1", 7, 1),
        ("auto:0.5kB @ 4K", 500, 4096),
    ] {
        assert_eq!(*parsed(text).live().base(), Base::Auto(Budget::Bytes { bytes, tokens }), "{text}");
    }
}

#[test]
fn the_canonical_text_is_what_one_would_type() {
    for text in [
        "8",
        "k8v4",
        "16",
        "lossless",
        "4,0-1:16,34-35:8",
        "rotated-3.5,0:8,1:affine-8",
        "channel-4",
        "channel-k4v2,3:16",
        "affine:8+rotated:4,group=32",
        "4,group=32",
        "16/lossless",
        "16/8",
        "4,0:16,group=128,first=4,recent=128/rotated-4",
        "16+lossless",
        "affine:4:64,3:affine:4:32",
        "auto:0.35,recent=64",
        "auto:12GiB@128k/8",
        "auto:12GB@100000",
        "auto:0.35,0-1:16/auto:0.25",
    ] {
        assert_eq!(parsed(text).to_string(), text);
    }
    for (text, canonical) in [
        (" K8V4 , 0 : 16 ", "k8v4,0:16"),
        ("k8v8", "8"),
        ("8/8", "8"),
        ("affine-8", "8"),
        ("8+4", "k8v4"),
        ("4,2:16,0-1:16", "4,0-2:16"),
        ("affine:4:32", "4,group=32"),
        ("channel:4+4", "channel-4"),
        ("rotated-16", "16"),
        ("auto:1024MiB@2048", "auto:1GiB@2k"),
    ] {
        assert_eq!(parsed(text).to_string(), canonical);
    }
}

/// The text, the piece that is blamed, where it begins, and some of what is said.
const MISTAKES: &[(&str, &str, usize, &str)] = &[
    ("", "", 1, "is empty: write the bits"),
    ("   ", "", 4, "is empty: write the bits"),
    ("/8", "", 1, "what is before the `/` is empty"),
    ("8/", "", 3, "what is after the `/` is empty"),
    ("8/4/2", "2", 5, "a second `/`"),
    ("8,", "", 3, "an item between commas is empty"),
    (",8", "", 1, "the first item is empty"),
    ("8,,0:4", "", 3, "an item between commas is empty"),
    ("rotate-4", "rotate", 1, "no scheme `rotate` (did you mean `rotated`?): the schemes are affine, rotated"),
    ("losless", "losless", 1, "did you mean `lossless`?"),
    ("8/afine-4", "afine", 3, "did you mean `affine`?"),
    ("turbo-4", "turbo", 1, "no scheme `turbo`: the schemes are affine, rotated, channel, lossless and auto"),
    ("4,0-1:chanel-4", "chanel", 7, "did you mean `channel`?"),
    ("fp8", "fp", 1, "no scheme `fp`"),
    ("rotated", "rotated", 1, "rotated needs its bits: write `rotated-4`"),
    ("rotated4", "rotated4", 1, "rotated needs its bits"),
    ("affine-", "affine-", 1, "affine needs its bits"),
    ("lossless-4", "lossless-4", 1, "lossless has no bits"),
    ("7", "7", 1, "affine has 8, 6, 5, 4, 3 or 2 bits, or 16 for as the model has it, not 7"),
    ("0", "0", 1, "not 0"),
    ("1", "1", 1, "not 1"),
    ("k8v7", "7", 4, "not 7"),
    ("3.5", "3.5", 1, "only rotated has halves: `rotated-3.5`"),
    ("rotated-3.25", "3.25", 9, "rotated has 1 to 8 bits in steps of a half"),
    ("rotated-0.5", "0.5", 9, "not 0.5"),
    ("rotated-8.5", "8.5", 9, "not 8.5"),
    ("channel-2.5", "2.5", 9, "channel has 8, 6"),
    ("16.5", "16.5", 1, "not 16.5"),
    ("99999999999999999999999999", "99999999999999999999999999", 1, "not 9999"),
    ("4x", "4x", 1, "`4x` is no number of bits"),
    ("4.", "4.", 1, "no number of bits"),
    ("k8", "k8", 1, "write `k8v16`"),
    ("v8", "v8", 1, "K and V are given together"),
    ("8+4+2", "8+4+2", 1, "write `K+V`"),
    ("8+", "", 3, "a format is empty"),
    ("affine:4:48", "48", 10, "a group is 32, 64 or 128, not `48`"),
    ("rotated:4:64", "rotated:4:64", 1, "rotated formats have no groups"),
    ("4,group=0", "0", 9, "a group is 32, 64 or 128"),
    ("rotated-4,group=64", "group=64", 11, "no format on this side of the `/` has groups"),
    ("4,gruop=32", "gruop", 3, "no setting `gruop` (did you mean `group`?)"),
    ("4,sink=4", "sink", 3, "the settings are group=, first= and recent="),
    ("4,first=x", "x", 9, "`x` is no whole number of tokens"),
    ("4,first=", "", 9, "no whole number of tokens"),
    ("4,first=99999999999999999999", "99999999999999999999", 9, "more than 4294967296 tokens cannot be"),
    ("4,recent=4294967296", "4294967296", 10, "more than 4294967295 tokens cannot be"),
    ("4,first=1,first=2", "first=2", 11, "`first=` is given twice"),
    ("16/4,recent=128", "recent=128", 6, "write it before the `/`"),
    ("first=4,8", "first=4", 1, "come first: write for example `4,first=4`"),
    ("0-1:8", "0-1:8", 1, "come first: write for example `4,0-1:8`"),
    ("8,4", "4", 3, "write `LAYER:4` for a layer, `k8v4` for keys and values apart"),
    ("8,rotated:4", "rotated:4", 3, "formats of all layers a second time"),
    ("8,abc", "abc", 3, "`abc` names no layers"),
    ("8,-1:4", "-1", 3, "layers are counted from 0"),
    ("8,0--1:4", "0--1", 3, "layers are counted from 0"),
    ("8,7-3:4", "7-3", 3, "the range runs backwards: write `3-7`"),
    ("8,3-:4", "3-", 3, "`3-` names no layers"),
    ("8,0-5:4,3-7:2", "3-7:2", 9, "layers of `0-5` are given formats already"),
    ("8,3-7:2,0-5:4", "0-5:4", 9, "layers of `3-7` are given formats already"),
    ("8,3:4,3:4", "3:4", 7, "layers of `3` are given"),
    ("8,3:", "3:", 3, "no formats for the layers: write `3:16`"),
    ("8,65536:4", "65536", 3, "more than 65535 layers cannot be"),
    ("8,99999999999999999999:4", "99999999999999999999", 3, "more than 65535 layers cannot be"),
    ("auto", "auto", 1, "write a share such as `auto:0.35`"),
    ("auto:", "auto:", 1, "is no budget"),
    ("auto:much", "much", 6, "`much` is no budget"),
    ("auto:0", "0", 6, "above 0 and at most 1, not 0"),
    ("auto:1.5", "1.5", 6, "above 0 and at most 1, not 1.5"),
    ("auto:-0.5", "-0.5", 6, "above 0 and at most 1"),
    ("auto:35%", "35%", 6, "write 0.35 for 35%"),
    ("auto:nan", "nan", 6, "`nan` is no budget"),
    ("auto:12GiB", "12GiB", 6, "bytes need a context to hold: write `12GiB@128k`"),
    ("auto:12@128k", "12", 6, "`12` is no number of bytes: write `12GiB`"),
    ("auto:0GiB@128k", "0GiB", 6, "a budget of 0 bytes holds nothing"),
    ("auto:1GiB@0", "0", 11, "a budget of 0 tokens holds nothing"),
    ("auto:1GiB@8x", "8x", 11, "no whole number of tokens"),
    ("auto:9999999999999999999TiB@8k", "9999999999999999999TiB", 6, "bytes cannot be"),
    ("auto:1GiB@99999m", "99999m", 11, "tokens cannot be"),
    ("８", "８", 1, "no number of bits"),
    ("8,0–1:4", "0–1", 3, "`0–1` names no layers"),
    ("k8v4,0:ロ-4", "ロ", 8, "no scheme `ロ`"),
    ("…,8", "…", 1, "no number of bits"),
    ("ü,0:7", "ü", 1, "no scheme `ü`"),
];

#[test]
fn a_mistake_is_named_with_its_place_and_what_would_be_right() {
    for (text, blamed, at, said) in MISTAKES {
        let error = KvPolicy::parse(text).expect_err(text);
        let message = error.to_string();
        assert!(message.contains(said), "{text}: {message}");
        let PolicyError::Text { part, column, .. } = &error else { panic!("{text}: {error:?}") };
        assert_eq!((part.as_str(), *column), (*blamed, *at), "{text}: {message}");
    }
}

#[test]
fn an_error_repeats_no_endless_text() {
    let text = format!("4,0:{}", "é".repeat(100_000));
    let error = KvPolicy::parse(&text).unwrap_err();
    assert!(matches!(&error, PolicyError::Text { problem: Problem::UnknownScheme { .. }, .. }), "{error:?}");
    assert!(error.to_string().chars().count() < 600, "{error}");
}

proptest! {
    #[test]
    fn a_policy_reads_back_from_its_text(text in policy_text()) {
        let policy = parsed(&text);
        let canonical = policy.to_string();
        prop_assert_eq!(&parsed(&canonical), &policy, "{} -> {}", text, canonical);
        prop_assert_eq!(parsed(&canonical).to_string(), canonical);
    }

    #[test]
    fn any_text_is_read_or_refused_where_it_is_wrong(text in "[-0-9a-zA-Z:,/+=.@% é–]{0,40}|\\PC{0,20}") {
        if let Err(PolicyError::Text { text: whole, part, column, .. }) = KvPolicy::parse(&text) {
            prop_assert_eq!(&whole, &text);
            let behind: String = text.chars().skip(column - 1).collect();
            prop_assert!(behind.starts_with(&part), "{:?} is not at {} of {:?}", part, column, text);
        }
    }

    #[test]
    fn a_policy_with_one_letter_changed_is_read_or_refused(
        text in policy_text(), at in any::<prop::sample::Index>(), letter in "[-0-9kv:,/+=.@a]"
    ) {
        let mut letters: Vec<char> = text.chars().collect();
        let at = at.index(letters.len());
        letters[at] = letter.chars().next().unwrap();
        let changed: String = letters.into_iter().collect();
        if let Ok(policy) = KvPolicy::parse(&changed) {
            prop_assert_eq!(parsed(&policy.to_string()), policy);
        }
    }
}
