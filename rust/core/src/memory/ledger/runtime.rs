//! The runtime term of the planner, as it was seen: what requests took beyond everything that can be computed.

use rusqlite::{Connection, OptionalExtension, named_params};
use serde::{Deserialize, Serialize};

use super::numbers::{median, of_bytes, quantile, to_bytes};
use super::row::Row;

/// Fewer requests tell nothing.
const LEAST_REQUESTS: usize = 10;
/// Earlier ones are left out: they ran on other versions of everything.
const MOST_REQUESTS: usize = 200;

/// What the runtime takes for one model on one device: the median, over requests that ran alone, of the measured peak less
/// the predicted weights, KV, state and activations.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RuntimeFit {
    /// The model's id.
    pub model: String,
    /// What it ran on.
    pub device: String,
    /// The term; 0 where the other terms alone are more than the peak.
    pub bytes: u64,
    /// Requests that it comes from, 10 to 200.
    pub samples: u64,
    /// The middle half of them lies within so many bytes.
    pub spread_bytes: u64,
    /// When it was fitted.
    pub fitted_unix_s: f64,
}

impl RuntimeFit {
    /// From answered requests in the order in which they were recorded; none of too few that ran alone.
    pub(super) fn of(model: &str, device: &str, answered: &[Row], now_unix_s: f64) -> Option<Self> {
        let mut rest: Vec<f64> = answered.iter().rev().filter_map(rest).take(MOST_REQUESTS).collect();
        if rest.len() < LEAST_REQUESTS {
            return None;
        }
        let middle = median(&mut rest);
        Some(Self {
            model: model.to_owned(),
            device: device.to_owned(),
            bytes: to_bytes(middle).max(0).cast_unsigned(),
            samples: rest.len() as u64,
            spread_bytes: to_bytes(quantile(&rest, 0.75) - quantile(&rest, 0.25)).unsigned_abs(),
            fitted_unix_s: now_unix_s,
        })
    }

    /// Keeps it in place of an earlier one.
    pub(super) fn keep(&self, connection: &Connection) -> rusqlite::Result<()> {
        let kept = connection.execute(
            "INSERT OR REPLACE INTO runtime_fits (model, device, bytes, samples, spread_bytes, fitted_unix_s)
             VALUES (:model, :device, :bytes, :samples, :spread_bytes, :fitted_unix_s)",
            named_params! {
                ":model": self.model,
                ":device": self.device,
                ":bytes": self.bytes,
                ":samples": self.samples,
                ":spread_bytes": self.spread_bytes,
                ":fitted_unix_s": self.fitted_unix_s,
            },
        );
        kept.map(drop)
    }

    /// The one that was kept last.
    pub(super) fn kept(connection: &Connection, model: &str, device: &str) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT bytes, samples, spread_bytes, fitted_unix_s FROM runtime_fits WHERE model = ? AND device = ?";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self {
                model: model.to_owned(),
                device: device.to_owned(),
                bytes: row.get("bytes")?,
                samples: row.get("samples")?,
                spread_bytes: row.get("spread_bytes")?,
                fitted_unix_s: row.get("fitted_unix_s")?,
            })
        };
        connection.query_row(sql, [model, device], read).optional()
    }
}

/// What a request that ran alone took beyond what can be computed.
fn rest(row: &Row) -> Option<f64> {
    if row.batch_peak > 1 {
        return None;
    }
    let computed = [
        row.predicted_weights_bytes?,
        row.predicted_kv_bytes?,
        row.predicted_state_bytes?,
        row.predicted_activations_bytes?,
    ];
    let peak = row.peak_bytes.filter(|peak| *peak > 0)?;
    Some(of_bytes(peak) - computed.map(of_bytes).iter().sum::<f64>())
}
