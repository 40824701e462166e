//! Random saves, lookups, holds, pins, commits, evictions, removals and restarts, against the naive model.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::naive::{Known, Naive, check_rules};
use super::{KEY, OTHER, at, layout, limits, recurrent, reserve};
use crate::store::disk::{NO_ROW, Recovered, SegmentRow};
use crate::store::index::{Continues, Index, Limits, NodeId, Place, Refusal, Removed, SnapshotId};
use crate::store::types::{NamespaceKey, RecordId, SegmentId};

const TTL_MS: u64 = 50_000;
const SEGMENT_BYTES: u64 = 60_000;

/// A made-up prompt: the beginning of one text, then another. Few texts and few tokens, so that they share and differ
/// everywhere.
#[derive(Clone, Debug)]
struct Prompt {
    other_namespace: bool,
    texts: (u8, u8),
    cut: usize,
    tokens: usize,
}

impl Prompt {
    fn key(&self) -> NamespaceKey {
        if self.other_namespace { OTHER } else { KEY }
    }

    fn tokens(&self) -> Vec<u32> {
        let token = |text: u8, position: usize| (u32::try_from(position).unwrap() / 50 * 7 + u32::from(text)) % 3;
        let text = |position| if position < self.cut { self.texts.0 } else { self.texts.1 };
        (0..self.tokens).map(|position| token(text(position), position)).collect()
    }
}

fn prompt() -> impl Strategy<Value = Prompt> {
    let length = prop_oneof![0_usize..20, 200..300_usize, Just(256), Just(512), 0..700_usize];
    (any::<bool>(), 0_u8..3, 0_u8..3, 0_usize..600, length)
        .prop_map(|(other_namespace, one, two, cut, tokens)| Prompt { other_namespace, texts: (one, two), cut, tokens })
}

#[derive(Clone, Debug)]
enum Op {
    Save(Prompt, usize),
    Snapshot(Prompt),
    Commit(usize),
    Lookup(Prompt, usize),
    Hold(Prompt),
    Release(usize),
    Pin(Prompt),
    Unpin(Prompt),
    Evict(u64),
    ThinOut(usize),
    Compact,
    Remove(usize),
    DropSegment(usize),
    Expire(u64),
    Purge(bool),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (prompt(), 0_usize..300).prop_map(|(prompt, from)| Op::Save(prompt, from)),
        3 => prompt().prop_map(Op::Snapshot),
        8 => (1_usize..6).prop_map(Op::Commit),
        6 => (prompt(), 0_usize..700).prop_map(|(prompt, limit)| Op::Lookup(prompt, limit)),
        3 => prompt().prop_map(Op::Hold),
        3 => any::<usize>().prop_map(Op::Release),
        1 => prompt().prop_map(Op::Pin),
        2 => prompt().prop_map(Op::Unpin),
        3 => (1_u64..150_000).prop_map(Op::Evict),
        1 => any::<usize>().prop_map(Op::ThinOut),
        2 => Just(Op::Compact),
        1 => any::<usize>().prop_map(Op::Remove),
        1 => any::<usize>().prop_map(Op::DropSegment),
        2 => (0_u64..30_000).prop_map(Op::Expire),
        1 => any::<bool>().prop_map(Op::Purge),
        1 => Just(Op::Restart),
    ]
}

struct World {
    index: Index,
    naive: Naive,
    now_ms: u64,
    segment: u32,
    waiting: VecDeque<RecordId>,
    holds: Vec<Held>,
}

#[derive(Clone, Copy)]
enum Held {
    Block(NodeId, RecordId),
    Snapshot(SnapshotId, RecordId),
}

impl World {
    fn new() -> Self {
        let index = Index::new(Limits { ttl_ms: Some(TTL_MS), ..limits() });
        let (now_ms, segment) = (1_000_000, 0);
        Self { index, naive: Naive::default(), now_ms, segment, waiting: VecDeque::new(), holds: Vec::new() }
    }

    fn open(&self) -> [SegmentId; 1] {
        [SegmentId(self.segment)]
    }

    fn oldest_ms(&self) -> u64 {
        self.now_ms - TTL_MS
    }

