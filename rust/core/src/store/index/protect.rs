//! What may not be evicted: what is held, pinned or not yet durable, and all that it continues.
//!
//! A record counts its reasons. The first reason gives its parent one, the last to go takes it back. So a hold costs a walk
//! only over ancestors that nothing protected before.

use crate::store::index::Index;
use crate::store::index::answers::{Continues, NodeId, PinChange, SnapshotId};
use crate::store::index::nodes::{Entry, NONE, State};
use crate::store::types::{NamespaceKey, RecordId};

impl Index {
    /// Holds a prefix by its deepest block; its ancestors are covered. Each hold wants one [`Index::release`].
    pub fn hold(&mut self, node: NodeId) {
        if self.nodes.get(node.0 as usize).is_some_and(|node| node.record.state != State::Vacant) {
            self.protect(Entry::Block(node.0));
        }
    }

    /// Ends a hold.
    pub fn release(&mut self, node: NodeId) {
        if self.nodes.get(node.0 as usize).is_some_and(|node| node.record.holds > 0) {
            self.unprotect(Entry::Block(node.0));
        }
    }

    /// Holds a snapshot, and the prefix to which it belongs.
    pub fn hold_snapshot(&mut self, snapshot: SnapshotId) {
        if self.snapshots.get(snapshot.0 as usize).is_some_and(|held| held.record.state != State::Vacant) {
            self.protect(Entry::Snapshot(snapshot.0));
        }
    }

    /// Ends a hold of a snapshot.
    pub fn release_snapshot(&mut self, snapshot: SnapshotId) {
        if self.snapshots.get(snapshot.0 as usize).is_some_and(|held| held.record.holds > 0) {
            self.unprotect(Entry::Snapshot(snapshot.0));
        }
    }

    /// Keeps the longest stored prefix of `tokens`, and its last snapshot, from eviction and expiry until unpinned. Pinning
    /// twice is pinning once. A pin is the deepest block's: journal it only once that block is durable (flush in between).
    pub fn pin(&mut self, key: &NamespaceKey, tokens: &[u32]) -> Option<PinChange> {
        let walk = self.walk(self.namespaces.find(key)?, tokens, None);
        let &(deepest, _) = walk.path.last()?;
        let mut records = vec![self.nodes[deepest as usize].record.id];
        if let Some((snapshot, _)) = self.best_snapshot(&walk.path, 0) {
            records.push(self.snapshots[snapshot as usize].record.id);
        }
        for record in &records {
            self.pin_record(*record);
        }
        Some(PinChange { records, tokens: walk.tokens })
    }

    /// Takes back the pin of the longest pinned prefix of `tokens`.
    pub fn unpin(&mut self, key: &NamespaceKey, tokens: &[u32]) -> Option<PinChange> {
        let mut walk = self.walk(self.namespaces.find(key)?, tokens, None);
        let is_pinned = |place: u32| self.pinned.contains(&self.nodes[place as usize].record.id);
        let deepest = walk.path.iter().rposition(|(place, _)| is_pinned(*place))?;
        let shallower = walk.path[..deepest].iter().rposition(|(place, _)| is_pinned(*place));
        walk.path.truncate(deepest + 1);
        let mut records = vec![self.nodes[walk.path[deepest].0 as usize].record.id];
        // A shorter pinned prefix keeps the snapshots within it.
        let own = &walk.path[shallower.map_or(0, |place| place + 1)..];
        records.extend(own.iter().flat_map(|(place, _)| self.snapshots_of(*place)).filter_map(|snapshot| {
            let record = self.snapshots[snapshot as usize].record.id;
            self.pinned.contains(&record).then_some(record)
        }));
        for record in &records {
            if self.pinned.remove(record)
                && let Some(entry) = self.entries.get(record)
            {
                self.unprotect(*entry);
            }
        }
        let tokens = walk.path.iter().map(|(_, tokens)| usize::from(*tokens)).sum();
        Some(PinChange { records, tokens })
    }

    pub(super) fn pin_record(&mut self, record: RecordId) {
        if let Some(entry) = self.entries.get(&record).copied()
            && self.pinned.insert(record)
        {
            self.protect(entry);
        }
    }

    /// Gives a record one more reason to stay.
    pub(super) fn protect(&mut self, entry: Entry) {
        let mut next = Some(entry);
        while let Some(entry) = next {
            let record = self.record_mut(entry);
            record.holds += 1;
            let (first, state, segment) = (record.holds == 1, record.state, record.segment);
            if !first {
                return;
            }
            if state == State::Disk
                && let Some(segment) = self.segments.get_mut(segment)
            {
                segment.protected += 1;
            }
            next = self.parent_of(entry).map(Entry::Block);
        }
    }

    /// Takes one reason away.
    pub(super) fn unprotect(&mut self, entry: Entry) {
        let mut next = Some(entry);
        while let Some(entry) = next {
            let record = self.record_mut(entry);
            record.holds -= 1;
            let (last, state, segment, detached) = (record.holds == 0, record.state, record.segment, record.detached);
            if !last {
                return;
            }
            if detached {
                self.detached.remove(&entry);
                self.vacate(entry, true);
                return;
            }
            if state == State::Disk
                && let Some(segment) = self.segments.get_mut(segment)
            {
                segment.protected -= 1;
            }
            next = self.parent_of(entry).map(Entry::Block);
        }
    }

    /// Places of a block's snapshots.
    pub(super) fn snapshots_of(&self, node: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = self.nodes[node as usize].first_snapshot;
        while next != NONE {
            found.push(next);
            next = self.snapshots[next as usize].next;
        }
        found
    }

    /// Where a prefix of exactly these tokens ends, if all of it is stored or being stored.
    #[must_use]
    pub fn prefix_at(&self, key: &NamespaceKey, tokens: &[u32]) -> Option<Continues> {
        let walk = self.walk(self.namespaces.find(key)?, tokens, None);
        let &(node, used) = walk.path.last()?;
        (walk.tokens == tokens.len()).then_some(Continues { node: NodeId(node), tokens: used })
    }
}
