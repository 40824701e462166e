//! The database's schema and its migrations, and the one way to open it.
//!
//! The migrations are few and run by hand: the version must be read, and each step taken, under one write lock, since two
//! processes may open an old database at once. `user_version` is the number of steps taken; `application_id` tells our
//! database from others (<https://www.sqlite.org/pragma.html#pragma_application_id>).

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::error::LedgerError;

/// `hwLd`.
const APPLICATION_ID: i64 = 0x6877_4C64;

/// Each step leads to the version that is its place, counted from 1. Steps are never changed, only added.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        model TEXT NOT NULL,
        device TEXT NOT NULL,
        kv_policy TEXT NOT NULL,
        finish_reason TEXT NOT NULL,
        arrived_unix_s REAL NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        queue_s REAL,
        prefill_s REAL,
        ttft_s REAL,
        decode_s REAL,
        total_s REAL,
        batch_peak INTEGER NOT NULL,
        chunk_tokens INTEGER NOT NULL,
        weights_bytes INTEGER,
        kv_bytes INTEGER,
        peak_bytes INTEGER,
        predicted_weights_bytes INTEGER,
        predicted_kv_bytes INTEGER,
        predicted_state_bytes INTEGER,
        predicted_activations_bytes INTEGER,
        predicted_runtime_bytes INTEGER,
        predicted_peak_bytes INTEGER,
        prediction_error TEXT,
        UNIQUE (request_id, arrived_unix_s)
    ) STRICT;
    CREATE INDEX requests_by_arrival ON requests (arrived_unix_s);",
    // What the runtime takes, by the last reconciliation.
    "CREATE TABLE runtime_fits (
        model TEXT NOT NULL,
        device TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        samples INTEGER NOT NULL,
        spread_bytes INTEGER NOT NULL,
        fitted_unix_s REAL NOT NULL,
        PRIMARY KEY (model, device)
    ) STRICT, WITHOUT ROWID;",
];

/// The version of the schema that this program writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len().cast_signed() as i64;

/// Opens the database, brings it to [`SCHEMA_VERSION`], and sets what holds for a connection only.
///
/// # Errors
/// Every one but those of rows, settings and threads.
pub(super) fn connect(path: &Path, create: bool, patience: Duration) -> Result<Connection, LedgerError> {
    if !create && !path.exists() {
        return Err(LedgerError::NotFound { path: path.to_owned() });
    }
    let sqlite = |error| LedgerError::of_sqlite(path, patience, &error);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    connection.busy_timeout(patience).map_err(sqlite)?;
    let version = {
        // One view of it: another process may just be making it.
        let transaction = connection.transaction().map_err(sqlite)?;
        check(&transaction, path, patience)?
    };
    if version < SCHEMA_VERSION {
        migrate(&mut connection, path, patience)?;
    }
    match connection.pragma_update(None, "journal_mode", "WAL") {
        // Another process is just opening it, and turns to WAL then; SQLite does not wait for a lock here.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
        outcome => outcome.map_err(sqlite)?,
    }
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(sqlite)?;
    Ok(connection)
}

/// The schema's version; 0 of a database that is still empty.
fn check(connection: &Connection, path: &Path, patience: Duration) -> Result<i64, LedgerError> {
    let sqlite = |error| LedgerError::of_sqlite(path, patience, &error);
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(sqlite);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sqlite)?;
    if (application, version, tables) != (0, 0, 0) && application != APPLICATION_ID {
        return Err(LedgerError::Foreign { path: path.to_owned() });
    }
    if version > SCHEMA_VERSION {
        return Err(LedgerError::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    Ok(version)
}

fn migrate(connection: &mut Connection, path: &Path, patience: Duration) -> Result<(), LedgerError> {
    let sqlite = |error| LedgerError::of_sqlite(path, patience, &error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
    // Again, for another process may have come first.
    let version = check(&transaction, path, patience)?;
    for step in &MIGRATIONS[usize::try_from(version).unwrap_or(0)..] {
        transaction.execute_batch(step).map_err(sqlite)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sqlite)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}
