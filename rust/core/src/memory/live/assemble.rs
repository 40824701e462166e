//! Puts a report together: the latest samples, and what is read now.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::figure::Figure;
use super::history::History;
use super::layer_memory::{LayerMemory, Request, State, now_unix_s};
use super::process::{FOOTPRINT_HOW, ProcessFigures};
use super::report::{
    CacheUse, LayerUse, MemoryReport, MlxMemory, ModelMemory, ProcessMemory, RequestMemory, SCHEMA, Sampling,
    SamplingState, StoreMemory,
};
use super::ring::Sample;
use super::sample::{CacheKind, Cell, Phase, Shape, Stage, UNKNOWN};
use crate::store::StoreStats;

/// What only the caller can read.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Surroundings {
    /// MLX's account now.
    pub mlx: MlxMemory,
    /// The paged cache's account; `None` for that of the store that the models' samples tell of.
    pub store: Option<StoreStats>,
    /// Why there is none, if there is none.
    pub why_no_store: String,
    /// Loaded models that no sample is taken of.
    pub unsampled: Vec<NoSampler>,
}

/// A model that no sample is taken of.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct NoSampler {
    /// Its id.
    pub model_id: String,
    /// The KV policy of new requests.
    pub kv_policy: String,
    /// What its weights take.
    pub weights_bytes: Figure<u64>,
    /// Why none is taken.
    pub why: String,
}

/// Reads the process, and tells of these models and of those that are not sampled.
#[must_use]
pub fn report(models: &[&LayerMemory], around: Surroundings) -> MemoryReport {
    let read = ProcessFigures::read();
    let faults = read.major_faults.clone();
    let store = around.store.or_else(|| models.iter().find_map(|model| model.store_stats()));
    let sampled = models.iter().map(|model| model_memory(&model.state(), model.decode_steps));
    MemoryReport {
        schema: SCHEMA.to_owned(),
        unix_s: now_unix_s(),
        process: ProcessMemory {
            pid: std::process::id(),
            footprint_bytes: Figure::of(read.footprint_bytes, FOOTPRINT_HOW),
            major_faults: Figure::of(read.major_faults, "getrusage"),
            major_faults_per_s: faults_per_s(models, faults),
        },
        mlx: around.mlx,
        store: store_memory(store.as_ref(), &around.why_no_store),
        models: sampled.chain(around.unsampled.iter().map(unsampled)).collect(),
    }
}

/// Over the last minute, as far as samples reach back.
fn faults_per_s(models: &[&LayerMemory], now: Result<u64, String>) -> Figure<f64> {
    const WINDOW_S: f64 = 60.0;
    let now = match now {
        Ok(now) => now,
        Err(why) => return Figure::unavailable(why),
    };
    let at = now_unix_s();
    let earliest = models.iter().filter_map(|model| {
        let state = model.state();
        let mut within = state.ring.iter().filter(|sample| at - sample.moment.unix_s <= WINDOW_S);
        within.find_map(|sample| Some((sample.moment.unix_s, sample.moment.counters.major_faults?)))
    });
    match earliest.min_by(|one, other| one.0.total_cmp(&other.0)) {
        Some((then, before)) if at > then => {
            #[expect(clippy::cast_precision_loss, reason = "a rate for reading")]
            let faults = now.saturating_sub(before) as f64;
            Figure::computed(faults / (at - then).max(1.0), "getrusage, since the first sample of the last minute")
        }
        _ => Figure::unavailable("no sample in the last minute to count from"),
    }
}

fn store_memory(stats: Option<&StoreStats>, why_not: &str) -> StoreMemory {
    let Some(stats) = stats else {
        let none = || Figure::unavailable(why_not);
        return StoreMemory {
            hot_bytes: none(),
            mapped_bytes: none(),
            restored_bytes: none(),
            page_faults: none(),
            page_faults_per_s: Figure::unavailable(why_not),
        };
    };
    let counts = &stats.counts;
    StoreMemory {
        hot_bytes: Figure::measured(stats.hot_bytes, "the store's account"),
        mapped_bytes: Figure::measured(stats.mapped_bytes, "the store's account"),
        restored_bytes: Figure::measured(
            counts.bytes_restored_hot + counts.bytes_restored_cold,
            "the store's account, since it was opened",
        ),
        page_faults: Figure::measured(counts.blocks_restored_cold, "the store's account: blocks read from disk"),
        page_faults_per_s: Figure::measured(stats.page_faults_per_second, "the store's account, over the last minute"),
    }
}

