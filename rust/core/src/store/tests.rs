//! The store's parts one against another, without its threads: what depends on who comes first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::StoreConfig;
use super::copy::copy_all;
use super::disk::faults::{Fault, FaultyIo, Operation};
use super::disk::{Fact, codec_tag};
use super::engine::{Engine, now_ms};
use super::matched::lookup;
use super::memory::Resident;
use super::parts::StoredParts;
use super::queue::{Next, Planned, Sources};
use super::read::{self, ReadError};
use super::transfer::{Namespace, Saved, Source, Target};
use super::types::{Layout, Location, NamespaceKey, PartEntry, PartLayout, RecordId};
use super::write::{self, Request};
use super::{copier, writer};
use crate::quant::{Codec, Element};

const TOKENS: usize = 256;
const ROW_BYTES: usize = 16;

fn engine(io: &FaultyIo) -> Arc<Engine> {
    let config = StoreConfig {
        quota_bytes: 64 << 20,
        hot_bytes: 0,
        // For one block at a time.
        queue_bytes: 9_000,
        min_free_bytes: 0,
        reader_threads: Some(1),
        ..StoreConfig::new(Path::new("engine"))
    };
    Arc::new(Engine::open(config, Arc::new(io.clone())).unwrap())
}

fn namespace() -> Namespace {
    Namespace::new(NamespaceKey([7; 32]), "model".to_owned())
}

fn layout() -> Layout {
    let part = PartLayout::plain(1, u32::try_from(ROW_BYTES).unwrap());
    Layout { parts: vec![part], needs_snapshot: false, description: Vec::new() }
}

fn tokens(first: u32) -> Vec<u32> {
    (first..).take(TOKENS).collect()
}

fn save(engine: &Engine, first: u32) -> Saved {
    save_as(engine, &layout(), first)
}

fn save_as(engine: &Engine, layout: &Layout, first: u32) -> Saved {
    let bytes = vec![3_u8; TOKENS * ROW_BYTES];
    let source =
        Source { ptr: bytes.as_ptr(), row_stride_bytes: bytes.len(), token_stride_bytes: ROW_BYTES, first_token: 0 };
    let (namespace, tokens) = (namespace(), tokens(first));
    let request = Request {
        namespace: &namespace,
        layout,
        tokens: &tokens,
        sources: &[source],
        snapshot: None,
        keep: Box::new(bytes),
    };
    // SAFETY: `keep` holds the source, which nobody writes.
    #[expect(unsafe_code, reason = "saves through pointers")]
    unsafe {
        write::save(engine, request)
    }
}

/// Does what is left to be done.
fn finish(engine: &Arc<Engine>) {
    engine.queue.stop();
    std::thread::scope(|scope| {
        scope.spawn(|| copier::run(engine));
        writer::run(engine);
    });
}

fn stored(engine: &Engine, first: u32) -> Option<(RecordId, Location)> {
    let mut catalog = engine.catalog();
    let found = catalog.index.lookup(&namespace().key, "model", &tokens(first), TOKENS, now_ms());
    found.path.first().and_then(|step| Some((step.record, step.at?)))
}

#[test]
fn what_was_accepted_before_the_folder_was_made_anew_is_said_to_be_lost() {
    let engine = engine(&FaultyIo::new());
    assert!(!save(&engine, 0).deferred);
    assert!(save(&engine, 1000).deferred);
    engine.reopen().unwrap();
    finish(&engine);
    assert_eq!(engine.health().lost, (2, 2 * (TOKENS * ROW_BYTES) as u64));
    assert_eq!(engine.queue.depth(), (0, 0, 0));
}

#[test]
fn what_is_due_comes_before_the_next_batch() {
    let engine = engine(&FaultyIo::new());
    save(&engine, 0);
    assert!(matches!(engine.queue.next(Instant::now(), u64::MAX, false), Next::Tick));
    let later = Instant::now() + Duration::from_secs(3600);
    assert!(matches!(engine.queue.next(later, u64::MAX, true), Next::Batch(batch) if batch.len() == 1));
}

