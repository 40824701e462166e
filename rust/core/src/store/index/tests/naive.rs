//! The same store as a plain list of token sequences, and the index's own rules checked from outside the hot path.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::store::index::nodes::{Entry, State};
use crate::store::index::{Index, Removed};
use crate::store::types::{Location, NamespaceKey, RecordId, RecordKind};

/// A record as a test knows it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) key: NamespaceKey,
    /// All tokens from the root to its end.
    pub(super) prefix: Vec<u32>,
    /// Of which its own begin here; a snapshot has none.
    pub(super) start: usize,
    pub(super) parent: Option<RecordId>,
    pub(super) served: bool,
    pub(super) at: Option<Location>,
    pub(super) used_ms: u64,
    pub(super) holds: u32,
    pub(super) pinned: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Naive {
    pub(super) records: BTreeMap<RecordId, Known>,
    /// Held when they were removed: their bytes still count.
    pub(super) gone_but_held: Vec<(RecordId, Known)>,
    /// What segment files reach to.
    pub(super) files: BTreeMap<u32, u64>,
}

impl Known {
    fn is_snapshot(&self) -> bool {
        self.start == self.prefix.len()
    }
}

impl Naive {
    /// The longest prefix that any record has in common with the tokens.
    pub(super) fn matched(&self, key: &NamespaceKey, tokens: &[u32], served: Option<u64>) -> usize {
        let blocks = self.records.values().filter(|known| known.key == *key && !known.is_snapshot());
        let reachable = blocks.filter(|known| served.is_none_or(|oldest_ms| self.is_served(known, oldest_ms)));
        reachable.map(|known| common(&known.prefix, tokens)).max().unwrap_or(0)
    }

    pub(super) fn best_snapshot(&self, key: &NamespaceKey, tokens: &[u32], oldest_ms: u64) -> usize {
        let snapshots = self.records.values().filter(|known| known.key == *key && known.is_snapshot());
        let reachable = snapshots.filter(|known| self.is_served(known, oldest_ms) && tokens.starts_with(&known.prefix));
        reachable.map(|known| known.prefix.len()).max().unwrap_or(0)
    }

    fn is_served(&self, known: &Known, oldest_ms: u64) -> bool {
        known.served
            && known.used_ms >= oldest_ms
            && known.parent.is_none_or(|parent| self.is_served(&self.records[&parent], oldest_ms))
    }

    pub(super) fn ancestors(&self, record: RecordId) -> Vec<RecordId> {
        let mut next = Some(record);
        std::iter::from_fn(|| {
            let this = next?;
            next = self.records[&this].parent;
            Some(this)
        })
        .collect()
    }

    /// All that a hold, a pin or not being durable keeps.
    pub(super) fn protected(&self) -> BTreeSet<RecordId> {
        let reasons = self.records.iter().filter(|(_, known)| known.holds > 0 || known.pinned || known.at.is_none());
        reasons.flat_map(|(record, _)| self.ancestors(*record)).collect()
    }

    pub(super) fn with_descendants(&self, of: impl Fn(&RecordId, &Known) -> bool) -> BTreeSet<RecordId> {
        let mut found = BTreeSet::new();
        // A parent's id is lower.
        for (record, known) in &self.records {
            if of(record, known) || known.parent.is_some_and(|parent| found.contains(&parent)) {
                found.insert(*record);
            }
        }
        found
    }

    /// The index has removed just these, and says so rightly.
    pub(super) fn remove(&mut self, expected: &BTreeSet<RecordId>, removed: &Removed) {
        assert_eq!(removed.records.iter().copied().collect::<BTreeSet<_>>(), *expected);
        assert_eq!(removed.records.len(), expected.len());
        let (mut blocks, mut snapshots, mut disk_bytes) = (0, 0, 0);
        for record in expected {
            let known = self.records.remove(record).unwrap();
            disk_bytes += known.at.map_or(0, |at| at.record_bytes());
            snapshots += u64::from(known.is_snapshot());
            blocks += u64::from(!known.is_snapshot());
            if known.holds > 0 {
                self.gone_but_held.push((*record, known));
            }
        }
        assert_eq!((removed.blocks, removed.snapshots, removed.disk_bytes), (blocks, snapshots, disk_bytes));
    }

