//! An open folder.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::folder::{self, Found, INDEX, INDEX_NEXT, LOCK, segment_path};
use super::image::{IndexDump, NamespaceRow, Recovered};
use super::io::{Access, Io, IoFile, leads_to, read_exact_at};
use super::journal::{self, Event};
use super::journal_file::JournalFile;
use super::record::{self, StoreId, Stored};
use super::recovery::{self, Opening};
use super::segment_files::{SegmentFiles, physical};
use super::wire::Malformed;
use super::writer::{self, Writer};
use super::{Context as _, DiskError, DiskSettings, DiskUsage, Fact, JournalMark, NewRecord, RecordHeader};
use super::{index_file, segment};
use crate::store::types::{Location, NamespaceKey, RecordId, SegmentId};

/// A folder's files, open and locked until dropped. All methods may be called from any thread; reads run beside one writer.
#[derive(Debug)]
pub struct Disk {
    io: Arc<dyn Io>,
    store: StoreId,
    // Taken in this order where two are held: writer, journal.
    writer: Mutex<Writer>,
    journal: Mutex<JournalFile>,
    /// Held while an index is written.
    index: Mutex<()>,
    namespaces: RwLock<HashMap<NamespaceKey, NamespaceRow>>,
    segments: SegmentFiles,
    journal_bytes: AtomicU64,
    index_bytes: AtomicU64,
    /// Of the files that are being written to replace index and journal.
    next_bytes: AtomicU64,
    /// What `next_segment` in an index must at least be.
    next_segment: AtomicU64,
    quarantined: AtomicU64,
    written_bytes: AtomicU64,
    /// Dropped last, so that nothing is written without it.
    lock: Arc<dyn IoFile>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves no half-made state behind: files are changed before the fields that speak of them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(Malformed(what): Malformed) -> DiskError {
    DiskError::Invalid { what: what.to_owned() }
}

fn corrupt(at: &Location, what: &str) -> DiskError {
    DiskError::Corrupt { what: format!("{} at byte {}: {what}", segment_path(at.segment), at.offset) }
}

impl Disk {
    /// Takes the folder's lock, recovers what is committed, opens for writing. Makes the folder if there is none.
    ///
    /// # Errors
    /// [`DiskError::InUse`], [`DiskError::Foreign`], [`DiskError::Version`], or I/O. Damage is no error: see [`Recovered`].
    pub fn open(io: Arc<dyn Io>, settings: DiskSettings) -> Result<(Self, Recovered), DiskError> {
        folder::look(&*io)?;
        io.create_folder("").context("make the cache folder")?;
        let lock = folder::lock(&*io)?;
        // Looked at again under the lock: another process may just have made it.
        let described = match folder::look(&*io)? {
            Found::Empty => None,
            Found::Store(id) => id,
        };
        let Opening { store, recovered, journal, index_bytes, next_segment, active } =
            recovery::recover(&*io, described)?;
        let active = match active.filter(|(_, bytes)| *bytes < settings.segment_bytes) {
            None => None,
            Some((segment, bytes)) => {
                let file = io.open(&segment_path(segment), Access::Write).context("open the last segment")?;
                Some((segment, file, bytes))
            }
        };
        let rows = recovered.image.namespaces.iter();
        let disk = Self {
            store,
            writer: Mutex::new(Writer::new(active, next_segment, settings.segment_bytes)),
            journal_bytes: AtomicU64::new(journal.bytes()),
            journal: Mutex::new(journal),
            index: Mutex::new(()),
            namespaces: RwLock::new(rows.map(|row| (row.key, row.clone())).collect()),
            segments: SegmentFiles::new(recovered.segments.iter().map(|row| (row.id, row.bytes))),
            index_bytes: AtomicU64::new(index_bytes),
            next_bytes: AtomicU64::new(0),
            next_segment: AtomicU64::new(u64::from(next_segment)),
            quarantined: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            io,
            lock,
        };
        Ok((disk, recovered))
    }

