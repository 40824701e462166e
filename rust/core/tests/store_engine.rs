//! The store from outside: what is saved comes back, from RAM, from disk and after a restart, byte for byte.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_support;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hwledger_omlx_core::store::types::{Layout, PartLayout};
use hwledger_omlx_core::store::{MissReason, Refusal, Store, StoreConfig, StoreError, StoreState};
use store_support::*;

#[test]
fn a_prompt_comes_back_hot_cold_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, layout) = (namespace(1), layout());
    let tokens = prompt(1, 0, 1000);
    for hot_bytes in [0, 1 << 20] {
        let config = StoreConfig { hot_bytes, ..config(folder.path()) };
        let store = Store::open(config.clone()).unwrap();
        store.purge(None).unwrap();
        let saved = save(&store, &ours, &layout, &tokens, false);
        assert_eq!((saved.new_tokens, saved.refused), (1000, None));
        assert_eq!(fetch(&store, &ours, &layout, &tokens), 1000);
        store.flush().unwrap();
        assert_eq!(fetch(&store, &ours, &layout, &tokens), 1000);
        let stats = store.stats();
        assert_eq!(stats.counts.tokens_restored_cold > 0, hot_bytes == 0);
        assert_eq!((stats.blocks, stats.queue_records, stats.queue_bytes), (4, 0, 0));
        // Again: nothing new.
        assert_eq!(save(&store, &ours, &layout, &tokens, false), hwledger_omlx_core::store::Saved::default());
        store.close().unwrap();
        assert!(store.is_closed());
        let store = Store::open(config).unwrap();
        assert_eq!(store.info().opened, "indexed");
        assert_eq!(fetch(&store, &ours, &layout, &tokens), 1000);
        let found = store.lookup(&ours, &tokens, 999);
        assert_eq!((found.tokens(), found.restorable(), found.miss()), (999, 999, None));
        assert_eq!(found.bytes(), 999 * 71);
        assert_eq!(restore(&store, &ours, &layout, &tokens, &found), 999);
        drop(found);
        store.close().unwrap();
    }
}

#[test]
fn an_edited_prompt_shares_what_is_before_the_edit() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, layout) = (namespace(1), layout());
    let store = Store::open(config(folder.path())).unwrap();
    let first = prompt(1, usize::MAX >> 40, 900);
    save(&store, &ours, &layout, &first, false);
    let mut edited = first.clone();
    for token in &mut edited[300..] {
        *token += 1;
    }
    let found = store.lookup(&ours, &edited, edited.len());
    assert_eq!(found.restorable(), 300);
    assert_eq!(restore(&store, &ours, &layout, &edited, &found), 300);
    assert_eq!(save(&store, &ours, &layout, &edited, false).new_tokens, 600);
    store.flush().unwrap();
    store.close().unwrap();
    let store = Store::open(config(folder.path())).unwrap();
    for tokens in [&first, &edited] {
        assert_eq!(fetch(&store, &ours, &layout, tokens), 900);
    }
    assert_eq!(store.stats().tokens, 1500);
    assert_eq!(fetch(&store, &namespace(2), &layout, &first), 0);
}

#[test]
fn state_is_restored_at_the_points_where_it_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let ours = namespace(1);
    let layout = Layout { parts: Vec::new(), needs_snapshot: true, description: b"recurrent".to_vec() };
    let store = Store::open(StoreConfig { hot_bytes: 0, ..config(folder.path()) }).unwrap();
    let tokens = prompt(1, 0, 700);
    assert_eq!(save(&store, &ours, &layout, &tokens[..300], true).new_tokens, 300);
    assert_eq!(save(&store, &ours, &layout, &tokens, true).new_tokens, 400);
    assert_eq!(save(&store, &ours, &layout, &tokens[..650], true).new_tokens, 0);
    for reopened in [false, true] {
        let store = if reopened {
            store.close().unwrap();
            Store::open(config(folder.path())).unwrap()
        } else {
            std::sync::Arc::clone(&store)
        };
        for (limit, restorable) in [(700, 700), (699, 650), (649, 300), (300, 300), (299, 0)] {
            let found = store.lookup(&ours, &tokens, limit);
            assert_eq!((found.tokens(), found.restorable()), (limit, restorable), "limit {limit}");
            assert_eq!(found.miss(), (restorable == 0).then_some(MissReason::NoSnapshot));
            assert_eq!(restore(&store, &ours, &layout, &tokens, &found), restorable);
            assert_eq!(restore_state(&store, &ours, &tokens, &found), restorable > 0);
        }
    }
}