fn unsampled(model: &NoSampler) -> ModelMemory {
    let unknown = || Figure::unavailable(model.why.clone());
    ModelMemory {
        model_id: model.model_id.clone(),
        kv_policy: model.kv_policy.clone(),
        weights_bytes: model.weights_bytes.clone(),
        kv_allocated_bytes: unknown(),
        kv_used_bytes: unknown(),
        state_bytes: unknown(),
        activations_bytes: unknown(),
        peak: None,
        sampling: Sampling {
            state: SamplingState::Off,
            why: Some(model.why.clone()),
            decode_steps: 0,
            latest_unix_s: None,
            samples: 0,
            capacity: 0,
            dropped: 0,
            failures: 0,
            last_failure: None,
        },
        requests: Vec::new(),
        layers: Vec::new(),
        history: History::default(),
    }
}

fn model_memory(state: &State, decode_steps: u32) -> ModelMemory {
    let last = state.ring.last();
    let requests = requests(state, last.as_ref());
    let sum = |field: fn(&RequestMemory) -> &Figure<u64>| {
        // A request that waits has no caches, which is no reason not to know what the others hold.
        let has_caches = |request: &&RequestMemory| request.stage != Stage::Waiting || !request.caches.is_empty();
        let held: Vec<&Figure<u64>> = requests.iter().filter(has_caches).map(field).collect();
        let how = if held.is_empty() { "no request is at work" } else { "sum over the requests' caches" };
        Figure::sum(held, how)
    };
    ModelMemory {
        model_id: state.model_id.clone(),
        kv_policy: state.kv_policy.clone(),
        weights_bytes: Figure::of(state.weights_bytes.clone(), "nbytes of the model's parameters"),
        kv_allocated_bytes: sum(|request| &request.kv_allocated_bytes),
        kv_used_bytes: sum(|request| &request.kv_used_bytes),
        state_bytes: sum(|request| &request.state_bytes),
        activations_bytes: activations(state),
        peak: state.peak.clone(),
        sampling: Sampling {
            state: SamplingState::On,
            why: state.incomplete.clone(),
            decode_steps,
            latest_unix_s: last.as_ref().map(|sample| sample.moment.unix_s),
            samples: state.ring.count(),
            capacity: state.ring.capacity() as u64,
            dropped: state.ring.dropped(),
            failures: state.failures,
            last_failure: state.last_failure.clone(),
        },
        layers: layers(&requests),
        requests,
        history: History::of(state),
    }
}

fn activations(state: &State) -> Figure<u64> {
    match state.activations {
        None => Figure::unavailable("no chunk and no step was sampled yet"),
        Some((bytes, phase)) => {
            let of = if phase == Phase::Prefill { "a chunk of prefill" } else { "the steps between two samples" };
            Figure::computed(bytes, format!("MLX's peak during {of}, less what was active after"))
        }
    }
}

/// Those at work with their caches in the latest sample, then those that wait.
fn requests(state: &State, last: Option<&Sample<'_>>) -> Vec<RequestMemory> {
    let mut cells: BTreeMap<u32, Vec<&Cell>> = BTreeMap::new();
    for cell in last.iter().flat_map(|sample| sample.cells()) {
        cells.entry(cell.request).or_default().push(cell);
    }
    let gone = cells.iter().filter(|(number, _)| !state.requests.contains_key(number));
    let gone = gone.map(|(_, held)| request_memory(state, None, held));
    let known = state
        .requests
        .iter()
        .map(|(number, request)| request_memory(state, Some(request), cells.get(number).map_or(&[], Vec::as_slice)));
    known.chain(gone).collect()
}