    fn apply(&mut self, op: Op) {
        self.now_ms += 300;
        for (record, known) in &mut self.naive.records {
            known.used_ms = self.index.record(self.index.entries[record]).last_used_ms;
        }
        match op {
            Op::Save(prompt, from) => self.save(&prompt.key(), &prompt.tokens(), from),
            Op::Snapshot(prompt) => self.snapshot(&prompt.key(), &prompt.tokens()),
            Op::Commit(records) => self.commit(records),
            Op::Lookup(prompt, limit) => self.lookup(&prompt.key(), &prompt.tokens(), limit),
            Op::Hold(prompt) => self.hold(&prompt.key(), &prompt.tokens()),
            Op::Release(which) => self.release(which),
            Op::Pin(prompt) => self.pin(&prompt.key(), &prompt.tokens()),
            Op::Unpin(prompt) => self.unpin(&prompt.key(), &prompt.tokens()),
            Op::Evict(bytes) => self.evict(bytes),
            Op::ThinOut(which) => self.thin_out(which),
            Op::Compact => self.compact(),
            Op::Remove(which) => self.remove(which),
            Op::DropSegment(which) => self.drop_segment(which),
            Op::Expire(later_ms) => self.expire(later_ms),
            Op::Purge(other) => self.purge(&if other { OTHER } else { KEY }),
            Op::Restart => self.restart(),
        }
        self.waiting.retain(|record| self.naive.records.contains_key(record));
        self.naive.check(&self.index);
    }

    fn save(&mut self, key: &NamespaceKey, tokens: &[u32], from: usize) {
        let fresh = if *key == KEY { layout() } else { recurrent() };
        self.index.open_namespace(key, "model", &fresh).unwrap();
        let stored = self.naive.matched(key, tokens, None);
        let plan = self.index.plan_save(key, tokens, from..tokens.len(), self.now_ms);
        if stored < from && stored < tokens.len() {
            assert_eq!(plan, Err(Refusal::SourceIncomplete));
            return;
        }
        let plan = plan.unwrap();
        assert_eq!((plan.stored_tokens, plan.new_tokens), (stored, tokens.len() - stored));
        let mut parent = plan.attach.map(|at| self.index.nodes[at.node.0 as usize].record.id);
        for (record, run) in reserve(&mut self.index, key, tokens, &plan, self.now_ms).into_iter().zip(&plan.runs) {
            self.know(record, key, &tokens[..run.start + run.tokens], run.start, parent);
            parent = Some(record);
        }
        let again = self.index.plan_save(key, tokens, 0..tokens.len(), self.now_ms).unwrap();
        assert_eq!((again.new_tokens, again.runs.len()), (0, 0));
    }

    fn know(&mut self, record: RecordId, key: &NamespaceKey, prefix: &[u32], start: usize, parent: Option<RecordId>) {
        let known = Known {
            key: *key,
            prefix: prefix.to_vec(),
            start,
            parent,
            served: false,
            at: None,
            used_ms: self.now_ms,
            holds: 0,
            pinned: false,
        };
        self.naive.records.insert(record, known);
        self.waiting.push_back(record);
    }

    fn snapshot(&mut self, key: &NamespaceKey, tokens: &[u32]) {
        let stored = self.naive.matched(key, tokens, None);
        let Some(at) = self.index.prefix_at(key, &tokens[..stored]) else {
            assert_eq!(stored, 0);
            return;
        };
        assert_eq!(self.index.prefix_at(key, tokens).is_some(), stored == tokens.len());
        let parent = self.index.nodes[at.node.0 as usize].record.id;
        match self.index.insert_snapshot(at, b"meta", Place::Pending, self.now_ms) {
            Ok((_, record)) => self.know(record, key, &tokens[..stored], stored, Some(parent)),
            Err(refusal) => assert_eq!(refusal, Refusal::Stale),
        }
    }

    /// Copies what waits, and makes the first so many durable.
    fn commit(&mut self, records: usize) {
        for record in &self.waiting {
            self.naive.records.get_mut(record).unwrap().served = true;
            assert!(self.index.filled(*record));
        }
        for record in self.waiting.drain(..records.min(self.waiting.len())).collect::<Vec<_>>() {
            self.put(record);
        }
    }

    /// Writes or moves a record to the end of the open segment.
    fn put(&mut self, record: RecordId) {
        let end = self.naive.files.get(&self.segment).copied().unwrap_or(0);
        if end > SEGMENT_BYTES {
            self.segment += 1;
        }
        let end = self.naive.files.entry(self.segment).or_default();
        let known = self.naive.records.get_mut(&record).unwrap();
        let location = at(self.segment, *end, 100 * (known.prefix.len() - known.start) as u64 + 10);
        *end += location.record_bytes();
        known.at = Some(location);
        assert!(self.index.committed(record, location));
    }

