//! The nodes of the tree and the snapshots that hang on them: fixed size, addressed by place, no allocation each.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use crate::store::disk::TokenSpan;
use crate::store::types::{Chain, RecordId};

/// No node, snapshot or segment.
pub(super) const NONE: u32 = u32::MAX;

/// Marks the place of a namespace's root among the parents of nodes.
const ROOT: u32 = 1 << 31;

/// How far a record has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The place is free.
    Vacant,
    /// Reserved, not yet copied.
    Pending,
    /// Copied, not yet durable.
    Memory,
    /// Committed.
    Disk,
}

/// What blocks and snapshots have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) id: RecordId,
    pub(super) last_used_ms: u64,
    pub(super) offset: u64,
    pub(super) payload_bytes: u64,
    /// Place among the segments; meaningful in [`State::Disk`] only.
    pub(super) segment: u32,
    pub(super) header_bytes: u32,
    /// Reasons not to evict it: holds, a pin, not being durable, and each protected child or snapshot.
    pub(super) holds: u32,
    pub(super) state: State,
    /// A lookup has used it.
    pub(super) reused: bool,
    /// It has left the tree and only waits for its last holder.
    pub(super) detached: bool,
}

impl Record {
    pub(super) fn new(id: RecordId, last_used_ms: u64) -> Self {
        Self {
            id,
            last_used_ms,
            offset: 0,
            payload_bytes: 0,
            segment: NONE,
            header_bytes: 0,
            holds: 0,
            state: State::Pending,
            reused: false,
            detached: false,
        }
    }

    /// Bytes in its segment.
    pub(super) fn disk_bytes(&self) -> u64 {
        if self.state == State::Disk { u64::from(self.header_bytes) + self.payload_bytes } else { 0 }
    }

    /// Its bytes are lost; it waits for its last holder without them.
    pub(super) fn forget_bytes(&mut self) {
        self.state = State::Memory;
        self.segment = NONE;
    }

    /// Whether it is in the tree.
    pub(super) fn is_live(&self) -> bool {
        self.state != State::Vacant && !self.detached
    }

    /// Whether a lookup may give it, with records unused since `oldest_ms` expired.
    pub(super) fn is_served(&self, oldest_ms: u64) -> bool {
        !matches!(self.state, State::Vacant | State::Pending) && self.last_used_ms >= oldest_ms
    }
}

/// A block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) record: Record,
    pub(super) attach_chain: Chain,
    pub(super) tokens: TokenSpan,
    pub(super) start: u32,
    /// The block continued, or [`NONE`].
    pub(super) parent: u32,
    pub(super) namespace: u32,
    pub(super) first_child: u32,
    pub(super) next_sibling: u32,
    pub(super) previous_sibling: u32,
    /// A sibling at the same place with the same first token; see [`Children`].
    pub(super) twin: u32,
    pub(super) first_snapshot: u32,
    pub(super) parent_tokens: u16,
}

impl Node {
    /// A free place.
    pub(super) fn vacant() -> Self {
        Self {
            record: Record { state: State::Vacant, ..Record::new(RecordId(0), 0) },
            attach_chain: Chain::default(),
            tokens: TokenSpan { chunk: 0, offset: 0, count: 0 },
            start: 0,
            parent: NONE,
            namespace: 0,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            twin: NONE,
            first_snapshot: NONE,
            parent_tokens: 0,
        }
    }

    pub(super) fn child_key(&self, first_token: u32) -> ChildKey {
        if self.parent == NONE {
            ChildKey::at_root(self.namespace, first_token)
        } else {
            ChildKey::of(self.parent, self.parent_tokens, first_token)
        }
    }
}

/// State at one prefix.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) record: Record,
    pub(super) attach_chain: Chain,
    pub(super) meta: Arc<Vec<u8>>,
    pub(super) node: u32,
    /// The next one of the same block.
    pub(super) next: u32,
    /// How many of the block's tokens it has seen.
    pub(super) tokens: u16,
}

/// A record's place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Entry {
    Block(u32),
    Snapshot(u32),
}

/// Where a child hangs: after so many tokens of its parent, with this first token.
///
/// Siblings at one place begin with different tokens, since what begins alike branches off inside the first of them. So
/// one probe finds the child with the longest common prefix, however many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChildKey {
    parent: u32,
    parent_tokens: u32,
    first_token: u32,
}

impl ChildKey {
    pub(super) fn of(parent: u32, parent_tokens: u16, first_token: u32) -> Self {
        Self { parent, parent_tokens: u32::from(parent_tokens), first_token }
    }

    pub(super) fn at_root(namespace: u32, first_token: u32) -> Self {
        Self { parent: ROOT | namespace, parent_tokens: 0, first_token }
    }
}

impl Hash for ChildKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.parent) << 32 | u64::from(self.first_token));
        state.write_u32(self.parent_tokens);
    }
}

/// The first child at each place. Its [`Node::twin`]s follow it: two blocks with the same first token at one place never
/// come from saving, but a store rebuilt from its segments may bring a removed block back beside its successor.
pub(super) type Children = HashMap<ChildKey, u32, Seeded>;

/// Places by record.
pub(super) type Entries = HashMap<RecordId, Entry, Seeded>;

/// Hashes a few integers fast, with a seed of this process, so that nobody can choose tokens that collide.
#[derive(Clone, Debug)]
pub(super) struct Seeded {
    seed: u64,
}

impl Default for Seeded {
    fn default() -> Self {
        Self { seed: RandomState::new().hash_one(0_u8) }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding { hash: self.seed, seed: self.seed }
    }
}

/// Multiplies each word with an odd constant to 128 bits and folds the halves together.
#[derive(Debug)]
pub(super) struct Folding {
    hash: u64,
    seed: u64,
}

impl Hasher for Folding {
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the product are what is folded")]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.hash ^ word) * u128::from(self.seed.rotate_left(32) ^ 0x9E37_79B9_7F4A_7C15 | 1);
        self.hash = (product as u64) ^ (product >> 64) as u64;
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

/// Memory of a standard hash table, in bytes: its buckets (a power of two, 7/8 of them usable) and a byte of control each.
pub(super) fn table_bytes<K, V, S>(table: &HashMap<K, V, S>) -> usize {
    if table.capacity() == 0 {
        return 0;
    }
    (table.capacity() * 8 / 7).next_power_of_two() * (size_of::<(K, V)>() + 1)
}
