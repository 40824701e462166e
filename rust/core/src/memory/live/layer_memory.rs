//! The ledger of one loaded model: who is at work, the latest samples, and the highest peak. Usable from any thread; the
//! thread that runs the model holds the lock for a copy of its cells.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::bell;
use super::event::MemoryEvent;
use super::process::{cheap_footprint_bytes, major_faults};
use super::report::Peak;
use super::ring::Ring;
use super::sample::{Cell, Counters, Moment, Phase, Row, Shape, Stage};
use crate::store::{Store, StoreStats};

/// How much of the past a ledger keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Samples.
    pub samples: usize,
    /// Cells of all of them.
    pub cells: usize,
}

impl Default for Limits {
    /// About 2.3 MiB: an hour of one request at a sample every 16 tokens and 10 tokens a second, in 32 layers.
    fn default() -> Self {
        Self { samples: 2048, cells: 1 << 16 }
    }
}

/// A request as the ledger knows it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) kv_policy: String,
    pub(super) stage: Stage,
    pub(super) peak: Option<Peak>,
}

/// What is under the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) model_id: String,
    pub(super) kv_policy: String,
    pub(super) weights_bytes: Result<u64, String>,
    pub(super) ring: Ring,
    pub(super) shapes: Vec<Shape>,
    pub(super) requests: BTreeMap<u32, Request>,
    pub(super) peak: Option<Peak>,
    /// The most that a chunk or some steps took beyond what was there after them, and the phase.
    pub(super) activations: Option<(u64, Phase)>,
    pub(super) failures: u64,
    pub(super) last_failure: Option<String>,
    pub(super) incomplete: Option<String>,
    next_request: u32,
    cells: Vec<Cell>,
}

/// The ledger of one loaded model.
#[derive(Debug)]
pub struct LayerMemory {
    state: Mutex<State>,
    store: Mutex<Weak<Store>>,
    pub(super) decode_steps: u32,
}

impl LayerMemory {
    /// A ledger without samples. `decode_steps` is how many steps of decoding go by between two of them.
    #[must_use]
    pub fn new(model_id: &str, decode_steps: u32, limits: Limits) -> Self {
        let state = State {
            model_id: model_id.to_owned(),
            kv_policy: String::new(),
            weights_bytes: Err("nobody has counted them".to_owned()),
            ring: Ring::new(limits.samples, limits.cells),
            shapes: Vec::new(),
            requests: BTreeMap::new(),
            peak: None,
            activations: None,
            failures: 0,
            last_failure: None,
            incomplete: None,
            next_request: 1,
            cells: Vec::with_capacity(limits.cells),
        };
        Self { state: Mutex::new(state), store: Mutex::default(), decode_steps }
    }

    /// Has samples tell of a store too, for as long as that is open.
    pub fn watch_store(&self, store: Weak<Store>) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// Names the model anew.
    pub fn set_model_id(&self, model_id: &str) {
        model_id.clone_into(&mut self.state().model_id);
    }

    /// The model's name.
    #[must_use]
    pub fn model_id(&self) -> String {
        self.state().model_id.clone()
    }

    /// Says what the weights take, or why that is not known.
    pub fn set_weights_bytes(&self, bytes: Result<u64, String>) {
        self.state().weights_bytes = bytes;
    }

    /// Says at which policy new requests run.
    pub fn set_kv_policy(&self, policy: &str) {
        policy.clone_into(&mut self.state().kv_policy);
    }

    /// Says what is missing of the samples, and why; `None` for nothing.
    pub fn set_incomplete(&self, why: Option<String>) {
        self.state().incomplete = why;
    }

