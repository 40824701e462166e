//! The journal as a file: appended, synced, cut, replaced.

use std::io;
use std::sync::Arc;

use super::folder::{JOURNAL, JOURNAL_NEXT};
use super::io::{Access, Io, IoFile, leads_to, read_bytes_at, write_bytes_at};
use super::journal::{Entries, HEADER, Head, Replay, replay};
use super::record::StoreId;
use super::{Context as _, DiskError, JournalMark, large_memory};

/// Far above the length at which a journal is folded into the index: a longer file is damaged, and must not ask for memory.
const MOST_BYTES: u64 = 1 << 30;

/// The open journal.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: Arc<dyn IoFile>,
    generation: u64,
    /// Sequence number of the file's first entry.
    first_sequence: u64,
    /// Where the next entry goes.
    end: u64,
    sequence: u64,
    /// A write or sync failed, so what is behind `end`, or even before it, is not known; the file must be replaced.
    broken: bool,
}

/// A journal found at opening.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) store: StoreId,
    /// The whole file.
    bytes: Vec<u8>,
    file: Arc<dyn IoFile>,
}

/// Reads the journal whole; `None` if there is none that can be read.
pub(super) fn find(io: &dyn Io) -> Option<Found> {
    let file = io.open(JOURNAL, Access::Write).ok()?;
    let length = file.bytes().ok().filter(|bytes| *bytes <= MOST_BYTES)?;
    let mut bytes = large_memory::zeroed_bytes(usize::try_from(length).ok()?);
    read_bytes_at(&*file, &mut bytes, 0).ok()?;
    let (head, store) = Head::parse(&bytes).ok()?;
    Some(Found { head, store, bytes, file })
}

impl Found {
    /// The entries from a mark on, or all; `None` if the mark is not in this journal. `Replay::end` counts from the mark.
    pub(super) fn replay(&self, mark: Option<JournalMark>) -> Option<Replay> {
        let (skip, sequence) = match mark {
            None => (HEADER, self.head.first_sequence),
            Some(mark) => (usize::try_from(mark.offset).ok().filter(|skip| *skip >= HEADER)?, mark.sequence),
        };
        Some(replay(self.bytes.get(skip..)?, &self.store, sequence))
    }

    /// Goes on behind what was replayed; a torn tail is cut off for good first, so that it cannot mix with what follows.
    pub(super) fn resume(self, mark: Option<JournalMark>, replayed: &Replay) -> io::Result<JournalFile> {
        let from = mark.map_or(HEADER as u64, |mark| mark.offset);
        let end = from + replayed.end as u64;
        if end < self.bytes.len() as u64 {
            self.file.truncate(end)?;
            self.file.sync()?;
        }
        Ok(JournalFile {
            file: self.file,
            generation: self.head.generation,
            first_sequence: self.head.first_sequence,
            end,
            sequence: replayed.next_sequence,
            broken: false,
        })
    }
}

/// Writes `journal.next` durably; the caller renames it.
fn write_next(io: &dyn Io, store: &StoreId, head: Head, entries: &[u8]) -> io::Result<Arc<dyn IoFile>> {
    let file = io.open(JOURNAL_NEXT, Access::Create)?;
    let mut bytes = head.encode(store);
    bytes.extend_from_slice(entries);
    write_bytes_at(&*file, &bytes, 0)?;
    file.sync()?;
    Ok(file)
}

impl JournalFile {
    /// An empty journal in place of whatever there is.
    pub(super) fn create(io: &dyn Io, store: &StoreId, generation: u64, sequence: u64) -> io::Result<Self> {
        let file = write_next(io, store, Head { generation, first_sequence: sequence }, &[])?;
        io.rename(JOURNAL_NEXT, JOURNAL)?;
        io.sync_folder("")?;
        Ok(Self { file, generation, first_sequence: sequence, end: HEADER as u64, sequence, broken: false })
    }

    pub(super) fn mark(&self) -> JournalMark {
        JournalMark { generation: self.generation, offset: self.end, sequence: self.sequence }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Appends what `fill` puts together, and makes everything so far durable if asked to. Gives the bytes written.
    pub(super) fn append(
        &mut self,
        io: &dyn Io,
        store: &StoreId,
        durable: bool,
        fill: impl FnOnce(&mut Entries),
    ) -> Result<u64, DiskError> {
        let what = "write the journal";
        if !leads_to(io, JOURNAL, &*self.file).context(what)? {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the cache folder was deleted")).context(what);
        }
        if self.broken {
            self.repair(io, store).context("replace the journal")?;
        }
        let mut entries = Entries::new(store, self.sequence);
        fill(&mut entries);
        let (bytes, sequence) = entries.finish();
        if let Err(error) = write_bytes_at(&*self.file, &bytes, self.end) {
            // What did get there must not be read as an entry once something else is behind it.
            self.broken = self.file.truncate(self.end).is_err();
            return Err(error).context(what);
        }
        if durable && let Err(error) = self.file.sync() {
            self.broken = true;
            return Err(error).context(what);
        }
        self.end += bytes.len() as u64;
        self.sequence = sequence;
        Ok(bytes.len() as u64)
    }

    /// Copies what holds into a new file of the same generation.
    fn repair(&mut self, io: &dyn Io, store: &StoreId) -> io::Result<()> {
        let entries = self.entries_from(HEADER as u64)?;
        let found = replay(&entries, store, self.first_sequence);
        let head = Head { generation: self.generation, first_sequence: self.first_sequence };
        let file = write_next(io, store, head, &entries[..found.end])?;
        io.rename(JOURNAL_NEXT, JOURNAL)?;
        self.file = file;
        self.end = (HEADER + found.end) as u64;
        self.sequence = found.next_sequence;
        // Stays broken until the new name is durable too.
        io.sync_folder("")?;
        self.broken = false;
        Ok(())
    }

    fn entries_from(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut entries = vec![0; usize::try_from(self.end.saturating_sub(offset)).unwrap_or(0)];
        read_bytes_at(&*self.file, &mut entries, offset)?;
        Ok(entries)
    }

    /// Begins the next generation at a mark of this one. `publish` puts the index in place that the next generation
    /// continues: behind it this journal is still good from the mark on, so a crash at any step leaves a pair that fits.
    pub(super) fn restart(
        &mut self,
        io: &dyn Io,
        store: &StoreId,
        mark: JournalMark,
        publish: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        if self.broken {
            self.repair(io, store)?;
        }
        let entries = self.entries_from(mark.offset)?;
        let head = Head { generation: self.generation + 1, first_sequence: mark.sequence };
        let file = write_next(io, store, head, &entries)?;
        publish()?;
        io.rename(JOURNAL_NEXT, JOURNAL)?;
        self.file = file;
        self.generation += 1;
        self.first_sequence = mark.sequence;
        self.sequence = self.sequence.max(mark.sequence);
        self.end = (HEADER + entries.len()) as u64;
        self.broken = true;
        io.sync_folder("")?;
        self.broken = false;
        Ok(())
    }
}
