//! Why a ledger could not do something.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{ErrorCode, ffi::SQLITE_IOERR_SHMSIZE};

use super::stats::DropReason;

/// Why an operation on a ledger failed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// There is no database, and none was to be made.
    #[error("no ledger at {}: no request has been recorded there", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The database was made by a later version of this program. It was left alone.
    #[error(
        "the ledger {} has schema {found}, and this version knows up to {known}: update hwledger-omlx, or give another path",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The latest one known here.
        known: i64,
    },
    /// The file is another program's database. It was left alone.
    #[error("{} is another program's database, not a ledger: give another path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is no database, or a damaged one. It was left alone.
    #[error("the ledger {} is damaged ({why}): move it away, and a new one is made", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What `SQLite` says.
        why: String,
    },
    /// Another process kept the database locked.
    #[error("the ledger {} was locked by another process for {} s", path.display(), waited.as_secs_f64())]
    Locked {
        /// The database.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The disk is full.
    #[error("no space for the ledger {}: the disk is full", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// The system refused, or the folder may not be written to.
    #[error("the ledger {} cannot be read or written: {why}", path.display())]
    Io {
        /// The database.
        path: PathBuf,
        /// What `SQLite` says.
        why: String,
    },
    /// The folder of the database cannot be made.
    #[error("the folder of the ledger {} cannot be made: {source}", path.display())]
    Folder {
        /// The database.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The thread that writes could not be started.
    #[error("no thread could be started for the ledger: {0}")]
    Thread(std::io::Error),
    /// A row that cannot be.
    #[error("this is no row of a ledger: {0}")]
    Row(String),
    /// A setting that cannot be.
    #[error("a setting of the ledger: {0}")]
    Setting(String),
    /// The ledger is closed.
    #[error("the ledger is closed")]
    Closed,
    /// The process was forked; the ledger belongs to its parent.
    #[error("the ledger belongs to the parent of this process: open one in this process")]
    Forked,
}

impl LedgerError {
    /// What `SQLite` said of the database at `path`, after it waited so long for locks.
    pub(super) fn of_sqlite(path: &Path, waited: Duration, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        // What `SQLite` says where the file beside the database, which all its readers map, has no room to be made.
        if error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_SHMSIZE) {
            return Self::Full { path };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path, waited },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, why: error.to_string() }
            }
            _ => Self::Io { path, why: error.to_string() },
        }
    }

    /// Whether the trouble may be over at the next try, with nobody changing the ledger.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::Full { .. })
    }

    /// Under what a row is counted that is dropped for it.
    pub(super) fn drop_reason(&self) -> DropReason {
        match self {
            Self::Newer { .. } => DropReason::Newer,
            Self::Foreign { .. } => DropReason::Foreign,
            Self::Damaged { .. } => DropReason::Damaged,
            Self::Locked { .. } => DropReason::Locked,
            Self::Full { .. } => DropReason::DiskFull,
            _ => DropReason::Unwritable,
        }
    }
}
