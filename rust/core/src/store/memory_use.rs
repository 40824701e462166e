//! What a sample of the memory ledger takes of a store, without waiting for any lock: it is taken between two steps of a
//! running model.

use std::sync::atomic::{AtomicU64, Ordering};

use super::handle::Store;

/// What a store holds in RAM, and what it gave back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryUse {
    /// RAM of the hot tier; `None` while another thread works on the index.
    pub hot_bytes: Option<u64>,
    /// Bytes given back, from RAM and from disk.
    pub restored_bytes: u64,
    /// Blocks read from disk for that.
    pub page_faults: u64,
}

impl Store {
    /// Nothing in a fork.
    #[must_use]
    pub fn memory(&self) -> Option<MemoryUse> {
        let engine = self.engine();
        if !engine.is_own_process() {
            return None;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let hot_bytes = engine.try_catalog().map(|catalog| catalog.hot.durable_bytes());
        let counters = &engine.counters;
        Some(MemoryUse {
            hot_bytes,
            restored_bytes: count(&counters.bytes_restored_hot) + count(&counters.bytes_restored_cold),
            page_faults: count(&counters.blocks_restored_cold),
        })
    }
}