#[test]
fn a_window_is_saved_and_restored_from_its_first_token() {
    let folder = tempfile::tempdir().unwrap();
    let ours = namespace(1);
    let part = PartLayout::plain(2, 16);
    let layout = Layout { parts: vec![part; 2], needs_snapshot: false, description: Vec::new() };
    let tokens = prompt(1, 0, 900);
    let store = Store::open(StoreConfig { hot_bytes: 0, ..config(folder.path()) }).unwrap();
    save(&store, &ours, &layout, &tokens[..500], false);
    // Part 1 has only the tokens from 400 on.
    let all = arrays(&ours, &layout, &tokens, 900);
    let window: Vec<u8> = all[1].chunks(900 * 16).flat_map(|row| row[400 * 16..].to_vec()).collect();
    let sources = |first_token: usize, window: &[u8]| {
        [
            source(&all[0], 900, 0),
            hwledger_omlx_core::store::Source { first_token, ..source(window, 900 - first_token, 0) },
        ]
    };
    // SAFETY: the sources live to the end of the test, and nothing is deferred.
    #[expect(unsafe_code, reason = "saves through pointers")]
    let save_from = |first: usize, window: &[u8]| unsafe {
        store.save(&ours, &layout, &tokens, &sources(first, window), None, Box::new(()))
    };
    assert_eq!(save_from(501, &window).refused, Some(Refusal::SourceIncomplete));
    assert_eq!(save_from(400, &window).new_tokens, 400);
    store.flush().unwrap();
    assert_eq!(fetch(&store, &ours, &layout, &tokens), 900);
    for first_token in [0, 1, 255, 256, 600, 899] {
        let found = store.lookup(&ours, &tokens, 900);
        let mut target = vec![0; 2 * (900 - first_token) * 16];
        let place = hwledger_omlx_core::store::Target {
            ptr: target.as_mut_ptr(),
            row_stride_bytes: (900 - first_token) * 16,
            token_capacity: 900 - first_token,
            first_token,
        };
        // SAFETY: the target has room for its rows.
        #[expect(unsafe_code, reason = "restores through pointers")]
        let restored = unsafe { store.restore(&found, 1..2, &[place]) }.unwrap();
        assert_eq!(restored.tokens, 900);
        let right: Vec<u8> = all[1].chunks(900 * 16).flat_map(|row| row[first_token * 16..].to_vec()).collect();
        assert!(target == right);
    }
}

fn source(array: &[u8], capacity: usize, first_token: usize) -> hwledger_omlx_core::store::Source {
    hwledger_omlx_core::store::Source {
        ptr: array.as_ptr(),
        row_stride_bytes: capacity * 16,
        token_stride_bytes: 16,
        first_token,
    }
}

#[test]
fn a_folder_opened_twice_is_one_store_until_its_last_close() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Store::open(config(folder.path())).unwrap(), Store::open(config(folder.path())).unwrap());
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    first.close().unwrap();
    assert!(!second.is_closed());
    second.close().unwrap();
    second.close().unwrap();
    assert!(matches!(second.flush(), Err(StoreError::Closed)));
    let ours = namespace(1);
    assert_eq!(save(&second, &ours, &layout(), &prompt(1, 0, 10), false).refused, Some(Refusal::Closed));
    assert_eq!(second.lookup(&ours, &prompt(1, 0, 10), 10).miss(), Some(MissReason::Disabled));
    assert_eq!(second.stats().state, StoreState::Closed);
    let third = Store::open(config(folder.path())).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&first, &third));
}

