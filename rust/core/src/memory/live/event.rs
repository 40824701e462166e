//! One sample as it is told to who follows along.

use serde::{Deserialize, Serialize};

use super::layer_memory::State;
use super::ring::Sample;
use super::sample::{CacheKind, Phase, UNKNOWN};

/// A sample: sums, and each layer's bytes. What is `None` was not known when it was taken; the report says why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemoryEvent {
    /// Number of the sample, from 0.
    pub number: u64,
    /// Samples before it that the reader came too late for.
    pub missed: u64,
    /// Seconds since 1970.
    pub unix_s: f64,
    /// The model.
    pub model_id: String,
    /// What the time up to it was spent on.
    pub phase: Phase,
    /// For whom, where it was for one request.
    pub request_id: Option<String>,
    /// Number of the prompt's chunk, from 1.
    pub chunk: Option<u32>,
    /// Requests that have caches.
    pub requests: usize,
    /// Bytes of all MLX arrays.
    pub mlx_active_bytes: Option<u64>,
    /// Bytes that MLX keeps for new arrays.
    pub mlx_cache_bytes: Option<u64>,
    /// Most bytes of MLX arrays since the sample before.
    pub mlx_peak_bytes: Option<u64>,
    /// The process, by the cheapest reading.
    pub footprint_bytes: Option<u64>,
    /// RAM of the store's hot tier.
    pub hot_bytes: Option<u64>,
    /// Bytes that the store has given back since it was opened.
    pub restored_bytes: Option<u64>,
    /// Blocks that it read from disk for that.
    pub page_faults: Option<u64>,
    /// Bytes of all keys and values.
    pub kv_allocated_bytes: Option<u64>,
    /// Bytes of them that hold tokens.
    pub kv_used_bytes: Option<u64>,
    /// Bytes of all recurrent states.
    pub state_bytes: Option<u64>,
    /// Bytes of each layer's caches, of all requests.
    pub layer_bytes: Vec<u64>,
}

impl MemoryEvent {
    pub(super) fn of(state: &State, sample: &Sample<'_>, missed: u64) -> Self {
        let moment = sample.moment;
        let sums = Sums::of(state, sample);
        let mut layer_bytes = vec![0; layer_count(state)];
        add_layers(state, sample, &mut layer_bytes);
        let mut requests: Vec<u32> = sample.cells().map(|cell| cell.request).collect();
        requests.dedup();
        Self {
            number: sample.number,
            missed,
            unix_s: moment.unix_s,
            model_id: state.model_id.clone(),
            phase: moment.phase,
            request_id: state.requests.get(&moment.request).map(|request| request.id.clone()),
            chunk: (moment.chunk > 0).then_some(moment.chunk),
            requests: requests.len(),
            mlx_active_bytes: moment.counters.active_bytes,
            mlx_cache_bytes: moment.counters.cache_bytes,
            mlx_peak_bytes: moment.counters.peak_bytes,
            footprint_bytes: moment.counters.footprint_bytes,
            hot_bytes: moment.counters.hot_bytes,
            restored_bytes: moment.counters.restored_bytes,
            page_faults: moment.counters.page_faults,
            kv_allocated_bytes: sums.kv_allocated,
            kv_used_bytes: sums.kv_used,
            state_bytes: sums.state,
            layer_bytes,
        }
    }
}

/// Sums of a sample; `None` where one of the parts is not known.
pub(super) struct Sums {
    pub(super) kv_allocated: Option<u64>,
    pub(super) kv_used: Option<u64>,
    pub(super) state: Option<u64>,
}

impl Sums {
    pub(super) fn of(state: &State, sample: &Sample<'_>) -> Self {
        let mut sums = Self { kv_allocated: Some(0), kv_used: Some(0), state: Some(0) };
        for cell in sample.cells() {
            if state.shapes.get(cell.shape as usize).is_some_and(|shape| shape.kind == CacheKind::State) {
                sums.state = plus(sums.state, cell.allocated_bytes);
            } else {
                sums.kv_allocated = plus(sums.kv_allocated, cell.allocated_bytes);
                sums.kv_used = plus(sums.kv_used, cell.used_bytes);
            }
        }
        sums
    }
}

fn plus(sum: Option<u64>, part: u64) -> Option<u64> {
    if part == UNKNOWN { None } else { sum.map(|sum| sum.saturating_add(part)) }
}

/// Layers that any cache was seen in.
pub(super) fn layer_count(state: &State) -> usize {
    state.shapes.iter().map(|shape| shape.layer as usize + 1).max().unwrap_or(0)
}

/// Adds the bytes of each layer to `totals`; what is not known adds nothing.
pub(super) fn add_layers(state: &State, sample: &Sample<'_>, totals: &mut [u64]) {
    for cell in sample.cells().filter(|cell| cell.allocated_bytes != UNKNOWN) {
        let layer = state.shapes.get(cell.shape as usize).map(|shape| shape.layer as usize);
        if let Some(total) = layer.and_then(|layer| totals.get_mut(layer)) {
            *total = total.saturating_add(cell.allocated_bytes);
        }
    }
}