fn request_memory(state: &State, request: Option<&Request>, cells: &[&Cell]) -> RequestMemory {
    let caches: Vec<CacheUse> = cells.iter().filter_map(|cell| cache_use(state, cell)).collect();
    let kv = || caches.iter().filter(|cache| cache.kind != CacheKind::State);
    let states = caches.iter().filter(|cache| cache.kind == CacheKind::State);
    let none = || {
        Figure::unavailable(match request {
            Some(request) if request.stage == Stage::Waiting => "it waits, and has no caches yet",
            _ => "its caches are not in the batch, and nobody said which its prompt is computed on",
        })
    };
    let of = |figure: Figure<u64>| if caches.is_empty() { none() } else { figure };
    let most = kv().filter(|cache| cache.tokens.value.is_some()).max_by_key(|cache| cache.tokens.value);
    let no_tokens = || {
        let why = caches.first().map(|cache| cache.tokens.how.clone());
        why.map_or_else(none, Figure::unavailable)
    };
    RequestMemory {
        request_id: request.map_or_else(String::new, |request| request.id.clone()),
        stage: request.map_or(Stage::Decode, |request| request.stage),
        kv_policy: request.map_or_else(String::new, |request| request.kv_policy.clone()),
        prompt_tokens: request.map_or(0, |request| request.prompt_tokens),
        cached_tokens: request.map_or(0, |request| request.cached_tokens),
        tokens: most.map_or_else(no_tokens, |cache| cache.tokens.clone()),
        kv_allocated_bytes: of(Figure::sum(kv().map(|cache| &cache.allocated_bytes), "sum over its caches")),
        kv_used_bytes: of(Figure::sum(kv().map(|cache| &cache.used_bytes), "sum over its caches")),
        state_bytes: of(Figure::sum(states.map(|cache| &cache.allocated_bytes), "sum over its caches")),
        peak: request.and_then(|request| request.peak.clone()),
        caches,
    }
}

fn cache_use(state: &State, cell: &Cell) -> Option<CacheUse> {
    let shape = state.shapes.get(cell.shape as usize)?;
    Some(CacheUse {
        layer: shape.layer,
        place: shape.place,
        kind: shape.kind,
        cache_class: shape.cache_class.clone(),
        k_format: shape.k_format.clone(),
        v_format: shape.v_format.clone(),
        k_bits: shape.k_bits,
        v_bits: shape.v_bits,
        tokens: tokens(shape, cell),
        allocated_bytes: allocated(shape, cell),
        used_bytes: used(shape, cell),
    })
}

fn tokens(shape: &Shape, cell: &Cell) -> Figure<u64> {
    match (cell.tokens, shape.shared) {
        (UNKNOWN, _) => unknown(shape),
        (tokens, false) => Figure::measured(tokens, "the cache's own count"),
        (tokens, true) => Figure::computed(tokens, "the batch's count, less how much shorter the request is"),
    }
}

fn allocated(shape: &Shape, cell: &Cell) -> Figure<u64> {
    match (cell.allocated_bytes, shape.shared) {
        (UNKNOWN, _) => unknown(shape),
        (bytes, false) => Figure::measured(bytes, "nbytes of its arrays"),
        (bytes, true) => Figure::computed(bytes, "nbytes of the batch's arrays, a row's share"),
    }
}

fn used(shape: &Shape, cell: &Cell) -> Figure<u64> {
    match (cell.used_bytes, shape.kind) {
        (UNKNOWN, _) => unknown(shape),
        (bytes, CacheKind::State) => Figure::computed(bytes, "all that is allocated"),
        (bytes, _) => Figure::computed(bytes, "bytes of a token in its arrays, times the tokens held"),
    }
}

fn unknown(shape: &Shape) -> Figure<u64> {
    if shape.why_unknown.is_empty() && shape.kind == CacheKind::State {
        return Figure::unavailable("a state is of all tokens at once");
    }
    let why = if shape.why_unknown.is_empty() { "its class does not say" } else { &shape.why_unknown };
    Figure::unavailable(why)
}

fn layers(requests: &[RequestMemory]) -> Vec<LayerUse> {
    let mut by_layer: BTreeMap<u32, Vec<&CacheUse>> = BTreeMap::new();
    for cache in requests.iter().flat_map(|request| &request.caches) {
        by_layer.entry(cache.layer).or_default().push(cache);
    }
    by_layer.into_iter().map(|(layer, caches)| layer_use(layer, &caches)).collect()
}

fn layer_use(layer: u32, caches: &[&CacheUse]) -> LayerUse {
    let distinct = |field: fn(&CacheUse) -> &String| {
        let mut names: Vec<String> = caches.iter().map(|cache| field(cache).clone()).collect();
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
        names
    };
    let kv = || caches.iter().filter(|cache| cache.kind != CacheKind::State);
    let states = caches.iter().filter(|cache| cache.kind == CacheKind::State);
    let how = "sum over the requests' caches";
    LayerUse {
        layer,
        cache_classes: distinct(|cache| &cache.cache_class),
        k_formats: distinct(|cache| &cache.k_format),
        v_formats: distinct(|cache| &cache.v_format),
        kv_allocated_bytes: Figure::sum(kv().map(|cache| &cache.allocated_bytes), how),
        kv_used_bytes: Figure::sum(kv().map(|cache| &cache.used_bytes), how),
        state_bytes: Figure::sum(states.map(|cache| &cache.allocated_bytes), how),
    }
}
