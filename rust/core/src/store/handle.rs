//! [`Store`]: the whole of the cache as callers see it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use super::config::{StoreConfig, StoreLimits};
use super::disk::io::Io;
use super::disk::{DiskError, Fact, RealIo};
use super::engine::Engine;
use super::error::StoreError;
use super::index::Removed;
use super::maintenance::is_crowded;
use super::matched::{Match, lookup};
use super::queue::Command;
use super::registry::{self, Ended};
use super::stats::{StoreInfo, StoreState, StoreStats, ratio};
use super::transfer::{
    Compacted, Namespace, Purged, Restored, Saved, SnapshotSource, SnapshotTarget, Source, Target, VerifyReport,
};
use super::types::{Layout, NamespaceKey};
use super::verify::verify;
use super::{copier, read, read_state, write, writer};

/// A folder of stored prefixes, with its threads. Every method may be called from any thread.
pub struct Store {
    engine: Arc<Engine>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Opens that were not closed yet.
    handles: AtomicUsize,
    ended: Arc<Ended>,
}

/// Records of a purge from which on their removal is written as a new index: a note of all of them would be the longer.
const LARGE_PURGE_RECORDS: usize = 4096;

impl Store {
    /// Opens the store in `config.folder`, or makes it. Within one process, a folder that is open already (told by device
    /// and inode) gives the same store, with the configuration that it was opened with first; every open wants its close.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Foreign`], [`StoreError::Format`], [`StoreError::Config`], or I/O.
    pub fn open(config: StoreConfig) -> Result<Arc<Self>, StoreError> {
        registry::open(&config.folder.clone(), || {
            let io = Arc::new(RealIo::new(&config.folder));
            Self::open_with(config, io)
        })
    }