    /// Appends records and makes them durable: data first, then the journal. On `Ok` all are committed; on an error none
    /// is promised, the call may be repeated, and what was written is cut off or counted as dead.
    ///
    /// # Errors
    /// I/O, or [`DiskError::Invalid`] for a record that contradicts itself or has an unknown namespace.
    pub fn commit(&self, records: &[NewRecord<'_>]) -> Result<Vec<Location>, DiskError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let namespaces = self.namespaces.read().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            record::check(record).map_err(invalid)?;
            if !namespaces.contains_key(&record.info.namespace) {
                return Err(invalid(Malformed("a record of a namespace that was not noted")));
            }
        }
        let mut writer = held(&self.writer);
        self.check_ours().context("write a segment")?;
        let written = writer.write(&*self.io, &self.store, records, |key| namespaces.get(key));
        let written = written.context("write a segment")?;
        drop(namespaces);
        let journalled = self.append(true, |entries| {
            for (record, at) in records.iter().zip(&written.places) {
                entries.committed(record.info, at, record.last_used_ms);
            }
        });
        if let Err(error) = journalled {
            writer::take_back_written(&*self.io, written);
            return Err(error);
        }
        for (segment, file, bytes) in &written.files {
            self.segments.written(*segment, file.clone(), *bytes);
            self.next_segment.fetch_max(u64::from(segment.0) + 1, Ordering::Relaxed);
        }
        self.written_bytes.fetch_add(written.bytes, Ordering::Relaxed);
        Ok(writer.keep(written))
    }

    /// Whether the folder that this was opened in is the one at its path: it may have been deleted or moved away, and the one
    /// there now may be another store's.
    ///
    /// # Errors
    /// I/O.
    pub fn is_in_place(&self) -> Result<bool, DiskError> {
        leads_to(&*self.io, LOCK, &*self.lock).context("look for the cache folder")
    }

