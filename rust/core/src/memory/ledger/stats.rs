//! What a ledger counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Why a row was dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Rows came faster than they could be written.
    QueueFull,
    /// Another process kept the database locked.
    Locked,
    /// The disk is full.
    DiskFull,
    /// The database is damaged.
    Damaged,
    /// The database was made by a later version.
    Newer,
    /// The file is another program's database.
    Foreign,
    /// The system refused, such as in a folder that may not be written to.
    Unwritable,
}

/// What became of the rows since the ledger was opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LedgerStats {
    /// The database.
    pub path: PathBuf,
    /// Whether it was closed.
    pub closed: bool,
    /// Why nothing can be written now; none where all is well.
    pub trouble: Option<String>,
    /// Rows that are in the database.
    pub written_rows: u64,
    /// Rows that another listener had recorded already.
    pub duplicate_rows: u64,
    /// Rows on their way.
    pub queued_rows: u64,
    /// Rows that were dropped, by the reason.
    pub dropped_rows: BTreeMap<DropReason, u64>,
    /// Transactions that wrote rows.
    pub transactions: u64,
}

/// Counts of an open ledger.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) written: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) transactions: AtomicU64,
    dropped: Mutex<BTreeMap<DropReason, u64>>,
    trouble: Mutex<Option<String>>,
}

impl Counts {
    /// Counts rows that were dropped. Why is said once, the first time.
    pub(super) fn dropped(&self, rows: u64, reason: DropReason, why: String) {
        let first = {
            let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            let first = !dropped.contains_key(&reason);
            *dropped.entry(reason).or_default() += rows;
            first
        };
        if first {
            tracing::warn!("requests are not recorded: {why}");
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// The writing goes well again.
    pub(super) fn is_well(&self) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn read(&self, path: PathBuf, closed: bool) -> LedgerStats {
        let mut dropped_rows = self.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What was said when it was opened, and dropped nothing.
        dropped_rows.retain(|_, rows| *rows > 0);
        LedgerStats {
            path,
            closed,
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            written_rows: self.written.load(Ordering::Relaxed),
            duplicate_rows: self.duplicates.load(Ordering::Relaxed),
            queued_rows: self.queued.load(Ordering::Relaxed),
            dropped_rows,
            transactions: self.transactions.load(Ordering::Relaxed),
        }
    }
}
