//! What index and journal together say: rows under change, then settled into what an index may trust.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Fact;
use super::image::{BlockRow, IndexDump, Losses, NO_ROW, NamespaceRow, SnapshotRow, TokenSpan};
use super::index_file::Loaded;
use super::journal::Event;
use super::segment;
use crate::store::types::{
    Location, NamespaceKey, RecordId, RecordInfo, RecordKind, SegmentId, extend_chain, root_chain,
};

/// Where a record's row is.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Block(usize),
    Snapshot(usize),
}

/// The rows while events are applied.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    image: IndexDump,
    /// As loaded; true only while nothing was added or taken away.
    parent_rows: Vec<u32>,
    snapshot_rows: Vec<u32>,
    /// Tokens of the rows that are not in the loaded index.
    added_tokens: Vec<u32>,
    /// Filled when the first event needs it.
    slots: Option<HashMap<RecordId, Slot>>,
    /// Ids are never given out again, so what was removed once stays removed.
    removed: HashSet<RecordId>,
    quarantined: HashSet<RecordId>,
    /// Found bad at one place; another copy may be good.
    bad: HashSet<RecordId>,
    forgotten: HashSet<NamespaceKey>,
    /// Known from the segments alone.
    walked: HashSet<NamespaceKey>,
    dropped_segments: HashSet<SegmentId>,
    changed: bool,
    next_segment: u32,
}

/// Settled rows.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) image: IndexDump,
    pub(super) parent_rows: Vec<u32>,
    pub(super) snapshot_rows: Vec<u32>,
    pub(super) losses: Losses,
    /// For each segment with a live record, where its last one ends.
    pub(super) ends: BTreeMap<SegmentId, u64>,
    /// The lowest segment number that no event knows.
    pub(super) next_segment: u32,
}