#[test]
fn a_deferred_save_is_copied_when_there_is_room_and_kept_alive_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, layout) = (namespace(1), layout());
    // Each of them is more than the queue.
    let config = StoreConfig { queue_bytes: 64 << 10, hot_bytes: 0, backlog_bytes: 1 << 20, ..config(folder.path()) };
    let store = Store::open(config).unwrap();
    let prompts: Vec<Vec<u32>> = (0..6).map(|family| prompt(family, 0, 1500)).collect();
    for tokens in &prompts {
        let saved = save(&store, &ours, &layout, tokens, true);
        assert_eq!((saved.new_tokens, saved.refused, saved.deferred), (1500, None, true));
    }
    store.flush().unwrap();
    for tokens in &prompts {
        assert_eq!(fetch(&store, &ours, &layout, tokens), 1500);
    }
    assert_eq!(store.stats().backlog_bytes, 0);
    let huge = prompt(9, 0, 20_000);
    assert_eq!(save(&store, &ours, &layout, &huge, false).refused, Some(Refusal::QueueFull));
    assert_eq!(fetch(&store, &ours, &layout, &huge), 0);
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_left_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, layout) = (namespace(1), layout());
    let store = Store::open(StoreConfig { daily_write_bytes: Some(40_000), ..config(folder.path()) }).unwrap();
    let tokens = prompt(1, 0, 200);
    let wide = Layout { parts: vec![PartLayout::plain(1 << 14, 1 << 14)], ..Layout::default() };
    assert_eq!(save_nothing(&store, &wide, &tokens, 1), Some(Refusal::TooLarge));
    assert_eq!(save_nothing(&store, &layout, &tokens, 1), Some(Refusal::SourceMismatch));
    assert_eq!(save_nothing(&store, &layout, &[], 3), Some(Refusal::SourceMismatch));
    assert_eq!(save(&store, &ours, &layout, &tokens, false).refused, None);
    let other = Layout { description: b"other".to_vec(), ..layout.clone() };
    assert_eq!(save_nothing(&store, &other, &prompt(2, 0, 9), 3), Some(Refusal::LayoutChanged));
    // Below half of the day's budget all is taken, above only what is offered again.
    assert_eq!(save(&store, &ours, &layout, &prompt(3, 0, 200), false).refused, None);
    assert_eq!(save(&store, &ours, &layout, &prompt(4, 0, 100), false).refused, Some(Refusal::DailyBudget));
    assert_eq!(save(&store, &ours, &layout, &prompt(4, 0, 100), false).refused, None);
    assert_eq!(save(&store, &ours, &layout, &prompt(5, 0, 250), false).refused, Some(Refusal::DailyBudget));
    let stats = store.stats();
    assert_eq!(stats.tokens, 500);
    assert_eq!(stats.refused[&Refusal::DailyBudget], 2);
}

fn save_nothing(store: &Store, layout: &Layout, tokens: &[u32], sources: usize) -> Option<Refusal> {
    let source = hwledger_omlx_core::store::Source {
        ptr: std::ptr::null(),
        row_stride_bytes: 0,
        token_stride_bytes: 0,
        first_token: 0,
    };
    // SAFETY: all of these are refused before a source is read.
    #[expect(unsafe_code, reason = "saves through pointers")]
    unsafe { store.save(&namespace(1), layout, tokens, &vec![source; sources], None, Box::new(())) }.refused
}

#[test]
fn purge_pin_and_time_to_live() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout();
    let (ours, theirs) = (namespace(1), namespace(2));
    let store = Store::open(config(folder.path())).unwrap();
    let tokens = prompt(1, 0, 600);
    for namespace in [&ours, &theirs] {
        save(&store, namespace, &layout, &tokens, true);
    }
    assert_eq!(store.pin(&ours, &tokens[..500]).unwrap(), 500);
    assert_eq!(store.info().pinned, 1);
    let held = store.lookup(&theirs, &tokens, 600);
    let purged = store.purge(Some(&theirs.key)).unwrap();
    assert_eq!((purged.blocks, purged.snapshots), (3, 1));
    assert_eq!(fetch(&store, &theirs, &layout, &tokens), 0);
    assert_eq!(fetch(&store, &ours, &layout, &tokens), 600);
    drop(held);
    store.close().unwrap();
    // What was never used again has expired at once, except what is pinned.
    let store = Store::open(StoreConfig { ttl: Some(Duration::ZERO), ..config(folder.path()) }).unwrap();
    assert_eq!(fetch(&store, &theirs, &layout, &tokens), 0);
    store.close().unwrap();
    let store = Store::open(config(folder.path())).unwrap();
    assert_eq!(store.info().pinned, 1);
    assert_eq!(store.unpin(&ours, &tokens).unwrap(), 512); // a pin is of whole blocks
    assert_eq!(store.unpin(&ours, &tokens).unwrap(), 0);
    let purged = store.purge(None).unwrap();
    assert_eq!(purged.blocks, 3);
    let compacted = store.compact().unwrap();
    assert_eq!(compacted.moved_bytes, 0);
    assert_eq!(store.info().blocks, 0);
    store.close().unwrap();
    let store = Store::open(config(folder.path())).unwrap();
    assert_eq!(fetch(&store, &ours, &layout, &tokens), 0);
}

