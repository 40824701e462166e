//! Opening a folder: what is committed, from index and journal, or from the segments themselves.

use std::collections::BTreeMap;
use std::io;

use super::folder::{self, INDEX_NEXT, JOURNAL_NEXT, SEGMENTS, segment_of, segment_path};
use super::image::{Opened, Recovered, SegmentRow};
use super::index_file::{self, Loaded, NoIndex};
use super::io::{Access, Io};
use super::journal::Replay;
use super::journal_file::{self, JournalFile};
use super::record::StoreId;
use super::replayed::{Known, Replayed, Settled};
use super::segment::{self, Step};
use super::{Context as _, DiskError, JournalMark};
use crate::store::types::SegmentId;

/// An opened folder.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) store: StoreId,
    pub(super) recovered: Recovered,
    pub(super) journal: JournalFile,
    pub(super) index_bytes: u64,
    pub(super) next_segment: u32,
    /// The segment that may be appended to: the last one, if its end is clean.
    pub(super) active: Option<(SegmentId, u64)>,
}

/// Recovers a locked folder.
pub(super) fn recover(io: &dyn Io, described: Option<StoreId>) -> Result<Opening, DiskError> {
    io.create_folder(SEGMENTS).context("make the segments' folder")?;
    for leftover in [INDEX_NEXT, JOURNAL_NEXT] {
        match io.remove(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context("remove a leftover"),
            _ => {}
        }
    }
    let lengths: BTreeMap<SegmentId, u64> = io
        .list(SEGMENTS)
        .context("list the segments")?
        .into_iter()
        .filter_map(|entry| Some((segment_of(&entry.name)?, entry.bytes)))
        .collect();
    let index = index_file::read(io);
    let journal = journal_file::find(io);
    if lengths.is_empty() && journal.is_none() && matches!(index, Err(NoIndex::Missing)) {
        return fresh(io, described);
    }
    let store = described
        .or_else(|| index.as_ref().ok().map(|loaded| loaded.head.store))
        .or_else(|| journal.as_ref().map(|journal| journal.store))
        .or_else(|| lengths.keys().find_map(|id| segment::store_of(&*io.open(&segment_path(*id), Access::Read).ok()?)))
        .unwrap_or_else(folder::new_id);
    if described.is_none() {
        folder::describe_store(io, &store)?;
    }
    let index = index.and_then(|loaded| {
        if loaded.head.store == store { Ok(loaded) } else { Err(NoIndex::Wrong("is of another store".to_owned())) }
    });
    let journal = journal.filter(|journal| journal.store == store);
    match fit(&index, journal.as_ref()) {
        Ok((mark, replayed)) => indexed(io, store, index.ok(), journal, mark, replayed, lengths),
        Err(why) => rebuild(io, store, index.ok(), journal, lengths, why),
    }
}

fn fresh(io: &dyn Io, described: Option<StoreId>) -> Result<Opening, DiskError> {
    let store = described.unwrap_or_else(folder::new_id);
    if described.is_none() {
        folder::describe_store(io, &store)?;
    }
    let journal = JournalFile::create(io, &store, 0, 0).context("make the journal")?;
    let recovered = Recovered::default();
    Ok(Opening { store, recovered, journal, index_bytes: 0, next_segment: 0, active: None })
}

/// Whether index and journal belong together, and from which mark on the journal is to be replayed (`None`: all of it),
/// with its events. If not, what is wrong.
fn fit(
    index: &Result<Loaded, NoIndex>,
    journal: Option<&journal_file::Found>,
) -> Result<(Option<JournalMark>, Replay), String> {
    let Some(journal) = journal else { return Err("the journal is missing or unreadable".to_owned()) };
    let mark = match index {
        Err(NoIndex::Wrong(why)) => return Err(format!("the index {why}")),
        // The first journal has no index before it.
        Err(NoIndex::Missing) if journal.head.generation == 0 => None,
        Err(NoIndex::Missing) => return Err("the index is missing".to_owned()),
        Ok(loaded) if loaded.head.generation == journal.head.generation => None,
        Ok(loaded) if loaded.head.mark.generation == journal.head.generation => Some(loaded.head.mark),
        Ok(_) => return Err("index and journal are of different times".to_owned()),
    };
    match journal.replay(mark) {
        Some(replayed) if !replayed.damaged => Ok((mark, replayed)),
        _ => Err("the journal is damaged".to_owned()),
    }
}

fn indexed(
    io: &dyn Io,
    store: StoreId,
    index: Option<Loaded>,
    journal: Option<journal_file::Found>,
    mark: Option<JournalMark>,
    mut replayed: Replay,
    lengths: BTreeMap<SegmentId, u64>,
) -> Result<Opening, DiskError> {
    let index_bytes = index.as_ref().map_or(0, |loaded| loaded.file_bytes);
    let mut rows = index.map_or_else(Replayed::default, Replayed::from_index);
    let journal = journal.ok_or_else(|| DiskError::Corrupt { what: "the journal is missing".to_owned() })?;
    for event in std::mem::take(&mut replayed.events) {
        rows.apply(event);
    }
    let journal = journal.resume(mark, &replayed).context("cut the journal's torn end")?;
    let settled = rows.settle(&lengths, false);
    let known = lengths.keys().last().map_or(0, |id| id.0.saturating_add(1));
    let next_segment = known.max(settled.next_segment);
    let (segments, active, torn_bytes) = tidy(io, &settled, lengths)?;
    let recovered = finish(settled, segments, Opened::Indexed, torn_bytes);
    Ok(Opening { store, recovered, journal, index_bytes, next_segment, active })
}

