//! Records that the system failed to read: whether they are bad, or only the moment was.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::disk::{Disk, DiskError};
use super::engine::Engine;
use super::read::ReadError;
use super::stats::add;
use super::types::{Location, RecordId, SegmentId};

/// Records that could not be read once. One that cannot be read again is bad.
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<HashSet<(RecordId, SegmentId, u64)>>);

impl Suspects {
    /// Remembers a record at a place; whether it was remembered before.
    fn add(&self, id: RecordId, at: &Location) -> bool {
        const MOST: usize = 10_000;
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if suspects.len() >= MOST {
            suspects.clear();
        }
        !suspects.insert((id, at.segment, at.offset))
    }

    /// Begins anew: the records are another index's.
    pub(crate) fn forget_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Engine {
    /// A record could not be read. Takes it and what continues it out of use for good if the record is bad, rather than the
    /// moment: wrong bytes are; a missing segment is where the folder is there; an error of the device's is if it comes
    /// again for the same record while the folder is there, since a volume that drops out fails all reads. Whether it did.
    pub(crate) fn judge(&self, disk: &Disk, id: RecordId, at: &Location, error: &ReadError) -> bool {
        let is_bad = match error {
            ReadError::Checksum(_)
            | ReadError::Encoding { .. }
            | ReadError::Header
            | ReadError::Disk(DiskError::Corrupt { .. }) => true,
            ReadError::Disk(DiskError::Io { source, .. }) if !is_passing(source) => {
                add(&self.counters.read_errors, 1);
                let is_lasting = source.kind() == io::ErrorKind::NotFound || self.suspects.add(id, at);
                is_lasting && disk.is_in_place().unwrap_or(false)
            }
            ReadError::Disk(_) | ReadError::Gone => false,
        };
        is_bad && self.quarantine(disk, id, at, &error.to_string())
    }

    /// What a record has in RAM cannot be decoded: takes it and what continues it out of use for good, on disk or not.
    pub(crate) fn condemn(&self, disk: Option<&Disk>, id: RecordId, why: &str) {
        let mut catalog = self.catalog();
        if let (Some(at), Some(disk)) = (catalog.index.record_location(id), disk) {
            drop(catalog);
            self.quarantine(disk, id, &at, why);
            return;
        }
        let removed = catalog.index.remove(id);
        let gone = catalog.forget(&removed);
        drop(catalog);
        drop(gone);
        if !removed.records.is_empty() {
            add(&self.counters.quarantined, 1);
            tracing::warn!(
                folder = %self.config.folder.display(),
                "a record of the KV cache is bad and was taken out of use before it was written: {why}"
            );
        }
    }

    /// Takes a bad record and what continues it out of use, for good; false if it is not at that place any more.
    fn quarantine(&self, disk: &Disk, id: RecordId, at: &Location, why: &str) -> bool {
        let mut catalog = self.catalog();
        // It may have been moved or evicted while it was read. Looked at under the lock under which it would be moved.
        if catalog.index.record_location(id) != Some(*at) {
            return false;
        }
        let removed = catalog.index.remove(id);
        let gone = catalog.forget(&removed);
        drop(catalog);
        drop(gone);
        self.note_removed(disk, removed.records);
        disk.quarantine(id, at, why);
        add(&self.counters.quarantined, 1);
        tracing::warn!(
            folder = %self.config.folder.display(), segment = at.segment.0, offset = at.offset,
            "a record of the KV cache is bad and was taken out of use: {why}"
        );
        true
    }
}

/// Errors of the system's state, not of the bytes.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        Interrupted, OutOfMemory, PermissionDenied, QuotaExceeded, ResourceBusy, TimedOut, WouldBlock,
    };
    const TOO_MANY_FILES_IN_SYSTEM: i32 = 23;
    const TOO_MANY_FILES: i32 = 24;
    matches!(
        error.kind(),
        Interrupted | OutOfMemory | PermissionDenied | QuotaExceeded | ResourceBusy | TimedOut | WouldBlock
    ) || matches!(error.raw_os_error(), Some(TOO_MANY_FILES | TOO_MANY_FILES_IN_SYSTEM))
}