#[test]
fn a_copy_that_panics_leaves_nobody_waiting() {
    let engine = engine(&FaultyIo::new());
    let id = RecordId(77);
    let ticket = engine.queue.accept(0, 100).unwrap().ticket(id, 100);
    let records = [Planned { ticket, id, block: Some((0, 1)), bytes: ROW_BYTES as u64, footprint: 100 }];
    let from = Sources { layout: Arc::new(layout()), parts: Vec::new(), arrays: Vec::new() };
    // SAFETY: there is no source to be read, which is why it panics.
    #[expect(unsafe_code, reason = "copies from pointers")]
    let copy = || unsafe { copy_all(&engine, 0, &records, &from, false) };
    assert!(catch_unwind(AssertUnwindSafe(copy)).is_err());
    finish(&engine);
    assert_eq!(engine.queue.depth(), (0, 0, 0));
}

#[test]
fn a_record_that_was_moved_is_not_bad_for_what_was_read_where_it_was() {
    let engine = engine(&FaultyIo::new());
    save(&engine, 0);
    finish(&engine);
    let (id, at) = stored(&engine, 0).unwrap();
    let before = Location { offset: at.offset + 64, ..at };
    let judge = |at: &Location| engine.with_disk(|disk| engine.judge(disk, id, at, &ReadError::Checksum(0)));
    assert_eq!(judge(&before), Some(false));
    assert_eq!(stored(&engine, 0), Some((id, at)));
    assert_eq!(judge(&at), Some(true));
    assert_eq!(stored(&engine, 0), None);
}

#[test]
fn what_cannot_be_decoded_in_ram_is_bad_there_too() {
    let codec = Codec::parse("lossless", Element::Bfloat16, u32::try_from(ROW_BYTES / 2).unwrap()).unwrap();
    let layout = Layout { parts: vec![PartLayout::encoded(1, codec)], ..layout() };
    for durable in [false, true] {
        let io = FaultyIo::new();
        let engine = engine(&io);
        assert_eq!(save_as(&engine, &layout, 0).refused, None);
        if durable {
            finish(&engine);
        }
        assert_eq!(stored(&engine, 0).is_some(), durable);
        let found = lookup(&engine, &namespace(), &tokens(0), TOKENS);
        let buffer = engine.pool.take(1).unwrap();
        let entry = PartEntry { stored_bytes: 1, codec: codec_tag(&layout.parts[0]), checksum: 0 };
        let bad = Resident { buffer, parts: StoredParts::new(vec![entry]), footprint: 1 };
        engine.catalog().hot.insert(found.steps()[0].step.record, Arc::new(bad));
        let mut target = vec![0; TOKENS * ROW_BYTES];
        let place =
            Target { ptr: target.as_mut_ptr(), row_stride_bytes: target.len(), token_capacity: TOKENS, first_token: 0 };
        // SAFETY: the target has room for its row.
        #[expect(unsafe_code, reason = "restores through pointers")]
        let restored = unsafe { read::restore(&engine, &found, 0..1, &[place]) }.unwrap();
        drop(found);
        assert_eq!((restored.tokens, engine.counters.counts().quarantined), (0, 1));
        assert_eq!(lookup(&engine, &namespace(), &tokens(0), TOKENS).tokens(), 0);
        finish(&engine);
        engine.close_disk();
        assert_eq!(stored(&self::engine(&io), 0), None, "for good");
    }
}

#[test]
fn a_removal_that_was_not_journalled_is_before_the_next_commit() {
    let io = FaultyIo::new();
    let first = engine(&io);
    save(&first, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| writer::run(&first));
        first.queue.wait_finished();
        let (id, _) = stored(&first, 0).unwrap();
        first.catalog().index.remove(id);
        io.inject(Operation::Write, "journal", Fault::Eio, 0, 1);
        first.with_disk(|disk| first.note_removed(disk, vec![id]));
        assert_eq!(first.catalog().news, [Fact::Removed(vec![id])]);
        save(&first, 1000);
        first.queue.wait_finished();
        assert_eq!(first.catalog().news, []);
        first.queue.stop();
        let again = engine(&io.kill());
        assert_eq!(stored(&again, 0), None);
        assert!(stored(&again, 1000).is_some());
    });
}
