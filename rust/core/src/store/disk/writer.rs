//! Appending records to segments: planned without I/O, written in large strokes, synced beside the writing.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::mpsc;

use super::NewRecord;
use super::folder::{SEGMENTS, segment_path};
use super::image::NamespaceRow;
use super::io::{Access, Io, IoFile, MOST_SLICES, leads_to, write_all_at};
use super::record::{self, RECORD_ALIGN, StoreId};
use super::segment;
use crate::store::types::{Location, NamespaceKey, SegmentId};

/// Bytes of one write call: enough to cost little per byte and to keep a disk's queue full, small enough that writing
/// back begins early.
const STROKE: usize = 16 << 20;
/// Payloads from this size on begin a write call of their own, so that it can be as aligned as they are.
const OWN_STROKE: u64 = 1 << 20;
/// Bytes of a commit from which on a second thread that writes back pays for itself.
const OVERLAP_BYTES: u64 = 24 << 20;

/// The segment under way.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: SegmentId,
    pub(super) file: Arc<dyn IoFile>,
    /// Where the next record may begin, before alignment.
    end: u64,
    /// The namespaces that it already says.
    namespaces: HashSet<NamespaceKey>,
}

/// The write position of a store.
#[derive(Debug)]
pub(super) struct Writer {
    active: Option<Active>,
    next_segment: u32,
    segment_bytes: u64,
}

/// What goes into one segment, without gaps.
struct Run {
    segment: SegmentId,
    /// `None`: a new file.
    file: Option<Arc<dyn IoFile>>,
    from: u64,
    end: u64,
    namespaces: HashSet<NamespaceKey>,
    /// For each record what comes before its payload (padding, segment header, namespace, header), and which it is.
    pieces: Vec<(Vec<u8>, usize)>,
}

/// Data that is durable but that no journal names yet.
pub(super) struct Written {
    pub(super) places: Vec<Location>,
    /// The files touched, with their new lengths; the last is the active one.
    pub(super) files: Vec<(SegmentId, Arc<dyn IoFile>, u64)>,
    pub(super) bytes: u64,
    undo: Vec<Undo>,
    active: Active,
}

/// What to do if the commit fails.
enum Undo {
    Remove(SegmentId, Arc<dyn IoFile>),
    Truncate(Arc<dyn IoFile>, u64),
}

impl Writer {
    pub(super) fn new(
        active: Option<(SegmentId, Arc<dyn IoFile>, u64)>,
        next_segment: u32,
        segment_bytes: u64,
    ) -> Self {
        let active = active.map(|(segment, file, end)| Active { segment, file, end, namespaces: HashSet::new() });
        Self { active, next_segment, segment_bytes }
    }

    /// Segments are full at another size from now on.
    pub(super) fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// The segment that the next record goes to, if there is room in it.
    pub(super) fn active(&self) -> Option<SegmentId> {
        self.active.as_ref().map(|active| active.segment)
    }

    /// A namespace has changed: the segment under way says it again before its next record of it.
    pub(super) fn forget_namespace(&mut self, key: &NamespaceKey) {
        if let Some(active) = &mut self.active {
            active.namespaces.remove(key);
        }
    }

    /// No record will be added to this segment any more.
    pub(super) fn leave(&mut self, segment: SegmentId) {
        self.active.take_if(|active| active.segment == segment);
    }

    /// Writes and syncs. On an error what was written is taken back as far as possible, and its segments get no more.
    pub(super) fn write<'r>(
        &mut self,
        io: &dyn Io,
        store: &StoreId,
        records: &[NewRecord<'_>],
        namespace: impl Fn(&NamespaceKey) -> Option<&'r NamespaceRow>,
    ) -> io::Result<Written> {
        if let Some(active) = &self.active
            && !leads_to(io, &segment_path(active.segment), &*active.file)?
        {
            // Somebody has deleted it. What was appended to it would be gone with it.
            self.active = None;
        }
        let (runs, places) = self.plan(store, records, namespace)?;
        // Numbers are used up even if this fails: a header's checksum must never fit a later file by chance.
        let used = runs.last().map_or(0, |run| run.segment.0.saturating_add(1));
        self.next_segment = self.next_segment.max(used);
        self.active = None;
        let mut undo = Vec::new();
        match write_runs(io, records, runs, &mut undo) {
            Ok((files, bytes, active)) => Ok(Written { places, files, bytes, undo, active }),
            Err(error) => {
                take_back(io, undo);
                Err(error)
            }
        }
    }