    /// Opens a store on other file operations than the system's; `config.folder` is then a name only.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(config: StoreConfig, io: Arc<dyn Io>) -> Result<Arc<Self>, StoreError> {
        let engine = Arc::new(Engine::open(config, io)?);
        let store = Self { engine, threads: Mutex::default(), handles: AtomicUsize::new(1), ended: Arc::default() };
        store.start("kv-store-writer", writer::run)?;
        store.start("kv-store-copier", copier::run)?;
        Ok(Arc::new(store))
    }

    fn start(&self, name: &str, work: fn(&Arc<Engine>)) -> Result<(), StoreError> {
        let engine = Arc::clone(&self.engine);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&engine));
        let thread = thread.map_err(|source| StoreError::Io { what: format!("starting {name}"), source })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// One more handle to an open store; false if it is closed, or is being closed.
    pub(crate) fn share(&self) -> bool {
        if self.engine.is_closed() || !self.engine.is_own_process() {
            return false;
        }
        let one_more = |handles| if handles > 0 { Some(handles + 1) } else { None };
        self.handles.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// Tells when the folder was given back.
    pub(super) fn ended(&self) -> Arc<Ended> {
        Arc::clone(&self.ended)
    }

    /// The configuration that it was opened with.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.engine.config
    }

    /// Puts other limits in force, for all who have the store open, and waits until what is stored fits them. Saves and
    /// restores go on meanwhile. What running requests hold may keep a smaller quota from being met until they end.
    ///
    /// # Errors
    /// [`StoreError::Config`], [`StoreError::Closed`], [`StoreError::Forked`].
    pub fn set_limits(&self, limits: StoreLimits) -> Result<(), StoreError> {
        self.usable()?;
        self.engine.config.check_limits(&limits)?;
        self.engine.set_limits(limits);
        self.ask(Command::Fit).ok_or(StoreError::Closed)
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> StoreLimits {
        self.engine.limits()
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.engine.is_closed()
    }

    /// The longest stored prefix of `tokens`, at most `limit` of them. Never waits for I/O and never fails: trouble is a
    /// match of nothing.
    #[must_use]
    pub fn lookup(&self, namespace: &Namespace, tokens: &[u32], limit: usize) -> Match {
        lookup(&self.engine, namespace, tokens, limit)
    }

    /// Fills `targets[i]` with part `parts.start + i` of the first [`Match::restorable`] tokens. May be called in pieces and
    /// from several threads, each piece for its own parts. Tokens past them may be overwritten up to the targets' capacity.
    ///
    /// Fewer tokens in the answer mean that a record was bad: it is out of use now, and only so many leading tokens of
    /// *every* part are right; where the layout needs a snapshot, none are of use.
    ///
    /// # Errors
    /// [`StoreError::Target`] for targets that do not fit, [`StoreError::Closed`], [`StoreError::Forked`].
    ///
    /// # Safety
    /// Row r of a target is writable for `token_capacity` × row bytes from `ptr` + r × `row_stride_bytes` on, and nobody
    /// else reads or writes it meanwhile.
    #[expect(unsafe_code, reason = "the targets are the caller's")]
    pub unsafe fn restore(
        &self,
        found: &Match,
        parts: Range<usize>,
        targets: &[Target],
    ) -> Result<Restored, StoreError> {
        self.usable()?;
        if !found.is_of(&self.engine) {
            return Err(StoreError::Target("the match is another store's".to_owned()));
        }
        let start = std::time::Instant::now();
        // SAFETY: this function's contract.
        let restored = unsafe { read::restore(&self.engine, found, parts, targets) };
        self.engine.counters.restore_us.add_since(start);
        restored
    }

    /// Fills one target for each array of [`Match::snapshot`]; false if there is none, or it was bad (it is out of use then).
    ///
    /// # Errors
    /// As [`Store::restore`].
    ///
    /// # Safety
    /// Each target is writable and nobody else reads or writes it meanwhile.
    #[expect(unsafe_code, reason = "the targets are the caller's")]
    pub unsafe fn restore_snapshot(&self, found: &Match, targets: &[SnapshotTarget]) -> Result<bool, StoreError> {
        self.usable()?;
        if !found.is_of(&self.engine) {
            return Err(StoreError::Target("the match is another store's".to_owned()));
        }
        // SAFETY: this function's contract.
        unsafe { read_state::restore(&self.engine, found, targets) }
    }

    /// Saves what is not stored yet of `tokens`: `sources[p]` is part p of `layout`. `snapshot` is the state at exactly the
    /// end of `tokens`. Never waits for the disk: the caller copies if the queue has room, otherwise the copier thread does
    /// later ([`Saved::deferred`]). `keep` is dropped when the sources are not needed any more, where no lock of the store
    /// is held: before this returns, or on the copier's thread.
    ///
    /// # Safety
    /// Until `keep` is dropped, nobody writes the sources, and of each is readable what its strides say, for the layout's
    /// rows and the tokens from `first_token` to the last; of each array of the snapshot, its bytes.
    #[expect(unsafe_code, reason = "the sources are the caller's")]
    pub unsafe fn save(
        &self,
        namespace: &Namespace,
        layout: &Layout,
        tokens: &[u32],
        sources: &[Source],
        snapshot: Option<SnapshotSource>,
        keep: Box<dyn Send>,
    ) -> Saved {
        let request = write::Request { namespace, layout, tokens, sources, snapshot, keep };
        // SAFETY: this function's contract.
        unsafe { write::save(&self.engine, request) }
    }

    /// Waits until everything accepted before is durable.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if some of what was accepted since the last flush could not be written.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.usable()?;
        self.drain()
    }

    fn drain(&self) -> Result<(), StoreError> {
        let finished = self.engine.queue.wait_finished();
        let mut health = self.engine.health();
        let (records, bytes) = std::mem::take(&mut health.lost);
        let why = health.lost_why.clone();
        drop(health);
        if records > 0 || !finished {
            let why = why.unwrap_or_else(|| "the writer thread has ended".to_owned());
            return Err(StoreError::Lost { records, bytes, why });
        }
        Ok(())
    }

    /// Flushes, and once every open has its close writes the index, ends the threads and gives the folder back. Closing a
    /// closed store does nothing. Dropping the store closes it too.
    ///
    /// # Errors
    /// As [`Store::flush`]; the store is closed all the same.
    pub fn close(&self) -> Result<(), StoreError> {
        if !self.engine.is_own_process() {
            return Err(StoreError::Forked);
        }
        let last = self.handles.fetch_update(Ordering::AcqRel, Ordering::Acquire, |handles| handles.checked_sub(1));
        match last {
            Ok(1) => self.shut(),
            Ok(_) => self.drain(),
            Err(_) => Ok(()),
        }
    }

    fn shut(&self) -> Result<(), StoreError> {
        if !self.engine.mark_closed() {
            return Ok(());
        }
        let ended = Ending(&self.ended);
        self.engine.queue.stop();
        let result = self.drain();
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = thread.join();
        }
        self.engine.lanes.stop();
        self.engine.close_disk();
        drop(ended);
        result
    }

    fn usable(&self) -> Result<(), StoreError> {
        if !self.engine.is_own_process() {
            return Err(StoreError::Forked);
        }
        if self.engine.is_closed() { Err(StoreError::Closed) } else { Ok(()) }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What it has done and how it is. In a fork it is closed and has done nothing: the locks may be its parent's.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let engine = &self.engine;
        if !engine.is_own_process() {
            return StoreStats { state: StoreState::Closed, ..StoreStats::default() };
        }
        let mut stats = StoreStats::default();
        engine.counters.fill(&mut stats);
        (stats.state, stats.state_why) = engine.state();
        stats.lost_why.clone_from(&engine.health().lost_why);
        (stats.queue_bytes, stats.queue_records, stats.backlog_bytes) = engine.queue.depth();
        stats.mapped_bytes = engine.pool.mapped_bytes();
        stats.quota_bytes = engine.limits().quota_bytes;
        let usage = engine.with_disk(super::disk::Disk::usage).unwrap_or_default();
        stats.disk_bytes = usage.physical_bytes();
        stats.segments = usage.segments;
        stats.written_bytes = usage.written_bytes;
        stats.write_amplification = ratio(usage.written_bytes, stats.counts.bytes_committed);
        let catalog = engine.catalog();
        stats.hot_bytes = catalog.hot.durable_bytes();
        stats.hot_records = catalog.hot.records() as u64;
        let totals = catalog.index.totals();
        (stats.blocks, stats.snapshots, stats.tokens) = (totals.blocks, totals.snapshots, totals.tokens);
        stats.live_bytes = totals.disk_bytes;
        stats.index_bytes = catalog.index.memory_bytes() as u64;
        stats.token_bytes = catalog.index.token_bytes() as u64;
        stats.written_today_bytes = catalog.index.written().bytes;
        stats
    }

    /// What the blocks of each namespace of that label hold. Nothing in a fork.
    #[must_use]
    pub fn layouts(&self, label: &str) -> Vec<(NamespaceKey, Arc<Layout>)> {
        if self.engine.is_own_process() { self.engine.catalog().index.layouts(label) } else { Vec::new() }
    }

    /// What the folder holds. Nothing in a fork.
    #[must_use]
    pub fn info(&self) -> StoreInfo {
        let engine = &self.engine;
        if !engine.is_own_process() {
            return StoreInfo { folder: engine.config.folder.clone(), ..StoreInfo::default() };
        }
        let (usage, free_bytes) =
            engine.with_disk(|disk| (disk.usage(), disk.free_bytes().unwrap_or(0))).unwrap_or_default();
        let catalog = engine.catalog();
        let totals = catalog.index.totals();
        StoreInfo {
            folder: engine.config.folder.clone(),
            opened: engine.opening.how.clone(),
            opened_seconds: engine.opening.seconds,
            namespaces: catalog.index.namespaces(),
            blocks: totals.blocks,
            snapshots: totals.snapshots,
            tokens: totals.tokens,
            pinned: totals.pinned,
            live_bytes: totals.disk_bytes,
            disk_bytes: usage.physical_bytes(),
            quota_bytes: engine.limits().quota_bytes,
            segments: usage.segments,
            free_bytes,
        }
    }

    /// Keeps the longest stored prefix of `tokens` until it is unpinned, also after a restart. Gives its length; 0 if
    /// nothing of it is stored. Flushes first, since only what is durable can be pinned.
    ///
    /// # Errors
    /// As [`Store::flush`], or I/O.
    pub fn pin(&self, namespace: &Namespace, tokens: &[u32]) -> Result<usize, StoreError> {
        self.flush()?;
        let change = self.engine.catalog().index.pin(&namespace.key, tokens);
        let Some(change) = change else { return Ok(0) };
        // What was accepted since then is pinned too, and must be journalled before its pin.
        if let Err(error) = self.flush() {
            self.engine.catalog().index.unpin(&namespace.key, &tokens[..change.tokens]);
            return Err(error);
        }
        self.note(&Fact::Pinned(change.records))?;
        Ok(change.tokens)
    }

    /// Takes a pin back. Gives the length of the prefix that was pinned; 0 if none was.
    ///
    /// # Errors
    /// I/O.
    pub fn unpin(&self, namespace: &Namespace, tokens: &[u32]) -> Result<usize, StoreError> {
        self.usable()?;
        let change = self.engine.catalog().index.unpin(&namespace.key, tokens);
        let Some(change) = change else { return Ok(0) };
        self.note(&Fact::Unpinned(change.records))?;
        Ok(change.tokens)
    }

    fn note(&self, fact: &Fact) -> Result<(), StoreError> {
        const ENTRY_BYTES: u64 = 64;
        const ID_BYTES: u64 = 8;
        let ids = match fact {
            Fact::Removed(ids) | Fact::Pinned(ids) | Fact::Unpinned(ids) => ids.len() as u64,
            _ => 0,
        };
        let bytes = ENTRY_BYTES + ids * ID_BYTES;
        // Between two ticks nobody else looks after the journal.
        if self.engine.with_disk(|disk| is_crowded(&self.engine, disk, bytes)) == Some(true) {
            self.ask(Command::Settle);
        }
        let noted = self.engine.with_disk(|disk| disk.note(std::slice::from_ref(fact), true));
        noted.unwrap_or(Ok(())).map_err(|error| self.error(error))
    }

    /// Has the writer do something and waits for it; `None` if it has ended.
    fn ask<A>(&self, command: impl FnOnce(mpsc::Sender<A>) -> Command) -> Option<A> {
        let (answer, done) = mpsc::channel();
        if self.engine.queue.command(command(answer)) { done.recv().ok() } else { None }
    }

    fn error(&self, error: DiskError) -> StoreError {
        StoreError::of_disk(&self.engine.config.folder, error)
    }

    /// Takes everything of a namespace, or of all, out of use at once, and gives disk space back as far as whole files
    /// become empty; [`Store::compact`] does the rest. Bytes of what a match holds stay until it is dropped.
    ///
    /// # Errors
    /// I/O.
    pub fn purge(&self, namespace: Option<&NamespaceKey>) -> Result<Purged, StoreError> {
        self.usable()?;
        let mut catalog = self.engine.catalog();
        let removed = catalog.index.purge(namespace);
        let gone = catalog.forget(&removed);
        drop(catalog);
        drop(gone);
        let Removed { records, blocks, snapshots, disk_bytes } = removed;
        let is_large = records.len() >= LARGE_PURGE_RECORDS;
        if !is_large && !records.is_empty() {
            self.note(&Fact::Removed(records))?;
            self.ask(|answer| Command::Sweep { renew_index: false, answer });
        } else if self.ask(|answer| Command::Sweep { renew_index: is_large, answer }) != Some(true) && is_large {
            self.note(&Fact::Removed(records))?;
        }
        Ok(Purged { blocks, snapshots, bytes: disk_bytes })
    }

    /// Moves live records out of segments that are mostly dead, and drops these. Saves and restores go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn compact(&self) -> Result<Compacted, StoreError> {
        self.usable()?;
        self.ask(Command::Compact).ok_or(StoreError::Closed)
    }

    /// Reads every durable record and takes bad ones out of use. Saves and restores go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn verify(&self, stop: &AtomicBool) -> Result<VerifyReport, StoreError> {
        self.usable()?;
        verify(&self.engine, stop)
    }
}

/// Says that the folder was given back, also if closing panicked.
struct Ending<'s>(&'s Ended);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.engine.is_own_process() {
            return;
        }
        if let Err(error) = self.shut() {
            tracing::warn!(folder = %self.engine.config.folder.display(), "{error}");
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Store").field("folder", &self.engine.config.folder).finish_non_exhaustive()
    }
}
