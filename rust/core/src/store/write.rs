//! The save path, on the caller's thread: plan, copy what is new into the queue, or leave the copy to the copier.
//!
//! A save waits for one lock and its own copy, never for the disk. Its records are reserved in the index first (nobody
//! else saves the same, nobody is served them), copied without a lock, and served from then on.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::disk::{Fact, NamespaceRow, namespace_fits};
use super::engine::{Engine, now_ms};
use super::error::Refusal;
use super::index::{Continues, Place, SavePlan};
use super::memory::{Buffer, BufferPool, Resident, copy_in, gather};
use super::queue::{Accepting, Job, Placement, Planned, Sources};
use super::snapshot;
use super::stats::add;
use super::transfer::{Namespace, Saved, SnapshotSource, Source};
use super::types::{Layout, PartEntry};

/// Payload bytes of one piece of copying: enough to be worth handing to another thread, little enough to share out well.
const PIECE_BYTES: u64 = 1 << 20;

/// Positions are 32 bits, and a plan ends at half of them.
const MOST_TOKENS: usize = u32::MAX as usize / 2;

/// What is to be saved.
pub(crate) struct Request<'r> {
    pub(crate) namespace: &'r Namespace,
    pub(crate) layout: &'r Layout,
    pub(crate) tokens: &'r [u32],
    pub(crate) sources: &'r [Source],
    pub(crate) snapshot: Option<SnapshotSource>,
    pub(crate) keep: Box<dyn Send>,
}

/// Carries out a save.
///
/// # Safety
/// As [`super::Store::save`].
#[expect(unsafe_code, reason = "the sources are the caller's")]
pub(crate) unsafe fn save(engine: &Engine, request: Request<'_>) -> Saved {
    let start = Instant::now();
    let (mut saved, job) = match accept(engine, request) {
        Ok(accepted) => accepted,
        Err((refusal, keep)) => {
            drop(keep);
            (Saved { refused: Some(refusal), ..Saved::default() }, None)
        }
    };
    if let Some(job) = job {
        // SAFETY: the caller vouches for the sources until `keep`, which the job has, is dropped.
        let copied = unsafe { copy_all(engine, job.generation, &job.records, &job.from, true) };
        if !copied {
            saved = Saved { refused: Some(Refusal::QueueFull), ..Saved::default() };
        }
        drop(job.keep);
    }
    if saved.new_tokens > 0 || saved.bytes > 0 {
        add(&engine.counters.saves, 1);
        add(&engine.counters.saves_deferred, u64::from(saved.deferred));
        engine.counters.copy_us.add_since(start);
    }
    if let Some(refusal) = saved.refused {
        engine.counters.refuse(refusal);
    }
    saved
}

type Refused = (Refusal, Box<dyn Send>);

