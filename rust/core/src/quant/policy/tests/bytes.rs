//! Predicted bytes, against sizes worked out by hand.

use proptest::prelude::*;

use crate::quant::Element;

use super::super::{Cache, Format, Geometry, KeyValue, Kv, KvPolicy, Vectors};
use super::{kv, model, parsed, plain_model, policy_text};

fn live(text: &str, geometry: &Geometry, tokens: u64) -> u64 {
    parsed(text).resolve(geometry, None).unwrap().live_bytes(geometry, tokens).total
}

fn rest(text: &str, geometry: &Geometry, tokens: u64) -> u64 {
    parsed(text).resolve(geometry, None).unwrap().rest_bytes(geometry, tokens).total
}

#[test]
fn bits_of_a_number_include_what_it_shares() {
    let close = |format: Format, width, element, bits: f64| {
        let found = format.bits_per_number(width, element);
        assert!((found - bits).abs() < 1e-12, "{format}: {found}");
    };
    let half = Element::Float16;
    close(Format::Affine { bits: 4, group: 64 }, 128, half, 4.5);
    close(Format::Affine { bits: 8, group: 32 }, 128, half, 9.0);
    close(Format::Affine { bits: 3, group: 128 }, 128, half, 3.25);
    close(Format::Affine { bits: 4, group: 64 }, 128, Element::Float32, 5.0);
    close(Format::Channel { bits: 2, group: 32 }, 80, half, 3.0);
    close(Format::Rotated { half_bits: 7 }, 128, half, 3.625);
    close(Format::Rotated { half_bits: 8 }, 64, Element::Float32, 4.25);
    close(Format::Plain, 96, half, 16.0);
    close(Format::Plain, 96, Element::Float32, 32.0);
}

#[test]
fn live_bytes_are_those_of_the_arrays() {
    // 2 layers × (K, V) × 8 heads × 128 numbers × 2 bytes = 8192 bytes a token.
    let geometry = plain_model(2);
    assert_eq!(live("16", &geometry, 1000), 8_192_000);
    assert_eq!(live("lossless", &geometry, 1000), 8_192_000);
    // 64 bytes packed and 2 groups × 4 bytes, in the place of 256.
    assert_eq!(live("4", &geometry, 1000), 32 * 1000 * (64 + 8));
    assert_eq!(live("k8v16", &geometry, 10), 16 * 10 * (128 + 8) + 16 * 10 * 256);
    assert_eq!(live("rotated-3.5", &geometry, 10), 32 * 10 * (56 + 2));
    // Codes are whole words there, and bytes in the store.
    let narrow = model([Cache::Sequence(kv(8, 32))]);
    assert_eq!(live("rotated-3.5", &narrow, 10), 16 * 10 * (16 + 2));
    assert_eq!(rest("rotated-3.5", &narrow, 10), 16 * 10 * (14 + 2));
    // The first 4 and the latest 100 are plain, or all there are.
    assert_eq!(live("4,first=4,recent=100", &geometry, 1000), 32 * (104 * 256 + 896 * 72));
    assert_eq!(live("4,first=4,recent=100", &geometry, 50), 32 * 50 * 256);
    assert_eq!(live("4,first=100", &geometry, 50), 32 * 50 * 256);
    // Keys wait for a full group of 64: 100 of the 100 + 36 tokens behind the first 4 are recent, 36 wait.
    assert_eq!(live("channel-k4v16,first=4,recent=100", &geometry, 140), 16 * 140 * 256 + 16 * 140 * 256);
    assert_eq!(live("channel-k4v16", &geometry, 140), 16 * 140 * 256 + 16 * (12 * 256 + 128 * 128 / 2 + 2 * 128 * 4));
}

#[test]
fn at_rest_every_token_is_in_its_format() {
    let geometry = plain_model(2);
    assert_eq!(rest("16/4,0:8", &geometry, 100), 16 * 100 * 72 + 16 * 100 * 136);
    assert_eq!(rest("4,first=4,recent=64", &geometry, 100), 32 * 100 * 72);
    // One full group and a smaller one.
    assert_eq!(rest("16/channel-k4v16", &geometry, 70), 16 * 70 * 256 + 16 * (70 * 64 + 2 * 128 * 4));
    let lossless = parsed("16/lossless,0:8").resolve(&geometry, None).unwrap().rest_bytes(&geometry, 10);
    assert!(lossless.is_upper_bound);
    assert_eq!(lossless.layers, [16 * 10 * 136, 16 * 10 * 256]);
    assert!(!parsed("lossless/8").resolve(&geometry, None).unwrap().rest_bytes(&geometry, 10).is_upper_bound);
}

#[test]
fn windows_hold_no_more_than_they_are_long() {
    let geometry = model([Cache::Window { kv: kv(8, 128), window_tokens: 512 }, Cache::State { bytes: 0 }]);
    let found = parsed("4").resolve(&geometry, None).unwrap();
    let plan = found.plan(&geometry, 1000, None);
    assert_eq!((plan.live_bytes, plan.plain_bytes), (512 * 4096, 512 * 4096));
    // The store keeps every token.
    assert_eq!((plan.rest_bytes, plan.plain_rest_bytes), (1000 * 16 * 72, 1000 * 4096));
    assert_eq!((plan.layers[1].live_bytes, plan.layers[1].rest_bytes), (0, 0));
    assert_eq!(found.live_bytes(&geometry, 100).total, 100 * 4096);
}

#[test]
fn a_part_without_numbers_takes_nothing() {
    let vectors = KeyValue { k: Vectors { heads: 1, width: 512 }, v: Vectors { heads: 1, width: 0 } };
    let geometry = model([Cache::Sequence(Kv { vectors, ..kv(1, 1) })]);
    assert_eq!(live("rotated-4", &geometry, 10), 10 * (256 + 2));
}

#[test]
fn numbers_beyond_any_context_do_not_overflow() {
    let geometry = plain_model(3);
    for text in ["4", "channel-4", "rotated-4", "16"] {
        let found = parsed(text).resolve(&geometry, None).unwrap();
        assert_eq!(found.plan(&geometry, u64::MAX, None).plain_bytes, u64::MAX);
    }
}

proptest! {
    #[test]
    fn a_plan_adds_up_and_never_shrinks_with_tokens(text in policy_text(), tokens in 0_u64..3000, more in 0_u64..300) {
        let caches = (0..20).map(|layer| match layer % 3 {
            0 => Cache::Window { kv: kv(2, 64), window_tokens: 700 },
            _ => Cache::Sequence(kv(4, 128)),
        });
        let geometry = model(caches);
        let policy: KvPolicy = parsed(&text);
        // What `auto` comes to is tested apart.
        let Ok(found) = policy.resolve(&geometry, None) else { return Ok(()) };
        let plan = found.plan(&geometry, tokens, None);
        prop_assert_eq!(plan.live_bytes, plan.layers.iter().map(|layer| layer.live_bytes).sum::<u64>());
        prop_assert_eq!(plan.rest_bytes, plan.layers.iter().map(|layer| layer.rest_bytes).sum::<u64>());
        prop_assert!(plan.live_bytes <= plan.plain_bytes);
        let longer = found.plan(&geometry, tokens + more, None);
        prop_assert!(plan.rest_bytes <= longer.rest_bytes);
        let channels = found.layers.iter().flat_map(|layer| layer.caches.iter().flatten());
        // A group of channels that becomes full is packed, and takes less than the tokens that waited for it.
        if !channels.clone().any(|held| super::is_channel(held.live.k)) {
            prop_assert!(plan.live_bytes <= longer.live_bytes);
        }
    }
}
