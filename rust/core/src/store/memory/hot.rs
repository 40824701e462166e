//! The hot tier: what is in RAM, by record. What is not durable yet stays; of the rest, what was used least lately goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Buffer;
use crate::store::parts::StoredParts;
use crate::store::types::RecordId;

/// A record's payload in RAM, filled and never changed again.
#[derive(Debug)]
pub(crate) struct Resident {
    /// The payload.
    pub(crate) buffer: Buffer,
    /// Its parts' places, lengths and checksums.
    pub(crate) parts: StoredParts,
    /// Bytes of memory that it takes.
    pub(crate) footprint: u64,
}

#[derive(Debug)]
struct Entry {
    resident: Arc<Resident>,
    durable: bool,
    turn: u64,
}

/// Payloads in RAM.
#[derive(Debug)]
pub(crate) struct HotTier {
    limit_bytes: u64,
    durable_bytes: u64,
    entries: HashMap<RecordId, Entry>,
    /// Durable entries by their last use.
    order: BTreeMap<u64, RecordId>,
    turns: u64,
}

impl HotTier {
    /// A tier that keeps at most `limit_bytes` of what is durable.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, durable_bytes: 0, entries: HashMap::new(), order: BTreeMap::new(), turns: 0 }
    }

    /// Takes a record in that is not durable yet.
    pub(crate) fn insert(&mut self, id: RecordId, resident: Arc<Resident>) {
        self.remove(id);
        self.turns += 1;
        self.entries.insert(id, Entry { resident, durable: false, turn: self.turns });
    }

    /// A record's payload; counts as a use.
    pub(crate) fn get(&mut self, id: RecordId) -> Option<Arc<Resident>> {
        let entry = self.entries.get_mut(&id)?;
        self.turns += 1;
        if entry.durable {
            self.order.remove(&entry.turn);
            self.order.insert(self.turns, id);
        }
        entry.turn = self.turns;
        Some(Arc::clone(&entry.resident))
    }

    /// A record is durable now, and may go. Gives what left, to be dropped where no lock is held.
    pub(crate) fn durable(&mut self, id: RecordId) -> Vec<Arc<Resident>> {
        if let Some(entry) = self.entries.get_mut(&id)
            && !entry.durable
        {
            entry.durable = true;
            self.durable_bytes += entry.resident.footprint;
            self.order.insert(entry.turn, id);
        }
        self.shrink()
    }

    /// Keeps at most so much of what is durable from now on. Gives what left.
    pub(crate) fn set_limit(&mut self, limit_bytes: u64) -> Vec<Arc<Resident>> {
        self.limit_bytes = limit_bytes;
        self.shrink()
    }

    fn shrink(&mut self) -> Vec<Arc<Resident>> {
        let mut gone = Vec::new();
        while self.durable_bytes > self.limit_bytes
            && let Some((_, id)) = self.order.first_key_value()
        {
            gone.extend(self.remove(*id));
        }
        gone
    }

    /// Drops a record, durable or not.
    pub(crate) fn remove(&mut self, id: RecordId) -> Option<Arc<Resident>> {
        let entry = self.entries.remove(&id)?;
        if entry.durable {
            self.order.remove(&entry.turn);
            self.durable_bytes -= entry.resident.footprint;
        }
        Some(entry.resident)
    }

    /// Bytes of what is durable and in RAM.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// Records in RAM.
    pub(crate) fn records(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use crate::store::memory::BufferPool;

    fn resident(bytes: usize) -> Arc<Resident> {
        let buffer = Arc::new(BufferPool::default()).take(bytes).unwrap();
        Arc::new(Resident { buffer, parts: StoredParts::new(Vec::new()), footprint: bytes as u64 })
    }

    #[test]
    fn the_least_recently_used_goes_first_and_only_when_durable() {
        let mut tier = HotTier::new(25);
        for id in 0..4 {
            tier.insert(RecordId(id), resident(10));
        }
        assert_eq!(tier.records(), 4); // none is durable: all stay
        assert!(tier.get(RecordId(0)).is_some());
        for id in 0..3 {
            tier.durable(RecordId(id));
        }
        assert!(tier.get(RecordId(1)).is_none(), "used before 0 and 2");
        assert!(tier.get(RecordId(0)).is_some() && tier.get(RecordId(2)).is_some() && tier.get(RecordId(3)).is_some());
        assert_eq!(tier.durable_bytes(), 20);
        tier.remove(RecordId(0));
        assert_eq!(tier.durable_bytes(), 10);
        tier.durable(RecordId(2)); // again changes nothing
        assert_eq!(tier.durable_bytes(), 10);
    }
}