/// Plans and reserves. Gives the job if the caller is to copy it.
fn accept(engine: &Engine, request: Request<'_>) -> Result<(Saved, Option<Job>), Refused> {
    let Request { namespace, layout, tokens, sources, snapshot, keep } = request;
    if let Err(refusal) = check(engine, namespace, layout, tokens, sources) {
        return Err((refusal, keep));
    }
    let mut refused = None;
    let mut snapshot = snapshot.filter(|snapshot| {
        let fits = snapshot::fits(snapshot) && is_record(engine, snapshot::bytes(snapshot));
        if !fits {
            refused = Some(Refusal::TooLarge);
        }
        fits
    });
    let have = sources.iter().map(|source| source.first_token).max().unwrap_or(0)..tokens.len();
    let now = now_ms();
    let mut catalog = engine.catalog();
    // A namespace's layout is the index's own copy, so that jobs share one.
    let opened = catalog.index.open_namespace(&namespace.key, &namespace.label, layout);
    let plan = match opened {
        Ok(new) => {
            if new {
                let (key, label) = (namespace.key, namespace.label.clone());
                catalog.news.push(Fact::Namespace(NamespaceRow { key, layout: layout.clone(), label }));
            }
            catalog.index.plan_save(&namespace.key, tokens, have, now)
        }
        Err(refusal) => Err(refusal),
    };
    let (plan, layout) = match (plan, catalog.index.layout(&namespace.key)) {
        (Ok(plan), Some(layout)) => (plan, layout),
        (Err(refusal), _) => return Err((refusal.into(), keep)),
        (Ok(_), None) => return Err((Refusal::LayoutChanged, keep)),
    };
    if plan.has_snapshot {
        snapshot = None;
    }
    if plan.runs.is_empty() && snapshot.is_none() {
        drop(catalog);
        drop(keep);
        return Ok((Saved { refused, ..Saved::default() }, None));
    }
    let block_bytes = layout.token_bytes() * plan.new_tokens as u64;
    let bytes = block_bytes + snapshot.as_ref().map_or(0, snapshot::bytes);
    let room: u64 = plan.runs.iter().map(|run| footprint(layout.token_bytes() * run.tokens as u64)).sum::<u64>()
        + snapshot.as_ref().map_or(0, |snapshot| footprint(snapshot::bytes(snapshot)));
    if let Err(refusal) = catalog.index.admit(&namespace.key, tokens, &plan, bytes, now) {
        return Err((refusal.into(), keep));
    }
    let Some(accepting) = engine.queue.accept(catalog.generation, room) else {
        catalog.index.refund(bytes, now);
        return Err((Refusal::QueueFull, keep));
    };
    let placement = accepting.placement();
    let arrays = snapshot.as_ref().map(|snapshot| snapshot.arrays.clone()).unwrap_or_default();
    let (accepting, records) =
        reserve(&mut catalog.index, accepting, namespace, tokens, &layout, &plan, snapshot.as_ref(), now);
    let from = Sources { layout, parts: sources.to_vec(), arrays };
    let job = Job { generation: catalog.generation, records, from, keep };
    let blocks = job.records.iter().filter(|record| record.block.is_some()).count() as u64;
    add(&engine.counters.blocks_saved, blocks);
    add(&engine.counters.snapshots_saved, job.records.len() as u64 - blocks);
    add(&engine.counters.tokens_saved, plan.new_tokens as u64);
    add(&engine.counters.bytes_saved, bytes);
    let saved = Saved { new_tokens: plan.new_tokens, bytes, refused, deferred: placement == Placement::Deferred };
    match placement {
        Placement::Inline => {
            drop(accepting);
            Ok((saved, Some(job)))
        }
        Placement::Deferred => {
            accepting.defer(job);
            Ok((saved, None))
        }
    }
}

/// Puts the plan's records into index and queue, in the same order.
#[expect(clippy::too_many_arguments, reason = "the one step that joins all of a save's parts")]
fn reserve<'q>(
    index: &mut super::index::Index,
    mut accepting: Accepting<'q>,
    namespace: &Namespace,
    tokens: &[u32],
    layout: &Layout,
    plan: &SavePlan,
    snapshot: Option<&SnapshotSource>,
    now: u64,
) -> (Accepting<'q>, Vec<Planned>) {
    let mut records = Vec::with_capacity(plan.runs.len() + 1);
    let mut attach = plan.attach;
    for run in &plan.runs {
        let own = &tokens[run.start..run.start + run.tokens];
        // The plan was made under the lock that is still held, so it cannot be stale.
        let Ok((node, id)) = index.insert_block(&namespace.key, attach, own, Place::Pending, now) else {
            // A snapshot is of all the tokens: it must not hang on fewer.
            attach = None;
            break;
        };
        let bytes = layout.token_bytes() * run.tokens as u64;
        let footprint = footprint(bytes);
        let ticket = accepting.ticket(id, footprint);
        records.push(Planned { ticket, id, block: Some((run.start, run.tokens)), bytes, footprint });
        attach = u16::try_from(run.tokens).ok().map(|tokens| Continues { node, tokens });
    }
    if let Some(snapshot) = snapshot
        && let Some(at) = attach
        && let Ok((_, id)) = index.insert_snapshot(at, &snapshot::wrap(snapshot), Place::Pending, now)
    {
        let bytes = snapshot::bytes(snapshot);
        let footprint = footprint(bytes);
        let ticket = accepting.ticket(id, footprint);
        records.push(Planned { ticket, id, block: None, bytes, footprint });
    }
    (accepting, records)
}

