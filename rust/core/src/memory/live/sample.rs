//! What one sample holds: the moment, the requests at work, and a cell for each of their caches.

use serde::{Deserialize, Serialize};

/// Stands in a cell for what is not known.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// What the time up to a sample was spent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Phase {
    /// The model was loaded, or nothing was to be done.
    Idle,
    /// KV of an earlier prompt was restored.
    Restore,
    /// One chunk of a prompt was computed.
    Prefill,
    /// A request came into the batch, and its first token was computed.
    Join,
    /// Tokens were generated.
    Decode,
}

impl Phase {
    /// The phase of that number, in the order above.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Idle, Self::Restore, Self::Prefill, Self::Join, Self::Decode].get(usize::from(number)).copied()
    }
}

/// How far a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Stage {
    /// It waits for its turn.
    Waiting,
    /// Its prompt is being computed.
    Prefill,
    /// Its answer is.
    Decode,
}

impl Stage {
    /// The stage of that number, in the order above.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Waiting, Self::Prefill, Self::Decode].get(usize::from(number)).copied()
    }
}

/// What a cache remembers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum CacheKind {
    /// Keys and values of every token.
    Sequence,
    /// Keys and values of the last tokens.
    Window,
    /// The state of a recurrent layer.
    State,
    /// A cache of a class that is not known here.
    Other,
}

impl CacheKind {
    /// The kind that its JSON calls so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::from(name)).ok()
    }
}

/// What does not change in a cache while a request runs. A model has few of these, however many requests it serves.
#[derive(Clone, PartialEq, Debug)]
pub struct Shape {
    /// Index of the layer, as the model's list of caches has it.
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
    /// Whether the requests of a batch share its arrays, so that each one's bytes are an equal share of them.
    pub shared: bool,
    /// Why some of its numbers are not known; empty where all are.
    pub why_unknown: String,
}

/// One cache of one request at one moment. Numbers that are not known are `u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cell {
    /// Number of the cache's [`Shape`].
    pub shape: u32,
    /// Number of the request.
    pub request: u32,
    /// Bytes of its arrays.
    pub allocated_bytes: u64,
    /// Bytes of them that hold tokens.
    pub used_bytes: u64,
    /// Tokens held.
    pub tokens: u64,
}

/// How many of a sample's cells belong to a request. Rows come in the order of the cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Number of the request; 0 for a row of the batch that belongs to none any more.
    pub request: u32,
    /// Cells.
    pub cells: usize,
}

/// What the machine says at a moment. `None` where it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Bytes of all MLX arrays.
    pub active_bytes: Option<u64>,
    /// Bytes that MLX keeps for new arrays.
    pub cache_bytes: Option<u64>,
    /// Most bytes of MLX arrays since the sample before.
    pub peak_bytes: Option<u64>,
    /// The process, by the cheapest reading.
    pub footprint_bytes: Option<u64>,
    /// Page faults of the process that had to read, since it began.
    pub major_faults: Option<u64>,
    /// RAM of the store's hot tier.
    pub hot_bytes: Option<u64>,
    /// Bytes that the store has given back, since it was opened.
    pub restored_bytes: Option<u64>,
    /// Blocks that it read from disk for that.
    pub page_faults: Option<u64>,
}

/// The head of a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub unix_s: f64,
    /// What the time up to it was spent on.
    pub phase: Phase,
    /// Whom that was for; 0 for no single request.
    pub request: u32,
    /// Number of the prompt's chunk, from 1; 0 outside of prefill.
    pub chunk: u32,
    /// What the machine says.
    pub counters: Counters,
}
