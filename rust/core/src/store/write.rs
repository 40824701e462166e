//! The save path, on the caller's thread: plan, copy what is new into the queue, or leave the copy to the copier.
//!
//! A save waits for one lock and its own copy, never for the disk. Its records are reserved in the index first (nobody
//! else saves the same, nobody is served them), copied without a lock, and served from then on.

use std::time::Instant;

use super::copy::copy_all;
use super::disk::{Fact, NamespaceRow, namespace_fits};
use super::engine::{Engine, now_ms};
use super::error::Refusal;
use super::index::{Continues, Place, Run, SavePlan};
use super::memory::BufferPool;
use super::queue::{Accepting, Job, Placement, Planned, Sources};
use super::snapshot;
use super::stats::add;
use super::transfer::{Namespace, Saved, SnapshotSource, Source};
use super::types::{BLOCK_TOKENS, Layout};

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
    let block_bytes = layout.most_stored_bytes(BLOCK_TOKENS);
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
    let state_bytes = snapshot.as_ref().map(snapshot::bytes);
    let run_bytes = |run: &Run| match run.tokens {
        BLOCK_TOKENS => block_bytes,
        tokens => layout.most_stored_bytes(tokens),
    };
    let run_bytes: Vec<u64> = plan.runs.iter().map(run_bytes).collect();
    let room: u64 = run_bytes.iter().copied().chain(state_bytes).map(footprint).sum();
    // What is not taken of it is given back when the copies are made.
    let most_bytes: u64 = run_bytes.iter().copied().chain(state_bytes).sum();
    if let Err(refusal) = catalog.index.admit(&namespace.key, tokens, &plan, most_bytes, now) {
        return Err((refusal.into(), keep));
    }
    let Some(accepting) = engine.queue.accept(catalog.generation, room) else {
        catalog.index.refund(most_bytes, now);
        return Err((Refusal::QueueFull, keep));
    };
    let placement = accepting.placement();
    let arrays = snapshot.as_ref().map(|snapshot| snapshot.arrays.clone()).unwrap_or_default();
    let (accepting, records) =
        reserve(&mut catalog.index, accepting, namespace, tokens, &plan, &run_bytes, snapshot.as_ref(), now);
    let layout_bytes = layout.token_bytes() * plan.new_tokens as u64;
    let from = Sources { layout, parts: sources.to_vec(), arrays };
    let job = Job { generation: catalog.generation, records, from, keep };
    let bytes = layout_bytes + state_bytes.unwrap_or(0);
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
    plan: &SavePlan,
    run_bytes: &[u64],
    snapshot: Option<&SnapshotSource>,
    now: u64,
) -> (Accepting<'q>, Vec<Planned>) {
    let mut records = Vec::with_capacity(plan.runs.len() + 1);
    let mut attach = plan.attach;
    for (run, bytes) in plan.runs.iter().zip(run_bytes.iter().copied()) {
        let own = &tokens[run.start..run.start + run.tokens];
        // The plan was made under the lock that is still held, so it cannot be stale.
        let Ok((node, id)) = index.insert_block(&namespace.key, attach, own, Place::Pending, now) else {
            // A snapshot is of all the tokens: it must not hang on fewer.
            attach = None;
            break;
        };
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
    let is_wrong = layout.parts.iter().any(|part| part.token_bytes() == 0 || !part.is_coherent());
    if sources.len() != layout.parts.len() || is_wrong || tokens.is_empty() {
        return Err(Refusal::SourceMismatch);
    }
    let too_large = layout.parts.iter().any(|part| part.most_stored_bytes(BLOCK_TOKENS) > u64::from(u32::MAX))
        || tokens.len() > MOST_TOKENS
        || !is_record(engine, layout.most_stored_bytes(BLOCK_TOKENS))
        || !namespace_fits(layout, &namespace.label);
    if too_large { Err(Refusal::TooLarge) } else { Ok(()) }
}

/// Whether so many payload bytes can be one record: it must fit in the queue, and be little enough of the quota that others
/// fit beside it.
fn is_record(engine: &Engine, bytes: u64) -> bool {
    let most = engine.config.queue_bytes.min(engine.limits().quota_bytes / 2);
    bytes <= most && footprint(bytes) <= most
}

/// RAM of so many payload bytes. A record without payload takes some too.
fn footprint(bytes: u64) -> u64 {
    usize::try_from(bytes).map_or(u64::MAX / 4, |bytes| footprint_of(BufferPool::footprint(bytes)))
}

/// RAM of a record whose buffer takes so much.
pub(crate) fn footprint_of(buffer_bytes: usize) -> u64 {
    const ENTRY_BYTES: u64 = 512;
    ENTRY_BYTES + buffer_bytes as u64
}
