//! What a policy makes of a model's bytes, live and at rest, before a single one is held.

use serde::Serialize;

use super::format::{Format, KeyValue, Part};
use super::geometry::{Cache, Geometry, Kv, Vectors};
use super::profile::Profile;
use super::resolve::{CacheFormats, Resolved};

/// Bytes of a model's caches at a number of tokens, layer by layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerBytes {
    /// Of each layer.
    pub layers: Vec<u64>,
    /// Of all.
    pub total: u64,
    /// Whether they are about the most that it can be and not exactly what it will be: what `lossless` takes depends on the
    /// numbers.
    pub is_upper_bound: bool,
}

/// A policy's bytes beside those of the plain caches.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// The policy's text.
    pub policy: String,
    /// Tokens that the bytes are for.
    pub tokens: u64,
    /// The running caches, allocated for exactly these tokens.
    pub live_bytes: u64,
    /// The store's arrays.
    pub rest_bytes: u64,
    /// Whether `rest_bytes` are the most, because `lossless` is among the formats.
    pub rest_is_upper_bound: bool,
    /// The running caches, all plain.
    pub plain_bytes: u64,
    /// The store's arrays, all plain. More than `plain_bytes` where windows forget tokens that the store keeps.
    pub plain_rest_bytes: u64,
    /// What the live formats were measured to cost, summed, in nats. Absent without a profile or where one of the formats
    /// was not measured.
    pub predicted_kl: Option<f64>,
    /// Of each layer.
    pub layers: Vec<LayerPlan>,
}

/// One layer's share of a [`Plan`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LayerPlan {
    /// Live.
    pub live_bytes: u64,
    /// At rest.
    pub rest_bytes: u64,
    /// Live, plain.
    pub plain_bytes: u64,
    /// At rest, plain.
    pub plain_rest_bytes: u64,
}

impl Resolved {
    /// Bytes of the running caches of one request of so many tokens, allocated for exactly these: packed words, scales,
    /// biases and norms, the first and the recent tokens plain, windows no longer than they are. `geometry` is the one that
    /// this was resolved for.
    #[must_use]
    pub fn live_bytes(&self, geometry: &Geometry, tokens: u64) -> LayerBytes {
        let plain = PlainTokens { first: self.first_tokens, recent: self.recent_tokens };
        self.bytes(geometry, |cache, formats| live(cache, formats.live, tokens, plain))
    }

    /// Bytes of the store's arrays for a prompt of so many tokens, without the records' headers. A window's tokens are all
    /// stored, for a prefix may end at each of them. `geometry` is the one that this was resolved for.
    #[must_use]
    pub fn rest_bytes(&self, geometry: &Geometry, tokens: u64) -> LayerBytes {
        let mut bytes = self.bytes(geometry, |cache, formats| at_rest(cache, formats.rest, tokens));
        let mut formats = self.layers.iter().flat_map(|layer| &layer.caches).flatten();
        bytes.is_upper_bound = formats.any(|formats| [formats.rest.k, formats.rest.v].contains(&Format::Lossless));
        bytes
    }

    /// Bytes of the same running caches where all of them are plain.
    #[must_use]
    pub fn plain_bytes(&self, geometry: &Geometry, tokens: u64) -> LayerBytes {
        self.bytes(geometry, |cache, _| live(cache, PLAIN, tokens, PlainTokens::default()))
    }

    /// All of it in one report. `geometry` is the one that this was resolved for.
    #[must_use]
    pub fn plan(&self, geometry: &Geometry, tokens: u64, profile: Option<&Profile>) -> Plan {
        let (live, rest) = (self.live_bytes(geometry, tokens), self.rest_bytes(geometry, tokens));
        let plain = self.plain_bytes(geometry, tokens);
        let plain_rest = self.bytes(geometry, |cache, _| at_rest(cache, PLAIN, tokens));
        let layers = (0..self.layers.len()).map(|layer| LayerPlan {
            live_bytes: live.layers[layer],
            rest_bytes: rest.layers[layer],
            plain_bytes: plain.layers[layer],
            plain_rest_bytes: plain_rest.layers[layer],
        });
        Plan {
            policy: self.policy.to_string(),
            tokens,
            live_bytes: live.total,
            rest_bytes: rest.total,
            rest_is_upper_bound: rest.is_upper_bound,
            plain_bytes: plain.total,
            plain_rest_bytes: plain_rest.total,
            predicted_kl: profile.and_then(|profile| profile.predicted_kl(self, false)),
            layers: layers.collect(),
        }
    }

    fn bytes(&self, geometry: &Geometry, of: impl Fn(&Cache, &CacheFormats) -> u64) -> LayerBytes {
        let layers: Vec<u64> = self
            .layers
            .iter()
            .zip(&geometry.layers)
            .map(|(resolved, layer)| {
                let held = resolved.caches.iter().zip(&layer.caches);
                let bytes = held.filter_map(|(formats, cache)| Some(of(cache, formats.as_ref()?)));
                bytes.fold(0, u64::saturating_add)
            })
            .collect();
        let total = layers.iter().copied().fold(0, u64::saturating_add);
        LayerBytes { layers, total, is_upper_bound: false }
    }
}

const PLAIN: KeyValue<Format> = KeyValue { k: Format::Plain, v: Format::Plain };

/// Tokens that a running cache keeps plain.
#[derive(Clone, Copy, Default)]
pub(super) struct PlainTokens {
    pub(super) first: u32,
    pub(super) recent: u32,
}

fn live(cache: &Cache, formats: KeyValue<Format>, tokens: u64, plain: PlainTokens) -> u64 {
    of_parts(cache, |part, kv| live_part(*formats.get(part), kv, part, held_tokens(cache, tokens), plain))
}

fn at_rest(cache: &Cache, formats: KeyValue<Format>, tokens: u64) -> u64 {
    of_parts(cache, |part, kv| rest_part(*formats.get(part), kv, part, tokens))
}

fn of_parts(cache: &Cache, bytes: impl Fn(Part, &Kv) -> u64) -> u64 {
    let Some(kv) = cache.kv() else { return 0 };
    Part::ALL.iter().map(|part| bytes(*part, kv)).fold(0, u64::saturating_add)
}

/// Tokens of a context that a running cache holds.
pub(super) fn held_tokens(cache: &Cache, tokens: u64) -> u64 {
    match cache {
        Cache::Window { window_tokens, .. } => tokens.min(*window_tokens),
        Cache::Sequence(_) | Cache::Chunked { .. } | Cache::State { .. } => tokens,
    }
}

/// Bytes of the keys, or of the values, of a running cache.
pub(super) fn live_part(format: Format, kv: &Kv, part: Part, tokens: u64, plain: PlainTokens) -> u64 {
    let Vectors { heads, width } = *kv.vectors.get(part);
    let behind_first = tokens.saturating_sub(u64::from(plain.first));
    let behind_both = behind_first.saturating_sub(u64::from(plain.recent));
    let packed = match format {
        // A group of tokens is packed when its last token is there.
        Format::Channel { group, .. } => behind_both - behind_both % u64::from(group),
        _ => behind_both,
    };
    let encoded = format.live_run_bytes(packed, width, kv.element);
    let plain = Format::Plain.run_bytes(tokens - packed, width, kv.element);
    encoded.saturating_add(plain).saturating_mul(u64::from(heads))
}

/// Bytes of the keys, or of the values, in the store.
pub(super) fn rest_part(format: Format, kv: &Kv, part: Part, tokens: u64) -> u64 {
    let Vectors { heads, width } = *kv.vectors.get(part);
    format.run_bytes(tokens, width, kv.element).saturating_mul(u64::from(heads))
}