    /// The journal names what was written.
    pub(super) fn keep(&mut self, active: Written) -> Vec<Location> {
        self.active = Some(active.active);
        active.places
    }

    fn plan<'r>(
        &mut self,
        store: &StoreId,
        records: &[NewRecord<'_>],
        namespace: impl Fn(&NamespaceKey) -> Option<&'r NamespaceRow>,
    ) -> io::Result<(Vec<Run>, Vec<Location>)> {
        let mut runs: Vec<Run> = Vec::new();
        let mut places = Vec::with_capacity(records.len());
        let mut next_segment = self.next_segment;
        let mut open = self.active.take().map(|active| Run {
            segment: active.segment,
            file: Some(active.file),
            from: active.end,
            end: active.end,
            namespaces: active.namespaces,
            pieces: Vec::new(),
        });
        for (index, record) in records.iter().enumerate() {
            // The header's padding depends on the place; a page more is its most.
            let most = record.payload_bytes() + record::most_header_bytes(record);
            let full = |run: &Run| run.end > segment::HEADER && run.end + most > self.segment_bytes;
            if let Some(run) = open.take_if(|run| full(run)) {
                runs.extend(Some(run).filter(|run| !run.pieces.is_empty()));
            }
            if open.is_none() {
                let segment = SegmentId(next_segment);
                // The last number is never used, so that there is always one behind it.
                next_segment = next_segment.checked_add(1).ok_or_else(no_numbers)?;
                let (namespaces, pieces) = (HashSet::new(), Vec::new());
                open = Some(Run { segment, file: None, from: 0, end: 0, namespaces, pieces });
            }
            let Some(run) = &mut open else { continue };
            let mut before = if run.end == 0 { segment::encode_header(run.segment, store) } else { Vec::new() };
            let from = run.end;
            let align = |before: &mut Vec<u8>| {
                let offset = (from + before.len() as u64).next_multiple_of(RECORD_ALIGN);
                before.resize(usize::try_from(offset - from).unwrap_or(0), 0);
                offset
            };
            if run.namespaces.insert(record.info.namespace)
                && let Some(row) = namespace(&record.info.namespace)
            {
                let offset = align(&mut before);
                before.extend_from_slice(&record::encode_namespace(row, run.segment, offset, store));
            }
            let offset = align(&mut before);
            let at = record::place(record, run.segment, offset);
            before.extend_from_slice(&record::encode(record, &at, store));
            run.end = offset + at.record_bytes();
            run.pieces.push((before, index));
            places.push(at);
        }
        runs.extend(open);
        Ok((runs, places))
    }
}

fn no_numbers() -> io::Error {
    io::Error::other("the segments' numbers are used up; empty the cache folder")
}

/// Undoes a write whose commit failed later.
pub(super) fn take_back_written(io: &dyn Io, written: Written) {
    take_back(io, written.undo);
}

/// Best effort: what stays is a dead file or a dead end, which no journal names.
fn take_back(io: &dyn Io, undo: Vec<Undo>) {
    for step in undo {
        let _ = match step {
            Undo::Remove(segment, file) => {
                let path = segment_path(segment);
                leads_to(io, &path, &*file).and_then(|ours| if ours { io.remove(&path) } else { Ok(()) })
            }
            Undo::Truncate(file, end) => file.truncate(end),
        };
    }
}

type Files = Vec<(SegmentId, Arc<dyn IoFile>, u64)>;

