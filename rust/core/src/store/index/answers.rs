//! What the index is asked and what it answers. Plain data.

use serde::{Deserialize, Serialize};

use crate::store::types::{Location, NamespaceKey, RecordId, SegmentId};

/// What bounds a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// All files of the store together, in bytes.
    pub quota_bytes: u64,
    /// What must stay free on the file system, in bytes.
    pub min_free_bytes: u64,
    /// Bytes that may be written in one UTC day; `None`: any number.
    pub daily_write_bytes: Option<u64>,
    /// A prefix unused for longer than this, in milliseconds, is no longer served; `None`: for ever.
    pub ttl_ms: Option<u64>,
}

/// A block in the index. Stays valid while held, also when its block has left the tree meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeId(pub(super) u32);

/// A snapshot in the index. Stays valid while held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotId(pub(super) u32);

/// Where a record's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Reserved, being copied: counts as stored for the next save, is not served.
    Pending,
    /// Copied: served, not yet durable.
    Memory,
    /// Committed. Whether it is in memory too is not the index's business.
    Disk(Location),
}

/// One block of a matched prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The block.
    pub node: NodeId,
    /// Its record.
    pub record: RecordId,
    /// Position of its first token in the prompt.
    pub start: u32,
    /// How many of its leading tokens belong to the prefix: 1 to `block_tokens`.
    pub tokens: u16,
    /// How many tokens it has.
    pub block_tokens: u16,
    /// Where it is on disk; `None`: in memory only.
    pub at: Option<Location>,
}

/// The state from which a matched prefix can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotHit {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its record.
    pub record: RecordId,
    /// The prefix that it holds, in tokens.
    pub position: usize,
    /// Where it is on disk; `None`: in memory only.
    pub at: Option<Location>,
}

/// The longest stored prefix of some tokens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lookup {
    /// Its blocks from the root on. Each step but the last continues where the one before was left.
    pub path: Vec<Step>,
    /// Its length in tokens.
    pub matched_tokens: usize,
    /// The last snapshot within it.
    pub snapshot: Option<SnapshotHit>,
    /// Tokens that can be restored: all that matched, or up to the snapshot where the layout needs one.
    pub restorable_tokens: usize,
    /// Why fewer tokens can be restored than were asked for; `None`: all can.
    pub stopped: Option<MissReason>,
}

/// Why a lookup found less than it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissReason {
    /// Nothing of the kind has been stored, as far as is remembered.
    NoPrefix,
    /// It was stored, and was evicted, expired or removed.
    Evicted,
    /// The model is known by its label, but its weights, settings or KV format have changed.
    IdentityChanged,
    /// The tokens are stored, but no state from which a layer that cannot be cut could go on.
    NoSnapshot,
    /// There is no store, or it is suspended.
    Disabled,
}

/// Why something is not stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The namespace's blocks hold other arrays.
    #[error("the namespace is stored with another layout")]
    LayoutChanged,
    /// The caller's arrays begin behind what is stored.
    #[error("tokens between the stored prefix and the caller's arrays are missing")]
    SourceIncomplete,
    /// Too much has been written today for what may never be used again.
    #[error("the daily write budget does not allow it")]
    DailyBudget,
    /// The quota is full of what is in use, pinned or not yet durable.
    #[error("nothing can be evicted to make room within the quota")]
    NoRoom,
    /// The file system is too full, and evicting would not help enough.
    #[error("the file system's free space is below the floor")]
    FreeSpace,
    /// The tree has changed since the plan was made, or the place named does not exist.
    #[error("the stored prefix has changed meanwhile")]
    Stale,
}

/// A place in the tree: after the first `tokens` tokens of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Continues {
    /// The block.
    pub node: NodeId,
    /// 1 to the block's number of tokens.
    pub tokens: u16,
}

/// Tokens that make one new block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Position of the first in the prompt.
    pub start: usize,
    /// How many: 1 to 256, within two multiples of 256.
    pub tokens: usize,
}

/// What of a prompt is not stored yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SavePlan {
    /// Leading tokens that are stored or being stored.
    pub stored_tokens: usize,
    /// What the first run continues; `None`: the root.
    pub attach: Option<Continues>,
    /// The new blocks. Each continues all of the one before.
    pub runs: Vec<Run>,
    /// Tokens in all runs.
    pub new_tokens: usize,
    /// Whether a snapshot at the end of the tokens is stored or being stored.
    pub has_snapshot: bool,
}

/// What has left the index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Blocks and snapshots.
    pub records: Vec<RecordId>,
    /// Blocks among them.
    pub blocks: u64,
    /// Snapshots among them.
    pub snapshots: u64,
    /// Bytes that they took on disk.
    pub disk_bytes: u64,
}

impl Removed {
    /// Adds another's records to these.
    pub fn append(&mut self, mut other: Self) {
        self.records.append(&mut other.records);
        self.blocks += other.blocks;
        self.snapshots += other.snapshots;
        self.disk_bytes += other.disk_bytes;
    }
}

/// What was evicted to make room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// Segments without a live record, to be dropped in this order.
    pub victims: Vec<SegmentId>,
    /// The records that went; some were in other segments and continued a victim's.
    pub removed: Removed,
    /// Bytes of the victims' files.
    pub freed_bytes: u64,
}

/// What `pin` or `unpin` did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinChange {
    /// The deepest block, and the snapshot where there is one.
    pub records: Vec<RecordId>,
    /// The prefix's length.
    pub tokens: usize,
}

/// A use of a prefix to be journalled: ancestors are raised when the store is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    /// The prefix's deepest block, or a snapshot.
    pub record: RecordId,
    /// When, in milliseconds since the Unix epoch.
    pub last_used_ms: u64,
    /// Whether by a lookup.
    pub reused: bool,
}

/// What a namespace takes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamespaceUse {
    /// Its digest.
    pub key: NamespaceKey,
    /// The caller's name for it.
    pub label: String,
    /// Blocks.
    pub blocks: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Tokens in the blocks.
    pub tokens: u64,
    /// Bytes of its live records on disk.
    pub disk_bytes: u64,
    /// Last use, milliseconds since the Unix epoch.
    pub last_used_ms: u64,
}

/// What a segment holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentUse {
    /// Its number.
    pub segment: SegmentId,
    /// Length of its file.
    pub file_bytes: u64,
    /// Bytes of live records.
    pub live_bytes: u64,
    /// Live records.
    pub live_records: u64,
    /// Live records that may not be evicted.
    pub protected_records: u64,
    /// No live record was used later than this (milliseconds since the Unix epoch).
    pub last_used_ms: u64,
}

/// The index in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Blocks in the tree.
    pub blocks: u64,
    /// Snapshots in the tree.
    pub snapshots: u64,
    /// Tokens of the blocks.
    pub tokens: u64,
    /// Bytes of live records on disk.
    pub disk_bytes: u64,
    /// Bytes of all segment files.
    pub segment_bytes: u64,
    /// Pinned prefixes.
    pub pinned: u64,
}
