//! Rows that cannot be written are dropped and counted; the caller goes on, and so does the ledger when it is over.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ffi};
use tempfile::TempDir;

use super::{all, folder, ids, open, open_with, record, row, settings};
use crate::memory::ledger::{DropReason, Ledger, LedgerError, LedgerSettings, LedgerStats};

fn dropped(stats: &LedgerStats) -> Vec<(DropReason, u64)> {
    stats.dropped_rows.iter().map(|(reason, rows)| (*reason, *rows)).collect()
}

/// Another process, as far as locks of `SQLite` tell.
fn other(folder: &TempDir) -> Connection {
    Connection::open(folder.path().join("ledger.sqlite3")).expect("a second connection")
}

#[test]
fn a_locked_database_drops_and_counts_and_goes_on() {
    let folder = folder();
    let ledger = open(&folder);
    let other = other(&folder);
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let stats = record(&ledger, [row("a")]);
    assert_eq!(dropped(&stats), [(DropReason::Locked, 1)]);
    assert!(stats.trouble.is_some_and(|why| why.contains("locked by another process")));
    assert!(all(&ledger).is_empty(), "reading needs no lock");
    other.execute_batch("COMMIT").expect("the end of the lock");
    let stats = record(&ledger, [row("b")]);
    assert_eq!((stats.written_rows, stats.trouble, stats.queued_rows), (1, None, 0));
    assert_eq!(ids(&all(&ledger)), ["b"]);
}

#[test]
fn a_lock_that_ends_in_time_costs_no_row() {
    let folder = folder();
    let ledger = open_with(&folder, &LedgerSettings { patience: Duration::from_secs(60), ..settings() });
    let other = other(&folder);
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    assert!(ledger.record(row("a")).unwrap_or_else(|error| panic!("{error}")));
    other.execute_batch("COMMIT").expect("the end of the lock");
    ledger.flush().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ledger.stats().written_rows, 1);
}

#[test]
fn a_database_that_is_locked_at_the_opening_is_opened_later() {
    let folder = folder();
    let other = other(&folder);
    other.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    let ledger = open(&folder);
    let stats = ledger.stats();
    assert!(stats.trouble.is_some() && stats.dropped_rows.is_empty());
    assert_eq!(dropped(&record(&ledger, [row("a")])), [(DropReason::Locked, 1)]);
    other.execute_batch("COMMIT").expect("the end of the lock");
    assert_eq!(record(&ledger, [row("b")]).written_rows, 1);
}

#[test]
fn a_full_queue_drops_at_once() {
    let folder = folder();
    let patience = Duration::from_secs(60);
    let ledger = open_with(&folder, &LedgerSettings { queue_rows: 2, patience, ..settings() });
    let other = other(&folder);
    // The thread holds some rows, the queue two; the rest has no place.
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let taken =
        (0..600).filter(|number| ledger.record(row(&number.to_string())).unwrap_or_else(|error| panic!("{error}")));
    let taken = taken.count() as u64;
    let stats = ledger.stats();
    assert_eq!(dropped(&stats), [(DropReason::QueueFull, 600 - taken)]);
    assert!(taken < 600);
    other.execute_batch("COMMIT").expect("the end of the lock");
    ledger.flush().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ledger.stats().written_rows, taken);
    assert_eq!(ledger.stats().trouble, None);
}

