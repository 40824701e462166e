//! Records leave: evicted, expired, found bad, purged.

use std::sync::Arc;

use crate::store::index::Index;
use crate::store::index::answers::Removed;
use crate::store::index::nodes::{ChildKey, Entry, NONE, Node, State};
use crate::store::types::RecordId;

impl Index {
    /// Removes a record with all that continues it, held or pinned or not (it was found bad, or could not be written). What
    /// is held leaves the tree now; its bytes count until it is released.
    pub fn remove(&mut self, record: RecordId) -> Removed {
        match self.entries.get(&record).copied() {
            Some(Entry::Block(place)) => self.remove_subtree(place, true),
            Some(Entry::Snapshot(place)) => self.remove_snapshot(place),
            None => Removed::default(),
        }
    }

    /// Removes a block with all that continues it. `remember`: as evicted, for the reason of later misses.
    pub(super) fn remove_subtree(&mut self, top: u32, remember: bool) -> Removed {
        if self.nodes[top as usize].record.holds > 0
            && let Some(parent) = self.parent_of(Entry::Block(top))
        {
            self.unprotect(Entry::Block(parent));
        }
        self.unlink_sibling(top);
        let namespace = self.nodes[top as usize].namespace;

        // Parents before children: each is noted as protected or not before its children take their reasons back.
        let mut leaving = vec![(Entry::Block(top), self.nodes[top as usize].record.holds > 0)];
        let mut reached = 0;
        while let Some((entry, _)) = leaving.get(reached).copied() {
            reached += 1;
            let Entry::Block(place) = entry else { continue };
            let mut child = self.nodes[place as usize].first_child;
            while child != NONE {
                let protected = self.take_reason_back(Entry::Block(child), place);
                leaving.push((Entry::Block(child), protected));
                child = self.nodes[child as usize].next_sibling;
            }
            for snapshot in self.snapshots_of(place) {
                let protected = self.take_reason_back(Entry::Snapshot(snapshot), place);
                leaving.push((Entry::Snapshot(snapshot), protected));
            }
        }
        let mut removed = Removed::default();
        for (entry, was_protected) in leaving {
            if let Entry::Block(place) = entry {
                let node = self.nodes[place as usize];
                let first = self.tokens.get(node.tokens)[0];
                self.unlink_twin(place, node.child_key(first));
                if remember {
                    self.evicted.add(&node.attach_chain, first);
                }
            }
            self.leave_tree(entry, namespace, was_protected, &mut removed);
        }
        removed
    }

    /// Removes one snapshot; its block stays.
    pub(super) fn remove_snapshot(&mut self, place: u32) -> Removed {
        let (node, after) = (self.snapshots[place as usize].node, self.snapshots[place as usize].next);
        let record = self.snapshots[place as usize].record;
        if record.holds > 0 {
            self.unprotect(Entry::Block(node));
        }
        if self.nodes[node as usize].first_snapshot == place {
            self.nodes[node as usize].first_snapshot = after;
        }
        for other in self.snapshots_of(node) {
            if self.snapshots[other as usize].next == place {
                self.snapshots[other as usize].next = after;
            }
        }
        let mut removed = Removed::default();
        let namespace = self.nodes[node as usize].namespace;
        self.leave_tree(Entry::Snapshot(place), namespace, record.holds > 0, &mut removed);
        removed
    }

    /// What a child or snapshot gave its block to stay for. Whether it was protected.
    fn take_reason_back(&mut self, entry: Entry, parent: u32) -> bool {
        let protected = self.record(entry).holds > 0;
        self.nodes[parent as usize].record.holds -= u32::from(protected);
        protected
    }

    /// The last of leaving, once nothing in the tree leads here: counts, and frees what nobody holds.
    fn leave_tree(&mut self, entry: Entry, namespace: u32, was_protected: bool, removed: &mut Removed) {
        let record = self.record(entry);
        let (id, disk_bytes) = (record.id, record.disk_bytes());
        let reasons = u32::from(record.state != State::Disk) + u32::from(self.pinned.remove(&id));
        let tokens = match entry {
            Entry::Block(place) => Some(self.nodes[place as usize].tokens.count),
            Entry::Snapshot(_) => None,
        };
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.blocks -= u64::from(tokens.is_some());
            namespace.snapshots -= u64::from(tokens.is_none());
            namespace.tokens -= tokens.map_or(0, u64::from);
            namespace.disk_bytes -= disk_bytes;
        }
        removed.blocks += u64::from(tokens.is_some());
        removed.snapshots += u64::from(tokens.is_none());
        removed.disk_bytes += disk_bytes;
        removed.records.push(id);
        self.entries.remove(&id);
        self.touches.remove(&id);

        let record = self.record_mut(entry);
        record.detached = true;
        record.holds -= reasons;
        if record.holds == 0 {
            self.vacate(entry, was_protected);
            return;
        }
        self.detached.insert(entry);
        // What it continued may be another's place soon.
        match entry {
            Entry::Block(place) => self.nodes[place as usize].parent = NONE,
            Entry::Snapshot(place) => self.snapshots[place as usize].node = NONE,
        }
    }

    /// Frees the place of a record that is not in the tree.
    pub(super) fn vacate(&mut self, entry: Entry, was_protected: bool) {
        let record = *self.record(entry);
        if record.state == State::Disk {
            self.segments.leave(&record, was_protected);
        }
        match entry {
            Entry::Block(place) => {
                let span = self.nodes[place as usize].tokens;
                self.nodes[place as usize] = Node::vacant();
                self.vacant_nodes.push(place);
                if self.tokens.release(span) {
                    self.move_tokens(span.chunk);
                }
            }
            Entry::Snapshot(place) => {
                let snapshot = &mut self.snapshots[place as usize];
                snapshot.record.state = State::Vacant;
                snapshot.meta = Arc::default();
                self.vacant_snapshots.push(place);
            }
        }
    }

    /// Empties a chunk of which less than half lives.
    fn move_tokens(&mut self, chunk: u32) {
        for owner in self.tokens.owners(chunk) {
            let span = self.nodes[owner as usize].tokens;
            if self.nodes[owner as usize].record.state != State::Vacant && span.chunk == chunk {
                self.nodes[owner as usize].tokens = self.tokens.relocate(span, owner);
            }
        }
    }

    fn unlink_sibling(&mut self, place: u32) {
        let Node { parent, namespace, next_sibling, previous_sibling, .. } = self.nodes[place as usize];
        if let Some(next) = self.nodes.get_mut(next_sibling as usize) {
            next.previous_sibling = previous_sibling;
        }
        if let Some(previous) = self.nodes.get_mut(previous_sibling as usize) {
            previous.next_sibling = next_sibling;
        } else if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.first_child = next_sibling;
        } else if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.first_child = next_sibling;
        }
    }

    fn unlink_twin(&mut self, place: u32, key: ChildKey) {
        let after = self.nodes[place as usize].twin;
        let Some(head) = self.children.get(&key).copied() else { return };
        if head != place {
            let mut next = head;
            while next != NONE {
                let node = &mut self.nodes[next as usize];
                if node.twin == place {
                    node.twin = after;
                }
                next = node.twin;
            }
        } else if after == NONE {
            self.children.remove(&key);
        } else {
            self.children.insert(key, after);
        }
    }
}
