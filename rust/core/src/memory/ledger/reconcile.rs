//! What was predicted against what was measured: the planner's error by model and term, and whether it drifts.
//!
//! Compared are requests that were answered (`stop`, `length`, `tool_calls`), for a prediction is of a whole request; and of
//! those the ones that ran alone, for of a batch it is known how many ran and not how long the others were. The peak of the
//! others is compared apart, as `peak_in_batch`: predicted as if all had been as long as this one. Activations are not
//! measured by themselves; what is wrong with them shows in the peak.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::drift::Drift;
use super::numbers::{median, of_bytes, quantile, to_bytes};
use super::query::Recorded;
use super::row::Row;
use super::runtime::RuntimeFit;

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// The weights.
    Weights,
    /// Keys, values and recurrent state, which are measured as one.
    Kv,
    /// The peak of MLX's memory.
    Peak,
    /// The peak while others ran too.
    PeakInBatch,
}

impl Term {
    const ALL: [Self; 4] = [Self::Weights, Self::Kv, Self::Peak, Self::PeakInBatch];

    /// What was predicted and what was measured, of a request that counts for this term.
    fn of(self, row: &Row) -> Option<(f64, f64)> {
        if (row.batch_peak > 1) != (self == Self::PeakInBatch) {
            return None;
        }
        let (predicted, actual) = match self {
            Self::Weights => (row.predicted_weights_bytes?, row.weights_bytes?),
            Self::Kv => (row.predicted_kv_bytes?.saturating_add(row.predicted_state_bytes?), row.kv_bytes?),
            Self::Peak | Self::PeakInBatch => (row.predicted_peak_bytes?, row.peak_bytes?),
        };
        // Of nothing there is no share.
        (actual > 0).then(|| (of_bytes(predicted), of_bytes(actual)))
    }
}

/// How far the planner is off. An error is what was predicted less what was measured, as a share of what was measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TermError {
    /// Of what.
    pub term: Term,
    /// Requests that were compared.
    pub count: u64,
    /// The median size of the error.
    pub median: f64,
    /// What 95 in 100 errors stay under in size.
    pub p95: f64,
    /// The largest size of an error.
    pub worst: f64,
    /// The median error: above 0 where too much is predicted.
    pub bias: f64,
    /// The same in bytes.
    pub bias_bytes: i64,
    /// How the last requests differ from the earlier ones; none of too few.
    pub drift: Option<Drift>,
}

impl TermError {
    fn of(term: Term, rows: &[Row]) -> Option<Self> {
        let compared: Vec<(f64, f64)> = rows.iter().filter_map(|row| term.of(row)).collect();
        if compared.is_empty() {
            return None;
        }
        let mut errors: Vec<f64> = compared.iter().map(|(predicted, actual)| (predicted - actual) / actual).collect();
        let mut bytes: Vec<f64> = compared.iter().map(|(predicted, actual)| predicted - actual).collect();
        let drift = Drift::of(&errors);
        let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
        Some(Self {
            term,
            count: compared.len() as u64,
            median: median(&mut sizes),
            p95: quantile(&sizes, 0.95),
            worst: quantile(&sizes, 1.0),
            bias: median(&mut errors),
            bias_bytes: to_bytes(median(&mut bytes)),
            drift,
        })
    }
}

/// What came of the requests of one model on one device.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModelErrors {
    /// The model's id.
    pub model: String,
    /// What it ran on.
    pub device: String,
    /// Requests in the ledger.
    pub requests: u64,
    /// Those of them that were cancelled or failed.
    pub unanswered: u64,
    /// Those of the others that nothing was predicted of.
    pub unpredicted: u64,
    /// Why, of the last one of them.
    pub unpredicted_because: Option<String>,
    /// By term, of what could be compared.
    pub terms: Vec<TermError>,
    /// What the runtime takes; none of too few requests.
    pub runtime: Option<RuntimeFit>,
}

/// Reconciles rows in the order in which they were recorded.
pub(super) fn reconcile(rows: Vec<Recorded>, now_unix_s: f64) -> Vec<ModelErrors> {
    let mut models: BTreeMap<(String, String), Vec<Row>> = BTreeMap::new();
    for Recorded { row, .. } in rows {
        models.entry((row.model.clone(), row.device.clone())).or_default().push(row);
    }
    let reconciled = models.into_iter().map(|((model, device), rows)| {
        let requests = rows.len() as u64;
        let (answered, _): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_answered);
        let unpredicted = || answered.iter().filter(|row| row.predicted_peak_bytes.is_none());
        ModelErrors {
            requests,
            unanswered: requests - answered.len() as u64,
            unpredicted: unpredicted().count() as u64,
            unpredicted_because: unpredicted().next_back().and_then(|row| row.prediction_error.clone()),
            terms: Term::ALL.into_iter().filter_map(|term| TermError::of(term, &answered)).collect(),
            runtime: RuntimeFit::of(&model, &device, &answered, now_unix_s),
            model,
            device,
        }
    });
    reconciled.collect()
}

fn is_answered(row: &Row) -> bool {
    matches!(row.finish_reason.as_str(), "stop" | "length" | "tool_calls")
}
