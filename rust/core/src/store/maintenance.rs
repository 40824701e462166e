//! What keeps a store in order, on the writer's thread: uses journalled, what has expired dropped, segments compacted, the
//! index file renewed.

use std::time::{Duration, Instant};

use super::disk::{Disk, DiskUsage, Fact, NewRecord, WriteDay};
use super::engine::{Engine, RoomError, now_ms, reserve_bytes};
use super::memory::Buffer;
use super::stats::add;
use super::transfer::Compacted;
use super::types::{Location, PartEntry, RecordId, RecordInfo, SegmentId};
use super::verify::read_record;

/// Uses are journalled this often; a crash forgets at most so much of them.
const TOUCHES_EVERY: Duration = Duration::from_secs(30);
/// Blocks looked at for expiry in one tick.
const EXPIRE_AT_ONCE: usize = 20_000;
/// A journal longer than this, and than the index file, is folded into a new index file.
const JOURNAL_BYTES: u64 = 4 << 20;
/// So is one that takes more than this part of the quota, where that is not tiny,
const JOURNALS_OF_A_QUOTA: u64 = 64;
const SMALLEST_JOURNAL_BYTES: u64 = 64 << 10;
/// or more than this.
const LARGEST_JOURNAL_BYTES: u64 = 32 << 20;
/// So long is the page cache filled before the files are closed.
const LAST_FILLING: Duration = Duration::from_secs(5);
/// Payload bytes moved in one commit.
const MOVE_BYTES: u64 = 64 << 20;
/// Compaction by itself begins when so much of the quota is taken: before, dead bytes cost nothing.
const COMPACT_FROM_PERCENT: u64 = 60;

/// What ticks remember.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    touches_noted: Option<Instant>,
    written_noted: WriteDay,
    /// The journal could not be folded since the last tick.
    fold_failed: bool,
}

/// What is due now and then.
pub(crate) fn tick(engine: &Engine, disk: &Disk, rounds: &mut Rounds) {
    let now = Instant::now();
    rounds.fold_failed = false;
    expire(engine, disk);
    if rounds.touches_noted.is_none_or(|noted| now - noted >= TOUCHES_EVERY) {
        rounds.touches_noted = Some(now);
        note_touches(engine, disk, rounds);
    }
    drop_empty_segments(engine, disk, &active(disk));
    if engine.health().trouble.is_none() {
        settle(engine, disk);
        let taken = disk.usage().physical_bytes();
        if taken / 100 >= engine.limits().quota_bytes / 10_000 * COMPACT_FROM_PERCENT {
            compact(engine, disk, 1);
        }
    }
    engine.pool.release_idle(usize::try_from(engine.config.queue_bytes.min(256 << 20)).unwrap_or(usize::MAX));
}

/// Has the system take one record into the page cache that went past it: that is the fastest way of writing and of reading
/// once, and the next restore, of this process or of one after it, finds it there.
pub(crate) fn fill_page_cache(engine: &Engine) {
    if let Some(at) = engine.next_past_page_cache() {
        engine.with_disk(|disk| disk.prefetch(&at, 0, at.payload_bytes));
    }
}

/// The last things before the files are closed.
pub(crate) fn finish(engine: &Engine, disk: &Disk, rounds: &mut Rounds) {
    if engine.health().trouble.is_some() {
        return;
    }
    note_touches(engine, disk, rounds);
    write_index(engine, disk);
    // For the process after this one.
    let until = Instant::now() + LAST_FILLING;
    while Instant::now() < until
        && let Some(at) = engine.next_past_page_cache()
    {
        disk.prefetch(&at, 0, at.payload_bytes);
    }
}

fn most_journal_bytes(quota_bytes: u64, usage: &DiskUsage) -> u64 {
    let of_quota = (quota_bytes / JOURNALS_OF_A_QUOTA).max(SMALLEST_JOURNAL_BYTES);
    JOURNAL_BYTES.max(usage.index_bytes).min(of_quota).min(LARGEST_JOURNAL_BYTES)
}

/// Whether the journal is to be folded, or room made, before it may grow by `bytes`.
pub(crate) fn is_crowded(engine: &Engine, disk: &Disk, bytes: u64) -> bool {
    const BLOCK_BYTES: u64 = 4096;
    let quota = engine.limits().quota_bytes;
    let usage = disk.usage();
    usage.journal_bytes > most_journal_bytes(quota, &usage)
        || usage.physical_bytes().saturating_add(bytes.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES) > quota
}