fn write_runs(
    io: &dyn Io,
    records: &[NewRecord<'_>],
    runs: Vec<Run>,
    undo: &mut Vec<Undo>,
) -> io::Result<(Files, u64, Active)> {
    let bytes: u64 = runs.iter().map(|run| run.end - run.from).sum();
    let made = runs.iter().any(|run| run.file.is_none());
    let mut sink = |behind: &dyn Behind| {
        let mut files = Vec::with_capacity(runs.len());
        for run in &runs {
            let file = if let Some(file) = &run.file {
                undo.push(Undo::Truncate(file.clone(), run.from));
                file.clone()
            } else {
                let file = io.open(&segment_path(run.segment), Access::CreateNew)?;
                // Only now: a file that was there before is another's.
                undo.push(Undo::Remove(run.segment, file.clone()));
                file
            };
            write_run(&file, run, records, behind)?;
            behind.sync(&file)?;
            files.push((run.segment, file, run.end));
        }
        Ok(files)
    };
    let files: Files = if bytes < OVERLAP_BYTES { sink(&Inline)? } else { beside(sink)? };
    if made {
        io.sync_folder(SEGMENTS)?;
    }
    let last = runs.into_iter().next_back().zip(files.last());
    let (run, (_, file, _)) = last.ok_or(io::ErrorKind::InvalidInput)?;
    let active = Active { segment: run.segment, file: file.clone(), end: run.end, namespaces: run.namespaces };
    Ok((files, bytes, active))
}

/// What happens behind the writing.
trait Behind {
    fn written(&self, file: &Arc<dyn IoFile>, offset: u64, bytes: u64);
    fn sync(&self, file: &Arc<dyn IoFile>) -> io::Result<()>;
}

/// Nothing until the end: little data.
struct Inline;

impl Behind for Inline {
    fn written(&self, _: &Arc<dyn IoFile>, _: u64, _: u64) {}

    fn sync(&self, file: &Arc<dyn IoFile>) -> io::Result<()> {
        file.sync()
    }
}

enum Job {
    Writeback(Arc<dyn IoFile>, u64, u64),
    Sync(Arc<dyn IoFile>),
}

/// Another thread keeps the disk busy while this one copies into the page cache.
struct Beside(mpsc::Sender<Job>);

impl Behind for Beside {
    fn written(&self, file: &Arc<dyn IoFile>, offset: u64, bytes: u64) {
        // A receiver that is gone has met an error, which its thread returns.
        let _ = self.0.send(Job::Writeback(file.clone(), offset, bytes));
    }

    fn sync(&self, file: &Arc<dyn IoFile>) -> io::Result<()> {
        let _ = self.0.send(Job::Sync(file.clone()));
        Ok(())
    }
}

fn beside<T>(write: impl FnOnce(&dyn Behind) -> io::Result<T>) -> io::Result<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let syncing = std::thread::Builder::new().name("kv-sync".to_owned()).spawn_scoped(scope, move || {
            for job in receiver {
                match job {
                    Job::Writeback(file, offset, bytes) => file.start_writeback(offset, bytes),
                    Job::Sync(file) => file.sync()?,
                }
            }
            Ok(())
        })?;
        let written = write(&Beside(sender));
        let synced = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and_then(|value| synced.map(|()| value))
    })
}

fn write_run(file: &Arc<dyn IoFile>, run: &Run, records: &[NewRecord<'_>], behind: &dyn Behind) -> io::Result<()> {
    if run.end - run.from >= OVERLAP_BYTES {
        // A file that has its length already grows without a change of the inode at every write.
        file.truncate(run.end)?;
    }
    let mut strokes = Strokes { file, behind, slices: Vec::with_capacity(MOST_SLICES), gathered: 0, offset: run.from };
    for (before, index) in &run.pieces {
        let record = &records[*index];
        strokes.put(before)?;
        if record.payload_bytes() >= OWN_STROKE {
            strokes.flush()?;
        }
        for piece in record.payload {
            strokes.put(piece)?;
        }
    }
    strokes.flush()
}

/// Gathers slices into large writes, one behind the other.
struct Strokes<'a> {
    file: &'a Arc<dyn IoFile>,
    behind: &'a dyn Behind,
    slices: Vec<IoSlice<'a>>,
    gathered: usize,
    offset: u64,
}

impl<'a> Strokes<'a> {
    fn put(&mut self, mut piece: &'a [u8]) -> io::Result<()> {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(STROKE - self.gathered));
            self.slices.push(IoSlice::new(now));
            self.gathered += now.len();
            piece = later;
            if self.gathered == STROKE || self.slices.len() == MOST_SLICES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        write_all_at(&**self.file, &mut self.slices, self.offset)?;
        self.behind.written(self.file, self.offset, self.gathered as u64);
        self.offset += self.gathered as u64;
        self.gathered = 0;
        self.slices.clear();
        Ok(())
    }
}