fn check(
    engine: &Engine,
    namespace: &Namespace,
    layout: &Layout,
    tokens: &[u32],
    sources: &[Source],
) -> Result<(), Refusal> {
    if !engine.is_usable() {
        return Err(Refusal::Closed);
    }
    if let Some(trouble) = &engine.health().trouble {
        return Err(trouble.refusal);
    }
    let empty = layout.parts.iter().any(|part| part.token_bytes() == 0);
    if sources.len() != layout.parts.len() || empty || tokens.is_empty() {
        return Err(Refusal::SourceMismatch);
    }
    let block_tokens = super::types::BLOCK_TOKENS as u64;
    let block_bytes = |token_bytes: u64| token_bytes.saturating_mul(block_tokens);
    let too_large = layout.parts.iter().any(|part| block_bytes(part.token_bytes()) > u64::from(u32::MAX))
        || tokens.len() > MOST_TOKENS
        || !is_record(engine, block_bytes(layout.token_bytes()))
        || !namespace_fits(layout, &namespace.label);
    if too_large { Err(Refusal::TooLarge) } else { Ok(()) }
}

/// Whether so many payload bytes can be one record: it must fit in the queue, and be little enough of the quota that others
/// fit beside it.
fn is_record(engine: &Engine, bytes: u64) -> bool {
    let most = engine.config.queue_bytes.min(engine.config.quota_bytes / 2);
    bytes <= most && footprint(bytes) <= most
}

/// RAM of so many payload bytes. A record without payload takes some too.
fn footprint(bytes: u64) -> u64 {
    const ENTRY_BYTES: u64 = 512;
    ENTRY_BYTES + usize::try_from(bytes).map_or(u64::MAX / 4, |bytes| BufferPool::footprint(bytes) as u64)
}

/// One piece of a copy: some parts of a block, or one array of a snapshot.
struct Piece {
    record: usize,
    parts: Range<usize>,
}

/// Copies records of a job and hands them to the queue; false if memory was short, in which case none of them is kept.
/// `on_all_lanes`: with the lanes' help, otherwise on this thread alone.
///
/// # Safety
/// The job's sources are readable and nobody writes them.
#[expect(unsafe_code, reason = "follows the caller's sources")]
pub(crate) unsafe fn copy_all(
    engine: &Engine,
    generation: u64,
    records: &[Planned],
    from: &Sources,
    on_all_lanes: bool,
) -> bool {
    let unfilled = Unfilled { engine, generation, records };
    let buffers: Option<Vec<Buffer>> =
        records.iter().map(|record| engine.pool.take(usize::try_from(record.bytes).ok()?)).collect();
    let Some(buffers) = buffers else {
        std::mem::forget(unfilled);
        abandon(engine, generation, records, "the system has no memory for the copy");
        return false;
    };
    let mut pieces = Vec::new();
    let mut sums: Vec<Vec<AtomicU64>> = Vec::with_capacity(records.len());
    for (number, record) in records.iter().enumerate() {
        let parts = if record.block.is_some() { from.layout.parts.len() } else { from.arrays.len() };
        sums.push((0..parts).map(|_| AtomicU64::new(0)).collect());
        let bytes_of = |part: usize| part_bytes(from, record, part);
        pieces.extend(pieces_of(parts, bytes_of).map(|parts| Piece { record: number, parts }));
    }
    let copy = |piece: usize| {
        let Piece { record: number, parts } = &pieces[piece];
        let record = &records[*number];
        let mut offset: u64 = (0..parts.start).map(|part| part_bytes(from, record, part)).sum();
        for part in parts.clone() {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            // SAFETY: the caller vouches for the sources. The piece alone writes these parts of the buffer, which nobody
            // else has yet.
            let sum = unsafe { copy_part(from, record, part, &buffers[*number], at) };
            sums[*number][part].store(sum, Ordering::Relaxed);
            offset += part_bytes(from, record, part);
        }
    };
    if on_all_lanes {
        engine.lanes.run(pieces.len(), &copy);
    } else {
        (0..pieces.len()).for_each(copy);
    }
    let residents: Vec<Arc<Resident>> = buffers
        .into_iter()
        .zip(records)
        .zip(sums)
        .map(|((buffer, record), sums)| {
            let entry = |(part, sum): (usize, &AtomicU64)| PartEntry {
                stored_bytes: u32::try_from(part_bytes(from, record, part)).unwrap_or(u32::MAX),
                codec: 0,
                checksum: sum.load(Ordering::Relaxed),
            };
            let parts = sums.iter().enumerate().map(entry).collect();
            Arc::new(Resident { buffer, parts, footprint: record.footprint })
        })
        .collect();
    std::mem::forget(unfilled);
    let mut catalog = engine.catalog();
    let is_stale = catalog.generation != generation;
    let kept: Vec<bool> = records
        .iter()
        .zip(&residents)
        .map(|(record, resident)| {
            let kept = !is_stale && catalog.index.filled(record.id);
            if kept {
                catalog.hot.insert(record.id, Arc::clone(resident));
            }
            kept
        })
        .collect();
    drop(catalog);
    if is_stale {
        // Before the tickets are filled: a flush that sees these must see the loss.
        let bytes = records.iter().map(|record| record.bytes).sum();
        engine.lose(records.len() as u64, bytes, "the cache folder was made anew before it was written");
    }
    for ((record, resident), kept) in records.iter().zip(residents).zip(kept) {
        engine.queue.fill(record.ticket, kept.then_some(resident));
    }
    true
}