fn rebuild(
    io: &dyn Io,
    store: StoreId,
    index: Option<Loaded>,
    journal: Option<journal_file::Found>,
    lengths: BTreeMap<SegmentId, u64>,
    why: String,
) -> Result<Opening, DiskError> {
    let index_generation = index.as_ref().map_or(0, |loaded| loaded.head.generation);
    let journal_generation = journal.as_ref().map_or(0, |journal| journal.head.generation);
    let generation = index_generation.max(journal_generation) + 1;
    let mark = index.as_ref().map(|loaded| loaded.head.mark);
    let mut rows = index.map_or_else(Replayed::default, Replayed::from_index);
    // A journal from before the index says nothing that the index does not know better.
    let usable = journal.filter(|_| journal_generation + 1 >= index_generation);
    let mut sequence = 0;
    if let Some(journal) = usable {
        let mark = mark.filter(|mark| mark.generation == journal_generation);
        let replayed = journal.replay(mark).or_else(|| journal.replay(None)).unwrap_or_default();
        sequence = replayed.next_sequence;
        for event in replayed.events {
            rows.apply(event);
        }
    }
    for segment in lengths.keys() {
        // A segment that cannot be read at all is not taken for an empty one, which would be removed: nothing was written
        // yet, so the next try finds the same folder.
        walk_segment(io, *segment, &store, &mut rows).context(&format!("read {}", segment_path(*segment)))?;
    }
    let settled = rows.settle(&lengths, true);
    let known = lengths.keys().last().map_or(0, |id| id.0.saturating_add(1));
    let next_segment = known.max(settled.next_segment);
    // The new pair of index and journal before anything is cut off: until then every try finds the same segments.
    let mark = JournalMark { generation: generation - 1, offset: 0, sequence };
    let index_bytes = index_file::write(io, &settled.image, &store, generation, mark, next_segment)?;
    let placed = io.rename(INDEX_NEXT, folder::INDEX).and_then(|()| io.sync_folder(""));
    placed.context("put the rebuilt index in place")?;
    let journal = JournalFile::create(io, &store, generation, sequence).context("make the journal")?;
    let (segments, active, torn_bytes) = tidy(io, &settled, lengths)?;
    let recovered = finish(settled, segments, Opened::Rebuilt { why }, torn_bytes);
    Ok(Opening { store, recovered, journal, index_bytes, next_segment, active })
}

/// Adopts the records of a segment that neither index nor journal vouches for, if their payload holds. Parts that cannot be
/// read are as good as damaged; an error means that nothing can.
fn walk_segment(io: &dyn Io, segment: SegmentId, store: &StoreId, rows: &mut Replayed) -> io::Result<()> {
    let file = io.open(&segment_path(segment), Access::Read)?;
    segment::walk(&*file, segment, store, |step| {
        let (info, parts, at, last_used_ms) = match step {
            Step::Namespace(row) => {
                rows.found_namespace(row);
                return;
            }
            Step::Record { info, parts, at, last_used_ms } => (info, parts, at, last_used_ms),
        };
        match rows.knows(info.id, &at) {
            Known::Here | Known::Elsewhere | Known::Gone => {}
            Known::Not if segment::payload_is_good(&*file, &at, &parts) => rows.put(&info, at, last_used_ms),
            Known::Not => rows.found_bad(info.id),
        }
    })
}

/// Segments with nothing live are removed, torn ends cut off. Gives the segments left, the one to append to, and how many
/// bytes were cut.
#[expect(clippy::type_complexity, reason = "three things, used at once")]
fn tidy(
    io: &dyn Io,
    settled: &Settled,
    lengths: BTreeMap<SegmentId, u64>,
) -> Result<(Vec<SegmentRow>, Option<(SegmentId, u64)>, u64), DiskError> {
    let what = "cut off what was never committed";
    let mut segments = Vec::with_capacity(lengths.len());
    let mut torn_bytes = 0;
    let mut removed = false;
    let mut clean = None;
    for (segment, bytes) in lengths {
        clean = None;
        let end = settled.ends.get(&segment).copied();
        let mut bytes = bytes;
        match end {
            None => {
                io.remove(&segment_path(segment)).context(what)?;
                removed = true;
                torn_bytes += bytes.saturating_sub(segment::HEADER);
                continue;
            }
            Some(end) if end < bytes => {
                let file = io.open(&segment_path(segment), Access::Write).context(what)?;
                file.truncate(end).and_then(|()| file.sync()).context(what)?;
                torn_bytes += bytes - end;
                bytes = end;
            }
            Some(_) => clean = Some((segment, bytes)),
        }
        segments.push(SegmentRow { id: segment, bytes });
    }
    if removed {
        io.sync_folder(SEGMENTS).context(what)?;
    }
    Ok((segments, clean, torn_bytes))
}

fn finish(settled: Settled, segments: Vec<SegmentRow>, opened: Opened, torn_bytes: u64) -> Recovered {
    let Settled { image, parent_rows, snapshot_rows, mut losses, .. } = settled;
    losses.torn_bytes = torn_bytes;
    Recovered { image, parent_rows, snapshot_rows, segments, opened, losses }
}
