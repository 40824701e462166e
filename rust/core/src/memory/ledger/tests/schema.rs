//! Databases of other versions, and of other programs.

use rusqlite::Connection;
use tempfile::TempDir;

use super::{all, folder, open, record, row, settings};
use crate::memory::ledger::{Ledger, LedgerError, Row, SCHEMA_VERSION};

fn database(folder: &TempDir, sql: &str) -> Vec<u8> {
    let path = folder.path().join("ledger.sqlite3");
    Connection::open(&path).and_then(|database| database.execute_batch(sql)).unwrap_or_else(|error| panic!("{error}"));
    std::fs::read(path).expect("the database")
}

/// Opening fails, and leaves the file as it was.
fn refusal(folder: &TempDir, before: &[u8]) -> LedgerError {
    let path = folder.path().join("ledger.sqlite3");
    let refused = Ledger::open(&path, &settings()).err().expect("a refusal");
    assert_eq!(std::fs::read(path).expect("the database"), before);
    refused
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let folder = folder();
    drop(open(&folder));
    let newer = SCHEMA_VERSION + 1;
    let before = database(&folder, &format!("PRAGMA user_version = {newer}; PRAGMA journal_mode = DELETE"));
    let refused = refusal(&folder, &before);
    assert!(matches!(refused, LedgerError::Newer { found, known: SCHEMA_VERSION, .. } if found == newer), "{refused}");
    assert!(refused.to_string().contains("update hwledger-omlx"));
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    for sql in ["CREATE TABLE theirs (a)", "PRAGMA application_id = 77", "PRAGMA user_version = 1"] {
        let folder = folder();
        let before = database(&folder, sql);
        assert!(matches!(refusal(&folder, &before), LedgerError::Foreign { .. }), "{sql}");
    }
}

#[test]
fn an_empty_file_becomes_a_ledger() {
    let folder = folder();
    std::fs::write(folder.path().join("ledger.sqlite3"), "").expect("an empty file");
    let ledger = open(&folder);
    assert_eq!(record(&ledger, [row("a")]).written_rows, 1);
}

#[test]
fn ledgers_that_are_opened_at_once_make_one_database() {
    let folder = folder();
    let patient = crate::memory::ledger::LedgerSettings::default();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (folder, patient) = (&folder, &patient);
            scope.spawn(move || {
                let ledger = super::open_with(folder, patient);
                assert_eq!(record(&ledger, [row(&number.to_string())]).written_rows, 1);
            });
        }
    });
    assert_eq!(all(&open(&folder)).len(), 4);
}

#[test]
fn every_field_has_a_column_of_its_name() {
    let folder = folder();
    drop(open(&folder));
    let database = Connection::open(folder.path().join("ledger.sqlite3")).expect("the database");
    let mut names: Vec<String> = Vec::new();
    database
        .pragma(None, "table_info", "requests", |column| {
            names.push(column.get("name")?);
            Ok(())
        })
        .expect("the columns");
    assert_eq!(names[0], "id");
    assert_eq!(names[1..], *Row::COLUMNS);
}

/// Schema 1, as the first version of this program made it, with one request.
const FIRST_VERSION: &str = "
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY, request_id TEXT NOT NULL, model TEXT NOT NULL, device TEXT NOT NULL,
        kv_policy TEXT NOT NULL, finish_reason TEXT NOT NULL, arrived_unix_s REAL NOT NULL,
        prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
        queue_s REAL, prefill_s REAL, ttft_s REAL, decode_s REAL, total_s REAL, batch_peak INTEGER NOT NULL,
        chunk_tokens INTEGER NOT NULL, weights_bytes INTEGER, kv_bytes INTEGER, peak_bytes INTEGER,
        predicted_weights_bytes INTEGER, predicted_kv_bytes INTEGER, predicted_state_bytes INTEGER,
        predicted_activations_bytes INTEGER, predicted_runtime_bytes INTEGER, predicted_peak_bytes INTEGER,
        prediction_error TEXT, UNIQUE (request_id, arrived_unix_s)
    ) STRICT;
    CREATE INDEX requests_by_arrival ON requests (arrived_unix_s);
    INSERT INTO requests VALUES (
        5, 'old', 'notes', 'cpu', '16', 'stop', 4e9, 512, 128, 64, 0.25, 1.5, 1.75, 2.0, 3.75, 1, 512, 8000000, 1000000,
        12000000, 8000000, 1000000, 0, 2000000, 0, 11000000, NULL
    );
    PRAGMA application_id = 0x68774C64;
    PRAGMA user_version = 1;
";

#[test]
fn a_database_of_the_first_version_is_brought_up_with_its_rows() {
    let folder = folder();
    database(&folder, FIRST_VERSION);
    let ledger = open(&folder);
    assert_eq!(all(&ledger), [Row { arrived_unix_s: 4e9, ..row("old") }]);
    assert_eq!(ledger.fitted_runtime("notes", "cpu").unwrap_or_else(|error| panic!("{error}")), None);
    record(&ledger, (0..10).map(|number| row(&number.to_string())));
    let found = ledger.reconcile(&crate::memory::ledger::Filter::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found[0].runtime.as_ref().map(|fit| fit.bytes), Some(1_000_000));
    ledger.close();
    let version = Connection::open(folder.path().join("ledger.sqlite3"))
        .and_then(|database| database.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)));
    assert_eq!(version, Ok(SCHEMA_VERSION));
}

#[test]
fn a_migration_that_fails_leaves_the_database_as_it_was() {
    let folder = folder();
    // The second step's table is there already, which no version of ours leaves behind.
    let before = database(&folder, &format!("{FIRST_VERSION} CREATE TABLE runtime_fits (theirs)"));
    assert!(matches!(refusal(&folder, &before), LedgerError::Io { .. }));
}
