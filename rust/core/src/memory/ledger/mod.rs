//! The durable ledger: one row a request, what was predicted of its memory beside what it took, in a small `SQLite` database.
//!
//! [`Ledger::record`] puts a row into a bounded queue and returns; a thread of the ledger's writes what has gathered in one
//! transaction. A row that cannot be written is dropped, counted by its [`DropReason`] and said once: a request never waits
//! for the ledger and never fails by it. Several processes may have one ledger open. It knows nothing of models, of MLX nor
//! of how a prediction is made. Times are seconds, points in time seconds since 1970 in UTC, sizes bytes.
//!
//! The database is in WAL mode with `synchronous = NORMAL`: a killed process loses nothing that was committed, a power loss
//! may take the last transactions but leaves the database whole (<https://www.sqlite.org/wal.html>,
//! <https://www.sqlite.org/pragma.html#pragma_synchronous>).

mod drift;
mod error;
mod handle;
mod numbers;
mod query;
mod reconcile;
mod row;
mod runtime;
mod schema;
mod stats;
mod writer;

#[cfg(test)]
mod tests;

pub use drift::Drift;
pub use error::LedgerError;
pub use handle::{Ledger, LedgerSettings};
pub use query::{Filter, Recorded};
pub use reconcile::{ModelErrors, Term, TermError};
pub use row::Row;
pub use runtime::RuntimeFit;
pub use schema::SCHEMA_VERSION;
pub use stats::{DropReason, LedgerStats};
