//! Policies, the models they are for and the profiles that `auto` needs.

mod auto;
mod bytes;
mod resolve;
mod solver;
mod structure;
mod text;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::quant::Element;

use super::{
    AFFINE_BITS, Cache, Format, GROUPS, Geometry, KeyValue, Kv, KvPolicy, Layer, Measured, MeasuredFormats,
    PROFILE_VERSION, Part, Profile, Vectors,
};

fn kv(heads: u32, width: u32) -> Kv {
    let vectors = Vectors { heads, width };
    Kv { vectors: KeyValue { k: vectors, v: vectors }, element: Element::Bfloat16 }
}

fn model(caches: impl IntoIterator<Item = Cache>) -> Geometry {
    Geometry { model: None, layers: caches.into_iter().map(|cache| Layer { caches: vec![cache] }).collect() }
}

/// Layers with keys and values of 8 heads × 128 numbers.
fn plain_model(layers: usize) -> Geometry {
    model(std::iter::repeat_n(Cache::Sequence(kv(8, 128)), layers))
}

fn parsed(text: &str) -> KvPolicy {
    KvPolicy::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A profile where all parts have the same formats, of the harm that `kl` gives.
fn profile(geometry: &Geometry, formats: &[Format], kl: impl Fn(usize, Part, Format) -> f64) -> Profile {
    let layer = |number: usize, layer: &Layer| {
        let measured = |part: Part| -> MeasuredFormats {
            let of_values = formats.iter().filter(|format| part == Part::Keys || !is_channel(**format));
            of_values.map(|format| (*format, Measured { kl: kl(number, part, *format), error: 0.1 })).collect()
        };
        layer.caches[0].kv()?;
        Some(KeyValue { k: measured(Part::Keys), v: measured(Part::Values) })
    };
    Profile {
        version: PROFILE_VERSION,
        model: "ab01".to_owned(),
        text: "cd02".to_owned(),
        tokens: 4096,
        layers: geometry.layers.iter().enumerate().map(|(number, each)| layer(number, each)).collect(),
        wholes: Vec::new(),
    }
}

fn is_channel(format: Format) -> bool {
    matches!(format, Format::Channel { .. })
}

fn affine(bits: u8) -> Format {
    Format::Affine { bits, group: 64 }
}

/// A format as people may write it.
fn format_text() -> impl Strategy<Value = String> {
    let bits = || select(AFFINE_BITS.as_slice());
    let group = || select(GROUPS.as_slice());
    let scheme = || select(["affine", "channel"].as_slice());
    prop_oneof![
        Just("16".to_owned()),
        Just("lossless".to_owned()),
        bits().prop_map(|bits| bits.to_string()),
        (scheme(), bits()).prop_map(|(scheme, bits)| format!("{scheme}-{bits}")),
        (scheme(), bits(), group()).prop_map(|(scheme, bits, group)| format!("{scheme}:{bits}:{group}")),
        (2_u8..=16).prop_map(|half| format!("rotated-{}", f64::from(half) / 2.0)),
    ]
}

fn formats_text() -> impl Strategy<Value = String> {
    let bits = || prop_oneof![select(AFFINE_BITS.as_slice()), Just(16)];
    let scheme = select(["", "affine-", "channel-", "rotated-"].as_slice());
    prop_oneof![
        3 => format_text(),
        2 => (scheme, bits(), bits()).prop_map(|(scheme, k, v)| format!("{scheme}k{k}v{v}")),
        2 => (format_text(), format_text()).prop_map(|(k, v)| format!("{k}+{v}")),
    ]
}

fn side_text(live: bool) -> impl Strategy<Value = String> {
    let base = prop_oneof![
        4 => formats_text(),
        1 => (1_u32..=10_000).prop_map(|share| format!("auto:{}", f64::from(share) / 10_000.0)),
        1 => (1_u32..10_000, select(["GiB", "MB", "B", "kB", "TiB"].as_slice()), 1_u32..1_000_000)
            .prop_map(|(size, unit, tokens)| format!("auto:{size}{unit}@{tokens}")),
    ];
    // The distance from the range before, and how many layers it has: no layer is named twice.
    let ranges = vec((0_u32..3, 1_u32..4, formats_text()), 0..5);
    let tokens = move || option::of(1_u32..500).prop_map(move |tokens| tokens.filter(|_| live));
    (base, ranges, option::of(select(GROUPS.as_slice())), tokens(), tokens()).prop_map(
        |(base, ranges, group, first, recent)| {
            let mut items = vec![base];
            let mut next = 0;
            for (gap, count, formats) in ranges {
                let start = next + gap;
                next = start + count;
                items.push(format!("{start}-{}:{formats}", next - 1));
            }
            if let Some(group) = group {
                // With a layer behind all others that surely takes it.
                items.push(format!("100:affine-4,group={group}"));
            }
            items.extend(first.map(|tokens| format!("first={tokens}")));
            items.extend(recent.map(|tokens| format!("recent={tokens}")));
            items.join(",")
        },
    )
}

/// The text of any policy.
fn policy_text() -> impl Strategy<Value = String> {
    (side_text(true), option::of(side_text(false))).prop_map(|(live, rest)| match rest {
        Some(rest) => format!("{live}/{rest}"),
        None => live,
    })
}

/// The formats that a profile measured, by harm.
fn sorted(measured: &MeasuredFormats) -> BTreeMap<String, f64> {
    measured.iter().map(|(format, measured)| (format.to_string(), measured.kl)).collect()
}
