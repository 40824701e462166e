//! A failing disk: the store never serves a wrong byte, never fails a caller, says what it lost, and goes on when it can.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hwledger_omlx_core::store::disk::faults::{Fault, FaultyIo, Operation};
use hwledger_omlx_core::store::types::Layout;
use hwledger_omlx_core::store::{Refusal, Store, StoreConfig, StoreError, StoreState};
use store_support::*;

fn small() -> StoreConfig {
    StoreConfig { hot_bytes: 0, segment_bytes: Some(200_000), ..config(Path::new("faults")) }
}

fn open(io: &FaultyIo) -> Arc<Store> {
    Store::open_with(small(), Arc::new(io.clone())).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..5).map(|family| prompt(family, 0, 700)).collect()
}

fn filled(io: &FaultyIo) -> Arc<Store> {
    filled_with(io, &layout())
}

fn filled_with(io: &FaultyIo, layout: &Layout) -> Arc<Store> {
    let store = open(io);
    for tokens in prompts() {
        assert_eq!(save(&store, &namespace(1), layout, &tokens, true).refused, None);
    }
    store.flush().unwrap();
    store
}

/// Waits for what the store does by itself; it probes a second after trouble begins.
fn wait_until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(Instant::now() < end, "it never came about");
        std::thread::yield_now();
    }
}

#[test]
fn a_read_that_fails_costs_the_record_only_if_it_fails_again() {
    let io = FaultyIo::new();
    let store = filled(&io);
    let (ours, layout) = (namespace(1), layout());
    let tokens = &prompts()[2];
    let fetch_failing = |skip| {
        let found = store.lookup(&ours, tokens, 700);
        // The header of the first block, then its payload.
        io.inject(Operation::Read, "segments", Fault::Eio, skip, 1);
        let restored = restore(&store, &ours, &layout, tokens, &found);
        io.heal();
        restored
    };
    assert_eq!(fetch_failing(0), 0);
    let counts = store.stats().counts;
    assert_eq!((counts.quarantined, counts.read_errors), (0, 1));
    assert_eq!(fetch(&store, &ours, &layout, tokens), 700);
    // A file that cannot be reached while the folder is gone says nothing of the record.
    io.inject(Operation::Names, "store.lock", Fault::Gone, 0, u64::MAX);
    assert_eq!(fetch_failing(0), 0);
    assert_eq!(fetch(&store, &ours, &layout, tokens), 700);
    assert_eq!(fetch_failing(0), 0);
    assert_eq!(store.stats().counts.quarantined, 1);
    assert_eq!(fetch(&store, &ours, &layout, tokens), 0);
    assert_eq!(save(&store, &ours, &layout, tokens, true).new_tokens, 700);
}

#[test]
fn a_bad_read_costs_the_record_and_no_wrong_byte() {
    for layout in [layout(), mixed()] {
        a_bad_read_costs_the_record(&layout);
    }
}

fn a_bad_read_costs_the_record(layout: &Layout) {
    let io = FaultyIo::new();
    filled_with(&io, layout).close().unwrap();
    // One lane, so that the second read is of payload: a flipped bit behind a header is in nobody's bytes.
    let store = Store::open_with(StoreConfig { reader_threads: Some(1), ..small() }, Arc::new(io.clone())).unwrap();
    let ours = namespace(1);
    let tokens = &prompts()[2];
    let found = store.lookup(&ours, tokens, 700);
    io.inject(Operation::Read, "segments", Fault::FlipBit, 1, 1);
    let restored = restore(&store, &ours, layout, tokens, &found);
    assert!(restored < 700);
    io.heal();
    drop(found);
    assert_eq!(store.stats().counts.quarantined, 1);
    // The record is out of use with all that continues it, and can be saved again.
    assert_eq!(fetch(&store, &ours, layout, tokens), restored);
    assert_eq!(save(&store, &ours, layout, tokens, true).new_tokens, 700 - restored);
    for tokens in prompts() {
        assert_eq!(fetch(&store, &ours, layout, &tokens), 700);
    }
    store.close().unwrap();
    let store = open(&io);
    for tokens in prompts() {
        assert_eq!(fetch(&store, &ours, layout, &tokens), 700);
    }
    assert_eq!(store.verify(&std::sync::atomic::AtomicBool::new(false)).unwrap().bad, []);
}

