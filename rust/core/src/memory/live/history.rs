//! The past of a model, for drawing: no more points than a picture has columns.

use serde::{Deserialize, Serialize};

use super::event::{add_layers, layer_count};
use super::layer_memory::State;
use super::ring::Sample;
use super::sample::Phase;

/// Most points of a history.
pub const HISTORY_POINTS: usize = 240;

/// Samples of a model, the oldest first, as columns. Of a run of samples that one point stands for, it is the one at the
/// highest peak, so that none is lost.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct History {
    /// How many samples one point stands for.
    pub samples_a_point: u64,
    /// Seconds since 1970.
    pub unix_s: Vec<f64>,
    /// What the time up to each was spent on.
    pub phase: Vec<Phase>,
    /// Bytes of all MLX arrays; `None` where it was not known.
    pub mlx_active_bytes: Vec<Option<u64>>,
    /// Bytes that MLX kept for new arrays.
    pub mlx_cache_bytes: Vec<Option<u64>>,
    /// Most bytes of MLX arrays since the sample before.
    pub mlx_peak_bytes: Vec<Option<u64>>,
    /// Bytes of the caches of each layer, of all requests, at each point.
    pub layer_bytes: Vec<Vec<u64>>,
}

impl History {
    pub(super) fn of(state: &State) -> Self {
        let samples: Vec<Sample<'_>> = state.ring.iter().collect();
        let stride = samples.len().div_ceil(HISTORY_POINTS).max(1);
        let layers = layer_count(state);
        let mut history = Self { samples_a_point: stride as u64, ..Self::default() };
        for run in samples.chunks(stride) {
            let Some(sample) = run.iter().max_by_key(|sample| sample.moment.counters.peak_bytes) else { continue };
            let moment = sample.moment;
            history.unix_s.push(moment.unix_s);
            history.phase.push(moment.phase);
            history.mlx_active_bytes.push(moment.counters.active_bytes);
            history.mlx_cache_bytes.push(moment.counters.cache_bytes);
            history.mlx_peak_bytes.push(moment.counters.peak_bytes);
            let mut totals = vec![0; layers];
            add_layers(state, sample, &mut totals);
            history.layer_bytes.push(totals);
        }
        history
    }
}