/// Folds a journal that has become long with a commit, rather than at the next tick.
pub(crate) fn fold_after_commit(engine: &Engine, disk: &Disk, rounds: &mut Rounds) {
    let usage = disk.usage();
    let is_long = usage.journal_bytes > most_journal_bytes(engine.limits().quota_bytes, &usage);
    if is_long && !rounds.fold_failed && engine.health().trouble.is_none() {
        rounds.fold_failed = !write_index(engine, disk);
    }
}

/// Folds a long journal, and evicts where the room for small notes has shrunk: they are written without asking.
pub(crate) fn settle(engine: &Engine, disk: &Disk) {
    let usage = disk.usage();
    if usage.journal_bytes > most_journal_bytes(engine.limits().quota_bytes, &usage) {
        write_index(engine, disk);
    }
    let usage = disk.usage();
    // Free space that others take is no reason to evict before something is to be written.
    if usage.physical_bytes().saturating_add(reserve_bytes(&usage)) > engine.limits().quota_bytes
        && let Err(error) = engine.make_room(disk, 0, &active(disk), None)
    {
        tracing::debug!("the KV cache has little room for its journal: {error}");
    }
}

/// Makes what is stored fit other limits.
pub(crate) fn fit(engine: &Engine, disk: &Disk) {
    disk.set_segment_bytes(engine.segment_bytes());
    let usage = disk.usage();
    if usage.physical_bytes().saturating_add(reserve_bytes(&usage)) > engine.limits().quota_bytes {
        // The segment under way may be most of what is stored; the next record begins another one.
        for segment in active(disk) {
            disk.seal(segment);
        }
    }
    settle(engine, disk);
    expire(engine, disk);
}

fn expire(engine: &Engine, disk: &Disk) {
    let mut catalog = engine.catalog();
    let removed = catalog.index.expire(now_ms(), EXPIRE_AT_ONCE);
    let gone = catalog.forget(&removed);
    drop(catalog);
    drop(gone);
    add(&engine.counters.records_expired, removed.records.len() as u64);
    engine.note_removed(disk, removed.records);
}

/// Journals what was used, by the second: recency needs no more.
fn note_touches(engine: &Engine, disk: &Disk, rounds: &mut Rounds) {
    const GRAIN_MS: u64 = 1000;
    let (mut touches, written) = {
        let mut catalog = engine.catalog();
        (catalog.index.drain_touches(), catalog.index.written())
    };
    let group = |touch: &super::index::Touch| (touch.last_used_ms / GRAIN_MS, touch.reused);
    touches.sort_unstable_by_key(|touch| (group(touch), touch.record));
    let mut facts: Vec<Fact> = touches
        .chunk_by(|a, b| group(a) == group(b))
        .map(|group| Fact::Touched {
            ids: group.iter().map(|touch| touch.record).collect(),
            last_used_ms: group.iter().map(|touch| touch.last_used_ms).max().unwrap_or(0),
            reused: group[0].reused,
        })
        .collect();
    if written != rounds.written_noted {
        facts.push(Fact::Written(written));
    }
    if facts.is_empty() {
        return;
    }
    match disk.note(&facts, false) {
        Ok(()) => rounds.written_noted = written,
        Err(error) => tracing::debug!("the KV cache could not journal its uses: {error}"),
    }
}

/// Replaces the index file, if there is room for a second one while it is written. Whether it did.
pub(crate) fn write_index(engine: &Engine, disk: &Disk) -> bool {
    // The mark before the dump: what is journalled in between is replayed over it. Commits are this thread's own, and all
    // others change the index before they journal.
    let mark = disk.mark();
    let dump = {
        let mut catalog = engine.catalog();
        catalog.index.forget_empty_namespaces();
        catalog.index.dump()
    };
    let result = engine
        .make_room(disk, Disk::index_bytes(&dump), &[], None)
        .map_err(|error| error.to_string())
        .and_then(|()| disk.write_index(&dump, mark).map_err(|error| error.to_string()));
    if let Err(why) = &result {
        tracing::debug!("the KV cache keeps its old index and longer journal: {why}");
    }
    result.is_ok()
}

/// Drops the files of segments in which nothing lives. Gives the bytes freed.
pub(crate) fn drop_empty_segments(engine: &Engine, disk: &Disk, open: &[SegmentId]) -> u64 {
    let mut empty = engine.catalog().index.compaction_candidates(open);
    empty.retain(|segment| segment.live_records == 0);
    let mut freed = 0;
    for segment in empty {
        match disk.drop_segment(segment.segment) {
            Ok(bytes) => {
                freed += bytes;
                engine.catalog().index.segment_dropped(segment.segment);
            }
            Err(error) => {
                tracing::debug!("the KV cache could not drop segment {}: {error}", segment.segment.0);
            }
        }
    }
    freed
}

