//! The thread that makes records durable: takes what is ready, frees disk space for it, commits it as one group.
//!
//! While it waits for the disk, the next group gathers. When the disk fails, it tries again at once (with other records
//! evicted if space is short), then gives the records up, says so once, and probes from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::{Disk, DiskError, Fact, NewRecord};
use super::engine::{Engine, RoomError, Trouble, now_ms};
use super::error::Refusal;
use super::maintenance::{self, Rounds, active};
use super::queue::{Command, Next, Ready};
use super::stats::add;
use super::types::{RecordId, RecordInfo};

/// Most payload bytes of one group: its memory is free for others only when all of it is durable.
const BATCH_BYTES: u64 = 256 << 20;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_secs(5);
/// How long a group waits for room that running requests hold.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Trouble that comes back within so long, besides the last wait, is the same trouble.
const TROUBLE_RETURNS: Duration = Duration::from_secs(30);

/// The thread's work, until the queue is stopped and empty.
pub(crate) fn run(engine: &Arc<Engine>) {
    let gone = Gone(engine);
    let mut rounds = Rounds::default();
    let mut tick = Instant::now() + TICK;
    loop {
        let batch_bytes = BATCH_BYTES.min(engine.limits().quota_bytes / 8).max(1);
        let due = engine.health().trouble.as_ref().map_or(tick, |trouble| tick.min(trouble.retry_at));
        match engine.queue.next(due, batch_bytes, engine.has_past_page_cache()) {
            Next::Batch(batch) => {
                let records = batch.len();
                write(engine, &batch);
                drop(batch);
                engine.queue.finished(records);
                engine.with_disk(|disk| maintenance::fold_after_commit(engine, disk, &mut rounds));
            }
            Next::Command(Command::Compact(answer)) => {
                let done = engine.with_disk(|disk| maintenance::compact(engine, disk, usize::MAX));
                let _ = answer.send(done.unwrap_or_default());
            }
            Next::Command(Command::Sweep { renew_index, answer }) => {
                let renewed = engine.with_disk(|disk| {
                    maintenance::drop_empty_segments(engine, disk, &[]);
                    renew_index && maintenance::write_index(engine, disk)
                });
                let _ = answer.send(renewed.unwrap_or_default());
            }
            Next::Command(Command::Settle(answer)) => {
                engine.with_disk(|disk| maintenance::settle(engine, disk));
                let _ = answer.send(());
            }
            Next::Command(Command::Fit(answer)) => {
                engine.with_disk(|disk| maintenance::fit(engine, disk));
                let _ = answer.send(());
            }
            Next::Idle => maintenance::fill_page_cache(engine),
            Next::Tick => {
                engine.probe();
                if Instant::now() >= tick {
                    engine.with_disk(|disk| maintenance::tick(engine, disk, &mut rounds));
                    tick = Instant::now() + TICK;
                }
            }
            Next::Stop => break,
        }
    }
    engine.with_disk(|disk| maintenance::finish(engine, disk, &mut rounds));
    drop(gone);
}

/// Says that the writer has ended, also if it panicked: nobody may wait for it.
struct Gone<'e>(&'e Arc<Engine>);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.queue.writer_gone();
    }
}

/// A record about to be written.
struct Outgoing<'b> {
    ready: &'b Ready,
    info: RecordInfo,
    slices: Vec<&'b [u8]>,
}

