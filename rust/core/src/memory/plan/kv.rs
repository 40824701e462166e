//! Bytes of a layer's caches, used and allocated, for requests that all hold the same number of tokens.

use serde::{Deserialize, Serialize};

use super::allocation::{
    self, History, batched_window, chunked, filling_window, held, is_plain, live_sequence, own_sequence, own_window,
};
use crate::memory::ingest::LayerShape;
use crate::quant::policy::{Cache, CacheFormats, Format, Geometry, KeyValue, Kv, Part, Resolved};

/// Whose caches hold the tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// The engine's, in a batch, with room for the answer from the beginning.
    Engine,
    /// Ours, of one request that is in no batch, with no word of what will come.
    Alone,
    /// mlx-lm's `make_prompt_cache`, of one request.
    MlxLm,
}

/// Bytes of one layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct LayerBytes {
    /// Keys and values, with the room behind them.
    pub kv_bytes: u64,
    /// Keys and values of the tokens that are there.
    pub kv_used_bytes: u64,
    /// What each further token takes; 0 where the layer remembers no more than it does.
    pub token_bytes: u64,
    /// Recurrent state, the same at any context.
    pub state_bytes: u64,
    /// Of `kv_bytes`, what is only bounded: this at most, and nothing at least.
    pub unknown_bytes: u64,
    /// What a prefill holds in windows beyond `kv_bytes`, until it ends.
    #[serde(skip)]
    pub prefill_bytes: u64,
    /// What is there twice while the cache grows. Layers grow one after another.
    #[serde(skip)]
    pub growth_bytes: u64,
    /// What is copied when a request joins a batch or leaves it, for all layers at once. Encoded caches stay where they
    /// are.
    #[serde(skip)]
    pub joined_bytes: u64,
    /// The same of caches that are copied one layer after another.
    #[serde(skip)]
    pub moved_bytes: u64,
    /// Encoded keys and values as they are for the moment in which attention reads them.
    #[serde(skip)]
    pub decoded_bytes: u64,
}

impl LayerBytes {
    /// Of so many requests; what a further token takes stays that of one.
    #[must_use]
    pub(super) fn times(self, requests: u64) -> Self {
        Self {
            kv_bytes: self.kv_bytes.saturating_mul(requests),
            kv_used_bytes: self.kv_used_bytes.saturating_mul(requests),
            token_bytes: self.token_bytes,
            state_bytes: self.state_bytes.saturating_mul(requests),
            unknown_bytes: self.unknown_bytes.saturating_mul(requests),
            prefill_bytes: self.prefill_bytes.saturating_mul(requests),
            growth_bytes: self.growth_bytes.saturating_mul(requests),
            joined_bytes: self.joined_bytes.saturating_mul(requests),
            moved_bytes: self.moved_bytes.saturating_mul(requests),
            decoded_bytes: self.decoded_bytes.saturating_mul(requests),
        }
    }
}

/// How tokens are held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'p> {
    pub(super) resolved: &'p Resolved,
    pub(super) holder: Holder,
    pub(super) history: History,
    pub(super) reserve_tokens: u64,
}

/// Bytes of a layer of one request.
pub(super) fn layer_bytes(shape: &LayerShape, geometry: &Geometry, how: Held) -> LayerBytes {
    let mut sum = LayerBytes::default();
    if let Some(bounds) = shape.bounds {
        let kv = bounds.token_bytes_at_most.saturating_mul(how.history.tokens());
        sum.unknown_bytes = kv.saturating_add(bounds.state_bytes_at_most);
        sum.kv_bytes = sum.unknown_bytes;
        sum.token_bytes = bounds.token_bytes_at_most;
        return sum;
    }
    let Some(place) = shape.cache.map(|place| place as usize) else { return sum };
    let Some((layer, formats)) = geometry.layers.get(place).zip(how.resolved.layers.get(place)) else { return sum };
    for (cache, formats) in layer.caches.iter().zip(&formats.caches) {
        let one = cache_bytes(cache, *formats, how);
        sum.kv_bytes = sum.kv_bytes.saturating_add(one.kv_bytes);
        sum.kv_used_bytes = sum.kv_used_bytes.saturating_add(one.kv_used_bytes);
        sum.token_bytes = sum.token_bytes.saturating_add(one.token_bytes);
        sum.state_bytes = sum.state_bytes.saturating_add(one.state_bytes);
        sum.prefill_bytes = sum.prefill_bytes.saturating_add(one.prefill_bytes);
        sum.growth_bytes = sum.growth_bytes.saturating_add(one.growth_bytes);
        sum.joined_bytes = sum.joined_bytes.saturating_add(one.joined_bytes);
        sum.moved_bytes = sum.moved_bytes.saturating_add(one.moved_bytes);
        sum.decoded_bytes = sum.decoded_bytes.saturating_add(one.decoded_bytes);
    }
    sum
}