/// Moves the live records out of at most so many segments that are mostly dead, and drops these.
pub(crate) fn compact(engine: &Engine, disk: &Disk, at_most: usize) -> Compacted {
    let mut total = Compacted::default();
    let candidates = engine.catalog().index.compaction_candidates(&active(disk));
    for segment in candidates.into_iter().take(at_most) {
        match move_segment(engine, disk, segment.segment) {
            Ok(moved) => {
                total.segments += moved.segments;
                total.moved_bytes += moved.moved_bytes;
                total.freed_bytes += moved.freed_bytes;
            }
            Err(error) => {
                tracing::debug!("the KV cache could not compact segment {}: {error}", segment.segment.0);
                break;
            }
        }
    }
    total
}

/// The segments that are being written: not to be evicted.
pub(crate) fn active(disk: &Disk) -> Vec<SegmentId> {
    disk.active_segment().into_iter().collect()
}

struct Moving {
    id: RecordId,
    info: RecordInfo,
    parts: Vec<PartEntry>,
    buffer: Buffer,
}

/// Writes a segment's live records anew and drops the file. What is found bad on the way is quarantined.
pub(crate) fn move_segment(engine: &Engine, disk: &Disk, segment: SegmentId) -> Result<Compacted, RoomError> {
    disk.seal(segment); // or its records would be moved into it, and dropped with it
    let (records, last_used_ms) = {
        let catalog = engine.catalog();
        let segments = catalog.index.segments();
        let own = segments.iter().find(|own| own.segment == segment);
        (catalog.index.records_in(segment), own.map_or(0, |own| own.last_used_ms))
    };
    let mut moved_bytes = 0;
    let mut left = records.as_slice();
    while !left.is_empty() {
        let mut bytes = 0;
        let group = left.iter().take_while(|(_, at)| {
            bytes += at.payload_bytes;
            bytes <= MOVE_BYTES || bytes == at.payload_bytes
        });
        let (group, rest) = left.split_at(group.count());
        left = rest;
        moved_bytes += move_records(engine, disk, group, last_used_ms)?;
    }
    let freed = disk.drop_segment(segment)?;
    let mut catalog = engine.catalog();
    let removed = catalog.index.segment_dropped(segment);
    let gone = catalog.forget(&removed);
    drop(catalog);
    drop(gone);
    add(&engine.counters.bytes_compacted, moved_bytes);
    Ok(Compacted { segments: 1, moved_bytes, freed_bytes: freed.saturating_sub(moved_bytes) })
}

fn move_records(
    engine: &Engine,
    disk: &Disk,
    records: &[(RecordId, Location)],
    last_used_ms: u64,
) -> Result<u64, RoomError> {
    let mut moving = Vec::with_capacity(records.len());
    for (id, at) in records {
        match read_record(engine, disk, *id, at) {
            Ok((header, buffer)) => moving.push(Moving { id: *id, info: header.info, parts: header.parts, buffer }),
            Err(error) if engine.judge(disk, *id, at, &error) => {}
            Err(error) => return Err(error.into_disk().into()),
        }
    }
    let slices: Vec<Vec<&[u8]>> = moving.iter().map(|record| record.buffer.slices()).collect();
    let new: Vec<NewRecord<'_>> = moving
        .iter()
        .zip(&slices)
        .map(|(record, slices)| NewRecord { info: &record.info, parts: &record.parts, payload: slices, last_used_ms })
        .collect();
    let cost = new.iter().map(|record| disk.cost_bytes(record)).sum();
    let mut open = active(disk);
    open.extend(records.first().map(|(_, at)| at.segment));
    engine.make_room(disk, cost, &open, None)?;
    let places = if new.is_empty() { Vec::new() } else { disk.commit(&new)? };
    let bytes = moving.iter().map(|record| record.buffer.len() as u64).sum();
    let mut unwanted = Vec::new();
    let mut catalog = engine.catalog();
    for (record, at) in moving.iter().zip(&places) {
        if !catalog.index.committed(record.id, *at) {
            unwanted.push(record.id);
        }
    }
    catalog.index.charge(bytes, now_ms());
    drop(catalog);
    engine.note_removed(disk, unwanted);
    Ok(bytes)
}