#[test]
fn a_bad_state_is_taken_out_alone() {
    let io = FaultyIo::new();
    let store = filled(&io);
    let tokens = &prompts()[0];
    let found = store.lookup(&namespace(1), tokens, 700);
    io.inject(Operation::Read, "segments", Fault::FlipBit, 1, 1);
    assert!(!restore_state(&store, &namespace(1), tokens, &found));
    drop(found);
    let found = store.lookup(&namespace(1), tokens, 700);
    assert_eq!((found.restorable(), found.snapshot()), (700, None));
}

#[test]
fn short_reads_and_writes_are_carried_on() {
    for layout in [layout(), mixed()] {
        let io = FaultyIo::new();
        io.inject(Operation::Any, "segments", Fault::Short, 0, u64::MAX);
        let store = filled_with(&io, &layout);
        for tokens in prompts() {
            assert_eq!(fetch(&store, &namespace(1), &layout, &tokens), 700);
        }
    }
}

#[test]
fn a_write_that_fails_once_is_repeated() {
    for fault in [Fault::Eio, Fault::Torn, Fault::Enospc] {
        let io = FaultyIo::new();
        let store = filled(&io);
        for operation in [Operation::Write, Operation::Sync] {
            io.inject(operation, "", fault, 0, 1);
            let tokens = prompt(50 + operation as u32, 0, 300);
            save(&store, &namespace(1), &layout(), &tokens, false);
            assert!(store.flush().is_ok(), "{fault:?} once at a {operation:?}");
            assert_eq!(store.stats().state, StoreState::Running);
            assert_eq!(fetch(&store, &namespace(1), &layout(), &tokens), 300);
        }
        let store = {
            store.close().unwrap();
            open(&io)
        };
        for tokens in prompts() {
            fetch(&store, &namespace(1), &layout(), &tokens);
        }
        assert_eq!(store.stats().counts.quarantined, 0);
    }
}

#[test]
fn a_folder_that_cannot_be_written_suspends_the_store_until_it_can() {
    for fault in [Fault::ReadOnly, Fault::Denied, Fault::Eio] {
        let io = FaultyIo::new();
        let store = filled(&io);
        let (ours, layout) = (namespace(1), layout());
        io.inject(Operation::Write, "", fault, 0, u64::MAX);
        let tokens = prompt(60, 0, 500);
        assert_eq!(save(&store, &ours, &layout, &tokens, false).refused, None);
        let Err(StoreError::Lost { records: 2, bytes, .. }) = store.flush() else { panic!("{fault:?} went unsaid") };
        assert_eq!(bytes, 500 * 71);
        assert!(store.flush().is_ok(), "a loss is said once");
        assert_eq!(store.stats().state, StoreState::Suspended);
        assert_eq!(save(&store, &ours, &layout, &tokens, false).refused, Some(Refusal::Suspended));
        assert_eq!(fetch(&store, &ours, &layout, &tokens), 0);
        for tokens in prompts() {
            assert_eq!(fetch(&store, &ours, &layout, &tokens), 700);
        }
        io.heal();
        wait_until(|| store.stats().state == StoreState::Running);
        assert_eq!(save(&store, &ours, &layout, &tokens, false).new_tokens, 500);
        store.flush().unwrap();
        store.close().unwrap();
        assert_eq!(fetch(&open(&io), &ours, &layout, &tokens), 500);
    }
}

#[test]
fn a_full_disk_costs_old_prompts_first() {
    for layout in [layout(), mixed()] {
        let io = FaultyIo::new();
        let store = filled_with(&io, &layout);
        let ours = namespace(1);
        io.set_capacity(io.bytes() + 100_000);
        for family in 100..130 {
            let tokens = prompt(family, 0, 400);
            assert_eq!(save(&store, &ours, &layout, &tokens, false).refused, None, "prompt {family}");
            store.flush().unwrap();
            assert_eq!(fetch(&store, &ours, &layout, &tokens), 400);
        }
        assert!(store.stats().counts.records_evicted > 0);
    }
}

#[test]
fn what_is_held_is_never_evicted_and_a_full_quota_refuses() {
    let io = FaultyIo::new();
    let config =
        StoreConfig { quota_bytes: 500_000, hot_bytes: 0, segment_bytes: Some(50_000), ..config(Path::new("held")) };
    let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
    let (ours, layout) = (namespace(1), layout());
    let mut held = Vec::new();
    let mut refused = None;
    for family in 0..40 {
        let tokens = prompt(family, 0, 300);
        refused = refused.or(save(&store, &ours, &layout, &tokens, false).refused);
        let _ = store.flush();
        held.push((store.lookup(&ours, &tokens, 300), tokens));
    }
    assert_eq!(refused, Some(Refusal::NoRoom));
    assert_eq!(store.stats().state, StoreState::Full);
    let served: usize =
        held.iter().map(|(found, tokens)| restore(&store, &ours, &layout, tokens, found)).filter(|n| *n == 300).count();
    assert!(served > 10, "{served}");
    assert!(held.iter().all(|(found, tokens)| restore(&store, &ours, &layout, tokens, found) == found.restorable()));
    held.clear();
    wait_until(|| store.stats().state == StoreState::Running);
    let tokens = prompt(99, 0, 300);
    assert_eq!(save(&store, &ours, &layout, &tokens, false).refused, None);
    store.flush().unwrap();
    assert_eq!(fetch(&store, &ours, &layout, &tokens), 300);
}