/// Commits a batch, or gives it up.
fn write(engine: &Engine, batch: &[Ready]) {
    let trouble = engine.health().trouble.as_ref().map(|trouble| trouble.why.clone());
    if let Some(why) = trouble {
        give_up(engine, batch, &why);
        return;
    }
    let disk = engine.disk();
    let Some(disk) = disk.as_ref() else {
        give_up(engine, batch, "the store is closed");
        return;
    };
    let patience = Instant::now() + ROOM_PATIENCE;
    let bytes = batch.iter().map(|ready| ready.resident.buffer.len() as u64).sum();
    let mut retried = false;
    let mut sealed = false;
    loop {
        let releases = engine.queue.releases();
        match try_write(engine, disk, batch) {
            Ok(()) => {
                lose_stale(engine, batch);
                return;
            }
            Err(RoomError::Refused(refusal)) => {
                if squeeze(engine, disk) {
                    continue;
                }
                // The segment under way may be all that can be evicted.
                if !sealed && let Some(segment) = disk.active_segment() {
                    sealed = true;
                    disk.seal(segment);
                    continue;
                }
                let refusal = Refusal::from(refusal);
                let left = patience.saturating_duration_since(Instant::now());
                // What is in use now may not be in a moment. Free space that others took does not come back so.
                if refusal == Refusal::NoRoom && !left.is_zero() && engine.queue.wait_for_release(releases, left) {
                    continue;
                }
                engine.suspend(refusal, &refusal.to_string(), false, bytes);
                give_up(engine, batch, &refusal.to_string());
                return;
            }
            Err(RoomError::Disk(error)) => {
                if error.is_full() && !retried && engine.make_room(disk, bytes, &active(disk), Some(bytes)).is_ok() {
                    retried = true;
                    continue;
                }
                if !retried && !is_folder_gone(&error) {
                    retried = true;
                    continue;
                }
                let refusal = if error.is_full() { Refusal::FreeSpace } else { Refusal::Suspended };
                engine.suspend(refusal, &error.to_string(), is_folder_gone(&error), bytes);
                give_up(engine, batch, &error.to_string());
                return;
            }
        }
    }
}

fn try_write(engine: &Engine, disk: &Disk, batch: &[Ready]) -> Result<(), RoomError> {
    let catalog = engine.catalog();
    let outgoing: Vec<Outgoing<'_>> = batch
        .iter()
        .filter(|ready| ready.generation == catalog.generation)
        .filter_map(|ready| {
            let info = catalog.index.record_info(ready.id)?;
            Some(Outgoing { ready, info, slices: ready.resident.buffer.slices() })
        })
        .collect();
    let news = catalog.news.clone();
    drop(catalog);
    let last_used_ms = now_ms();
    let records: Vec<NewRecord<'_>> = outgoing
        .iter()
        .map(|record| NewRecord {
            info: &record.info,
            parts: record.ready.resident.parts.entries(),
            payload: &record.slices,
            last_used_ms,
        })
        .collect();
    let cost = records.iter().map(|record| disk.cost_bytes(record)).sum();
    engine.make_room(disk, cost, &active(disk), None)?;
    if records.is_empty() {
        return Ok(());
    }
    if !news.is_empty() {
        disk.note(&news, false)?;
        // Only the writer takes news out, so what was noted is still at the front.
        engine.catalog().news.drain(..news.len());
    }
    let start = Instant::now();
    let places = disk.commit(&records)?;
    engine.counters.commit_us.add_since(start);
    engine.went_past_page_cache(places.iter().copied());
    let mut unwanted: Vec<RecordId> = Vec::new();
    let mut gone = Vec::new();
    let mut catalog = engine.catalog();
    for (record, at) in outgoing.iter().zip(&places) {
        let id = record.ready.id;
        if catalog.index.committed(id, *at) {
            gone.extend(catalog.hot.durable(id));
        } else {
            unwanted.push(id);
        }
    }
    drop(catalog);
    drop(gone);
    engine.note_removed(disk, unwanted);
    add(&engine.counters.commits, 1);
    add(&engine.counters.records_committed, outgoing.len() as u64);
    for record in &outgoing {
        add(&engine.counters.bytes_committed, record.ready.resident.buffer.len() as u64);
        engine.counters.durable_us.add_since(record.ready.accepted);
    }
    Ok(())
}

/// Makes room out of segments that something holds only a part of: evicts the rest and moves the part.
fn squeeze(engine: &Engine, disk: &Disk) -> bool {
    let candidate = {
        let mut catalog = engine.catalog();
        let mut segments = catalog.index.segments();
        segments.retain(|segment| disk.active_segment() != Some(segment.segment) && segment.protected_records > 0);
        segments.sort_by_key(|segment| segment.last_used_ms);
        segments.into_iter().find_map(|segment| {
            let removed = catalog.index.thin_out(segment.segment);
            let gone = catalog.forget(&removed);
            (!removed.records.is_empty()).then_some((segment.segment, removed, gone))
        })
    };
    let Some((segment, removed, gone)) = candidate else { return false };
    drop(gone);
    add(&engine.counters.records_evicted, removed.records.len() as u64);
    engine.note_removed(disk, removed.records);
    maintenance::move_segment(engine, disk, segment).is_ok_and(|moved| moved.segments > 0)
}

