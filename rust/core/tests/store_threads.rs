//! Many threads on one store: saves, lookups, restores, evictions, compaction, verification at once, byte for byte; and the
//! quota, looked at on every change of every file.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_support;

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hwledger_omlx_core::store::disk::faults::FaultyIo;
use hwledger_omlx_core::store::disk::io::{Access, Entry, FileId, Io, IoFile};
use hwledger_omlx_core::store::{Store, StoreConfig};
use store_support::*;

/// A disk that remembers the most that its files ever took.
#[derive(Clone, Debug)]
struct Watched {
    inner: FaultyIo,
    most: Arc<AtomicU64>,
}

#[derive(Debug)]
struct WatchedFile {
    inner: Arc<dyn IoFile>,
    disk: Watched,
}

impl Watched {
    fn new(inner: FaultyIo) -> Self {
        Self { inner, most: Arc::default() }
    }

    fn look<T>(&self, result: T) -> T {
        self.most.fetch_max(self.inner.bytes(), Ordering::Relaxed);
        result
    }
}

impl Io for Watched {
    fn create_folder(&self, path: &str) -> io::Result<()> {
        self.inner.create_folder(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.inner.list(path)
    }
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn IoFile>> {
        let inner = self.inner.open(path, access)?;
        Ok(self.look(Arc::new(WatchedFile { inner, disk: self.clone() })))
    }
    fn file_id(&self, path: &str) -> io::Result<FileId> {
        self.inner.file_id(path)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.look(self.inner.rename(from, to))
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.inner.sync_folder(path)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
    fn lock(&self, path: &str) -> io::Result<Option<Arc<dyn IoFile>>> {
        self.inner.lock(path)
    }
}

impl IoFile for WatchedFile {
    fn read_at(&self, into: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.inner.read_at(into, offset)
    }
    fn write_at(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.disk.look(self.inner.write_at(from, offset))
    }
    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }
    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.look(self.inner.truncate(bytes))
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.look(self.inner.sync())
    }
    fn id(&self) -> io::Result<FileId> {
        self.inner.id()
    }
}

/// Saves, fetches and holds prompts of its own and of others.
fn work(store: &Store, thread: u32, turns: u32) {
    let (ours, layout) = if thread.is_multiple_of(2) { (namespace(1), layout()) } else { (namespace(2), mixed()) };
    let mut held = None;
    for turn in 0..turns {
        let tokens = prompt(turn % 17 + thread % 2 * 5, (turn as usize * 37) % 400, 100 + (turn as usize * 61) % 500);
        save(store, &ours, &layout, &tokens, turn % 5 == 0);
        let other = prompt((turn * 7) % 22, (turn as usize * 37) % 400, 600);
        let found = store.lookup(&ours, &other, 600);
        let whole = restore(store, &ours, &layout, &other, &found) == found.restorable()
            && restore_state(store, &ours, &other, &found) == found.snapshot().is_some();
        // What is in memory only is lost, held or not, when nothing can be evicted for it.
        assert!(whole || store.stats().counts.records_lost > 0);
        match turn % 11 {
            3 => held = Some((found, other)),
            8 => {
                if let Some((found, other)) = held.take() {
                    restore(store, &ours, &layout, &other, &found);
                }
            }
            _ => {}
        }
    }
}

fn crowd(store: &Store, turns: u32) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|thread| scope.spawn(move || work(store, thread, turns))).collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = store.flush();
                store.compact().unwrap();
                assert_eq!(store.verify(&stop).unwrap().bad, []);
                let _ = (store.stats(), store.info());
            }
        });
        let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
    // Fast threads may leave most of it to be written. What is held by nobody makes room for it.
    let _ = store.flush();
}

#[test]
fn threads_get_right_bytes_while_others_save_and_evict() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        quota_bytes: 600_000,
        hot_bytes: 50_000,
        queue_bytes: 200_000,
        segment_bytes: Some(40_000),
        ..config(folder.path())
    };
    let store = Store::open(config.clone()).unwrap();
    crowd(&store, 60);
    work(&store, 8, 20);
    let stats = store.stats();
    assert!(stats.counts.records_evicted > 0 && stats.counts.blocks_restored_cold > 0, "{:?}", stats.counts);
    assert_eq!(stats.counts.quarantined, 0);
    let _ = store.close();
    let store = Store::open(config).unwrap();
    work(&store, 9, 20);
    assert_eq!(store.stats().counts.quarantined, 0);
}

#[test]
fn the_quota_holds_at_every_moment_also_when_it_shrinks() {
    let io = FaultyIo::new();
    for quota_bytes in [900_000, 300_000, 500_000] {
        let watched = Watched::new(io.clone());
        let before = io.bytes();
        let config = StoreConfig { quota_bytes, segment_bytes: Some(20_000), ..config(Path::new("quota")) };
        let store = Store::open_with(config, Arc::new(watched.clone())).unwrap();
        assert!(io.bytes() <= quota_bytes, "{} bytes after opening with a quota of {quota_bytes}", io.bytes());
        watched.most.store(0, Ordering::Relaxed);
        crowd(&store, 25);
        let _ = store.close();
        let most = watched.most.load(Ordering::Relaxed);
        assert!(most <= quota_bytes, "{most} bytes under a quota of {quota_bytes}, {before} before");
        assert!(most > quota_bytes / 3, "{most} bytes is no test of {quota_bytes}");
    }
}
