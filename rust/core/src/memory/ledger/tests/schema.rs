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
