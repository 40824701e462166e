//! The report: where the memory of an engine goes now, and the highest it went. Its JSON is the schema `hwledger.v1`, which
//! stands in `schema/hwledger.v1.json`: a field may be added to it; what is there keeps its name and meaning.

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::history::History;
use super::sample::{CacheKind, Moment, Phase, Stage};

/// The name of the schema that reports follow.
pub const SCHEMA: &str = "hwledger.v1";

/// Where the memory of an engine goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemoryReport {
    /// `hwledger.v1`.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: String,
    /// When it was made, in seconds since 1970.
    pub unix_s: f64,
    /// The process.
    pub process: ProcessMemory,
    /// MLX's own account, of all models of the process.
    pub mlx: MlxMemory,
    /// The paged cache.
    pub store: StoreMemory,
    /// The loaded models.
    pub models: Vec<ModelMemory>,
}

/// The process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProcessMemory {
    /// Its id.
    pub pid: u32,
    /// Memory that is its alone: macOS `phys_footprint`, Linux `Anonymous + Swap` of `smaps_rollup`.
    pub footprint_bytes: Figure<u64>,
    /// Page faults that had to read from a disk, since it began.
    pub major_faults: Figure<u64>,
    /// The same a second, over the samples of the last minute.
    pub major_faults_per_s: Figure<f64>,
}

/// MLX's own account.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MlxMemory {
    /// All arrays.
    pub active_bytes: Figure<u64>,
    /// What it keeps for new arrays.
    pub cache_bytes: Figure<u64>,
    /// The most that all arrays were, since the process began or the counter was reset.
    pub peak_bytes: Figure<u64>,
    /// Memory of the device.
    pub device_bytes: Figure<u64>,
    /// What of it nobody has.
    pub free_bytes: Figure<u64>,
}

/// The paged cache.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StoreMemory {
    /// RAM of what is durable and still held.
    pub hot_bytes: Figure<u64>,
    /// RAM mapped for payloads, in use or ready for it; the hot tier is in it.
    pub mapped_bytes: Figure<u64>,
    /// Bytes given back to requests, from RAM and from disk, since it was opened.
    pub restored_bytes: Figure<u64>,
    /// Blocks read from disk for that.
    pub page_faults: Figure<u64>,
    /// The same a second, over the last minute.
    pub page_faults_per_s: Figure<f64>,
}

/// One loaded model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ModelMemory {
    /// Its id.
    pub model_id: String,
    /// The KV policy of new requests.
    pub kv_policy: String,
    /// Its parameters.
    pub weights_bytes: Figure<u64>,
    /// Keys and values of all requests, at the latest sample.
    pub kv_allocated_bytes: Figure<u64>,
    /// What of them holds tokens.
    pub kv_used_bytes: Figure<u64>,
    /// Recurrent states of all requests.
    pub state_bytes: Figure<u64>,
    /// The most that a chunk of prefill or some steps of decoding took beyond what was there after them.
    pub activations_bytes: Figure<u64>,
    /// The highest that MLX's memory went while this model worked.
    pub peak: Option<Peak>,
    /// How the samples were taken.
    pub sampling: Sampling,
    /// Requests that wait or are at work.
    pub requests: Vec<RequestMemory>,
    /// Each layer, of all requests.
    pub layers: Vec<LayerUse>,
    /// The past.
    pub history: History,
}

/// The highest that MLX's memory went, and when.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Peak {
    /// Bytes of all MLX arrays.
    pub bytes: Figure<u64>,
    /// What was being done.
    pub phase: Phase,
    /// For whom, where it was for one request.
    pub request_id: Option<String>,
    /// The chunk of its prompt, from 1, where it was in prefill.
    pub chunk: Option<u32>,
    /// When it was seen, in seconds since 1970.
    pub unix_s: f64,
}

impl Peak {
    pub(super) fn at(moment: &Moment, bytes: u64, request_id: Option<String>) -> Self {
        Self {
            bytes: Figure::measured(bytes, "MLX's peak memory between two samples"),
            phase: moment.phase,
            request_id,
            chunk: (moment.chunk > 0).then_some(moment.chunk),
            unix_s: moment.unix_s,
        }
    }
}

/// Whether samples are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum SamplingState {
    /// They are.
    On,
    /// They are not; nothing is known of the layers.
    Off,
}

/// How the samples of a model were taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sampling {
    /// Whether there are any.
    pub state: SamplingState,
    /// Why there are none, or what is missing of them.
    pub why: Option<String>,
    /// A sample is taken at every chunk of prefill, and every so many steps of decoding.
    pub decode_steps: u32,
    /// When the latest was taken, in seconds since 1970.
    pub latest_unix_s: Option<f64>,
    /// Samples taken.
    pub samples: u64,
    /// How many of them are kept.
    pub capacity: u64,
    /// Samples that had more caches than there is room for.
    pub dropped: u64,
    /// Samples that could not be taken.
    pub failures: u64,
    /// Why the last of these could not.
    pub last_failure: Option<String>,
}

/// One request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RequestMemory {
    /// Its id; empty for rows of the batch that belong to no request any more.
    pub request_id: String,
    /// How far it is.
    pub stage: Stage,
    /// The KV policy at which it began.
    pub kv_policy: String,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens of it that were restored.
    pub cached_tokens: u64,
    /// Tokens that its caches hold.
    pub tokens: Figure<u64>,
    /// Its keys and values.
    pub kv_allocated_bytes: Figure<u64>,
    /// What of them holds tokens.
    pub kv_used_bytes: Figure<u64>,
    /// Its recurrent states.
    pub state_bytes: Figure<u64>,
    /// The highest that MLX's memory went while it was at work.
    pub peak: Option<Peak>,
    /// Its caches, layer by layer.
    pub caches: Vec<CacheUse>,
}

/// One cache of one request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CacheUse {
    /// Index of the layer, in the model's list of caches.
    pub layer: u32,
    /// Index in the layer's list of caches; 0 where it has one.
    pub place: u32,
    /// What it remembers.
    pub kind: CacheKind,
    /// Its class.
    pub cache_class: String,
    /// How keys are held: a format's name, or the type of the numbers. Empty for a state.
    pub k_format: String,
    /// How values are held.
    pub v_format: String,
    /// Bits of a number of the keys, scales and biases left out.
    pub k_bits: Option<f64>,
    /// Bits of a number of the values.
    pub v_bits: Option<f64>,
    /// Tokens held.
    pub tokens: Figure<u64>,
    /// Bytes of its arrays.
    pub allocated_bytes: Figure<u64>,
    /// Bytes of them that hold tokens.
    pub used_bytes: Figure<u64>,
}

/// One layer, of all requests.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LayerUse {
    /// Index of the layer, in the model's list of caches.
    pub layer: u32,
    /// Classes of its caches.
    pub cache_classes: Vec<String>,
    /// How its keys are held.
    pub k_formats: Vec<String>,
    /// How its values are held.
    pub v_formats: Vec<String>,
    /// Its keys and values.
    pub kv_allocated_bytes: Figure<u64>,
    /// What of them holds tokens.
    pub kv_used_bytes: Figure<u64>,
    /// Its recurrent states.
    pub state_bytes: Figure<u64>,
}