    /// To be asked before anything is made, replaced or removed by its name. Gives [`io::ErrorKind::NotFound`] if the names
    /// are not ours.
    fn check_ours(&self) -> io::Result<()> {
        if leads_to(&*self.io, LOCK, &*self.lock)? {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the cache folder was deleted or replaced"))
    }

    /// The segment that grows with the next commit. It may be one that was there when the folder was opened.
    #[must_use]
    pub fn active_segment(&self) -> Option<SegmentId> {
        held(&self.writer).active()
    }

    /// No record is added to this segment any more. Before its live records are written anew elsewhere.
    pub fn seal(&self, segment: SegmentId) {
        held(&self.writer).leave(segment);
    }

    /// Segments are full at other sizes from now on.
    pub fn set_segment_bytes(&self, bytes: u64) {
        held(&self.writer).set_segment_bytes(bytes);
    }

    /// Bytes by which a commit of this record alone makes the folder grow at most (segment, journal, new segment header).
    #[must_use]
    pub fn cost_bytes(&self, record: &NewRecord<'_>) -> u64 {
        let namespaces = self.namespaces.read().unwrap_or_else(PoisonError::into_inner);
        let namespace = namespaces.get(&record.info.namespace).map_or(0, |row| {
            let described = row.layout.description.len() + row.label.len() + record::layout_bytes(&row.layout);
            described as u64 + 256
        });
        let segment = segment::HEADER + namespace + record::most_header_bytes(record) + record.payload_bytes();
        // Each file may begin another block.
        physical(segment) + physical(journal::cost_bytes(record.info)) + 2 * physical(1)
    }

    /// Journals facts in order; durable when this returns, if so asked, otherwise with the next commit.
    ///
    /// # Errors
    /// I/O, or [`DiskError::Invalid`] for a namespace over 16 MiB.
    pub fn note(&self, facts: &[Fact], durable: bool) -> Result<(), DiskError> {
        for fact in facts {
            if let Fact::Namespace(row) = fact
                && !journal::namespace_fits(&row.layout, &row.label)
            {
                return Err(invalid(Malformed("a namespace's layout and description are over 16 MiB")));
            }
        }
        self.append(durable, |entries| facts.iter().for_each(|fact| entries.fact(fact)))?;
        let mut namespaces = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        for fact in facts {
            match fact {
                Fact::Namespace(row) => {
                    namespaces.insert(row.key, row.clone());
                    changed.push(row.key);
                }
                Fact::NamespaceForgotten(key) => {
                    namespaces.remove(key);
                }
                _ => {}
            }
        }
        drop(namespaces);
        if !changed.is_empty() {
            let mut writer = held(&self.writer);
            for key in &changed {
                writer.forget_namespace(key);
            }
        }
        Ok(())
    }

    fn append(&self, durable: bool, fill: impl FnOnce(&mut journal::Entries)) -> Result<(), DiskError> {
        let mut journal = held(&self.journal);
        let written = journal.append(&*self.io, &self.store, durable, fill);
        self.journal_bytes.store(journal.bytes(), Ordering::Relaxed);
        self.written_bytes.fetch_add(written?, Ordering::Relaxed);
        Ok(())
    }

    fn open_segment(&self, at: &Location) -> Result<Arc<dyn IoFile>, DiskError> {
        self.segments.open(&*self.io, at.segment).context("open a segment")
    }

    /// Reads payload bytes from `payload_offset` on into the slices, one after the other.
    ///
    /// # Errors
    /// I/O; [`DiskError::Corrupt`] where the file ends too early; [`DiskError::Invalid`] past the payload.
    pub fn read(&self, at: &Location, payload_offset: u64, into: &mut [IoSliceMut<'_>]) -> Result<(), DiskError> {
        let bytes: u64 = into.iter().map(|slice| slice.len() as u64).sum();
        if payload_offset.checked_add(bytes).is_none_or(|end| end > at.payload_bytes) {
            return Err(invalid(Malformed("a read past the payload")));
        }
        let file = self.open_segment(at)?;
        let offset = at.offset + u64::from(at.header_bytes) + payload_offset;
        read_exact_at(&*file, into, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(at, "the segment ends within the record"),
            _ => DiskError::Io { what: "read a segment".to_owned(), source },
        })
    }

    /// Asks the system to read a record's payload bytes ahead. No promise, no wait.
    pub fn prefetch(&self, at: &Location, payload_offset: u64, bytes: u64) {
        if let Ok(file) = self.open_segment(at) {
            let bytes = bytes.min(at.payload_bytes.saturating_sub(payload_offset));
            file.prefetch(at.offset + u64::from(at.header_bytes) + payload_offset, bytes);
        }
    }

    /// A record's header; its checksum also covers where it is and which store it belongs to.
    ///
    /// # Errors
    /// I/O, or [`DiskError::Corrupt`].
    pub fn read_header(&self, at: &Location) -> Result<RecordHeader, DiskError> {
        self.header_in(&*self.open_segment(at)?, at)
    }

    fn header_in(&self, file: &dyn IoFile, at: &Location) -> Result<RecordHeader, DiskError> {
        let end = at.offset.saturating_add(at.record_bytes());
        let header = segment::header_at(file, at.segment, at.offset, end, &self.store);
        let header = header.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(at, "the segment ends within the header"),
            _ => DiskError::Io { what: "read a segment".to_owned(), source },
        })?;
        let parsed = header.map_err(|Malformed(what)| corrupt(at, what))?;
        match parsed.stored {
            Stored::Record { header, .. }
                if (parsed.header_bytes, parsed.payload_bytes) == (at.header_bytes, at.payload_bytes) =>
            {
                Ok(header)
            }
            _ => Err(corrupt(at, "another record is there")),
        }
    }

    /// Reads a record whole and checks every part.
    ///
    /// # Errors
    /// I/O, or [`DiskError::Corrupt`].
    pub fn verify(&self, at: &Location) -> Result<RecordHeader, DiskError> {
        let file = self.open_segment(at)?;
        let header = self.header_in(&*file, at)?;
        match segment::payload_holds(&*file, at, &header.parts) {
            Ok(true) => Ok(header),
            Ok(false) => Err(corrupt(at, "a part's checksum does not hold")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(corrupt(at, "the segment ends within the record"))
            }
            Err(error) => Err(error).context("read a segment"),
        }
    }