#[test]
fn a_full_disk_drops_and_counts_and_keeps_what_is_there() {
    let folder = folder();
    let ledger = open_with(&folder, &LedgerSettings { max_pages: Some(16), ..settings() });
    let mut written = 0;
    let stats = loop {
        let stats = record(&ledger, [row(&format!("{written:0>500}"))]);
        if stats.written_rows == written {
            break stats;
        }
        written = stats.written_rows;
    };
    assert_eq!(dropped(&stats), [(DropReason::DiskFull, 1)]);
    assert!(written > 0);
    assert_eq!(all(&ledger).len() as u64, written);
    ledger.close();
    let roomy = open(&folder);
    assert_eq!(record(&roomy, [row("more")]).written_rows, 1);
    assert_eq!(all(&roomy).len() as u64, written + 1);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite3");
    fs::write(&path, "these are notes of somebody's, of some length, and by no means a database".repeat(100))
        .expect("a file");
    let before = fs::read(&path).expect("the file");
    let refused = Ledger::open(&path, &settings()).err().expect("a refusal");
    assert!(matches!(refused, LedgerError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("move it away"));
    assert_eq!(fs::read(&path).expect("the file"), before);
}

#[test]
fn a_ledger_that_is_damaged_while_open_drops_until_it_is_taken_away() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite3");
    let ledger = open(&folder);
    record(&ledger, [row("a")]);
    for name in ["ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm"] {
        fs::remove_file(folder.path().join(name)).expect("a file of the database");
    }
    fs::write(&path, [7; 9000]).expect("a damaged file");
    let stats = record(&ledger, [row("b"), row("c")]);
    assert_eq!(stats.dropped_rows.get(&DropReason::Damaged), Some(&2));
    assert!(matches!(ledger.latest(&super::Filter::default(), 1), Err(LedgerError::Damaged { .. })));
    fs::remove_file(&path).expect("the damaged file");
    let stats = record(&ledger, [row("d")]);
    assert_eq!((stats.trouble, stats.written_rows), (None, 2));
    assert_eq!(ids(&all(&ledger)), ["d"]);
}

#[test]
fn pages_that_are_damaged_are_told_and_not_read_as_rows() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite3");
    let ledger = open(&folder);
    record(&ledger, (0..200).map(|number| row(&number.to_string())));
    ledger.close();
    let mut bytes = fs::read(&path).expect("the database");
    bytes[4096 * 2..].fill(0x5A);
    fs::write(&path, bytes).expect("the damaged database");
    let ledger = open(&folder);
    assert!(matches!(ledger.latest(&super::Filter::default(), 1000), Err(LedgerError::Damaged { .. })));
    assert_eq!(dropped(&record(&ledger, [row("a")])), [(DropReason::Damaged, 1)]);
}

#[test]
fn where_no_file_can_be_is_said() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    let below = Ledger::open(file.join("ledger.sqlite3"), &settings()).err().expect("a refusal");
    assert!(matches!(below, LedgerError::Folder { .. }), "{below}");
    let directory = Ledger::open(folder.path(), &settings()).err().expect("a refusal");
    assert!(matches!(directory, LedgerError::Io { .. }), "{directory}");
    let none = Ledger::open(folder.path().join("none"), &LedgerSettings { create: false, ..settings() });
    assert!(matches!(none.err(), Some(LedgerError::NotFound { .. })));
    assert!(!folder.path().join("none").exists());
}

#[test]
fn a_folder_that_is_taken_away_drops_and_is_not_made_again() {
    let folder = folder();
    let place = folder.path().join("home");
    let ledger = Ledger::open(place.join("ledger.sqlite3"), &settings()).unwrap_or_else(|error| panic!("{error}"));
    fs::remove_dir_all(&place).expect("the folder");
    assert_eq!(dropped(&record(&ledger, [row("a")])), [(DropReason::Unwritable, 1)]);
    assert!(!place.exists());
    fs::create_dir(&place).expect("the folder");
    assert_eq!(record(&ledger, [row("b")]).written_rows, 1);
}

#[test]
fn no_room_for_what_readers_share_is_a_full_disk() {
    // As with an existing database on a full disk; the pages that the tests above limit are the database's own.
    let said = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_SHMSIZE), None);
    let error = LedgerError::of_sqlite(Path::new("ledger.sqlite3"), Duration::ZERO, &said);
    assert!(matches!(error, LedgerError::Full { .. }) && error.may_pass());
}