/// Whether the store's folder, or a file that it must have, is not there any more.
fn is_folder_gone(error: &DiskError) -> bool {
    matches!(error, DiskError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Counts what was accepted before the index was replaced, and is not in the folder that there is now.
fn lose_stale(engine: &Engine, batch: &[Ready]) {
    let generation = engine.catalog().generation;
    let stale = || batch.iter().filter(|ready| ready.generation != generation);
    let bytes = stale().map(|ready| ready.resident.buffer.len() as u64).sum();
    engine.lose(stale().count() as u64, bytes, "the cache folder was made anew before it was written");
}

fn give_up(engine: &Engine, batch: &[Ready], why: &str) {
    lose_stale(engine, batch);
    let mut catalog = engine.catalog();
    let mut records = 0;
    let mut gone = Vec::new();
    for ready in batch {
        if ready.generation != catalog.generation {
            continue;
        }
        // What left the index before (it was purged, or continued something bad) is not lost now; what continues a lost
        // record is lost with it.
        let removed = catalog.index.remove(ready.id);
        records += removed.records.len() as u64;
        gone.extend(catalog.forget(&removed));
    }
    drop(catalog);
    let bytes = gone.iter().map(|resident| resident.buffer.len() as u64).sum();
    drop(gone);
    engine.lose(records, bytes, why);
}

impl Engine {
    /// Counts what was accepted and will not be durable.
    pub(crate) fn lose(&self, records: u64, bytes: u64, why: &str) {
        if records == 0 {
            return;
        }
        add(&self.counters.records_lost, records);
        add(&self.counters.bytes_lost, bytes);
        let mut health = self.health();
        health.lost.0 += records;
        health.lost.1 += bytes;
        health.lost_why = Some(why.to_owned());
    }

    /// Takes nothing more until a probe succeeds. Warns where this is new. `need`: bytes for which there must be room.
    pub(crate) fn suspend(&self, refusal: Refusal, why: &str, folder_gone: bool, need: u64) {
        let mut health = self.health();
        let now = Instant::now();
        // Trouble that comes back at once is the old one: it is not announced again, and probed less and less often.
        let before = health.trouble.as_ref().map(|trouble| trouble.wait).or_else(|| {
            health.over.filter(|(ended, wait)| now - *ended < *wait + TROUBLE_RETURNS).map(|(_, wait)| wait)
        });
        let wait = before.map_or(FIRST_RETRY, |wait| (wait * 2).min(LAST_RETRY));
        health.trouble = Some(Trouble { refusal, why: why.to_owned(), retry_at: now + wait, wait, folder_gone, need });
        drop(health);
        if before.is_none() {
            tracing::warn!(
                folder = %self.config.folder.display(),
                "the KV cache takes nothing more for now: {why}. What is stored is still used"
            );
        }
    }

    /// If the time has come, tries whether the trouble is over.
    pub(crate) fn probe(&self) {
        let Some(trouble) = self.health().trouble.clone() else { return };
        if Instant::now() < trouble.retry_at {
            return;
        }
        let works = if trouble.folder_gone {
            self.reopen().map_err(|error| error.to_string())
        } else {
            self.with_disk(|disk| self.try_disk(disk, trouble.need))
                .unwrap_or_else(|| Err("the folder could not be opened again".to_owned()))
        };
        match works {
            Ok(()) => {
                let mut health = self.health();
                health.trouble = None;
                health.over = Some((Instant::now(), trouble.wait));
                drop(health);
                tracing::info!(folder = %self.config.folder.display(), "the KV cache takes blocks again");
            }
            Err(why) => self.suspend(trouble.refusal, &why, trouble.folder_gone, trouble.need),
        }
    }

    fn try_disk(&self, disk: &Disk, need: u64) -> Result<(), String> {
        self.make_room(disk, need, &[], None).map_err(|error| error.to_string())?;
        let written = self.catalog().index.written();
        disk.note(&[Fact::Written(written)], true).map_err(|error| error.to_string())
    }
}