    /// Journals that a segment and all records in it are gone, then unlinks it. Reads under way finish. On a full disk the
    /// file goes even if the journal cannot grow (a missing segment is as good as a dropped one). Gives the bytes freed.
    ///
    /// # Errors
    /// I/O; [`DiskError::Invalid`] if there is no such segment.
    pub fn drop_segment(&self, segment: SegmentId) -> Result<u64, DiskError> {
        if self.segments.bytes(segment).is_none() {
            return Err(invalid(Malformed("no such segment")));
        }
        self.check_ours().context("remove a segment")?;
        held(&self.writer).leave(segment);
        match self.append(true, |entries| entries.event(&Event::SegmentDropped(segment))) {
            Err(error) if !error.is_full() => return Err(error),
            _ => {}
        }
        match self.io.remove(&segment_path(segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove a segment"),
            _ => Ok(self.segments.dropped(segment)),
        }
    }

    /// A segment's length in bytes; `None` if there is no such segment.
    #[must_use]
    pub fn segment_bytes(&self, segment: SegmentId) -> Option<u64> {
        self.segments.bytes(segment)
    }

    /// A mark for [`Disk::write_index`]. Take it *before* the dump, at a moment when everything that `commit`, `note`,
    /// `drop_segment` and `quarantine` have returned for is applied to the index: what is journalled after the mark is
    /// replayed over the dump (harmlessly if the dump has it already).
    #[must_use]
    pub fn mark(&self) -> JournalMark {
        held(&self.journal).mark()
    }

    /// Atomically replaces the index file; the journal then begins at the mark. Commits go on meanwhile.
    ///
    /// # Errors
    /// I/O, or [`DiskError::Invalid`] for a dump whose rows do not fit together, or a mark older than the last index.
    pub fn write_index(&self, dump: &IndexDump, mark: JournalMark) -> Result<(), DiskError> {
        let _writing = held(&self.index);
        self.check_ours().context("write the index")?;
        let generation = mark.generation + 1;
        let next_segment = u32::try_from(self.next_segment.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        self.next_bytes.store(physical(index_file::file_bytes(dump)), Ordering::Relaxed);
        let result = self.replace_index(dump, mark, generation, next_segment);
        if result.is_err() && self.check_ours().is_ok() {
            let _ = self.io.remove(INDEX_NEXT);
        }
        self.next_bytes.store(0, Ordering::Relaxed);
        result
    }

    fn replace_index(
        &self,
        dump: &IndexDump,
        mark: JournalMark,
        generation: u64,
        next_segment: u32,
    ) -> Result<(), DiskError> {
        // Only an index write changes the journal's generation, and this is the only one under way.
        if self.mark().generation != mark.generation {
            return Err(invalid(Malformed("a mark older than the last index")));
        }
        let bytes = index_file::write(&*self.io, dump, &self.store, generation, mark, next_segment)?;
        let mut journal = held(&self.journal);
        let tail = physical(journal.bytes().saturating_sub(mark.offset)) + physical(1);
        self.next_bytes.fetch_add(tail, Ordering::Relaxed);
        let restarted = journal.restart(&*self.io, &self.store, mark, || {
            self.check_ours()?;
            self.io.rename(INDEX_NEXT, INDEX)?;
            self.index_bytes.store(bytes, Ordering::Relaxed);
            self.io.sync_folder("")
        });
        self.journal_bytes.store(journal.bytes(), Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        restarted.context("put the index in place")
    }

    /// The size of the index file that [`Disk::write_index`] would write; while it is written both count.
    #[must_use]
    pub fn index_bytes(dump: &IndexDump) -> u64 {
        physical(index_file::file_bytes(dump))
    }

    /// Journals that a record is bad, so that it is not served after a restart either, and counts it.
    pub fn quarantine(&self, id: RecordId, at: &Location, why: &str) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(record = id.0, segment = at.segment.0, offset = at.offset, why, "cache record quarantined");
        let event = Event::Quarantined { id, why: why.chars().take(200).collect() };
        // Without the journal it is found bad again when it is read again.
        let _ = self.append(false, |entries| entries.event(&event));
    }

    /// What the folder takes.
    #[must_use]
    pub fn usage(&self) -> DiskUsage {
        let (segments, segments_bytes) = self.segments.count_and_bytes();
        let index = physical(self.index_bytes.load(Ordering::Relaxed));
        DiskUsage {
            segments_bytes,
            index_bytes: index + self.next_bytes.load(Ordering::Relaxed),
            journal_bytes: physical(self.journal_bytes.load(Ordering::Relaxed)),
            segments,
            quarantined: self.quarantined.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        }
    }

    /// Free bytes of the file system that the caller may use.
    ///
    /// # Errors
    /// I/O (for example a deleted folder).
    pub fn free_bytes(&self) -> Result<u64, DiskError> {
        self.io.free_bytes().context("ask for free space")
    }
}
