//! The folder under the store: deleted, made anew by another, closed and opened again, shared with a fork.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hwledger_omlx_core::store::disk::RealIo;
use hwledger_omlx_core::store::{Refusal, Store, StoreConfig, StoreError, StoreLimits, StoreState};
use store_support::*;

fn small(folder: &Path) -> StoreConfig {
    StoreConfig { hot_bytes: 0, segment_bytes: Some(200_000), ..config(folder) }
}

/// A store that does not know what else this process has open, as another process would not.
fn stranger(folder: &Path) -> Arc<Store> {
    Store::open_with(small(folder), Arc::new(RealIo::new(folder))).unwrap()
}

fn keep(store: &Store, families: std::ops::Range<u32>) {
    for family in families {
        assert_eq!(save(store, &namespace(1), &layout(), &prompt(family, 0, 700), false).refused, None);
        store.flush().unwrap();
    }
}

fn kept(store: &Store, families: std::ops::Range<u32>) -> usize {
    families.map(|family| fetch(store, &namespace(1), &layout(), &prompt(family, 0, 700))).sum()
}

fn wait_until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(Instant::now() < end, "it never came about");
        std::thread::yield_now();
    }
}

#[test]
fn a_store_whose_folder_is_another_s_now_leaves_it_alone() {
    for saves in [false, true] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("cache");
        let first = stranger(&folder);
        keep(&first, 0..6);
        std::fs::remove_dir_all(&folder).unwrap();
        let second = stranger(&folder);
        keep(&second, 100..110);
        if saves {
            save(&first, &namespace(1), &layout(), &prompt(50, 0, 5000), false);
            assert!(matches!(first.flush(), Err(StoreError::Lost { .. })));
        }
        first.close().unwrap();
        assert_eq!(kept(&second, 100..110), 7000);
        keep(&second, 120..121);
        second.close().unwrap();
        let again = stranger(&folder);
        assert_eq!(again.info().opened, "indexed");
        assert_eq!(kept(&again, 100..110) + kept(&again, 120..121), 7700);
        assert_eq!(kept(&again, 0..6), 0);
    }
}

#[test]
fn a_segment_deleted_while_it_grows_costs_only_what_was_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = stranger(folder.path());
    keep(&store, 0..1);
    for segment in std::fs::read_dir(folder.path().join("segments")).unwrap() {
        std::fs::remove_file(segment.unwrap().path()).unwrap();
    }
    keep(&store, 1..2);
    store.close().unwrap();
    let store = stranger(folder.path());
    assert_eq!((kept(&store, 0..1), kept(&store, 1..2)), (0, 700));
}

#[test]
fn a_missing_segment_s_records_are_out_of_use_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = stranger(folder.path());
    keep(&store, 0..1);
    store.close().unwrap();
    let store = stranger(folder.path());
    for segment in std::fs::read_dir(folder.path().join("segments")).unwrap() {
        std::fs::remove_file(segment.unwrap().path()).unwrap();
    }
    assert_eq!(kept(&store, 0..1), 0);
    assert!(store.stats().counts.quarantined > 0);
    assert_eq!(save(&store, &namespace(1), &layout(), &prompt(0, 0, 700), false).new_tokens, 700);
}

#[test]
fn opening_waits_for_a_close_that_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    for turn in 0..30 {
        let store = Store::open(small(folder.path())).unwrap();
        save(&store, &namespace(1), &layout(), &prompt(turn, 0, 700), false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if turn % 2 == 0 {
                    store.close().unwrap();
                }
            });
            let again = Store::open(small(folder.path())).unwrap();
            assert_eq!(save(&again, &namespace(1), &layout(), &prompt(500 + turn, 0, 300), false).refused, None);
            again.close().unwrap();
        });
        drop(store);
    }
}

#[test]
fn a_close_that_is_not_the_last_flushes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(small(folder.path())).unwrap();
    let shared = Store::open(small(folder.path())).unwrap();
    assert!(Arc::ptr_eq(&store, &shared));
    for family in 0..20 {
        save(&store, &namespace(1), &layout(), &prompt(family, 0, 700), false);
    }
    store.close().unwrap();
    assert_eq!(shared.stats().queue_records, 0);
    assert!(!shared.is_closed());
    shared.close().unwrap();
    assert!(shared.is_closed());
}

#[test]
fn a_folder_is_told_by_what_it_is_now() {
    let parent = tempfile::tempdir().unwrap();
    let [one, two, three] = ["one", "two", "three"].map(|name| parent.path().join(name));
    let first = Store::open(small(&one)).unwrap();
    std::fs::remove_dir_all(&one).unwrap();
    // Many file systems give it the number of the folder just deleted.
    std::fs::create_dir(&two).unwrap();
    let second = Store::open(small(&two)).unwrap();
    assert_eq!(second.config().folder, two);
    drop(first);
    // A folder that the store made anew is still its own.
    let third = Store::open(small(&three)).unwrap();
    std::fs::remove_dir_all(&three).unwrap();
    save(&third, &namespace(1), &layout(), &prompt(1, 0, 700), false);
    assert!(third.flush().is_err());
    wait_until(|| third.stats().state == StoreState::Running);
    assert!(Arc::ptr_eq(&third, &Store::open(small(&three)).unwrap()));
}

