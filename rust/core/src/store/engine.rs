//! What the store's threads and callers share, and who may hold which lock.
//!
//! Locks, in the only order in which two are ever held: `disk` (read; write only to close or to open anew), `catalog`,
//! the queue's. Nothing waits for I/O or for another thread while it holds the catalog.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::config::{StoreConfig, StoreLimits};
use super::disk::io::Io;
use super::disk::{Disk, DiskError, DiskSettings, DiskUsage, Fact, Opened, Recovered};
use super::error::{Refusal, StoreError};
use super::index::{Index, Limits, Removed};
use super::lanes::Lanes;
use super::memory::{BufferPool, HotTier, Resident};
use super::queue::Queue;
use super::stats::{Counters, StoreState, add};
use super::suspects::Suspects;
use super::types::{Location, RecordId, SegmentId};

/// A segment is not made smaller than this by a small quota alone.
const SMALLEST_SEGMENT_BYTES: u64 = 64 << 10;
const LARGEST_SEGMENT_BYTES: u64 = 256 << 20;
const SEGMENTS_OF_A_QUOTA: u64 = 16;
/// Whole segments are evicted: with fewer, one of them would be most of what is stored.
const FEWEST_SEGMENTS: u64 = 4;

/// Which prefixes there are, and which of them are in RAM.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) index: Index,
    pub(crate) hot: HotTier,
    /// To be journalled before the next record.
    pub(crate) news: Vec<Fact>,
    /// Counts the times that the index was replaced: what it gave out before means nothing to it now.
    pub(crate) generation: u64,
}

impl Catalog {
    /// Takes what the index removed out of RAM too. Gives the payloads, to be dropped where no lock is held.
    #[must_use]
    pub(crate) fn forget(&mut self, removed: &Removed) -> Vec<Arc<Resident>> {
        removed.records.iter().filter_map(|id| self.hot.remove(*id)).collect()
    }
}

/// Whether the store can write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// Why saves are refused, until when they are not worth trying.
    pub(crate) trouble: Option<Trouble>,
    /// When the last trouble ended, and how long its last wait was.
    pub(crate) over: Option<(Instant, Duration)>,
    /// The reason of the last loss.
    pub(crate) lost_why: Option<String>,
    /// What was lost since the last flush: records, bytes.
    pub(crate) lost: (u64, u64),
}

/// Why nothing can be written.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) refusal: Refusal,
    pub(crate) why: String,
    pub(crate) retry_at: Instant,
    pub(crate) wait: Duration,
    /// Whether the folder itself is gone, so that it is to be made anew.
    pub(crate) folder_gone: bool,
    /// Bytes for which there was no room.
    pub(crate) need: u64,
}

/// How the store was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opening {
    pub(crate) how: String,
    pub(crate) seconds: f64,
}

