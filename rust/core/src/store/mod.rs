//! The paged KV cache: prefixes of prompts with their KV, in RAM and on disk, found token by token.
//!
//! [`Store`] is the whole of it. Below it lie three rooms that do not know each other: [`index`] (which prefixes there are
//! and which may go; no I/O), [`disk`] (what is durable), `memory` (buffers and the hot tier). The files beside this one
//! tie them together along the two paths of the data: a save goes `write` → `queue` → (`copier`) → `copy` → `writer`, a restore
//! goes `matched` → `read`.

pub mod disk;
pub mod identity;
pub mod index;
pub mod types;

mod config;
mod copier;
mod copy;
mod engine;
mod error;
mod handle;
mod huge_pages;
mod lanes;
mod maintenance;
mod matched;
mod memory;
mod memory_use;
mod parts;
mod queue;
mod read;
mod read_block;
mod read_state;
mod registry;
mod snapshot;
mod stats;
mod suspects;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod transfer;
mod verify;
mod write;
mod writer;

pub use config::{StoreConfig, StoreLimits};
pub use error::{MissReason, Refusal, StoreError};
pub use handle::Store;
pub use matched::Match;
pub use memory_use::MemoryUse;
pub use stats::{Counts, Histogram, Misses, StoreInfo, StoreState, StoreStats};
pub use transfer::{
    BadRecord, Compacted, Namespace, Purged, Restored, Saved, SnapshotArray, SnapshotInfo, SnapshotSource,
    SnapshotTarget, Source, Target, VerifyReport,
};
