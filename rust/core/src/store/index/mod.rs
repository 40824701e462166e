//! What the store holds, in memory: a tree of prefixes for each namespace, found token by token.
//!
//! Knows no file, no thread and no payload: it says what is stored and where, what to save, what may go. The caller keeps
//! it behind one lock; every call is short. Times are milliseconds since the Unix epoch and come from the caller.
//!
//! A node is a block: up to 256 tokens. A child continues the first k tokens of its parent, so that a prompt that differs
//! from a stored one in the middle of a block shares the block up to there, and no token is stored twice. Siblings at one
//! place begin with different tokens, so the way down is one hash probe a block; between probes, token ids are compared.
//!
//! Three rules hold at every moment, and everything else rests on them:
//! - a node is in the tree only if its parent is;
//! - no node was used later than its parent;
//! - a node that something protects (a hold, a pin, not being durable) protects its parent.

mod admission;
mod answers;
mod change;
mod insert;
mod load;
mod lookup;
mod namespaces;
mod nodes;
mod protect;
mod segments;
mod space;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use answers::{
    Continues, Limits, Lookup, MissReason, NamespaceUse, NodeId, PinChange, Place, Refusal, Removed, Room, Run,
    SavePlan, SegmentUse, SnapshotHit, SnapshotId, Step, Totals, Touch,
};

use crate::store::types::{Attach, Location, RecordId, RecordInfo, RecordKind, SegmentId, extend_chain};
use admission::{Ghosts, WriteBudget};
use namespaces::Namespaces;
use nodes::{Children, Entries, Entry, NONE, Node, Record, Snapshot, State, table_bytes};
use segments::Segments;
use tokens::TokenArena;

/// All that the store knows of its records.
#[derive(Debug)]
pub struct Index {
    limits: Limits,
    nodes: Vec<Node>,
    vacant_nodes: Vec<u32>,
    snapshots: Vec<Snapshot>,
    vacant_snapshots: Vec<u32>,
    children: Children,
    /// Some children are twins; see [`Children`]. Stays set once it is.
    has_twins: bool,
    entries: Entries,
    tokens: TokenArena,
    namespaces: Namespaces,
    segments: Segments,
    /// Deepest blocks of pinned prefixes, and their snapshots.
    pinned: HashSet<RecordId>,
    /// What has left the tree while it was held.
    detached: HashSet<Entry>,
    /// Used since the last [`Index::drain_touches`].
    touches: HashMap<RecordId, (u64, bool)>,
    evicted: Ghosts,
    offered: Ghosts,
    budget: WriteBudget,
    next_record: u64,
    /// Where the next sweep for expired nodes begins.
    sweep: usize,
}