/// All that the threads share.
pub(crate) struct Engine {
    /// As it was opened; of what may change, [`Engine::limits`] has what is in force.
    pub(crate) config: StoreConfig,
    /// Held by nobody who takes another lock.
    limits: RwLock<StoreLimits>,
    pub(crate) io: Arc<dyn Io>,
    disk: RwLock<Option<Disk>>,
    catalog: Mutex<Catalog>,
    pub(crate) queue: Queue,
    pub(crate) lanes: Lanes,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) counters: Counters,
    health: Mutex<Health>,
    pub(crate) opening: Opening,
    /// To be taken into the page cache when there is nothing else to do.
    past_page_cache: Mutex<VecDeque<Location>>,
    /// Records that could not be read once.
    pub(crate) suspects: Suspects,
    closed: AtomicBool,
    process: u32,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn of_index(limits: &StoreLimits) -> Limits {
    Limits {
        quota_bytes: limits.quota_bytes,
        min_free_bytes: limits.min_free_bytes,
        daily_write_bytes: limits.daily_write_bytes,
        ttl_ms: limits.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn segment_bytes(wanted: Option<u64>, quota_bytes: u64) -> u64 {
    let wanted = wanted
        .unwrap_or_else(|| (quota_bytes / SEGMENTS_OF_A_QUOTA).clamp(SMALLEST_SEGMENT_BYTES, LARGEST_SEGMENT_BYTES));
    wanted.min(quota_bytes / FEWEST_SEGMENTS).max(1)
}

impl Engine {
    /// Opens the folder and loads its index. Starts no thread but the lanes.
    pub(crate) fn open(config: StoreConfig, io: Arc<dyn Io>) -> Result<Self, StoreError> {
        config.check()?;
        let start = Instant::now();
        let limits = config.limits();
        let (disk, catalog, how) = open_disk(&config, &limits, &io, 0)?;
        let queue = Queue::new(config.queue_bytes, config.backlog_bytes);
        let lanes = Lanes::new(config.threads());
        let opening = Opening { how, seconds: start.elapsed().as_secs_f64() };
        let engine = Self {
            config,
            limits: RwLock::new(limits),
            io,
            disk: RwLock::new(Some(disk)),
            catalog: Mutex::new(catalog),
            queue,
            lanes,
            pool: Arc::default(),
            counters: Counters::default(),
            health: Mutex::default(),
            opening,
            past_page_cache: Mutex::default(),
            suspects: Suspects::default(),
            closed: AtomicBool::new(false),
            process: std::process::id(),
        };
        // The quota may be smaller than it was.
        let room = engine.with_disk(|disk| engine.make_room(disk, 0, &[], None));
        if let Some(Err(why)) = room {
            tracing::warn!(folder = %engine.config.folder.display(), "the KV cache is over its limits: {why}");
        }
        Ok(engine)
    }

    /// Opens the folder anew after it was deleted or replaced: as empty as it is found. What lookups gave out before is
    /// recognised by its generation and no longer served.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut disk = self.disk.write().unwrap_or_else(PoisonError::into_inner);
        let generation = self.catalog().generation + 1;
        *disk = None; // its lock must go before the new one
        self.suspects.forget_all();
        let (fresh, catalog, _) = open_disk(&self.config, &self.limits(), &self.io, generation)?;
        *disk = Some(fresh);
        let before = std::mem::replace(&mut *self.catalog(), catalog);
        // They may have been changed meanwhile.
        let gone = self.limit_catalog();
        drop(disk);
        drop(gone);
        drop(before);
        Ok(())
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> StoreLimits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other limits in force for what comes. The writer makes what is there fit them.
    pub(crate) fn set_limits(&self, limits: StoreLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        drop(self.limit_catalog());
        if let Some(trouble) = &mut self.health().trouble {
            // There may be room now.
            trouble.retry_at = Instant::now();
        }
    }

    /// Tells the catalog the limits in force. Gives the payloads that left RAM, to be dropped where no lock is held.
    #[must_use]
    fn limit_catalog(&self) -> Vec<Arc<Resident>> {
        let mut catalog = self.catalog();
        let limits = self.limits();
        catalog.index.set_limits(of_index(&limits));
        catalog.hot.set_limit(limits.hot_bytes)
    }

    /// Bytes at which a segment is full.
    pub(crate) fn segment_bytes(&self) -> u64 {
        segment_bytes(self.config.segment_bytes, self.limits().quota_bytes)
    }

    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The catalog, unless another thread has it.
    pub(crate) fn try_catalog(&self) -> Option<MutexGuard<'_, Catalog>> {
        match self.catalog.try_lock() {
            Ok(catalog) => Some(catalog),
            Err(TryLockError::Poisoned(catalog)) => Some(catalog.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, for as long as it is looked at; `None` inside once it is closed. Never taken twice by one thread.
    pub(crate) fn disk(&self) -> RwLockReadGuard<'_, Option<Disk>> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the disk, if it is open.
    pub(crate) fn with_disk<R>(&self, work: impl FnOnce(&Disk) -> R) -> Option<R> {
        self.disk().as_ref().map(work)
    }

    /// Closes the files, which gives the folder's lock back. Waits for reads under way.
    pub(crate) fn close_disk(&self) {
        let disk = self.disk.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(disk);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Marks the store as closed; false if it was before.
    pub(crate) fn mark_closed(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Whether this is the process that opened the store. A fork has none of its threads.
    pub(crate) fn is_own_process(&self) -> bool {
        self.process == std::process::id()
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.is_closed() && self.is_own_process()
    }

    pub(crate) fn state(&self) -> (StoreState, Option<String>) {
        if self.is_closed() {
            return (StoreState::Closed, None);
        }
        let health = self.health();
        match &health.trouble {
            None => (StoreState::Running, None),
            Some(Trouble { refusal: Refusal::Suspended, why, .. }) => (StoreState::Suspended, Some(why.clone())),
            Some(Trouble { why, .. }) => (StoreState::Full, Some(why.clone())),
        }
    }

    /// Remembers records that were written or read past the page cache, oldest first.
    pub(crate) fn went_past_page_cache(&self, records: impl IntoIterator<Item = Location>) {
        const MOST: usize = 10_000;
        let mut waiting = self.past_page_cache.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST - waiting.len();
        waiting.extend(records.into_iter().take(room));
    }

    /// The next one to be taken into the page cache.
    pub(crate) fn next_past_page_cache(&self) -> Option<Location> {
        self.past_page_cache.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Whether there is one.
    pub(crate) fn has_past_page_cache(&self) -> bool {
        !self.past_page_cache.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Frees disk space until `bytes` fit, with what the next index file will need. `at_least`: evict so many bytes even if
    /// the numbers say that there is room (the system has said that there is none).
    pub(crate) fn make_room(
        &self,
        disk: &Disk,
        bytes: u64,
        open: &[SegmentId],
        at_least: Option<u64>,
    ) -> Result<(), RoomError> {
        let free = disk.free_bytes()?;
        let usage = disk.usage();
        let reserve = reserve_bytes(&usage);
        let quota = self.limits().quota_bytes;
        let physical = match at_least {
            None => usage.physical_bytes(),
            Some(wanted) => usage.physical_bytes().max(quota.saturating_add(wanted).saturating_sub(bytes + reserve)),
        };
        let mut catalog = self.catalog();
        let room = catalog.index.room_for(bytes + reserve, physical, free, open).map_err(RoomError::Refused)?;
        let gone = catalog.forget(&room.removed);
        drop(catalog);
        drop(gone);
        add(&self.counters.records_evicted, room.removed.records.len() as u64);
        let mut failed = None;
        for segment in room.victims {
            match disk.drop_segment(segment) {
                Ok(bytes) => add(&self.counters.bytes_evicted, bytes),
                Err(error) => {
                    // The file stays, so it must stay known, as one in which nothing lives: the next time it goes first.
                    if let Some(bytes) = disk.segment_bytes(segment) {
                        self.catalog().index.segment_file_bytes(segment, bytes);
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            None => Ok(()),
            Some(error) => {
                self.note_removed(disk, room.removed.records);
                Err(error.into())
            }
        }
    }

    /// Journals that these records left the index. Nothing wrong can be served until then, since records are found by the
    /// index in RAM; where the journal fails now, they are journalled before the next commit.
    pub(crate) fn note_removed(&self, disk: &Disk, records: Vec<RecordId>) {
        if records.is_empty() {
            return;
        }
        let fact = Fact::Removed(records);
        if let Err(error) = disk.note(std::slice::from_ref(&fact), false) {
            tracing::debug!("the KV cache could not journal a removal: {error}");
            self.catalog().news.push(fact);
        }
    }
}

/// What is kept free of the quota: for the next index with its journal, and for small notes until room is made again.
pub(crate) fn reserve_bytes(usage: &DiskUsage) -> u64 {
    usage.index_bytes + usage.journal_bytes + INDEX_RESERVE_BYTES
}

/// Small notes in the journal between two makings of room.
const INDEX_RESERVE_BYTES: u64 = 32 << 10;

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoomError {
    #[error("{}", Refusal::from(*.0))]
    Refused(super::index::Refusal),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn open_disk(
    config: &StoreConfig,
    limits: &StoreLimits,
    io: &Arc<dyn Io>,
    generation: u64,
) -> Result<(Disk, Catalog, String), StoreError> {
    let of_disk = |error| StoreError::of_disk(&config.folder, error);
    let settings = DiskSettings { segment_bytes: segment_bytes(config.segment_bytes, limits.quota_bytes) };
    let (disk, recovered) = Disk::open(Arc::clone(io), settings).map_err(of_disk)?;
    let how = report(config, &recovered);
    let (index, dropped) = Index::load(recovered, of_index(limits), now_ms());
    if !dropped.is_empty() {
        disk.note(&[Fact::Removed(dropped)], false).map_err(of_disk)?;
    }
    let catalog = Catalog { index, hot: HotTier::new(limits.hot_bytes), news: Vec::new(), generation };
    Ok((disk, catalog, how))
}

fn report(config: &StoreConfig, recovered: &Recovered) -> String {
    let losses = recovered.losses;
    let how = match &recovered.opened {
        Opened::Fresh => "fresh".to_owned(),
        Opened::Indexed => "indexed".to_owned(),
        Opened::Rebuilt { why } => format!("rebuilt: {why}"),
    };
    tracing::debug!(
        folder = %config.folder.display(), how, blocks = recovered.image.blocks.len(), ?losses, "KV cache opened"
    );
    how
}