impl Replayed {
    pub(super) fn from_index(loaded: Loaded) -> Self {
        Self {
            image: loaded.image,
            parent_rows: loaded.parent_rows,
            snapshot_rows: loaded.snapshot_rows,
            next_segment: loaded.head.next_segment,
            ..Self::default()
        }
    }

    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Committed { info, at, last_used_ms } => self.put(&info, at, last_used_ms),
            Event::SegmentDropped(segment) => {
                self.know_segment(segment);
                self.dropped_segments.insert(segment);
            }
            Event::Quarantined { id, .. } => {
                self.know_record(id);
                self.quarantined.insert(id);
            }
            Event::Noted(fact) => self.note(fact),
        }
    }

    fn note(&mut self, fact: Fact) {
        match fact {
            Fact::Namespace(row) => {
                self.put_namespace(row);
            }
            Fact::NamespaceForgotten(key) => {
                self.forgotten.insert(key);
            }
            Fact::Touched { ids, last_used_ms, reused } => {
                for id in ids {
                    self.change(id, |used, _, was_reused| {
                        *used = last_used_ms.max(*used);
                        *was_reused |= reused;
                    });
                }
            }
            Fact::Removed(ids) => {
                for id in ids {
                    self.know_record(id);
                    self.removed.insert(id);
                }
            }
            Fact::Pinned(ids) => ids.into_iter().for_each(|id| self.change(id, |_, pinned, _| *pinned = true)),
            Fact::Unpinned(ids) => ids.into_iter().for_each(|id| self.change(id, |_, pinned, _| *pinned = false)),
            Fact::Written(written) => self.image.written = written,
        }
    }

    /// Adds or replaces a namespace; gives its row.
    pub(super) fn put_namespace(&mut self, row: NamespaceRow) -> usize {
        self.forgotten.remove(&row.key);
        if let Some(index) = self.namespace(&row.key) {
            self.image.namespaces[index] = row;
            return index;
        }
        self.image.namespaces.push(row);
        self.image.namespaces.len() - 1
    }

    /// A walk found a namespace: later ones replace what earlier ones said, never what index and journal say.
    pub(super) fn found_namespace(&mut self, row: NamespaceRow) {
        if self.namespace(&row.key).is_none() {
            self.walked.insert(row.key);
        }
        if self.walked.contains(&row.key) {
            self.put_namespace(row);
        }
    }

    pub(super) fn namespace(&self, key: &NamespaceKey) -> Option<usize> {
        self.image.namespaces.iter().position(|row| row.key == *key)
    }

    /// Whether this record is known to be at this place.
    pub(super) fn knows(&mut self, id: RecordId, at: &Location) -> Known {
        if self.removed.contains(&id) || self.quarantined.contains(&id) || self.dropped_segments.contains(&at.segment) {
            return Known::Gone;
        }
        let place = match self.slots().get(&id).copied() {
            None => return Known::Not,
            Some(Slot::Block(row)) => self.image.blocks[row].at,
            Some(Slot::Snapshot(row)) => self.image.snapshots[row].at,
        };
        if place == *at { Known::Here } else { Known::Elsewhere }
    }

    /// Adds a record, or moves the one of its id.
    pub(super) fn put(&mut self, info: &RecordInfo, at: Location, last_used_ms: u64) {
        self.know_record(info.id);
        self.know_segment(at.segment);
        self.changed = true;
        match self.slots().get(&info.id).copied() {
            Some(Slot::Block(row)) => {
                self.image.blocks[row].at = at;
                return;
            }
            Some(Slot::Snapshot(row)) => {
                self.image.snapshots[row].at = at;
                return;
            }
            None => {}
        }
        let Some(namespace) = self.namespace(&info.namespace) else { return };
        let slot = match &info.kind {
            RecordKind::Block { start, tokens } => {
                let span = u32::try_from(self.added_tokens.len()).ok().zip(u16::try_from(tokens.len()).ok());
                let (Some((offset, count)), Ok(namespace)) = (span, u32::try_from(namespace)) else { return };
                self.added_tokens.extend_from_slice(tokens);
                self.image.blocks.push(BlockRow {
                    id: info.id,
                    attach: info.attach,
                    namespace,
                    start: *start,
                    tokens: TokenSpan { chunk: ADDED, offset, count },
                    attach_chain: info.attach_chain,
                    at,
                    last_used_ms,
                    pinned: false,
                    reused: false,
                });
                Slot::Block(self.image.blocks.len() - 1)
            }
            RecordKind::Snapshot { meta } => {
                let Some(attach) = info.attach else { return };
                self.image.snapshots.push(SnapshotRow {
                    id: info.id,
                    attach,
                    attach_chain: info.attach_chain,
                    at,
                    last_used_ms,
                    pinned: false,
                    reused: false,
                    meta: Arc::new(meta.clone()),
                });
                Slot::Snapshot(self.image.snapshots.len() - 1)
            }
        };
        self.slots().insert(info.id, slot);
    }

    /// A walk found a copy of this record whose payload does not hold.
    pub(super) fn found_bad(&mut self, id: RecordId) {
        self.know_record(id);
        self.bad.insert(id);
    }

    fn know_record(&mut self, id: RecordId) {
        self.image.next_record = self.image.next_record.max(id.0.saturating_add(1));
    }

    fn know_segment(&mut self, segment: SegmentId) {
        self.next_segment = self.next_segment.max(segment.0.saturating_add(1));
    }

    fn slots(&mut self) -> &mut HashMap<RecordId, Slot> {
        let (blocks, snapshots) = (&self.image.blocks, &self.image.snapshots);
        self.slots.get_or_insert_with(|| {
            let blocks = blocks.iter().enumerate().map(|(row, block)| (block.id, Slot::Block(row)));
            let snapshots = snapshots.iter().enumerate().map(|(row, snapshot)| (snapshot.id, Slot::Snapshot(row)));
            blocks.chain(snapshots).collect()
        })
    }

    fn change(&mut self, id: RecordId, change: impl FnOnce(&mut u64, &mut bool, &mut bool)) {
        match self.slots().get(&id).copied() {
            Some(Slot::Block(row)) => {
                let row = &mut self.image.blocks[row];
                change(&mut row.last_used_ms, &mut row.pinned, &mut row.reused);
            }
            Some(Slot::Snapshot(row)) => {
                let row = &mut self.image.snapshots[row];
                change(&mut row.last_used_ms, &mut row.pinned, &mut row.reused);
            }
            None => {}
        }
    }

    /// Keeps what is live, whole and reachable. `lengths` are the segments that are there; with `verify_chains`, where
    /// rows come from headers rather than from a good index or journal, each must hang together with its parent.
    pub(super) fn settle(mut self, lengths: &BTreeMap<SegmentId, u64>, verify_chains: bool) -> Settled {
        let mut losses = Losses::default();
        if !self.bad.is_empty() {
            let bad = std::mem::take(&mut self.bad);
            let lost = bad.iter().filter(|id| !self.slots().contains_key(id)).count();
            losses.quarantined += lost as u64;
        }
        let mut ends = BTreeMap::new();
        let base = usize::from(!self.image.tokens.is_empty());
        if !self.added_tokens.is_empty() {
            self.image.tokens.push(Arc::new(std::mem::take(&mut self.added_tokens)));
        }
        for block in self.image.blocks.iter_mut().filter(|block| block.tokens.chunk == ADDED) {
            block.tokens.chunk = u32::try_from(base).unwrap_or(0);
        }
        let mut whole = Whole { lengths, memo: None };
        let mut judge = |id: &RecordId, at: &Location| {
            if self.removed.contains(id) || self.dropped_segments.contains(&at.segment) {
                Fate::Gone
            } else if self.quarantined.contains(id) {
                Fate::Quarantined
            } else if whole.holds(at) {
                Fate::Live
            } else {
                Fate::Missing
            }
        };
        let mut live = |id: &RecordId, at: &Location| {
            let fate = judge(id, at);
            losses.missing += u64::from(fate == Fate::Missing);
            losses.quarantined += u64::from(fate == Fate::Quarantined);
            fate == Fate::Live
        };
        let (blocks, snapshots) = (self.image.blocks.len(), self.image.snapshots.len());
        self.image.blocks.retain(|row| live(&row.id, &row.at));
        self.image.snapshots.retain(|row| live(&row.id, &row.at));
        self.changed |= self.image.blocks.len() != blocks || self.image.snapshots.len() != snapshots;
        if self.changed || verify_chains {
            self.relink(&mut losses, verify_chains);
        }
        self.forget();
        let mut end_at: Option<(SegmentId, u64)> = None;
        let places = self.image.blocks.iter().map(|row| row.at).chain(self.image.snapshots.iter().map(|row| row.at));
        for at in places {
            let end = at.offset + at.record_bytes();
            match &mut end_at {
                Some((segment, furthest)) if *segment == at.segment => *furthest = end.max(*furthest),
                _ => {
                    note_end(&mut ends, end_at);
                    end_at = Some((at.segment, end));
                }
            }
        }
        note_end(&mut ends, end_at);
        Settled {
            image: self.image,
            parent_rows: self.parent_rows,
            snapshot_rows: self.snapshot_rows,
            losses,
            ends,
            next_segment: self.next_segment,
        }
    }

    /// Takes the forgotten namespaces out that have no rows.
    fn forget(&mut self) {
        if self.forgotten.is_empty() {
            return;
        }
        let used: HashSet<u32> = self.image.blocks.iter().map(|row| row.namespace).collect();
        let mut moved = Vec::with_capacity(self.image.namespaces.len());
        let (mut row, mut kept) = (0, 0);
        let forgotten = &self.forgotten;
        self.image.namespaces.retain(|namespace| {
            let keep = used.contains(&row) || !forgotten.contains(&namespace.key);
            moved.push(kept);
            row += 1;
            kept += u32::from(keep);
            keep
        });
        for block in &mut self.image.blocks {
            block.namespace = moved[block.namespace as usize];
        }
    }

    /// Sorts the rows and finds every parent again; what has none any more goes.
    fn relink(&mut self, losses: &mut Losses, verify_chains: bool) {
        let image = &mut self.image;
        image.blocks.sort_by_key(|row| row.id);
        image.snapshots.sort_by_key(|row| row.id);
        let rows = std::mem::take(&mut image.blocks);
        let mut ids: Vec<RecordId> = Vec::with_capacity(rows.len());
        let mut kept: Vec<BlockRow> = Vec::with_capacity(rows.len());
        self.parent_rows.clear();
        for row in rows {
            let parent = row.attach.map(|attach| ids.binary_search(&attach.parent).map(|index| (index, &kept[index])));
            let parent_row = match parent {
                None if row.start == 0 => Some(NO_ROW),
                Some(Ok((index, parent))) if continues(&row, parent) => u32::try_from(index).ok(),
                _ => None,
            };
            let chained = || {
                let chain = match parent {
                    Some(Ok((_, parent))) => {
                        let count = row.attach.map_or(0, |attach| usize::from(attach.parent_tokens));
                        extend_chain(&parent.attach_chain, &tokens_of(&image.tokens, parent)[..count])
                    }
                    _ => root_chain(&image.namespaces[row.namespace as usize].key),
                };
                chain == row.attach_chain
            };
            match parent_row {
                Some(parent_row) if !verify_chains || chained() => {
                    self.parent_rows.push(parent_row);
                    ids.push(row.id);
                    kept.push(row);
                }
                _ => losses.orphaned += 1,
            }
        }
        self.snapshot_rows.clear();
        let snapshot_rows = &mut self.snapshot_rows;
        let tokens = &image.tokens;
        image.snapshots.retain(|row| {
            let block = ids.binary_search(&row.attach.parent).ok().filter(|index| {
                let (block, count) = (&kept[*index], row.attach.parent_tokens);
                let fits = row.id > block.id && (1..=block.tokens.count).contains(&count);
                let chain = || extend_chain(&block.attach_chain, &tokens_of(tokens, block)[..usize::from(count)]);
                fits && (!verify_chains || chain() == row.attach_chain)
            });
            let block_row = block.and_then(|index| u32::try_from(index).ok());
            snapshot_rows.extend(block_row);
            losses.orphaned += u64::from(block_row.is_none());
            block_row.is_some()
        });
        image.blocks = kept;
    }
}