#[test]
fn a_folder_deleted_under_the_store_is_made_anew() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("cache");
    let store = Store::open(config(&folder)).unwrap();
    let (ours, layout) = (namespace(1), layout());
    let tokens = prompt(1, 0, 500);
    save(&store, &ours, &layout, &tokens, false);
    store.flush().unwrap();
    let held = store.lookup(&ours, &tokens, 500);
    std::fs::remove_dir_all(&folder).unwrap();
    let other = prompt(2, 0, 500);
    save(&store, &ours, &layout, &other, false);
    assert!(matches!(store.flush(), Err(StoreError::Lost { records: 2, .. })));
    assert_ne!(store.stats().state, StoreState::Running);
    wait_until(|| store.stats().state == StoreState::Running);
    assert_eq!(fetch(&store, &ours, &layout, &tokens), 0);
    assert_eq!(restore(&store, &ours, &layout, &tokens, &held), 0);
    for tokens in [&tokens, &other] {
        assert_eq!(save(&store, &ours, &layout, tokens, false).new_tokens, 500);
    }
    drop(held);
    store.flush().unwrap();
    store.close().unwrap();
    let store = Store::open(config(&folder)).unwrap();
    assert_eq!(fetch(&store, &ours, &layout, &other), 500);
}

#[test]
fn a_store_that_is_in_use_or_foreign_is_not_touched() {
    let io = FaultyIo::new();
    let store = open(&io);
    let second = Store::open_with(config(Path::new("faults")), Arc::new(io.clone()));
    assert!(matches!(second, Err(StoreError::InUse { .. })));
    store.close().unwrap();
    open(&io).close().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(folder.path().join("a").join("abcdef.safetensors"), b"x").unwrap();
    assert!(matches!(Store::open(config(folder.path())), Err(StoreError::Foreign { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A store of 3 MiB that is full.
fn full(io: &FaultyIo) -> Arc<Store> {
    let config = StoreConfig { quota_bytes: 3 << 20, ..small() };
    let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
    let evicted = || store.stats().counts.records_evicted > 0;
    for family in 1000.. {
        if evicted() {
            break;
        }
        save(&store, &namespace(1), &layout(), &prompt(family, 0, 700), false);
        store.flush().unwrap();
    }
    store
}

#[test]
fn files_that_could_not_be_deleted_are_deleted_later() {
    let io = FaultyIo::new();
    let store = full(&io);
    let before = store.stats().blocks;
    io.inject(Operation::Names, "segments/", Fault::Denied, 0, u64::MAX);
    for family in 0..20 {
        save(&store, &namespace(1), &layout(), &prompt(family, 0, 700), false);
    }
    assert!(store.flush().is_err());
    io.heal();
    wait_until(|| store.stats().state == StoreState::Running);
    for family in 100..200 {
        let tokens = prompt(family, 0, 700);
        assert_eq!(save(&store, &namespace(1), &layout(), &tokens, false).refused, None, "prompt {family}");
        store.flush().unwrap();
        assert_eq!(fetch(&store, &namespace(1), &layout(), &tokens), 700);
    }
    let files = io.paths().iter().filter(|path| path.starts_with("segments/")).count() as u64;
    let stats = store.stats();
    assert_eq!(stats.segments, files);
    assert!(io.bytes() <= stats.quota_bytes);
    assert!(stats.blocks * 10 > before * 8, "{} blocks of {before}", stats.blocks);
    assert!(io.contents("journal").unwrap().len() < 100_000, "the journal is folded between ticks too");
}

#[test]
fn a_quota_of_few_segments_evicts_the_one_under_way() {
    for segment_bytes in [250_000, 600_000, 1_000_000] {
        let io = FaultyIo::new();
        let config = StoreConfig { quota_bytes: 1_000_000, segment_bytes: Some(segment_bytes), ..small() };
        let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
        for family in 0..60 {
            let tokens = prompt(family, 0, 700);
            assert_eq!(save(&store, &namespace(1), &layout(), &tokens, false).refused, None, "prompt {family}");
            store.flush().unwrap();
            assert_eq!(fetch(&store, &namespace(1), &layout(), &tokens), 700);
        }
    }
}

#[test]
fn the_journal_stays_within_the_quota() {
    let io = FaultyIo::new();
    let config = StoreConfig { quota_bytes: 1_000_000, segment_bytes: Some(100_000), ..small() };
    let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
    for family in 0..60 {
        save(&store, &namespace(1), &layout(), &prompt(family, 0, 700), false);
        store.flush().unwrap();
    }
    for _ in 0..2000 {
        for family in 55..60 {
            let tokens = prompt(family, 0, 700);
            assert_eq!(store.pin(&namespace(1), &tokens).unwrap(), 700);
            assert_eq!(store.unpin(&namespace(1), &tokens).unwrap(), 700);
        }
        assert!(store.stats().disk_bytes <= 1_000_000 && io.bytes() <= 1_000_000);
    }
    assert!(store.stats().blocks > 0);
}

#[test]
fn a_large_purge_leaves_no_long_journal() {
    let io = FaultyIo::new();
    let store = Store::open_with(small(), Arc::new(io.clone())).unwrap();
    for family in 0..5000 {
        save(&store, &namespace(1), &layout(), &prompt(family, 0, 1), false);
    }
    save(&store, &namespace(2), &layout(), &prompt(1, 0, 700), false);
    store.flush().unwrap();
    let purged = store.purge(Some(&namespace(1).key)).unwrap();
    assert!(purged.blocks > 4096);
    assert!(io.contents("journal").unwrap().len() < 4096);
    let store = Store::open_with(small(), Arc::new(io.kill())).unwrap();
    assert_eq!(fetch(&store, &namespace(1), &layout(), &prompt(3, 0, 1)), 0);
    assert_eq!(fetch(&store, &namespace(2), &layout(), &prompt(1, 0, 700)), 700);
}

/// A closed store of 12 prompts without index and journal.
fn headless() -> FaultyIo {
    let io = FaultyIo::new();
    let store = open(&io);
    for family in 0..12 {
        save(&store, &namespace(1), &layout(), &prompt(family, 0, 700), false);
        store.flush().unwrap();
    }
    store.close().unwrap();
    io.replace("index", None);
    io.replace("journal", None);
    io
}

fn whole(store: &Store) -> usize {
    (0..12).filter(|family| fetch(store, &namespace(1), &layout(), &prompt(*family, 0, 700)) == 700).count()
}

#[test]
fn a_read_that_fails_while_the_index_is_rebuilt_costs_at_most_its_record() {
    // A moment's failure costs nothing, wherever it is.
    for skip in 0..40 {
        let io = headless();
        io.inject(Operation::Read, "segments/00000001", Fault::Eio, skip, 1);
        assert_eq!(whole(&open(&io)), 12, "read {skip}");
    }
    // A place that cannot be read costs the one prompt that is there.
    let mut lost = 0;
    for skip in 2..20 {
        let io = headless();
        io.inject(Operation::Read, "segments/00000001", Fault::Eio, skip, 2);
        let whole = whole(&open(&io));
        assert!(whole >= 11, "read {skip}: {whole}");
        lost += 12 - whole;
    }
    assert!(lost > 0, "no failure struck");
    // A segment of which nothing can be read is left alone until it can.
    for operation in [Operation::Read, Operation::Names] {
        let io = headless();
        let paths = io.paths();
        io.inject(operation, "segments/00000001", Fault::Eio, 0, u64::MAX);
        assert!(matches!(Store::open_with(small(), Arc::new(io.clone())), Err(StoreError::Io { .. })));
        assert_eq!(io.paths(), paths);
        io.heal();
        assert_eq!(whole(&open(&io)), 12);
    }
}

#[test]
fn a_pin_taken_while_its_prompt_grows_survives_a_crash() {
    for turn in 0..20 {
        let io = FaultyIo::new();
        let store = open(&io);
        let tokens = prompt(1, 0, 3000);
        save(&store, &namespace(1), &layout(), &tokens[..256], false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for end in (300..3000).step_by(100) {
                    save(&store, &namespace(1), &layout(), &tokens[..end], false);
                }
            });
            while store.stats().tokens < turn * 100 {
                std::thread::yield_now();
            }
            assert!(store.pin(&namespace(1), &tokens).unwrap() >= 256);
            let store = open(&io.kill());
            assert_eq!(store.info().pinned, 1, "turn {turn}");
        });
    }
}