    /// The number by which cells name a shape. Equal shapes have one.
    pub fn shape(&self, shape: Shape) -> u32 {
        let mut state = self.state();
        let place = state.shapes.iter().position(|known| *known == shape).unwrap_or_else(|| {
            state.shapes.push(shape);
            state.shapes.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// Takes a request on; it waits for its turn. Returns the number by which rows name it.
    pub fn begin(&self, request_id: &str, prompt_tokens: u64, kv_policy: &str) -> u32 {
        let mut state = self.state();
        let number = state.next_request;
        state.next_request = number.checked_add(1).unwrap_or(1);
        let request = Request {
            id: request_id.to_owned(),
            prompt_tokens,
            cached_tokens: 0,
            kv_policy: kv_policy.to_owned(),
            stage: Stage::Waiting,
            peak: None,
        };
        state.requests.insert(number, request);
        number
    }

    /// Says how far a request is. Nothing happens where none has that number.
    pub fn advance(&self, request: u32, stage: Stage, cached_tokens: u64) {
        if let Some(request) = self.state().requests.get_mut(&request) {
            (request.stage, request.cached_tokens) = (stage, cached_tokens);
        }
    }

    /// Lets a request go. Returns the highest peak of MLX's memory while it was at work.
    pub fn end(&self, request: u32) -> Option<u64> {
        self.state().requests.remove(&request)?.peak?.bytes.value
    }

    /// Takes a sample: what the time up to now was spent on and for whom, MLX's counters, and the cells of every request
    /// at work. What of `counters` is `None` and can be read here, is. Returns whether there was room for it.
    pub fn record(
        &self,
        phase: Phase,
        request: u32,
        chunk: u32,
        counters: Counters,
        rows: &[Row],
        cells: impl IntoIterator<Item = Cell>,
    ) -> bool {
        let moment = Moment { unix_s: now_unix_s(), phase, request, chunk, counters: self.completed(counters) };
        let mut state = self.state();
        let mut scratch = std::mem::take(&mut state.cells);
        scratch.clear();
        scratch.extend(cells);
        let mut unnamed = scratch.iter_mut();
        for row in rows {
            unnamed.by_ref().take(row.cells).for_each(|cell| cell.request = row.request);
        }
        let kept = state.ring.push(moment, &scratch);
        state.cells = scratch;
        state.take_peak(&moment);
        drop(state);
        bell::ring();
        kept
    }

    /// Counts a sample that could not be taken.
    pub fn failed(&self, why: &str) {
        let mut state = self.state();
        state.failures += 1;
        state.last_failure = Some(why.to_owned());
    }

    /// Samples ever kept; the next one has this number.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.state().ring.count()
    }

    /// The first sample from number `from` on that is still there.
    #[must_use]
    pub fn event(&self, from: u64) -> Option<MemoryEvent> {
        let state = self.state();
        let first = state.ring.count().saturating_sub(state.ring.capacity() as u64).max(from);
        let sample = (first..state.ring.count()).find_map(|number| state.ring.get(number))?;
        Some(MemoryEvent::of(&state, &sample, sample.number - from))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn store_stats(&self) -> Option<StoreStats> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        store.map(|store| store.stats())
    }

    fn completed(&self, mut counters: Counters) -> Counters {
        counters.footprint_bytes = counters.footprint_bytes.or_else(cheap_footprint_bytes);
        counters.major_faults = counters.major_faults.or_else(major_faults);
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(held) = store.as_deref().and_then(Store::memory) {
            counters.hot_bytes = held.hot_bytes;
            counters.restored_bytes = Some(held.restored_bytes);
            counters.page_faults = Some(held.page_faults);
        }
        counters
    }
}

impl State {
    fn take_peak(&mut self, moment: &Moment) {
        let Some(bytes) = moment.counters.peak_bytes else { return };
        let request_id = self.requests.get(&moment.request).map(|request| request.id.clone());
        let is_higher = |known: &Option<Peak>| known.as_ref().and_then(|peak| peak.bytes.value) < Some(bytes);
        let peak = || Peak::at(moment, bytes, request_id.clone());
        if is_higher(&self.peak) {
            self.peak = Some(peak());
        }
        for request in self.requests.values_mut().filter(|request| request.stage != Stage::Waiting) {
            if is_higher(&request.peak) {
                request.peak = Some(peak());
            }
        }
        let beyond = moment.counters.active_bytes.map(|active| bytes.saturating_sub(active));
        if matches!(moment.phase, Phase::Prefill | Phase::Decode) && beyond > self.activations.map(|(most, _)| most) {
            self.activations = beyond.map(|bytes| (bytes, moment.phase));
        }
    }
}

pub(super) fn now_unix_s() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