    fn lookup(&mut self, key: &NamespaceKey, tokens: &[u32], limit: usize) {
        let asked = &tokens[..limit.min(tokens.len())];
        let matched = self.naive.matched(key, asked, Some(self.oldest_ms()));
        let snapshot = self.naive.best_snapshot(key, asked, self.oldest_ms());
        let found = self.index.lookup(key, "model", tokens, limit, self.now_ms);
        assert_eq!(found.matched_tokens, matched);
        assert_eq!(found.snapshot.map_or(0, |hit| hit.position), snapshot);
        assert_eq!(found.restorable_tokens, if *key == KEY { matched } else { snapshot });
        assert_eq!(found.stopped.is_none(), found.restorable_tokens == asked.len());
        let mut position = 0;
        for step in &found.path {
            let known = &self.naive.records[&step.record];
            assert_eq!((step.start as usize, step.at), (position, known.at));
            position += usize::from(step.tokens);
            assert_eq!(known.prefix[..position], asked[..position]);
        }
        assert_eq!(position, matched);
    }

    fn hold(&mut self, key: &NamespaceKey, tokens: &[u32]) {
        let found = self.index.lookup(key, "model", tokens, usize::MAX, self.now_ms);
        if let Some(hit) = found.snapshot {
            self.index.hold_snapshot(hit.snapshot);
            self.naive.records.get_mut(&hit.record).unwrap().holds += 1;
            self.holds.push(Held::Snapshot(hit.snapshot, hit.record));
        } else if let Some(deepest) = found.path.last() {
            self.index.hold(deepest.node);
            self.naive.records.get_mut(&deepest.record).unwrap().holds += 1;
            self.holds.push(Held::Block(deepest.node, deepest.record));
        }
    }

    fn release(&mut self, which: usize) {
        if self.holds.is_empty() {
            return;
        }
        let held = self.holds.swap_remove(which % self.holds.len());
        let (Held::Block(_, record) | Held::Snapshot(_, record)) = held;
        match held {
            Held::Block(node, _) => self.index.release(node),
            Held::Snapshot(snapshot, _) => self.index.release_snapshot(snapshot),
        }
        if let Some(known) = self.naive.records.get_mut(&record) {
            known.holds -= 1;
        }
        for (_, known) in self.naive.gone_but_held.iter_mut().filter(|(gone, _)| *gone == record) {
            known.holds -= 1;
        }
        self.naive.gone_but_held.retain(|(_, known)| known.holds > 0);
    }

    fn pin(&mut self, key: &NamespaceKey, tokens: &[u32]) {
        let Some(change) = self.index.pin(key, tokens) else { return };
        assert_eq!(change.tokens, self.naive.matched(key, tokens, None));
        for record in change.records {
            self.naive.records.get_mut(&record).unwrap().pinned = true;
        }
    }

    fn unpin(&mut self, key: &NamespaceKey, tokens: &[u32]) {
        let Some(change) = self.index.unpin(key, tokens) else { return };
        for record in change.records {
            let known = self.naive.records.get_mut(&record).unwrap();
            assert!(std::mem::take(&mut known.pinned));
        }
    }

    fn evict(&mut self, bytes: u64) {
        let protected = self.naive.protected();
        let quota_bytes = self.naive.files.values().sum::<u64>();
        self.index.set_limits(Limits { quota_bytes, ttl_ms: Some(TTL_MS), ..limits() });
        let open = self.open();
        let before = self.index.segments();
        let room = match self.index.room_for(bytes, quota_bytes, u64::MAX, &open) {
            Ok(room) => room,
            Err(refusal) => {
                assert_eq!(refusal, Refusal::NoRoom);
                let free = before.iter().filter(|used| used.protected_records == 0 && used.segment != open[0]);
                assert!(free.map(|used| used.file_bytes).sum::<u64>() < bytes);
                assert_eq!(self.index.segments(), before);
                return;
            }
        };
        assert!(room.freed_bytes >= bytes && !room.victims.contains(&open[0]));
        let in_victims = |known: &Known| known.at.is_some_and(|at| room.victims.contains(&at.segment));
        let expected = self.naive.with_descendants(|_, known| in_victims(known));
        assert!(expected.is_disjoint(&protected));
        for victim in &room.victims {
            self.naive.files.remove(&victim.0).unwrap();
        }
        self.naive.remove(&expected, &room.removed);
    }

    fn some_segment(&self, which: usize) -> Option<u32> {
        let closed: Vec<u32> = self.naive.files.keys().copied().filter(|segment| *segment != self.segment).collect();
        (!closed.is_empty()).then(|| closed[which % closed.len()])
    }

