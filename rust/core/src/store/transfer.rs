//! What goes in and out of a store: where the caller's arrays are, and what came of a save or a restore.
//!
//! A part of `rows` heads is an array `[rows, tokens, row_bytes]` whose last axis is contiguous. Pointers are the
//! caller's: the functions that follow them are `unsafe` and say what must hold.

#![expect(unsafe_code, reason = "says which of the callers' addresses may cross threads")]

use serde::{Deserialize, Serialize};

use super::error::Refusal;
use super::types::NamespaceKey;

/// What a prefix tree belongs to, and the name it goes by.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// The identity of model, format and tenant.
    pub key: NamespaceKey,
    /// The model's path or name. Tells "its identity changed" from "never seen"; decides nothing else.
    pub label: String,
}

impl Namespace {
    /// The namespace of `key`, called `label`.
    #[must_use]
    pub fn new(key: NamespaceKey, label: impl Into<String>) -> Self {
        Self { key, label: label.into() }
    }
}

/// Where a part's bytes are in the caller's memory, to be saved.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Row 0 of the token `first_token`.
    pub ptr: *const u8,
    /// Bytes from a row to the next.
    pub row_stride_bytes: usize,
    /// Bytes from a token to the next within a row.
    pub token_stride_bytes: usize,
    /// Position in the prompt of the token at `ptr`: not 0 where a sliding window kept only the last ones.
    pub first_token: usize,
}

// SAFETY: an address. Who follows it answers for it: `Store::save`'s contract makes it readable from any thread.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

/// Where a part's bytes are to be restored to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Row 0 of the token `first_token`.
    pub ptr: *mut u8,
    /// Bytes from a row to the next.
    pub row_stride_bytes: usize,
    /// Tokens that a row has room for, from `first_token` on.
    pub token_capacity: usize,
    /// Position in the prompt of the token at `ptr`. Tokens before it are skipped.
    pub first_token: usize,
}

// SAFETY: an address. Who follows it answers for it: `Store::restore`'s contract makes it writable from any thread.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// State of layers that cannot be cut at a token, valid at exactly the end of the saved tokens.
#[derive(Clone, Debug, Default)]
pub struct SnapshotSource {
    /// The caller's own description, given back as it is.
    pub meta: Vec<u8>,
    /// The state's arrays.
    pub arrays: Vec<SnapshotArray>,
}

/// One contiguous array of a snapshot in the caller's memory.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotArray {
    /// Its first byte.
    pub ptr: *const u8,
    /// Its length.
    pub bytes: usize,
}

// SAFETY: an address. Who follows it answers for it: `Store::save`'s contract makes it readable from any thread.
unsafe impl Send for SnapshotArray {}
// SAFETY: as above.
unsafe impl Sync for SnapshotArray {}

/// Where one array of a snapshot is to be restored to.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotTarget {
    /// Its first byte.
    pub ptr: *mut u8,
    /// Its length: that of the array.
    pub bytes: usize,
}

// SAFETY: an address. Who follows it answers for it: `Store::restore_snapshot`'s contract makes it writable.
unsafe impl Send for SnapshotTarget {}
// SAFETY: as above.
unsafe impl Sync for SnapshotTarget {}

/// The state that can be restored with a match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Tokens of the prefix at which it is valid.
    pub position: usize,
    /// The caller's own description.
    pub meta: Vec<u8>,
    /// Bytes of each array.
    pub array_bytes: Vec<u64>,
}

/// What came of a restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Leading tokens that are right in every target. Fewer than restorable if a record turned out bad.
    pub tokens: usize,
    /// Bytes that came from RAM, as they are in the targets.
    pub bytes_hot: u64,
    /// Bytes that came from disk, as they are in the targets.
    pub bytes_cold: u64,
}

/// What came of a save.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    /// Tokens that were not stored before and are now, or will be where `deferred`.
    pub new_tokens: usize,
    /// Bytes of these and of the snapshot, as they are in the sources.
    pub bytes: u64,
    /// Why not all was accepted.
    pub refused: Option<Refusal>,
    /// Whether the copy is still to be made, once the queue has room.
    pub deferred: bool,
}

/// What a purge took away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Purged {
    /// Blocks no longer there.
    pub blocks: u64,
    /// Snapshots no longer there.
    pub snapshots: u64,
    /// Payload bytes of both.
    pub bytes: u64,
}

/// What a compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Compacted {
    /// Segment files that are gone.
    pub segments: u64,
    /// Bytes of live records written anew.
    pub moved_bytes: u64,
    /// Bytes of disk given back, less what was written anew.
    pub freed_bytes: u64,
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Records read.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Those that were bad. They are quarantined, and what continued them is gone.
    pub bad: Vec<BadRecord>,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

/// A record that failed verification.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BadRecord {
    /// Its name.
    pub id: u64,
    /// The number of its segment file.
    pub segment: u32,
    /// Where it begins there, in bytes.
    pub offset: u64,
    /// What was wrong.
    pub why: String,
}
