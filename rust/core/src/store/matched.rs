//! A lookup and what it found: held, so that nothing of it is evicted, until it is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::engine::{Engine, now_ms};
use super::error::MissReason;
use super::index::{NodeId, SnapshotId, Step};
use super::parts::StoredParts;
use super::snapshot;
use super::stats::add;
use super::transfer::{Namespace, SnapshotInfo};
use super::types::{Layout, RecordId};

/// What a lookup found. Holds it from eviction until dropped.
pub struct Match {
    engine: Arc<Engine>,
    generation: u64,
    layout: Option<Arc<Layout>>,
    steps: Vec<Found>,
    tokens: usize,
    restorable: usize,
    snapshot: Option<FoundSnapshot>,
    miss: Option<MissReason>,
    held: Option<NodeId>,
}

/// A block of a match.
pub(crate) struct Found {
    pub(crate) step: Step,
    /// Its parts' places and checksums on disk, once they were read.
    pub(crate) parts: OnceLock<StoredParts>,
    /// Whether its restore was counted.
    counted: AtomicBool,
}

/// The snapshot of a match.
pub(crate) struct FoundSnapshot {
    pub(crate) id: SnapshotId,
    pub(crate) record: RecordId,
    info: SnapshotInfo,
}

impl Found {
    /// Whether this is the first restore of the block through this match.
    pub(crate) fn count(&self) -> bool {
        !self.counted.swap(true, Ordering::Relaxed)
    }

    /// Tokens of the block that belong to the first `tokens` of the prompt.
    pub(crate) fn used(&self, tokens: usize) -> usize {
        usize::from(self.step.tokens).min(tokens.saturating_sub(self.step.start as usize))
    }
}

/// Looks a prompt up.
pub(crate) fn lookup(engine: &Arc<Engine>, namespace: &Namespace, tokens: &[u32], limit: usize) -> Match {
    let start = Instant::now();
    let found = if engine.is_usable() { find(engine, namespace, tokens, limit) } else { nothing(engine) };
    let counters = &engine.counters;
    let asked = limit.min(tokens.len());
    add(&counters.lookups, 1);
    add(&counters.tokens_asked, asked as u64);
    add(&counters.tokens_matched, found.restorable as u64);
    if let Some(reason) = found.miss {
        counters.miss(reason);
    } else {
        add(&counters.hits, 1);
        add(&counters.full_hits, u64::from(found.restorable == asked));
    }
    counters.lookup_us.add_since(start);
    found
}

fn nothing(engine: &Arc<Engine>) -> Match {
    Match {
        engine: Arc::clone(engine),
        generation: 0,
        layout: None,
        steps: Vec::new(),
        tokens: 0,
        restorable: 0,
        snapshot: None,
        miss: Some(MissReason::Disabled),
        held: None,
    }
}

fn find(engine: &Arc<Engine>, namespace: &Namespace, tokens: &[u32], limit: usize) -> Match {
    let mut catalog = engine.catalog();
    let generation = catalog.generation;
    let index = &mut catalog.index;
    let lookup = index.lookup(&namespace.key, &namespace.label, tokens, limit, now_ms());
    let layout = index.layout(&namespace.key);
    let snapshot = lookup.snapshot.and_then(|hit| {
        let meta = index.snapshot_meta(hit.snapshot)?;
        let (array_bytes, own) = snapshot::unwrap(&meta)?;
        let info = SnapshotInfo { position: hit.position, meta: own.to_vec(), array_bytes };
        Some(FoundSnapshot { id: hit.snapshot, record: hit.record, info })
    });
    let needs_snapshot = layout.as_ref().is_some_and(|layout| layout.needs_snapshot);
    let restorable = if needs_snapshot && snapshot.is_none() { 0 } else { lookup.restorable_tokens };
    // What lies behind the restorable tokens is neither read nor held.
    let useful = if restorable > 0 { lookup.path.as_slice() } else { &[] };
    let useful: Vec<Step> = useful.iter().copied().filter(|step| (step.start as usize) < restorable).collect();
    let held = useful.last().map(|step| step.node);
    if let Some(node) = held {
        index.hold(node);
    }
    if let Some(snapshot) = &snapshot {
        index.hold_snapshot(snapshot.id);
    }
    if held.is_some() || snapshot.is_some() {
        engine.queue.held();
    }
    drop(catalog);
    let steps = useful
        .into_iter()
        .map(|step| Found { step, parts: OnceLock::new(), counted: AtomicBool::new(false) })
        .collect();
    let miss = (restorable == 0).then(|| lookup.stopped.unwrap_or(MissReason::NoPrefix));
    let tokens = lookup.matched_tokens;
    Match { engine: Arc::clone(engine), generation, layout, steps, tokens, restorable, snapshot, miss, held }
}

impl Match {
    /// Leading tokens that are stored, token by token.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Leading tokens that can be restored: all that matched, or, where the layout needs a snapshot, as many as the best
    /// one has seen.
    #[must_use]
    pub fn restorable(&self) -> usize {
        self.restorable
    }

    /// What the blocks hold; `None` where the namespace is unknown.
    #[must_use]
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_deref()
    }

    /// The snapshot with the most tokens among those matched, also where the layout does not need one.
    #[must_use]
    pub fn snapshot(&self) -> Option<&SnapshotInfo> {
        self.snapshot.as_ref().map(|snapshot| &snapshot.info)
    }

    /// Why nothing can be restored, if nothing can.
    #[must_use]
    pub fn miss(&self) -> Option<MissReason> {
        self.miss
    }

    /// Bytes of the restorable tokens in the targets, without the snapshot's.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layout.as_ref().map_or(0, |layout| layout.token_bytes() * self.restorable as u64)
    }

    pub(crate) fn steps(&self) -> &[Found] {
        &self.steps
    }

    pub(crate) fn found_snapshot(&self) -> Option<&FoundSnapshot> {
        self.snapshot.as_ref()
    }

    /// Which index it came from.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it came from this store.
    pub(crate) fn is_of(&self, engine: &Arc<Engine>) -> bool {
        Arc::ptr_eq(&self.engine, engine)
    }
}

impl std::fmt::Debug for Match {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Match")
            .field("tokens", &self.tokens)
            .field("restorable", &self.restorable)
            .field("miss", &self.miss)
            .finish_non_exhaustive()
    }
}

impl Drop for Match {
    fn drop(&mut self) {
        if self.held.is_none() && self.snapshot.is_none() || !self.engine.is_own_process() {
            return;
        }
        let mut catalog = self.engine.catalog();
        if catalog.generation == self.generation {
            if let Some(node) = self.held {
                catalog.index.release(node);
            }
            if let Some(snapshot) = &self.snapshot {
                catalog.index.release_snapshot(snapshot.id);
            }
        }
        drop(catalog);
        self.engine.queue.released();
    }
}
