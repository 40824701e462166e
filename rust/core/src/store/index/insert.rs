//! New records: reserved, copied, committed; and moved by compaction.

use std::sync::Arc;

use crate::store::index::Index;
use crate::store::index::answers::{Continues, NodeId, Place, Refusal, SnapshotId};
use crate::store::index::nodes::{ChildKey, Entry, NONE, Node, Record, Snapshot, State};
use crate::store::types::{BLOCK_TOKENS, Location, NamespaceKey, RecordId, root_chain};

/// How much later than its parent a new node may be used before the ancestors are touched too, in milliseconds. It then
/// takes its parent's time: a long prompt's blocks come one by one, and each would walk up all those before it.
const SAME_USE_MS: u64 = 1000;

/// Places stay below the bit that marks roots.
const MOST_PLACES: usize = 1 << 30;

impl Index {
    /// Adds a block. `attach` is what it continues (`None`: the root), `tokens` are 1 to 256 that do not cross a multiple
    /// of 256, as [`Index::plan_save`] cuts them.
    ///
    /// # Errors
    /// [`Refusal::Stale`] if the place is gone, or something stored already begins as these tokens do: plan again.
    pub fn insert_block(
        &mut self,
        key: &NamespaceKey,
        attach: Option<Continues>,
        tokens: &[u32],
        place: Place,
        now_ms: u64,
    ) -> Result<(NodeId, RecordId), Refusal> {
        let namespace = self.namespaces.find(key).ok_or(Refusal::Stale)?;
        let first = *tokens.first().ok_or(Refusal::Stale)?;
        let (parent, parent_tokens, start, attach_chain, child_key) = match attach {
            None => (NONE, 0, 0, root_chain(key), ChildKey::at_root(namespace, first)),
            Some(at) => {
                let parent = self.place_of(at).filter(|parent| parent.namespace == namespace).ok_or(Refusal::Stale)?;
                // What begins as the parent goes on belongs behind that.
                if self.tokens.get(parent.tokens).get(usize::from(at.tokens)) == Some(&first) {
                    return Err(Refusal::Stale);
                }
                let start = parent.start.checked_add(u32::from(at.tokens)).ok_or(Refusal::Stale)?;
                let chain = self.chain_after(parent, at.tokens);
                (at.node.0, at.tokens, start, chain, ChildKey::of(at.node.0, at.tokens, first))
            }
        };
        if start as usize % BLOCK_TOKENS + tokens.len() > BLOCK_TOKENS
            || self.children.contains_key(&child_key)
            || self.nodes.len() >= MOST_PLACES
            || self.next_record == u64::MAX
        {
            return Err(Refusal::Stale);
        }
        let id = self.new_record();
        let own = self.node_place();
        let span = self.tokens.put(tokens, own);
        let last_used_ms = self.time_below(parent, now_ms);
        self.nodes[own as usize] = Node {
            record: Record::new(id, last_used_ms),
            attach_chain,
            tokens: span,
            start,
            parent,
            namespace,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            twin: NONE,
            first_snapshot: NONE,
            parent_tokens,
        };
        self.children.insert(child_key, own);
        self.link_sibling(own);
        self.entries.insert(id, Entry::Block(own));
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.blocks += 1;
            namespace.tokens += tokens.len() as u64;
            namespace.last_used_ms = namespace.last_used_ms.max(last_used_ms);
        }
        self.begin(Entry::Block(own), place);
        Ok((NodeId(own), id))
    }

    /// Adds a snapshot at the end of a prefix.
    ///
    /// # Errors
    /// [`Refusal::Stale`] if the place is gone or has a snapshot.
    pub fn insert_snapshot(
        &mut self,
        at: Continues,
        meta: &[u8],
        place: Place,
        now_ms: u64,
    ) -> Result<(SnapshotId, RecordId), Refusal> {
        let node = self.place_of(at).ok_or(Refusal::Stale)?;
        let namespace = node.namespace;
        let attach_chain = self.chain_after(node, at.tokens);
        let is_full = self.snapshots.len() >= MOST_PLACES || self.next_record == u64::MAX;
        if is_full || self.snapshot_exactly_at(at.node.0, at.tokens).is_some() {
            return Err(Refusal::Stale);
        }
        let id = self.new_record();
        let last_used_ms = self.time_below(at.node.0, now_ms);
        let snapshot = Snapshot {
            record: Record::new(id, last_used_ms),
            attach_chain,
            meta: Arc::new(meta.to_vec()),
            node: at.node.0,
            next: self.nodes[at.node.0 as usize].first_snapshot,
            tokens: at.tokens,
        };
        let own = self.snapshot_place(snapshot);
        self.nodes[at.node.0 as usize].first_snapshot = own;
        self.entries.insert(id, Entry::Snapshot(own));
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.snapshots += 1;
        }
        self.begin(Entry::Snapshot(own), place);
        Ok((SnapshotId(own), id))
    }

    /// A reserved record is copied: it is served from now on. `false`: it was removed meanwhile.
    pub fn filled(&mut self, record: RecordId) -> bool {
        let Some(entry) = self.entries.get(&record).copied() else { return false };
        let record = self.record_mut(entry);
        if record.state == State::Pending {
            record.state = State::Memory;
        }
        true
    }

    /// A record is durable, or was moved to another segment. `false`: it was removed meanwhile, so its bytes there are dead
    /// and its removal is to be journalled.
    pub fn committed(&mut self, record: RecordId, at: Location) -> bool {
        let segment = self.segments.reaches(&at);
        let Some(entry) = self.entries.get(&record).copied() else { return false };
        let before = *self.record(entry);
        if before.state == State::Disk {
            self.segments.leave(&before, before.holds > 0);
        }
        let namespace = self.namespace_of(entry);
        let record = self.record_mut(entry);
        record.state = State::Disk;
        record.segment = segment;
        record.offset = at.offset;
        record.header_bytes = at.header_bytes;
        record.payload_bytes = at.payload_bytes;
        let after = *record;
        self.segments.enter(&after);
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.disk_bytes += after.disk_bytes();
            namespace.disk_bytes -= before.disk_bytes();
        }
        if before.state != State::Disk {
            self.unprotect(entry);
        }
        true
    }

    /// A new record protects itself until it is durable.
    fn begin(&mut self, entry: Entry, place: Place) {
        self.protect(entry);
        match place {
            Place::Pending => {}
            Place::Memory => self.record_mut(entry).state = State::Memory,
            Place::Disk(at) => {
                let id = self.record(entry).id;
                self.committed(id, at);
            }
        }
    }

    fn new_record(&mut self) -> RecordId {
        let id = RecordId(self.next_record);
        self.next_record += 1;
        id
    }

    #[expect(clippy::cast_possible_truncation, reason = "checked against MOST_PLACES")]
    fn node_place(&mut self) -> u32 {
        self.vacant_nodes.pop().unwrap_or_else(|| {
            self.nodes.push(Node::vacant());
            self.nodes.len() as u32 - 1
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "checked against MOST_PLACES")]
    pub(super) fn snapshot_place(&mut self, snapshot: Snapshot) -> u32 {
        if let Some(place) = self.vacant_snapshots.pop() {
            self.snapshots[place as usize] = snapshot;
            place
        } else {
            self.snapshots.push(snapshot);
            self.snapshots.len() as u32 - 1
        }
    }

    /// Hangs a node before its parent's other children.
    pub(super) fn link_sibling(&mut self, own: u32) {
        let Node { parent, namespace, .. } = self.nodes[own as usize];
        let next = if parent == NONE {
            let Some(namespace) = self.namespaces.get_mut(namespace) else { return };
            std::mem::replace(&mut namespace.first_child, own)
        } else {
            std::mem::replace(&mut self.nodes[parent as usize].first_child, own)
        };
        self.nodes[own as usize].next_sibling = next;
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.previous_sibling = own;
        }
    }

    /// The time of use of what is new below a node: now, but never later than the node's own.
    fn time_below(&mut self, parent: u32, now_ms: u64) -> u64 {
        let Some(used_ms) = self.nodes.get(parent as usize).map(|node| node.record.last_used_ms) else { return now_ms };
        if used_ms.saturating_add(SAME_USE_MS) >= now_ms {
            return used_ms.min(now_ms);
        }
        let mut next = parent;
        while next != NONE && self.nodes[next as usize].record.last_used_ms < now_ms {
            self.use_at(Entry::Block(next), now_ms);
            next = self.nodes[next as usize].parent;
        }
        now_ms
    }

    pub(super) fn namespace_of(&self, entry: Entry) -> u32 {
        match entry {
            Entry::Block(place) => self.nodes[place as usize].namespace,
            Entry::Snapshot(place) => self.nodes[self.snapshots[place as usize].node as usize].namespace,
        }
    }
}