#[cfg(target_os = "linux")]
#[test]
#[expect(unsafe_code, reason = "forks")]
fn a_fork_neither_keeps_the_folder_nor_waits_for_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let store = stranger(folder.path());
    keep(&store, 0..1);
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: the child asks the store for plain numbers, waits, and ends without unwinding or running destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let closed = store.stats().state == StoreState::Closed && store.info().blocks == 0;
        let mut byte = 0_u8;
        // SAFETY: as above; the parent closes its end, which ends the read.
        unsafe {
            libc::close(pipe[1]);
            libc::read(pipe[0], std::ptr::from_mut(&mut byte).cast(), 1);
            libc::_exit(i32::from(!closed));
        }
    }
    store.close().unwrap();
    let again = Store::open_with(small(folder.path()), Arc::new(RealIo::new(folder.path())));
    let mut status = 0;
    // SAFETY: the descriptors are this test's own, and so is the child.
    unsafe {
        libc::close(pipe[1]);
        libc::close(pipe[0]);
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
    }
    assert_eq!(kept(&again.unwrap(), 0..1), 700);
    assert_eq!(status, 0, "the fork saw an open store");
}

#[test]
fn other_limits_count_at_once_and_for_all_who_have_the_folder_open() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, layout) = (namespace(1), layout());
    let opened = StoreConfig { quota_bytes: 8 << 20, hot_bytes: 1 << 20, ..config(folder.path()) };
    let store = Store::open(opened.clone()).unwrap();
    let other = Store::open(opened.clone()).unwrap();
    for family in 1..=40 {
        save(&store, &ours, &layout, &prompt(family, usize::MAX >> 40, 900), false);
    }
    store.flush().unwrap();
    let before = store.stats();
    assert!(before.disk_bytes > 1 << 20 && before.hot_bytes > 100 << 10, "{before:?}");

    let limits = StoreLimits { quota_bytes: 1 << 20, hot_bytes: 100 << 10, ..opened.limits() };
    other.set_limits(limits).unwrap();
    let after = store.stats();
    assert_eq!((store.limits(), after.quota_bytes, store.info().quota_bytes), (limits, 1 << 20, 1 << 20));
    assert!(after.disk_bytes <= 1 << 20 && after.hot_bytes <= 100 << 10, "{after:?}");
    assert!(after.blocks > 0, "not all had to go: {after:?}");
    // What is saved now stays within it too, and what is kept comes back right.
    for family in 41..=80 {
        save(&store, &ours, &layout, &prompt(family, usize::MAX >> 40, 900), false);
        store.flush().unwrap();
        assert!(store.stats().disk_bytes <= 1 << 20);
    }
    assert_eq!(fetch(&store, &ours, &layout, &prompt(80, usize::MAX >> 40, 900)), 900);

    store.set_limits(opened.limits()).unwrap();
    for family in 1..=40 {
        save(&store, &ours, &layout, &prompt(family, usize::MAX >> 40, 900), false);
    }
    store.flush().unwrap();
    assert!(store.stats().disk_bytes > 1 << 20);

    // A write budget counts from the next record on, and so does its end.
    let none = StoreLimits { daily_write_bytes: Some(1), ..opened.limits() };
    store.set_limits(none).unwrap();
    let refused = save(&store, &ours, &layout, &prompt(90, usize::MAX >> 40, 900), false);
    assert_eq!((refused.new_tokens, refused.refused), (0, Some(Refusal::DailyBudget)));
    store.set_limits(opened.limits()).unwrap();
    assert_eq!(save(&store, &ours, &layout, &prompt(90, usize::MAX >> 40, 900), false).new_tokens, 900);
    other.close().unwrap();
    store.close().unwrap();
    assert!(matches!(store.set_limits(limits), Err(StoreError::Closed)));
}

#[test]
fn a_quota_below_the_segments_that_were_asked_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let opened = StoreConfig { quota_bytes: 8 << 20, segment_bytes: Some(1 << 20), ..config(folder.path()) };
    let store = Store::open(opened.clone()).unwrap();
    let limits = StoreLimits { quota_bytes: 1 << 19, ..opened.limits() };
    assert!(matches!(store.set_limits(limits), Err(StoreError::Config(_))));
    assert_eq!(store.limits(), opened.limits());
    store.close().unwrap();
}