    fn thin_out(&mut self, which: usize) {
        let Some(segment) = self.some_segment(which) else { return };
        let protected = self.naive.protected();
        let in_it = |known: &Known| known.at.is_some_and(|at| at.segment.0 == segment);
        let expected = self.naive.with_descendants(|record, known| in_it(known) && !protected.contains(record));
        let removed = self.index.thin_out(SegmentId(segment));
        self.naive.remove(&expected, &removed);
    }

    fn compact(&mut self) {
        for candidate in self.index.compaction_candidates(&self.open()) {
            for (record, location) in self.index.records_in(candidate.segment) {
                assert_eq!(self.naive.records[&record].at, Some(location));
                self.put(record);
            }
            let removed = self.index.segment_dropped(candidate.segment);
            assert_eq!(removed, Removed::default());
            self.lose_file(candidate.segment.0);
        }
    }

    fn lose_file(&mut self, segment: u32) {
        self.naive.files.remove(&segment).unwrap();
        for (_, known) in &mut self.naive.gone_but_held {
            known.at = known.at.filter(|at| at.segment.0 != segment);
        }
    }

    fn drop_segment(&mut self, which: usize) {
        let Some(segment) = self.some_segment(which) else { return };
        let expected = self.naive.with_descendants(|_, known| known.at.is_some_and(|at| at.segment.0 == segment));
        let removed = self.index.segment_dropped(SegmentId(segment));
        self.naive.remove(&expected, &removed);
        self.lose_file(segment);
    }

    fn remove(&mut self, which: usize) {
        if self.naive.records.is_empty() {
            return;
        }
        let record = *self.naive.records.keys().nth(which % self.naive.records.len()).unwrap();
        let expected = self.naive.with_descendants(|this, _| *this == record);
        let removed = self.index.remove(record);
        self.naive.remove(&expected, &removed);
    }

    fn expire(&mut self, later_ms: u64) {
        self.now_ms += later_ms;
        let protected = self.naive.protected();
        let oldest_ms = self.oldest_ms();
        let expected =
            self.naive.with_descendants(|record, known| known.used_ms < oldest_ms && !protected.contains(record));
        let removed = self.index.expire(self.now_ms, usize::MAX);
        self.naive.remove(&expected, &removed);
    }

    fn purge(&mut self, key: &NamespaceKey) {
        let expected = self.naive.with_descendants(|_, known| known.key == *key);
        let removed = self.index.purge(Some(key));
        self.naive.remove(&expected, &removed);
        assert_eq!(self.index.layout(key).is_some(), self.index.namespaces().iter().any(|used| used.key == *key));
        self.index.forget_empty_namespaces();
    }

    /// What is not durable is lost; holds end; all else is there.
    fn restart(&mut self) {
        let image = self.index.dump();
        let rows = |record: RecordId| image.blocks.binary_search_by_key(&record, |row| row.id).unwrap();
        let row = |record| u32::try_from(rows(record)).unwrap();
        let parent_rows = image.blocks.iter().map(|block| block.attach.map_or(NO_ROW, |attach| row(attach.parent)));
        let parent_rows = parent_rows.collect();
        let snapshot_rows = image.snapshots.iter().map(|snapshot| row(snapshot.attach.parent)).collect();
        let segments =
            self.naive.files.iter().map(|(id, bytes)| SegmentRow { id: SegmentId(*id), bytes: *bytes }).collect();
        let recovered = Recovered { image, parent_rows, snapshot_rows, segments, ..Recovered::default() };
        let (index, dropped) = Index::load(recovered, *self.index.limits(), self.now_ms);
        assert_eq!(dropped, []);
        let lost = self.naive.with_descendants(|_, known| known.at.is_none());
        self.naive.records.retain(|record, _| !lost.contains(record));
        for known in self.naive.records.values_mut() {
            known.holds = 0;
        }
        for (record, known) in &self.naive.records {
            let (before, after) = (self.index.record(self.index.entries[record]), index.record(index.entries[record]));
            assert_eq!((before.last_used_ms, before.reused), (after.last_used_ms, after.reused));
            assert_eq!(index.pinned.contains(record), known.pinned);
        }
        assert_eq!(index.next_record, self.index.next_record);
        self.naive.gone_but_held.clear();
        self.holds.clear();
        self.index = index;
    }
}