/// Records that are being copied: abandoned if the copy panics, or whoever waits for them would wait for ever.
struct Unfilled<'c> {
    engine: &'c Engine,
    generation: u64,
    records: &'c [Planned],
}

impl Drop for Unfilled<'_> {
    fn drop(&mut self) {
        abandon(self.engine, self.generation, self.records, "the copy panicked");
    }
}

/// Records that were reserved will not be there.
pub(crate) fn abandon(engine: &Engine, generation: u64, records: &[Planned], why: &str) {
    let mut catalog = engine.catalog();
    let mut gone = Vec::new();
    let (mut lost, mut bytes) = (0, 0);
    for record in records {
        if catalog.generation != generation {
            (lost, bytes) = (lost + 1, bytes + record.bytes);
            continue;
        }
        let removed = catalog.index.remove(record.id);
        lost += removed.records.len() as u64;
        bytes += if removed.records.is_empty() { 0 } else { record.bytes };
        gone.extend(catalog.forget(&removed));
    }
    drop(catalog);
    drop(gone);
    engine.lose(lost, bytes, why);
    for record in records {
        engine.queue.fill(record.ticket, None);
    }
}

fn part_bytes(from: &Sources, record: &Planned, part: usize) -> u64 {
    match record.block {
        Some((_, tokens)) => from.layout.parts[part].token_bytes() * tokens as u64,
        None => from.arrays[part].bytes as u64,
    }
}

/// # Safety
/// As [`copy_all`]; nobody else uses this part of the buffer.
#[expect(unsafe_code, reason = "follows the caller's sources")]
unsafe fn copy_part(from: &Sources, record: &Planned, part: usize, into: &Buffer, offset: usize) -> u64 {
    let Some((start, tokens)) = record.block else {
        let array = from.arrays[part];
        // SAFETY: the caller vouches for the array.
        return unsafe { copy_in(array.ptr, array.bytes, into, offset) };
    };
    let (source, layout) = (&from.parts[part], from.layout.parts[part]);
    let first = source.ptr.wrapping_add((start - source.first_token) * source.token_stride_bytes);
    let rows = (layout.rows as usize, source.row_stride_bytes);
    // SAFETY: the caller vouches for the source from its first token, which the plan does not go before, to the last.
    unsafe { gather(first, rows, (tokens, source.token_stride_bytes), layout.row_bytes as usize, into, offset) }
}

/// Divides parts into ranges of about [`PIECE_BYTES`].
pub(crate) fn pieces_of(parts: usize, bytes_of: impl Fn(usize) -> u64) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next;
        let mut bytes = 0;
        while next < parts && (next == first || bytes + bytes_of(next) <= PIECE_BYTES) {
            bytes += bytes_of(next);
            next += 1;
        }
        (next > first).then_some(first..next)
    })
}