    /// Everything that the index counts, counted again.
    pub(super) fn check(&self, index: &Index) {
        let protected = self.protected();
        let mut segments = BTreeMap::<u32, (u64, u64, u64)>::new();
        let held = self.gone_but_held.iter().map(|(record, known)| (record, known, true));
        for (record, known, gone) in self.records.iter().map(|(record, known)| (record, known, false)).chain(held) {
            if let Some(at) = known.at {
                let counted = segments.entry(at.segment.0).or_default();
                counted.0 += at.record_bytes();
                counted.1 += 1;
                counted.2 += u64::from(gone || protected.contains(record));
            }
        }
        for used in index.segments() {
            let counted = segments.remove(&used.segment.0).unwrap_or_default();
            assert_eq!((used.live_bytes, used.live_records, used.protected_records), counted, "{:?}", used.segment);
            assert_eq!(used.file_bytes, self.files[&used.segment.0]);
        }
        assert!(segments.is_empty());

        for used in index.namespaces() {
            let own = || self.records.values().filter(|known| known.key == used.key);
            assert_eq!(used.blocks, own().filter(|known| !known.is_snapshot()).count() as u64);
            assert_eq!(used.snapshots, own().filter(|known| known.is_snapshot()).count() as u64);
            assert_eq!(used.disk_bytes, own().filter_map(|known| known.at).map(|at| at.record_bytes()).sum::<u64>());
            // No token is stored twice: there are as many as there are different prefixes.
            let mut prefixes = HashSet::new();
            for known in own() {
                let mut chain = 0_u64;
                for (position, token) in known.prefix.iter().enumerate() {
                    chain = (chain ^ u64::from(*token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
                    prefixes.insert((position, chain));
                }
            }
            assert_eq!(used.tokens, prefixes.len() as u64);
        }
        for (record, known) in &self.records {
            let info = index.record_info(*record).unwrap();
            assert_eq!(info.attach.map(|attach| attach.parent), known.parent);
            if let RecordKind::Block { start, tokens } = info.kind {
                assert_eq!((start as usize, &tokens[..]), (known.start, &known.prefix[known.start..]));
                assert!(known.start / 256 == (known.prefix.len() - 1) / 256, "crosses a multiple of 256");
            }
        }
        assert_eq!(index.entries.len(), self.records.len());
        check_rules(index);
    }
}

/// The three rules, and that every count of reasons is right.
pub(super) fn check_rules(index: &Index) {
    let mut reasons = BTreeMap::<u32, u32>::new();
    for (record, entry) in &index.entries {
        assert_eq!(index.record(*entry).id, *record);
        let own = index.record(*entry);
        assert!(own.is_live());
        if let Some(parent) = index.parent_of(*entry) {
            let parent_record = &index.nodes[parent as usize].record;
            assert!(parent_record.is_live() && parent_record.last_used_ms >= own.last_used_ms);
            *reasons.entry(parent).or_default() += u32::from(own.holds > 0);
        }
    }
    for (record, entry) in &index.entries {
        let own = index.record(*entry);
        let below = if let Entry::Block(place) = entry { reasons.get(place).copied().unwrap_or(0) } else { 0 };
        let itself = u32::from(own.state != State::Disk) + u32::from(index.pinned.contains(record));
        assert!(own.holds >= below + itself);
    }
    let live = index.nodes.iter().filter(|node| node.record.state != State::Vacant).count();
    assert_eq!(live + index.vacant_nodes.len(), index.nodes.len());
    for entry in &index.detached {
        assert!(index.record(*entry).detached && index.record(*entry).holds > 0);
        assert!(index.parent_of(*entry).is_none());
    }
    assert!(index.pinned.iter().all(|record| index.entries.contains_key(record)));
}

fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(left, right)| left == right).count()
}