proptest! {
    #[test]
    fn behaves_as_a_plain_list_of_prompts(ops in prop::collection::vec(op(), 1..100)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        // With all holds gone, nothing stays behind.
        while !world.holds.is_empty() {
            world.release(0);
        }
        world.naive.check(&world.index);
        let expected = world.naive.records.keys().copied().collect::<BTreeSet<_>>();
        let removed = world.index.purge(None);
        world.naive.remove(&expected, &removed);
        world.naive.check(&world.index);
        prop_assert!(world.index.detached.is_empty() && world.index.children.is_empty());
        prop_assert_eq!(world.index.vacant_nodes.len(), world.index.nodes.len());
    }

    /// A store rebuilt from its segments may hold a removed block beside its successor: whichever leads further is found.
    #[test]
    fn twins_are_both_searched(lengths in prop::collection::vec((1_usize..256, 1_usize..256), 1..6), cut in 1_usize..500) {
        let mut index = super::index();
        let tokens: Vec<u32> = super::text(1, 512);
        let mut image = index.dump();
        let mut chunk = Vec::new();
        let mut parent_rows = Vec::new();
        let mut longest = 0;
        for (own, child) in lengths {
            let row = u32::try_from(image.blocks.len()).unwrap();
            let child = child.min(512 - own).min(256 - own % 256);
            for (start, count, parent) in [(0, own, NO_ROW), (own, child, row)] {
                let offset = u32::try_from(chunk.len()).unwrap();
                chunk.extend_from_slice(&tokens[start..start + count]);
                let id = RecordId(image.blocks.len() as u64);
                image.blocks.push(crate::store::disk::BlockRow {
                    id,
                    attach: (parent != NO_ROW).then(|| crate::store::types::Attach {
                        parent: RecordId(u64::from(parent)),
                        parent_tokens: u16::try_from(own).unwrap(),
                    }),
                    namespace: 0,
                    start: u32::try_from(start).unwrap(),
                    tokens: crate::store::disk::TokenSpan { chunk: 0, offset, count: u16::try_from(count).unwrap() },
                    attach_chain: [0; 16],
                    at: at(0, id.0 * 1000, 100),
                    last_used_ms: 5,
                    pinned: false,
                    reused: false,
                });
                parent_rows.push(parent);
            }
            longest = longest.max(own + child);
        }
        image.tokens = vec![std::sync::Arc::new(chunk)];
        let recovered = Recovered { image, parent_rows, ..Recovered::default() };
        let (mut index, dropped) = Index::load(recovered, limits(), 10);
        prop_assert_eq!(dropped, []);
        let cut = cut.min(tokens.len());
        prop_assert_eq!(index.lookup(&KEY, "model", &tokens[..cut], cut, 10).matched_tokens, longest.min(cut));
        check_rules(&index);
        // They go one by one, and what is left is found.
        while index.totals().blocks > 0 {
            let found = index.lookup(&KEY, "model", &tokens, 512, 10);
            prop_assert!(found.matched_tokens > 0);
            index.remove(found.path[0].record);
            check_rules(&index);
        }
        prop_assert!(index.children.is_empty());
    }
}

/// The places of blocks given out are places in the tree only.
#[test]
fn a_place_that_is_gone_is_refused() {
    let mut index = super::index();
    let records = super::save(&mut index, &KEY, &super::text(1, 300), 0, 1);
    let node = index.node_of(records[0]).unwrap();
    let gone = |tokens| Some(Continues { node, tokens });
    for tokens in [0, 257] {
        assert_eq!(index.insert_block(&KEY, gone(tokens), &[1], Place::Memory, 2), Err(Refusal::Stale));
    }
    // The parent goes on like this itself, or a child does.
    assert_eq!(index.insert_block(&KEY, gone(8), &super::text(1, 9)[8..], Place::Memory, 2), Err(Refusal::Stale));
    assert_eq!(index.insert_block(&KEY, gone(256), &super::text(1, 257)[256..], Place::Memory, 2), Err(Refusal::Stale));
    assert_eq!(index.insert_block(&KEY, gone(250), &[5; 7], Place::Memory, 2), Err(Refusal::Stale), "crosses 256");
    assert!(index.insert_block(&KEY, gone(250), &[5; 6], Place::Memory, 2).is_ok());
    index.remove(records[0]);
    assert_eq!(index.insert_block(&KEY, gone(8), &[5], Place::Memory, 2), Err(Refusal::Stale));
    assert_eq!(index.insert_snapshot(Continues { node, tokens: 8 }, &[], Place::Memory, 2), Err(Refusal::Stale));
}