fn cache_bytes(cache: &Cache, formats: Option<CacheFormats>, how: Held) -> LayerBytes {
    let tokens = how.history.tokens();
    match cache {
        Cache::State { bytes } => LayerBytes { state_bytes: *bytes, ..LayerBytes::default() },
        Cache::Sequence(kv) => sequence_bytes(kv, formats.map_or(PLAIN, |formats| formats.live), how),
        Cache::Window { kv, window_tokens } => {
            let window = *window_tokens;
            let (allocated, prefill) = match how.holder {
                Holder::Engine => (batched_window(how.history, window), filling_window(how.history, window)),
                Holder::Alone | Holder::MlxLm => (own_window(how.history, window), 0),
            };
            let prefill_bytes = plain_bytes(kv, prefill).saturating_sub(plain_bytes(kv, allocated));
            LayerBytes { prefill_bytes, ..bounded(kv, allocated, tokens.min(window)) }
        }
        Cache::Chunked { kv, chunk_tokens } => {
            let (at_end, most) = chunked(how.history, *chunk_tokens);
            let allocated = if how.holder == Holder::Engine { most } else { at_end };
            bounded(kv, allocated, tokens.min(allocated))
        }
    }
}

const PLAIN: KeyValue<Format> = KeyValue { k: Format::Plain, v: Format::Plain };

fn bounded(kv: &Kv, allocated: u64, used: u64) -> LayerBytes {
    let kv_bytes = plain_bytes(kv, allocated);
    LayerBytes { kv_bytes, joined_bytes: kv_bytes, kv_used_bytes: plain_bytes(kv, used), ..LayerBytes::default() }
}

fn sequence_bytes(kv: &Kv, formats: KeyValue<Format>, how: Held) -> LayerBytes {
    let tokens = how.history.tokens();
    let mut sum = LayerBytes::default();
    if Part::ALL.iter().all(|part| is_plain(*formats.get(*part))) {
        let (allocated, before) = match how.holder {
            Holder::MlxLm => (own_sequence(how.history), 0),
            Holder::Engine | Holder::Alone => {
                let grown = live_sequence(how.history, how.reserve_tokens);
                (grown.tokens, grown.before_last_growth)
            }
        };
        sum.kv_bytes = plain_bytes(kv, allocated);
        sum.kv_used_bytes = plain_bytes(kv, tokens);
        sum.token_bytes = plain_bytes(kv, 1);
        sum.growth_bytes = plain_bytes(kv, before);
        sum.moved_bytes = sum.kv_bytes;
        return sum;
    }
    let (first, recent) = (u64::from(how.resolved.first_tokens), u64::from(how.resolved.recent_tokens));
    for part in Part::ALL {
        let format = *formats.get(part);
        let (grown, mut plain) = held(how.history, format, first, recent, how.reserve_tokens);
        if how.holder == Holder::Engine && !is_plain(format) {
            // A group that is not full yet is plain: as much of it as there ever was.
            plain = tokens.min(first + recent + group_tokens(format) - 1).max(plain);
        }
        let bytes = |encoded: u64| part_bytes(kv, part, format, encoded);
        let plain_bytes = part_bytes(kv, part, Format::Plain, plain);
        if !is_plain(format) {
            sum.decoded_bytes = sum.decoded_bytes.saturating_add(part_bytes(kv, part, Format::Plain, tokens));
        }
        sum.kv_bytes = sum.kv_bytes.saturating_add(bytes(grown.tokens)).saturating_add(plain_bytes);
        let used = bytes(tokens - plain).saturating_add(plain_bytes);
        sum.kv_used_bytes = sum.kv_used_bytes.saturating_add(used.min(bytes(grown.tokens).saturating_add(plain_bytes)));
        // Of the long run: a format that shares a scale among tokens has a part of it in each.
        sum.token_bytes = sum.token_bytes.saturating_add(bytes(RUN_TOKENS).div_ceil(RUN_TOKENS));
        sum.growth_bytes = sum.growth_bytes.saturating_add(bytes(grown.before_last_growth));
    }
    sum
}

fn group_tokens(format: Format) -> u64 {
    match format {
        Format::Channel { group, .. } => u64::from(group),
        _ => 1,
    }
}

/// Tokens that every format's group divides.
const RUN_TOKENS: u64 = 128;

fn plain_bytes(kv: &Kv, tokens: u64) -> u64 {
    Part::ALL.iter().map(|part| part_bytes(kv, *part, Format::Plain, tokens)).fold(0, u64::saturating_add)
}

fn part_bytes(kv: &Kv, part: Part, format: Format, tokens: u64) -> u64 {
    let vectors = kv.vectors.get(part);
    format.run_bytes(tokens, vectors.width, kv.element).saturating_mul(u64::from(vectors.heads))
}

/// How many tokens a request's caches are reserved for, and how its tokens come, in the engine: a prefill leaves the last
/// token of the prompt to the first step of decoding, and the last token of the answer is in no cache.
pub(super) fn engine_history(context: u64, answer: u64, chunk: u64) -> (History, u64) {
    let prompt = context.saturating_sub(answer).max(1);
    let history = History { prefilled_tokens: prompt - 1, chunk_tokens: chunk, decoded_tokens: context - (prompt - 1) };
    (history, allocation::reserve_tokens(prompt, answer))
}
