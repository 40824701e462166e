//! Why a store could not do something: errors of its caller's or its folder's, and refusals, which are no errors.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::DiskError;
use super::index;
pub use super::index::MissReason;

/// Why an operation on a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configuration asks for something impossible.
    #[error("the store's configuration: {0}")]
    Config(String),
    /// Another process has the folder.
    #[error("{} is in use by process {pid}", folder.display())]
    InUse {
        /// The store's folder.
        folder: PathBuf,
        /// The process that has it; 0 where it could not be told.
        pid: u32,
    },
    /// The folder holds something that is not a store of ours. It was left alone.
    #[error("{} is not a store of this program: {what}", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// What was found in it.
        what: String,
    },
    /// The folder holds a store that this version cannot read.
    #[error("{}: {what}", folder.display())]
    Format {
        /// The store's folder.
        folder: PathBuf,
        /// What could not be read.
        what: String,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// Something that was accepted could not be written.
    #[error("{records} accepted records of {bytes} bytes could not be written: {why}")]
    Lost {
        /// Blocks and snapshots.
        records: u64,
        /// Their payload bytes.
        bytes: u64,
        /// The last reason.
        why: String,
    },
    /// The targets of a restore do not fit what is to be restored.
    #[error("the targets of a restore: {0}")]
    Target(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The process was forked; the store belongs to its parent.
    #[error("the store belongs to the parent of this process: it cannot be used after a fork")]
    Forked,
}

/// Why a save, or a part of it, was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The namespace has blocks of another layout.
    LayoutChanged,
    /// The sources do not fit the layout.
    SourceMismatch,
    /// A source begins after the first token that is missing.
    SourceIncomplete,
    /// The deferred saves have reached their limit.
    QueueFull,
    /// The folder cannot be written now.
    Suspended,
    /// What may be written today is spent, or kept for prefixes that are used again.
    DailyBudget,
    /// The quota is full of what is in use or pinned.
    NoRoom,
    /// The file system has no more free space than it must keep.
    FreeSpace,
    /// A record would be larger than the queue, a segment or the quota allows.
    TooLarge,
    /// The store is closed.
    Closed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::LayoutChanged => "the namespace has blocks of another layout",
            Self::SourceMismatch => "the sources do not fit the layout",
            Self::SourceIncomplete => "a source begins after the first missing token",
            Self::QueueFull => "too much is waiting to be copied",
            Self::Suspended => "the folder cannot be written now",
            Self::DailyBudget => "the daily write budget is spent or reserved",
            Self::NoRoom => "the quota is full of what is in use or pinned",
            Self::FreeSpace => "the file system has too little free space",
            Self::TooLarge => "a record is larger than the store can take",
            Self::Closed => "the store is closed",
        })
    }
}

impl From<index::Refusal> for Refusal {
    fn from(refusal: index::Refusal) -> Self {
        match refusal {
            index::Refusal::LayoutChanged => Self::LayoutChanged,
            index::Refusal::SourceIncomplete => Self::SourceIncomplete,
            index::Refusal::DailyBudget => Self::DailyBudget,
            // A plan is carried out under the lock that it was made under: it is never stale.
            index::Refusal::NoRoom | index::Refusal::Stale => Self::NoRoom,
            index::Refusal::FreeSpace => Self::FreeSpace,
        }
    }
}

impl StoreError {
    /// The error of a folder's disk.
    pub(crate) fn of_disk(folder: &Path, error: DiskError) -> Self {
        let folder = || folder.to_owned();
        match error {
            DiskError::Io { what, source } => Self::Io { what, source },
            DiskError::InUse { pid } => Self::InUse { folder: folder(), pid: pid.unwrap_or(0) },
            DiskError::Foreign { what } => Self::Foreign { folder: folder(), what },
            other @ (DiskError::Version { .. } | DiskError::Corrupt { .. } | DiskError::Invalid { .. }) => {
                Self::Format { folder: folder(), what: other.to_string() }
            }
        }
    }
}
