//! Segments open for reading, and how long all of them are.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::folder::segment_path;
use super::io::{Access, Io, IoFile};
use crate::store::types::SegmentId;

/// Files kept open: far below a process's usual limit of 256 (macOS) or 1024 (Linux), far above what is read at once.
const MOST_OPEN: usize = 96;
/// The unit in which a file system gives out space.
const FS_BLOCK: u64 = 4096;

/// The segments of a store.
#[derive(Debug, Default)]
pub(super) struct SegmentFiles(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: BTreeMap<SegmentId, u64>,
    /// Of all files, in whole blocks.
    physical_bytes: u64,
    open: HashMap<SegmentId, Handle>,
    clock: u64,
}

#[derive(Debug)]
struct Handle {
    file: Arc<dyn IoFile>,
    last_used: u64,
}

/// A file's length as the file system counts it.
pub(super) fn physical(bytes: u64) -> u64 {
    bytes.next_multiple_of(FS_BLOCK)
}

impl SegmentFiles {
    pub(super) fn new(segments: impl Iterator<Item = (SegmentId, u64)>) -> Self {
        let bytes: BTreeMap<_, _> = segments.collect();
        let physical_bytes = bytes.values().map(|bytes| physical(*bytes)).sum();
        Self(Mutex::new(State { bytes, physical_bytes, ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle for reading; stays good if the segment is dropped meanwhile.
    pub(super) fn open(&self, io: &dyn Io, segment: SegmentId) -> io::Result<Arc<dyn IoFile>> {
        if let Some(file) = self.state().used(segment) {
            return Ok(file);
        }
        // Outside the lock: opening may wait for the disk. Two threads may both open; one handle stays.
        let file = io.open(&segment_path(segment), Access::Read)?;
        let mut state = self.state();
        // It may have been dropped meanwhile: a handle that stays keeps the disk space of an unlinked file.
        if state.bytes.contains_key(&segment) {
            state.keep(segment, file.clone());
        }
        Ok(file)
    }

    /// A segment was written and has this length now.
    pub(super) fn written(&self, segment: SegmentId, file: Arc<dyn IoFile>, bytes: u64) {
        let mut state = self.state();
        let before = state.bytes.insert(segment, bytes).map_or(0, physical);
        state.physical_bytes = state.physical_bytes - before + physical(bytes);
        state.keep(segment, file);
    }

    /// A segment is gone; gives its length.
    pub(super) fn dropped(&self, segment: SegmentId) -> u64 {
        let mut state = self.state();
        state.open.remove(&segment);
        let bytes = state.bytes.remove(&segment).unwrap_or(0);
        state.physical_bytes -= physical(bytes);
        bytes
    }

    /// Bytes of a segment; `None` if there is none.
    pub(super) fn bytes(&self, segment: SegmentId) -> Option<u64> {
        self.state().bytes.get(&segment).copied()
    }

    /// How many there are, and what they take in whole blocks.
    pub(super) fn count_and_bytes(&self) -> (u64, u64) {
        let state = self.state();
        (state.bytes.len() as u64, state.physical_bytes)
    }
}

impl State {
    fn used(&mut self, segment: SegmentId) -> Option<Arc<dyn IoFile>> {
        self.clock += 1;
        let handle = self.open.get_mut(&segment)?;
        handle.last_used = self.clock;
        Some(handle.file.clone())
    }

    fn keep(&mut self, segment: SegmentId, file: Arc<dyn IoFile>) {
        if self.open.len() >= MOST_OPEN && !self.open.contains_key(&segment) {
            let oldest = self.open.iter().min_by_key(|(_, handle)| handle.last_used).map(|(segment, _)| *segment);
            oldest.and_then(|oldest| self.open.remove(&oldest));
        }
        self.clock += 1;
        self.open.insert(segment, Handle { file, last_used: self.clock });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::faults::FaultyIo;

    #[test]
    fn a_handle_of_a_dropped_segment_is_not_kept() {
        let io = FaultyIo::new();
        let segment = SegmentId(3);
        io.replace(&segment_path(segment), Some(vec![0; 5000]));
        let files = SegmentFiles::new([(segment, 5000)].into_iter());
        files.open(&io, segment).expect("opens");
        assert!(files.state().open.contains_key(&segment));
        assert_eq!(files.dropped(segment), 5000);
        // A read that had looked up its segment before it was dropped.
        files.open(&io, segment).expect("opens");
        assert!(files.state().open.is_empty());
        assert_eq!(files.count_and_bytes(), (0, 0));
    }
}