#[test]
fn compaction_moves_what_lives_and_verification_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout();
    let config = StoreConfig { segment_bytes: Some(128 << 10), hot_bytes: 0, ..config(folder.path()) };
    let store = Store::open(config.clone()).unwrap();
    let (ours, theirs) = (namespace(1), namespace(2));
    for family in 0..40 {
        let owner = if family % 4 == 0 { &ours } else { &theirs };
        save(&store, owner, &layout, &prompt(family, 0, 512), family % 8 == 0);
        store.flush().unwrap();
    }
    let held = store.lookup(&ours, &prompt(4, 0, 512), 512);
    store.purge(Some(&theirs.key)).unwrap();
    let before = store.info();
    let compacted = store.compact().unwrap();
    assert!(compacted.segments > 3 && compacted.moved_bytes > 0 && compacted.freed_bytes > 0, "{compacted:?}");
    assert!(store.info().disk_bytes < before.disk_bytes);
    assert_eq!(restore(&store, &ours, &layout, &prompt(4, 0, 512), &held), 512);
    drop(held);
    for reopened in [false, true] {
        let store = if reopened {
            store.close().unwrap();
            Store::open(config.clone()).unwrap()
        } else {
            std::sync::Arc::clone(&store)
        };
        for family in (0..40).step_by(4) {
            let tokens = prompt(family, 0, 512);
            let found = store.lookup(&ours, &tokens, 512);
            assert_eq!(restore(&store, &ours, &layout, &tokens, &found), 512);
            assert_eq!(restore_state(&store, &ours, &tokens, &found), family % 8 == 0);
        }
        let report = store.verify(&AtomicBool::new(false)).unwrap();
        assert_eq!((report.records, report.bad.len(), report.stopped), (25, 0, false));
        assert!(store.verify(&AtomicBool::new(true)).unwrap().stopped);
    }
}

#[test]
fn the_segment_that_a_restart_goes_on_with_is_not_compacted_into_itself() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout();
    let config = StoreConfig { hot_bytes: 0, ..config(folder.path()) };
    let (ours, theirs) = (namespace(1), namespace(2));
    let tokens = prompt(1, 0, 300);
    let store = Store::open(config.clone()).unwrap();
    save(&store, &ours, &layout, &tokens, true);
    save(&store, &theirs, &layout, &prompt(2, 0, 3000), false);
    store.close().unwrap();
    for _ in 0..2 {
        let store = Store::open(config.clone()).unwrap();
        store.purge(Some(&theirs.key)).unwrap();
        store.compact().unwrap();
        assert_eq!(fetch(&store, &ours, &layout, &tokens), 300);
        store.close().unwrap();
    }
}

#[test]
fn a_restore_in_pieces_from_several_threads_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let ours = namespace(1);
    // Rows long enough to be read straight into the targets, and others that are not.
    let parts = vec![PartLayout::plain(2, 64), PartLayout::plain(1, 4)];
    let layout = Layout { parts: [parts.clone(), parts].concat(), needs_snapshot: false, description: Vec::new() };
    let store = Store::open(StoreConfig { hot_bytes: 0, ..config(folder.path()) }).unwrap();
    let tokens = prompt(1, 0, 800);
    save(&store, &ours, &layout, &tokens, false);
    store.flush().unwrap();
    let found = store.lookup(&ours, &tokens, 799);
    let right = arrays(&ours, &layout, &tokens[..799], 799);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (store, found, layout, right) = (&store, &found, &layout, &right);
            scope.spawn(move || {
                let row = 799 * layout.parts[part].row_bytes as usize;
                let mut target = vec![0; row * layout.parts[part].rows as usize];
                let place = hwledger_omlx_core::store::Target {
                    ptr: target.as_mut_ptr(),
                    row_stride_bytes: row,
                    token_capacity: 799,
                    first_token: 0,
                };
                // SAFETY: the target has room for its rows.
                #[expect(unsafe_code, reason = "restores through pointers")]
                let restored = unsafe { store.restore(found, part..part + 1, &[place]) }.unwrap();
                assert_eq!(restored.tokens, 799);
                assert!(target == right[part]);
            });
        }
    });
    assert_eq!(store.stats().counts.blocks_restored_cold, 4);
}

#[test]
fn what_no_record_can_hold_is_refused_and_nothing_else_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(config(folder.path())).unwrap();
    let tokens = prompt(1, 0, 100);
    let described = Layout { description: vec![0; 16 << 20], ..layout() };
    let saved = save(&store, &namespace(1), &described, &tokens, false);
    assert_eq!(saved.refused, Some(Refusal::TooLarge));
    // Lengths that would wrap around 64 bits. Nothing is read of the sources.
    for part in [PartLayout::plain(u32::MAX, u32::MAX), PartLayout::plain(1 << 31, 1 << 25)] {
        let layout = Layout { parts: vec![part; 2], ..layout() };
        let sources = [source(&[], 0, 0), source(&[], 0, 0)];
        // SAFETY: refused before any source is read.
        #[expect(unsafe_code, reason = "saves through pointers")]
        let saved = unsafe { store.save(&namespace(2), &layout, &tokens, &sources, None, Box::new(())) };
        assert_eq!(saved.refused, Some(Refusal::TooLarge));
    }
    save(&store, &namespace(3), &layout(), &tokens, false);
    store.flush().unwrap();
    store.close().unwrap();
    let store = Store::open(config(folder.path())).unwrap();
    assert_eq!(fetch(&store, &namespace(3), &layout(), &tokens), 100);
}
