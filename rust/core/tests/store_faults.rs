//! A failing disk: the store never serves a wrong byte, never fails a caller, says what it lost, and goes on when it can.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hwledger_omlx_core::store::disk::faults::{Fault, FaultyIo, Operation};
use hwledger_omlx_core::store::{Refusal, Store, StoreConfig, StoreError, StoreState};
use store_support::*;

fn open(io: &FaultyIo) -> Arc<Store> {
    let config = StoreConfig { hot_bytes: 0, segment_bytes: Some(200_000), ..config(Path::new("faults")) };
    Store::open_with(config, Arc::new(io.clone())).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..5).map(|family| prompt(family, 0, 700)).collect()
}

fn filled(io: &FaultyIo) -> Arc<Store> {
    let store = open(io);
    for tokens in prompts() {
        assert_eq!(save(&store, &namespace(1), &layout(), &tokens, true).refused, None);
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
fn a_bad_read_costs_the_record_and_no_wrong_byte() {
    for fault in [Fault::Eio, Fault::FlipBit] {
        let io = FaultyIo::new();
        let store = filled(&io);
        let (ours, layout) = (namespace(1), layout());
        let tokens = &prompts()[2];
        let found = store.lookup(&ours, tokens, 700);
        io.inject(Operation::Read, "segments", fault, 1, 1);
        let restored = restore(&store, &ours, &layout, tokens, &found);
        assert!(restored < 700, "{fault:?} was not noticed");
        io.heal();
        drop(found);
        assert_eq!(store.stats().counts.quarantined, 1);
        // The record is out of use with all that continues it, and can be saved again.
        assert_eq!(fetch(&store, &ours, &layout, tokens), restored);
        assert_eq!(save(&store, &ours, &layout, tokens, true).new_tokens, 700 - restored);
        for tokens in prompts() {
            assert_eq!(fetch(&store, &ours, &layout, &tokens), 700);
        }
        store.close().unwrap();
        let store = open(&io);
        for tokens in prompts() {
            assert_eq!(fetch(&store, &ours, &layout, &tokens), 700);
        }
        assert_eq!(store.verify(&std::sync::atomic::AtomicBool::new(false)).unwrap().bad, []);
    }
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
    let io = FaultyIo::new();
    io.inject(Operation::Any, "segments", Fault::Short, 0, u64::MAX);
    let store = filled(&io);
    for tokens in prompts() {
        assert_eq!(fetch(&store, &namespace(1), &layout(), &tokens), 700);
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
    let io = FaultyIo::new();
    let store = filled(&io);
    let (ours, layout) = (namespace(1), layout());
    io.set_capacity(io.bytes() + 100_000);
    for family in 100..130 {
        let tokens = prompt(family, 0, 400);
        assert_eq!(save(&store, &ours, &layout, &tokens, false).refused, None, "prompt {family}");
        store.flush().unwrap();
        assert_eq!(fetch(&store, &ours, &layout, &tokens), 400);
    }
    assert!(store.stats().counts.records_evicted > 0);
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