/// What a walk may do with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// New.
    Not,
    /// Known at this very place.
    Here,
    /// Known at another place, to which it was moved or from which it is being moved.
    Elsewhere,
    /// Removed, quarantined or dropped.
    Gone,
}

/// The chunk of rows whose tokens are in [`Replayed::added_tokens`].
const ADDED: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Live,
    Gone,
    Missing,
    Quarantined,
}

fn tokens_of<'a>(chunks: &'a [Arc<Vec<u32>>], row: &BlockRow) -> &'a [u32] {
    let first = row.tokens.offset as usize;
    &chunks[row.tokens.chunk as usize][first..first + usize::from(row.tokens.count)]
}

fn continues(row: &BlockRow, parent: &BlockRow) -> bool {
    row.attach.is_some_and(|attach| {
        (1..=parent.tokens.count).contains(&attach.parent_tokens)
            && parent.start.checked_add(u32::from(attach.parent_tokens)) == Some(row.start)
            && parent.namespace == row.namespace
    })
}

fn note_end(ends: &mut BTreeMap<SegmentId, u64>, end: Option<(SegmentId, u64)>) {
    if let Some((segment, end)) = end {
        let furthest = ends.entry(segment).or_insert(end);
        *furthest = end.max(*furthest);
    }
}

/// Whether places lie inside files; neighbours mostly ask for the same one.
struct Whole<'a> {
    lengths: &'a BTreeMap<SegmentId, u64>,
    memo: Option<(SegmentId, u64)>,
}

impl Whole<'_> {
    fn holds(&mut self, at: &Location) -> bool {
        let length = match self.memo {
            Some((segment, length)) if segment == at.segment => length,
            _ => {
                let length = self.lengths.get(&at.segment).copied().unwrap_or(0);
                self.memo = Some((at.segment, length));
                length
            }
        };
        let end = at.offset.checked_add(u64::from(at.header_bytes)).and_then(|end| end.checked_add(at.payload_bytes));
        at.offset >= segment::HEADER && end.is_some_and(|end| end <= length)
    }
}
