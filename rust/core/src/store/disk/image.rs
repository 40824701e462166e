//! The index as it goes to disk and comes back: flat rows with shared token chunks. Knows no file.
//!
//! 100,000 blocks must open in 100 ms, so nothing here allocates per block: rows have a fixed size, their token ids and
//! meta bytes lie in a few large arrays beside them.

use std::sync::Arc;

use crate::store::types::{Attach, Chain, Layout, Location, NamespaceKey, RecordId};

/// Many blocks' token ids in one array. Shared, so that a dump of the index copies no tokens.
pub type TokenChunk = Arc<Vec<u32>>;

/// [`Recovered::parent_rows`] of a block that continues the root.
pub const NO_ROW: u32 = u32::MAX;

/// A namespace that the store knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceRow {
    /// Its digest.
    pub key: NamespaceKey,
    /// What its blocks hold.
    pub layout: Layout,
    /// What the caller calls it (a model's path): tells a changed identity from a new model.
    pub label: String,
}

/// Where a row's token ids are: `chunks[chunk][offset..][..count]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenSpan {
    /// Which chunk of [`IndexDump::tokens`].
    pub chunk: u32,
    /// First token in the chunk.
    pub offset: u32,
    /// 1 to 256.
    pub count: u16,
}

/// A committed block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRow {
    /// Its name. A parent's is always lower than its child's.
    pub id: RecordId,
    /// The block continued; `None`: the root.
    pub attach: Option<Attach>,
    /// Row in [`IndexDump::namespaces`].
    pub namespace: u32,
    /// Position of the first token in the prompt.
    pub start: u32,
    /// Its token ids.
    pub tokens: TokenSpan,
    /// The chain of the prefix that it continues.
    pub attach_chain: Chain,
    /// Where its payload is.
    pub at: Location,
    /// Last use, milliseconds since the Unix epoch.
    pub last_used_ms: u64,
    /// Never evicted.
    pub pinned: bool,
    /// A lookup has used it since it was saved.
    pub reused: bool,
}

/// A committed snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRow {
    /// Its name. Higher than its block's.
    pub id: RecordId,
    /// The block and how many of its tokens (1 or more) the state has seen.
    pub attach: Attach,
    /// The chain of the prefix at which it is valid.
    pub attach_chain: Chain,
    /// Where its arrays are.
    pub at: Location,
    /// Last use, milliseconds since the Unix epoch.
    pub last_used_ms: u64,
    /// Never evicted.
    pub pinned: bool,
    /// A lookup has used it since it was saved.
    pub reused: bool,
    /// The caller's own description.
    pub meta: Arc<Vec<u8>>,
}

/// Bytes written on one day, for the daily budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteDay {
    /// Days since 1970-01-01, UTC.
    pub day: u32,
    /// Bytes written on it.
    pub bytes: u64,
}

/// All that an index needs after a restart. [`Disk::write_index`](super::Disk::write_index) takes rows in any order;
/// [`Recovered`] has `blocks` and `snapshots` each sorted by rising id.
#[derive(Clone, Debug, Default)]
pub struct IndexDump {
    /// The known namespaces; rows refer to them by position.
    pub namespaces: Vec<NamespaceRow>,
    /// The committed blocks.
    pub blocks: Vec<BlockRow>,
    /// The committed snapshots.
    pub snapshots: Vec<SnapshotRow>,
    /// Token ids of the blocks. What no row refers to is not written.
    pub tokens: Vec<TokenChunk>,
    /// The lowest id never given out.
    pub next_record: u64,
    /// The daily write budget's state.
    pub written: WriteDay,
    /// The index's own small state (ghosts), opaque; at most 64 MiB.
    pub extra: Vec<u8>,
}

impl IndexDump {
    /// The token ids of a row, which must be one of this dump's.
    #[must_use]
    pub fn tokens_of(&self, block: &BlockRow) -> &[u32] {
        let first = block.tokens.offset as usize;
        &self.tokens[block.tokens.chunk as usize][first..first + usize::from(block.tokens.count)]
    }
}

/// A segment file that holds committed records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRow {
    /// Its number.
    pub id: crate::store::types::SegmentId,
    /// Its length; what its live records do not take of it is dead.
    pub bytes: u64,
}

/// How a store came back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Opened {
    /// An empty folder.
    #[default]
    Fresh,
    /// From its index and journal, without reading a segment.
    Indexed,
    /// From the segments' own headers, because of what is said.
    Rebuilt {
        /// What was missing or wrong.
        why: String,
    },
}

/// What recovery dropped, in records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    /// Their segment is missing, or ends before they do.
    pub missing: u64,
    /// Found bad: quarantined before, or a checksum does not hold.
    pub quarantined: u64,
    /// What they continue is gone.
    pub orphaned: u64,
    /// Bytes cut off behind the last committed record of a segment: writes that were never acknowledged.
    pub torn_bytes: u64,
}

/// A store just opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The live records; every invariant of the rows holds (parents exist and come first, positions add up, token spans
    /// are in range). `tokens` has few chunks.
    pub image: IndexDump,
    /// For each row of `image.blocks` the row of its parent, or [`NO_ROW`].
    pub parent_rows: Vec<u32>,
    /// For each row of `image.snapshots` the row of its block.
    pub snapshot_rows: Vec<u32>,
    /// All segments, by rising id.
    pub segments: Vec<SegmentRow>,
    /// Whether the index had to be rebuilt.
    pub opened: Opened,
    /// What is not there any more.
    pub losses: Losses,
}