impl Index {
    /// An index of nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            nodes: Vec::new(),
            vacant_nodes: Vec::new(),
            snapshots: Vec::new(),
            vacant_snapshots: Vec::new(),
            children: Children::default(),
            has_twins: false,
            entries: Entries::default(),
            tokens: TokenArena::default(),
            namespaces: Namespaces::default(),
            segments: Segments::default(),
            pinned: HashSet::new(),
            detached: HashSet::new(),
            touches: HashMap::new(),
            evicted: Ghosts::default(),
            offered: Ghosts::default(),
            budget: WriteBudget::default(),
            next_record: 0,
            sweep: 0,
        }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Puts other limits in force.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether a record is in the tree.
    #[must_use]
    pub fn contains(&self, record: RecordId) -> bool {
        self.entries.contains_key(&record)
    }

    /// Where a held block is on disk now (compaction moves records); `None`: in memory only, or not held.
    #[must_use]
    pub fn location(&self, node: NodeId) -> Option<Location> {
        self.nodes.get(node.0 as usize).and_then(|node| self.location_of(&node.record))
    }

    /// The same for a snapshot.
    #[must_use]
    pub fn snapshot_location(&self, snapshot: SnapshotId) -> Option<Location> {
        self.snapshots.get(snapshot.0 as usize).and_then(|snapshot| self.location_of(&snapshot.record))
    }

    /// Where a record of the tree is on disk; `None`: in memory only, or not in the tree.
    #[must_use]
    pub fn record_location(&self, record: RecordId) -> Option<Location> {
        self.location_of(self.record(*self.entries.get(&record)?))
    }

    /// The caller's description of a snapshot.
    #[must_use]
    pub fn snapshot_meta(&self, snapshot: SnapshotId) -> Option<Arc<Vec<u8>>> {
        let snapshot = self.snapshots.get(snapshot.0 as usize)?;
        (snapshot.record.state != State::Vacant).then(|| Arc::clone(&snapshot.meta))
    }

    /// The block of a record in the tree.
    #[must_use]
    pub fn node_of(&self, record: RecordId) -> Option<NodeId> {
        match self.entries.get(&record)? {
            Entry::Block(place) => Some(NodeId(*place)),
            Entry::Snapshot(_) => None,
        }
    }

    /// All about a record in the tree, as it is written beside its payload.
    #[must_use]
    pub fn record_info(&self, record: RecordId) -> Option<RecordInfo> {
        let (node, attach, attach_chain, kind) = match *self.entries.get(&record)? {
            Entry::Block(place) => {
                let node = &self.nodes[place as usize];
                let kind = RecordKind::Block { start: node.start, tokens: self.tokens.get(node.tokens).to_vec() };
                (node, self.attach_of(node), node.attach_chain, kind)
            }
            Entry::Snapshot(place) => {
                let snapshot = &self.snapshots[place as usize];
                let node = &self.nodes[snapshot.node as usize];
                let attach = Attach { parent: node.record.id, parent_tokens: snapshot.tokens };
                let kind = RecordKind::Snapshot { meta: snapshot.meta.to_vec() };
                (node, Some(attach), snapshot.attach_chain, kind)
            }
        };
        let namespace = self.namespaces.key(node.namespace)?;
        Some(RecordInfo { id: record, namespace, attach, attach_chain, kind })
    }

    /// The index in numbers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { segment_bytes: self.segments.file_bytes(), ..Totals::default() };
        for (_, namespace) in self.namespaces.iter() {
            totals.blocks += namespace.blocks;
            totals.snapshots += namespace.snapshots;
            totals.tokens += namespace.tokens;
            totals.disk_bytes += namespace.disk_bytes;
        }
        totals.pinned = self.pinned.iter().filter(|record| self.node_of(**record).is_some()).count() as u64;
        totals
    }

    /// Memory that the index takes beside the token ids and snapshots' descriptions, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.snapshots.capacity() * size_of::<Snapshot>()
            + (self.vacant_nodes.capacity() + self.vacant_snapshots.capacity()) * size_of::<u32>()
            + table_bytes(&self.children)
            + table_bytes(&self.entries)
            + table_bytes(&self.touches)
            + self.tokens.own_bytes()
            + self.segments.memory_bytes()
            + self.evicted.memory_bytes()
            + self.offered.memory_bytes()
    }

    /// Memory of the token ids, in bytes.
    #[must_use]
    pub fn token_bytes(&self) -> usize {
        self.tokens.token_bytes()
    }

    fn attach_of(&self, node: &Node) -> Option<Attach> {
        let parent = self.nodes.get(node.parent as usize)?;
        Some(Attach { parent: parent.record.id, parent_tokens: node.parent_tokens })
    }

    fn location_of(&self, record: &Record) -> Option<Location> {
        let segment = self.segments.get(record.segment).filter(|_| record.state == State::Disk)?;
        Some(Location {
            segment: segment.id,
            offset: record.offset,
            header_bytes: record.header_bytes,
            payload_bytes: record.payload_bytes,
        })
    }

    fn record(&self, entry: Entry) -> &Record {
        match entry {
            Entry::Block(place) => &self.nodes[place as usize].record,
            Entry::Snapshot(place) => &self.snapshots[place as usize].record,
        }
    }

    fn record_mut(&mut self, entry: Entry) -> &mut Record {
        match entry {
            Entry::Block(place) => &mut self.nodes[place as usize].record,
            Entry::Snapshot(place) => &mut self.snapshots[place as usize].record,
        }
    }

    /// A place in the tree, if there is one.
    fn place_of(&self, at: Continues) -> Option<&Node> {
        let node = self.nodes.get(at.node.0 as usize)?;
        (node.record.is_live() && (1..=node.tokens.count).contains(&at.tokens)).then_some(node)
    }

    /// The chain of the prefix that ends after so many tokens of a block.
    fn chain_after(&self, node: &Node, tokens: u16) -> [u8; 16] {
        extend_chain(&node.attach_chain, &self.tokens.get(node.tokens)[..usize::from(tokens)])
    }

    fn parent_of(&self, entry: Entry) -> Option<u32> {
        let parent = match entry {
            Entry::Block(place) => self.nodes[place as usize].parent,
            Entry::Snapshot(place) => self.snapshots[place as usize].node,
        };
        (parent != NONE).then_some(parent)
    }
}

/// Segments being written, which are never victims.
type Open<'a> = &'a [SegmentId];
