//! What a store is opened with. Knows nothing of files.

use std::path::PathBuf;
use std::time::Duration;

use super::error::StoreError;

const GIB: u64 = 1 << 30;

/// Most threads that one restore asks for by itself: beyond it, no host measured got faster.
const READER_THREADS_AT_MOST: usize = 16;

/// Where a store is and what it may use. All sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The folder, made if missing. It belongs to the store alone.
    pub folder: PathBuf,
    /// Most that all files of the folder together may take on disk, at any moment.
    pub quota_bytes: u64,
    /// RAM for what was saved lately and is durable already. 0: none.
    pub hot_bytes: u64,
    /// RAM for what was copied and is not durable yet. A save that finds no room in it is deferred.
    pub queue_bytes: u64,
    /// Most that deferred saves may leave in their callers' memory. Beyond it they are refused.
    pub backlog_bytes: u64,
    /// Free space that the file system keeps.
    pub min_free_bytes: u64,
    /// Most that is written in one UTC day, for the health of the SSD.
    pub daily_write_bytes: Option<u64>,
    /// How long a prefix lives after its last use.
    pub ttl: Option<Duration>,
    /// Size of a segment file; `None` takes the lesser of 256 MiB and a sixteenth of the quota.
    pub segment_bytes: Option<u64>,
    /// Threads of one restore or copy, the caller's included; `None` takes one a core, 16 at most.
    pub reader_threads: Option<usize>,
}

/// What a store may use, and may be told anew while it runs. Sizes in bytes, as in [`StoreConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most that all files of the folder together may take on disk.
    pub quota_bytes: u64,
    /// RAM for what was saved lately and is durable already.
    pub hot_bytes: u64,
    /// Free space that the file system keeps.
    pub min_free_bytes: u64,
    /// Most that is written in one UTC day.
    pub daily_write_bytes: Option<u64>,
    /// How long a prefix lives after its last use.
    pub ttl: Option<Duration>,
}

impl StoreConfig {
    /// The defaults: 64 GiB on disk, 1 GiB hot, 1 GiB queued, 8 GiB deferred, 4 GiB left free, no limit a day, no TTL.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            quota_bytes: 64 * GIB,
            hot_bytes: GIB,
            queue_bytes: GIB,
            backlog_bytes: 8 * GIB,
            min_free_bytes: 4 * GIB,
            daily_write_bytes: None,
            ttl: None,
            segment_bytes: None,
            reader_threads: None,
        }
    }

    /// The part of it that may change while the store runs.
    #[must_use]
    pub fn limits(&self) -> StoreLimits {
        StoreLimits {
            quota_bytes: self.quota_bytes,
            hot_bytes: self.hot_bytes,
            min_free_bytes: self.min_free_bytes,
            daily_write_bytes: self.daily_write_bytes,
            ttl: self.ttl,
        }
    }

    /// Threads of one restore or copy, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        let cores =
            || std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(READER_THREADS_AT_MOST);
        self.reader_threads.unwrap_or_else(cores).max(1)
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let wrong = |what: &str| Err(StoreError::Config(what.to_owned()));
        if self.folder.as_os_str().is_empty() {
            return wrong("the folder has no name");
        }
        if self.queue_bytes == 0 {
            return wrong("queue_bytes is 0: nothing could be saved");
        }
        self.check_limits(&self.limits())
    }

    /// Whether a store that was opened so may run within `limits`.
    pub(crate) fn check_limits(&self, limits: &StoreLimits) -> Result<(), StoreError> {
        if self.segment_bytes.is_some_and(|bytes| bytes == 0 || bytes > limits.quota_bytes) {
            return Err(StoreError::Config("segment_bytes must be above 0 and at most the quota".to_owned()));
        }
        Ok(())
    }
}
