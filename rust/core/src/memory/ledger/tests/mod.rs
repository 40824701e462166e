//! Rows for the tests, and ledgers in folders of their own.

mod reconcile;
mod rows;
mod schema;
mod trouble;

use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::{Filter, Ledger, LedgerSettings, LedgerStats, Row};

/// A request of 512 tokens with an answer of 64.
fn row(request: &str) -> Row {
    Row {
        request_id: request.to_owned(),
        model: "notes".to_owned(),
        device: "cpu".to_owned(),
        kv_policy: "16".to_owned(),
        finish_reason: "stop".to_owned(),
        arrived_unix_s: now_s(),
        prompt_tokens: 512,
        cached_tokens: 128,
        completion_tokens: 64,
        queue_s: Some(0.25),
        prefill_s: Some(1.5),
        ttft_s: Some(1.75),
        decode_s: Some(2.0),
        total_s: Some(3.75),
        batch_peak: 1,
        chunk_tokens: 512,
        weights_bytes: Some(8_000_000),
        kv_bytes: Some(1_000_000),
        peak_bytes: Some(12_000_000),
        predicted_weights_bytes: Some(8_000_000),
        predicted_kv_bytes: Some(1_000_000),
        predicted_state_bytes: Some(0),
        predicted_activations_bytes: Some(2_000_000),
        predicted_runtime_bytes: Some(0),
        predicted_peak_bytes: Some(11_000_000),
        prediction_error: None,
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for a test")
}

/// Waits for nobody's lock.
fn settings() -> LedgerSettings {
    LedgerSettings { patience: Duration::ZERO, ..LedgerSettings::default() }
}

fn open(folder: &TempDir) -> Ledger {
    open_with(folder, &settings())
}

fn open_with(folder: &TempDir, settings: &LedgerSettings) -> Ledger {
    Ledger::open(folder.path().join("ledger.sqlite3"), settings).unwrap_or_else(|error| panic!("{error}"))
}

/// Hands the rows over and waits until they are dealt with.
fn record(ledger: &Ledger, rows: impl IntoIterator<Item = Row>) -> LedgerStats {
    for row in rows {
        assert!(ledger.record(row).unwrap_or_else(|error| panic!("{error}")));
    }
    ledger.flush().unwrap_or_else(|error| panic!("{error}"));
    ledger.stats()
}

/// All rows, first recorded first.
fn all(ledger: &Ledger) -> Vec<Row> {
    let rows = ledger.page(&Filter::default(), i64::MIN, u64::MAX).unwrap_or_else(|error| panic!("{error}"));
    rows.into_iter().map(|recorded| recorded.row).collect()
}

fn ids(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.request_id.as_str()).collect()
}
