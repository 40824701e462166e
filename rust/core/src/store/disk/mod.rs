//! The store's files: everything durable, and nothing about which prefix is worth keeping.
//!
//! A folder holds `store.lock`, `store.json` (format, version, the store's own id), `index`, `journal` and
//! `segments/NNNNNNNN.kv`. Records are appended to segments; once they are synced, the journal names them, and once that
//! is synced they are committed. The index file is a snapshot of what index and journal said at one moment, so that
//! opening reads two files. All integers are little-endian, all checksums XXH3-64.

#[cfg(target_os = "linux")]
mod direct;
#[doc(hidden)]
pub mod faults;
mod folder;
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod index_file;
mod index_format;
pub mod io;
mod journal;
mod journal_file;
mod large_memory;
mod open_disk;
mod real_io;
mod record;
mod recovery;
mod replayed;
mod segment;
mod segment_files;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

pub use image::{
    BlockRow, IndexDump, Losses, NO_ROW, NamespaceRow, Opened, Recovered, SegmentRow, SnapshotRow, TokenChunk,
    TokenSpan, WriteDay,
};
pub use io::Io;
pub use journal::namespace_fits;
pub use open_disk::Disk;
pub use real_io::RealIo;
pub use record::codec_tag;

use crate::store::types::{NamespaceKey, PartEntry, RecordId, RecordInfo};

/// How a folder's files are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSettings {
    /// Size at which a segment is full, in bytes. A record larger than this gets a segment of its own.
    pub segment_bytes: u64,
}

/// Why the disk did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation and its file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has the folder.
    #[error("the cache folder is in use by {}", .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The process, where the lock file says it.
        pid: Option<u32>,
    },
    /// The folder is not a store of ours. Nothing in it was touched.
    #[error("not a hwledger-omlx cache folder: {what}")]
    Foreign {
        /// What was found.
        what: String,
    },
    /// The folder's format is of another version. Nothing in it was touched.
    #[error("the cache folder has format version {found}, this program knows {known}")]
    Version {
        /// The version in `store.json`.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Bytes on disk are not what was written.
    #[error("corrupt: {what}")]
    Corrupt {
        /// What and where.
        what: String,
    },
    /// The caller asked for what cannot be; a bug of the caller.
    #[error("invalid: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
}

impl DiskError {
    /// Whether space ran out (the disk's or the account's).
    #[must_use]
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}

/// Says what was being done when the system refused.
trait Context<T> {
    fn context(self, what: &str) -> Result<T, DiskError>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: &str) -> Result<T, DiskError> {
        self.map_err(|source| DiskError::Io { what: what.to_owned(), source })
    }
}

/// A record to write.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// What it is. Its namespace must have been noted ([`Fact::Namespace`]). Writing an id again moves the record.
    pub info: &'a RecordInfo,
    /// Its parts; `stored_bytes` add up to the payload, `checksum` is [`checksum`] of each part's bytes.
    pub parts: &'a [PartEntry],
    /// The payload in as many pieces as it lies in, in order; pieces need not end where parts do.
    pub payload: &'a [&'a [u8]],
    /// Last use, milliseconds since the Unix epoch.
    pub last_used_ms: u64,
}

impl NewRecord<'_> {
    /// Bytes of the payload.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// A record's own account of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What it is.
    pub info: RecordInfo,
    /// How each part is stored.
    pub parts: Vec<PartEntry>,
}

/// What the journal keeps besides committed records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    /// A namespace, before its first record. Noting it again replaces layout and label.
    Namespace(NamespaceRow),
    /// A namespace without records is forgotten.
    NamespaceForgotten(NamespaceKey),
    /// Records were used.
    Touched {
        /// Which.
        ids: Vec<RecordId>,
        /// When, milliseconds since the Unix epoch.
        last_used_ms: u64,
        /// Whether by a lookup.
        reused: bool,
    },
    /// Records are gone (with all that continues them).
    Removed(Vec<RecordId>),
    /// Records are not to be evicted.
    Pinned(Vec<RecordId>),
    /// Records may be evicted again.
    Unpinned(Vec<RecordId>),
    /// Bytes written on a day.
    Written(WriteDay),
}

/// A place in the journal; see [`Disk::mark`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalMark {
    generation: u64,
    /// In the journal's file, in bytes.
    offset: u64,
    /// Of the next entry.
    sequence: u64,
}

/// What the folder takes, in bytes; each file is counted in whole 4 KiB blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskUsage {
    /// All segments.
    pub segments_bytes: u64,
    /// The index file, and its successor while that is written.
    pub index_bytes: u64,
    /// The journal.
    pub journal_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Records quarantined since the store was opened.
    pub quarantined: u64,
    /// Bytes written since the store was opened, all files.
    pub written_bytes: u64,
}

/// `store.json` and `store.lock`, a block each.
const NAME_FILES_BYTES: u64 = 2 * 4096;

impl DiskUsage {
    /// What a quota counts.
    #[must_use]
    pub fn physical_bytes(&self) -> u64 {
        self.segments_bytes + self.index_bytes + self.journal_bytes + NAME_FILES_BYTES
    }
}

/// The checksum of a part's bytes: XXH3-64.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

fn checksum_seeded(seed: u64, bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// [`checksum`] of bytes that come in pieces.
#[derive(Clone, Default)]
pub struct Checksum(twox_hash::XxHash3_64);

impl Checksum {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on with these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        std::hash::Hasher::write(&mut self.0, bytes);
    }

    /// Of all bytes so far.
    #[must_use]
    pub fn finish(&self) -> u64 {
        std::hash::Hasher::finish(&self.0)
    }
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Checksum").field(&self.finish()).finish()
    }
}
