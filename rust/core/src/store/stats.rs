//! What a store counts, and how it says so. Counting takes no lock that a lookup or a copy could wait for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::{MissReason, Refusal};
use super::index::NamespaceUse;

/// Values counted by their order of magnitude.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// Values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest.
    pub max: u64,
    /// `buckets[i]`: values from 2^(i-1) to below 2^i; `buckets[0]`: zeros. Empty buckets at the end are left out.
    pub buckets: Vec<u64>,
}

const BUCKETS: usize = 48;

#[derive(Debug)]
pub(crate) struct Tally {
    sum: AtomicU64,
    max: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self { sum: AtomicU64::default(), max: AtomicU64::default(), buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Tally {
    pub(crate) fn add(&self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// Adds the time since then, in microseconds.
    pub(crate) fn add_since(&self, start: Instant) {
        self.add(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }

    fn read(&self) -> Histogram {
        let mut buckets: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let used = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        buckets.truncate(used);
        Histogram {
            count: buckets.iter().sum(),
            sum: self.sum.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
            buckets,
        }
    }
}

const WINDOW_SECONDS: usize = 60;

/// Events of the last minute, second by second.
#[derive(Debug)]
struct Window {
    opened: Instant,
    seconds: Mutex<[(u64, u64); WINDOW_SECONDS]>,
}

impl Window {
    fn add(&self, events: u64) {
        let second = self.opened.elapsed().as_secs();
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut seconds[usize::try_from(second).unwrap_or(0) % WINDOW_SECONDS];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 += events;
    }

    fn per_second(&self) -> f64 {
        let elapsed = self.opened.elapsed();
        let first = elapsed.as_secs().saturating_sub(WINDOW_SECONDS as u64 - 1);
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let events: u64 = seconds.iter().filter(|slot| slot.0 >= first).map(|slot| slot.1).sum();
        let span = elapsed.min(Duration::from_secs(WINDOW_SECONDS as u64)).as_secs_f64().max(1.0);
        #[expect(clippy::cast_precision_loss, reason = "a rate for reading")]
        let events = events as f64;
        events / span
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the store was opened.
        #[derive(Debug)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
            pub(crate) lookup_us: Tally,
            pub(crate) restore_us: Tally,
            pub(crate) copy_us: Tally,
            pub(crate) encode_us: Tally,
            pub(crate) decode_us: Tally,
            pub(crate) commit_us: Tally,
            pub(crate) durable_us: Tally,
            misses: [AtomicU64; 5],
            refused: Mutex<BTreeMap<Refusal, u64>>,
            page_faults: Window,
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($name: AtomicU64::new(0),)*
                    lookup_us: Tally::default(),
                    restore_us: Tally::default(),
                    copy_us: Tally::default(),
                    encode_us: Tally::default(),
                    decode_us: Tally::default(),
                    commit_us: Tally::default(),
                    durable_us: Tally::default(),
                    misses: Default::default(),
                    refused: Mutex::default(),
                    page_faults: Window { opened: Instant::now(), seconds: Mutex::new([(0, 0); WINDOW_SECONDS]) },
                }
            }
        }

        /// What was counted since the store was opened.
        #[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn counts(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Lookups.
    lookups,
    /// Lookups with something to restore.
    hits,
    /// Hits that gave all they were asked for.
    full_hits,
    /// Tokens that lookups asked for.
    tokens_asked,
    /// Tokens that could be restored.
    tokens_matched,
    /// Tokens restored from RAM.
    tokens_restored_hot,
    /// Tokens restored from disk.
    tokens_restored_cold,
    /// Blocks restored from RAM.
    blocks_restored_hot,
    /// Blocks restored from disk: the SSD's page faults.
    blocks_restored_cold,
    /// Bytes restored from RAM, as they are in the caller's memory.
    bytes_restored_hot,
    /// Bytes restored from disk, as they are in the caller's memory.
    bytes_restored_cold,
    /// Saves that had something new.
    saves,
    /// Saves whose copy was left to the copier thread.
    saves_deferred,
    /// Tokens accepted.
    tokens_saved,
    /// Bytes accepted, as they are in the caller's memory.
    bytes_saved,
    /// Bytes of the parts that were encoded, as they were in the caller's memory.
    bytes_before_encoding,
    /// The same as they are kept, in RAM and on disk.
    bytes_after_encoding,
    /// Blocks accepted.
    blocks_saved,
    /// Snapshots accepted.
    snapshots_saved,
    /// Group commits.
    commits,
    /// Records made durable.
    records_committed,
    /// Their payload bytes, as they are kept.
    bytes_committed,
    /// Accepted records that could not be written.
    records_lost,
    /// Their payload bytes, as they were kept; the most that they would have been where they were never copied.
    bytes_lost,
    /// Records that made room for others.
    records_evicted,
    /// Segment bytes given back for others.
    bytes_evicted,
    /// Records whose time to live ended.
    records_expired,
    /// Records found bad and taken out.
    quarantined,
    /// Reads of records that the system failed; a record is taken out if it fails again.
    read_errors,
    /// Bytes of live records that compaction wrote anew.
    bytes_compacted,
}

impl Counters {
    pub(crate) fn miss(&self, reason: MissReason) {
        self.misses[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(refusal).or_default() += 1;
    }

    /// Counts blocks read from disk.
    pub(crate) fn page_faults(&self, blocks: u64) {
        add(&self.blocks_restored_cold, blocks);
        self.page_faults.add(blocks);
    }

    pub(crate) fn fill(&self, stats: &mut StoreStats) {
        stats.counts = self.counts();
        let miss = |reason: MissReason| self.misses[reason as usize].load(Ordering::Relaxed);
        stats.misses = Misses {
            no_prefix: miss(MissReason::NoPrefix),
            evicted: miss(MissReason::Evicted),
            identity_changed: miss(MissReason::IdentityChanged),
            no_snapshot: miss(MissReason::NoSnapshot),
            disabled: miss(MissReason::Disabled),
        };
        stats.refused.clone_from(&self.refused.lock().unwrap_or_else(PoisonError::into_inner));
        stats.page_faults_per_second = self.page_faults.per_second();
        stats.page_fault_share = ratio(
            stats.counts.blocks_restored_cold,
            stats.counts.blocks_restored_cold + stats.counts.blocks_restored_hot,
        );
        stats.lookup_us = self.lookup_us.read();
        stats.restore_us = self.restore_us.read();
        stats.copy_us = self.copy_us.read();
        stats.encode_us = self.encode_us.read();
        stats.decode_us = self.decode_us.read();
        stats.commit_us = self.commit_us.read();
        stats.durable_us = self.durable_us.read();
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

/// `part` of `whole`; 0 of nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a ratio for reading")]
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Lookups that found nothing to restore, by the reason.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Misses {
    /// No stored prompt begins so.
    pub no_prefix: u64,
    /// It was stored and made room for others, or expired.
    pub evicted: u64,
    /// The label has prompts of another identity.
    pub identity_changed: u64,
    /// Tokens match, but no state was taken at any point of them.
    pub no_snapshot: u64,
    /// The store was closed.
    pub disabled: u64,
}

/// Whether a store works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// It does.
    #[default]
    Running,
    /// It serves, but takes nothing: the quota is full of what is in use, or the disk has too little free space.
    Full,
    /// It serves as far as it can, but takes nothing: the folder cannot be written. It tries again by itself.
    Suspended,
    /// It was closed.
    Closed,
}

/// A store's account of itself. Bytes, microseconds, counts since it was opened.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StoreStats {
    /// Whether it works.
    pub state: StoreState,
    /// Why not.
    pub state_why: Option<String>,
    /// What was counted.
    pub counts: Counts,
    /// Lookups without anything to restore.
    pub misses: Misses,
    /// Saves that were not accepted, or not all of them.
    pub refused: BTreeMap<Refusal, u64>,
    /// The reason of the last loss.
    pub lost_why: Option<String>,
    /// Blocks read from disk per second, over the last minute.
    pub page_faults_per_second: f64,
    /// Blocks read from disk, of all blocks restored.
    pub page_fault_share: f64,
    /// Bytes written to all files, by payload bytes made durable.
    pub write_amplification: f64,
    /// Bytes written to all files.
    pub written_bytes: u64,
    /// Bytes charged to today's write budget.
    pub written_today_bytes: u64,
    /// Bytes copied and not yet durable.
    pub queue_bytes: u64,
    /// Records accepted and not yet durable.
    pub queue_records: u64,
    /// Bytes accepted and not yet copied.
    pub backlog_bytes: u64,
    /// RAM of what is durable and still held.
    pub hot_bytes: u64,
    /// Records in RAM.
    pub hot_records: u64,
    /// RAM mapped for payloads, in use or ready for it.
    pub mapped_bytes: u64,
    /// Blocks known.
    pub blocks: u64,
    /// Snapshots known.
    pub snapshots: u64,
    /// Tokens stored.
    pub tokens: u64,
    /// Payload and headers of what is stored.
    pub live_bytes: u64,
    /// What all files take.
    pub disk_bytes: u64,
    /// What they may take.
    pub quota_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// RAM of the index, token ids apart.
    pub index_bytes: u64,
    /// RAM of the token ids.
    pub token_bytes: u64,
    /// A lookup.
    pub lookup_us: Histogram,
    /// A call of restore.
    pub restore_us: Histogram,
    /// How long a save kept its caller.
    pub copy_us: Histogram,
    /// Encoding one part of one block, on one thread.
    pub encode_us: Histogram,
    /// Decoding one part of one block, or what is wanted of it, on one thread.
    pub decode_us: Histogram,
    /// A group commit.
    pub commit_us: Histogram,
    /// From a record's acceptance until it was durable.
    pub durable_us: Histogram,
}

/// What a folder holds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StoreInfo {
    /// The folder.
    pub folder: std::path::PathBuf,
    /// How it was opened: `fresh`, `indexed`, or why it had to be rebuilt.
    pub opened: String,
    /// How long that took, in seconds.
    pub opened_seconds: f64,
    /// The namespaces.
    pub namespaces: Vec<NamespaceUse>,
    /// Blocks.
    pub blocks: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Tokens.
    pub tokens: u64,
    /// Pinned prefixes.
    pub pinned: u64,
    /// Payload and headers of what is stored.
    pub live_bytes: u64,
    /// What all files take.
    pub disk_bytes: u64,
    /// What they may take.
    pub quota_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_of_their_magnitude() {
        let tally = Tally::default();
        for value in [0, 1, 2, 3, 4, 1023, 1024, u64::MAX] {
            tally.add(value);
        }
        let read = tally.read();
        assert_eq!((read.count, read.max), (8, u64::MAX));
        assert_eq!(&read.buckets[..4], &[1, 1, 2, 1]);
        assert_eq!((read.buckets[10], read.buckets[11], read.buckets[BUCKETS - 1]), (1, 1, 1));
        assert_eq!(Tally::default().read(), Histogram::default());
    }

    #[test]
    fn a_rate_is_of_the_time_there_was() {
        let counters = Counters::default();
        counters.page_faults(30);
        let mut stats = StoreStats::default();
        counters.fill(&mut stats);
        assert!((stats.page_faults_per_second - 30.0).abs() < 1e-9);
        assert!((stats.page_fault_share - 1.0).abs() < f64::EPSILON);
    }
}
