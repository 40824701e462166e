//! Encoded parts: what comes back is what the codec makes of what was saved, from wherever it comes; less is stored, and
//! counted; and nothing that is not what was encoded is ever served.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unsafe_code, reason = "saves and restores through pointers")]

mod store_support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hwledger_omlx_core::quant::{Codec, Element};
use hwledger_omlx_core::store::disk::faults::FaultyIo;
use hwledger_omlx_core::store::disk::{Disk, DiskSettings, Fact, NamespaceRow, NewRecord, checksum, codec_tag};
use hwledger_omlx_core::store::types::{Layout, PartEntry, PartLayout, RecordId, RecordInfo, RecordKind, root_chain};
use hwledger_omlx_core::store::{Refusal, Source, Store, StoreConfig, StoreError, Target};
use store_support::*;

fn on_disk(io: &FaultyIo) -> Arc<Store> {
    let config = StoreConfig { hot_bytes: 0, ..config(Path::new("encoded")) };
    Store::open_with(config, Arc::new(io.clone())).unwrap()
}

fn codec(scheme: &str, width: u32) -> Codec {
    Codec::parse(scheme, Element::Bfloat16, width).unwrap()
}

/// `bfloat16` numbers between -8 and 8 of any size, the same for the same seed.
fn numbers(seed: u32, count: usize) -> Vec<u8> {
    let words = prompt(seed, 0, count);
    words.iter().flat_map(|word| u16::try_from((word % 0x4100) | ((word & 1) << 15)).unwrap().to_le_bytes()).collect()
}

/// Arrays `[rows, tokens, width]` that no step of which is dense: tokens and rows lie apart.
struct Apart {
    bytes: Vec<u8>,
    token_stride: usize,
    row_stride: usize,
}

impl Apart {
    const GAP: usize = 6;

    fn new(part: &PartLayout, dense: &[u8], tokens: usize) -> Self {
        let row_bytes = part.row_bytes as usize;
        let token_stride = row_bytes + Self::GAP;
        let row_stride = tokens * token_stride + 3 * Self::GAP;
        let mut bytes = vec![0xAB; part.rows as usize * row_stride];
        for (row, from) in dense.chunks(tokens * row_bytes).enumerate() {
            for (token, from) in from.chunks(row_bytes).enumerate() {
                bytes[row * row_stride + token * token_stride..][..row_bytes].copy_from_slice(from);
            }
        }
        Self { bytes, token_stride, row_stride }
    }

    fn source(&self) -> Source {
        Source {
            ptr: self.bytes.as_ptr(),
            row_stride_bytes: self.row_stride,
            token_stride_bytes: self.token_stride,
            first_token: 0,
        }
    }
}

/// Saves arrays of `tokens.len()` tokens, dense or apart from each other.
fn save_arrays(store: &Store, layout: &Layout, tokens: &[u32], dense: &[Vec<u8>], is_apart: bool) {
    let apart: Vec<Apart> =
        layout.parts.iter().zip(dense).map(|(part, dense)| Apart::new(part, dense, tokens.len())).collect();
    let sources: Vec<Source> = layout
        .parts
        .iter()
        .zip(dense)
        .zip(&apart)
        .map(|((part, dense), apart)| {
            if is_apart {
                return apart.source();
            }
            let token_bytes = part.row_bytes as usize;
            let row_stride_bytes = tokens.len() * token_bytes;
            Source { ptr: dense.as_ptr(), row_stride_bytes, token_stride_bytes: token_bytes, first_token: 0 }
        })
        .collect();
    let keep = Box::new((dense.to_vec(), apart));
    // The arrays that the sources point to are this function's, so nothing may be deferred.
    // SAFETY: nobody writes the arrays, and none is read after the call.
    let saved = unsafe { store.save(&namespace(1), layout, tokens, &sources, None, keep) };
    assert_eq!((saved.refused, saved.deferred), (None, false));
}

/// Restores the first `limit` tokens from `first_token` on and compares every byte: what the targets must not have, too.
fn compare(store: &Store, layout: &Layout, tokens: &[u32], right: &[Vec<u8>], first_token: usize, limit: usize) {
    let found = store.lookup(&namespace(1), tokens, limit);
    assert_eq!(found.restorable(), limit);
    let room = limit - first_token;
    let mut targets: Vec<Vec<u8>> = layout
        .parts
        .iter()
        .map(|part| vec![0xCD; part.rows as usize * (room * part.row_bytes as usize + 10)])
        .collect();
    let places: Vec<Target> = targets
        .iter_mut()
        .zip(&layout.parts)
        .map(|(target, part)| Target {
            ptr: target.as_mut_ptr(),
            row_stride_bytes: room * part.row_bytes as usize + 10,
            token_capacity: room,
            first_token,
        })
        .collect();
    // SAFETY: the targets have room for all rows.
    let restored = unsafe { store.restore(&found, 0..places.len(), &places) }.unwrap();
    assert_eq!(restored.tokens, limit);
    for (number, ((target, right), part)) in targets.iter().zip(right).zip(&layout.parts).enumerate() {
        let row_bytes = part.row_bytes as usize;
        let rows = right.chunks(tokens.len() * row_bytes);
        for (target, right) in target.chunks(room * row_bytes + 10).zip(rows) {
            let (own, gap) = target.split_at(room * row_bytes);
            assert!(own == &right[first_token * row_bytes..limit * row_bytes], "part {number}, {first_token}..{limit}");
            assert!(gap.iter().all(|byte| *byte == 0xCD), "written behind a row of part {number}");
        }
    }
}

fn of_each_kind() -> Layout {
    let parts = vec![
        PartLayout::encoded(3, codec("affine:4:64", 64)),
        PartLayout::plain(2, 32),
        PartLayout::encoded(2, codec("channel:4:32", 64)),
        PartLayout::encoded(2, codec("lossless", 16)),
        PartLayout::encoded(1, codec("affine:3:32", 32)),
    ];
    Layout { parts, ..Layout::default() }
}

/// The arrays of a prompt of so many tokens.
fn of_tokens(layout: &Layout, tokens: usize) -> Vec<Vec<u8>> {
    let parts = layout.parts.iter().enumerate();
    parts
        .map(|(part, shape)| {
            numbers(u32::try_from(part).unwrap(), shape.rows as usize * tokens * shape.row_bytes as usize / 2)
        })
        .collect()
}

#[test]
fn a_prefix_that_ends_or_begins_inside_a_block_is_what_the_codec_makes_of_it() {
    const TOKENS: usize = 700;
    let layout = of_each_kind();
    let tokens = prompt(1, 0, TOKENS);
    let dense = of_tokens(&layout, TOKENS);
    let right: Vec<Vec<u8>> = layout
        .parts
        .iter()
        .zip(&dense)
        .map(|(part, array)| through(part, array, TOKENS, &whole_runs(TOKENS)))
        .collect();
    let lossy = [0, 2, 4];
    assert!(lossy.iter().all(|part| right[*part] != dense[*part]) && right[3] == dense[3] && right[1] == dense[1]);
    let places = [(0, 700), (0, 1), (0, 255), (0, 257), (255, 256), (300, 301), (3, 511), (500, 699), (513, 700)];
    for is_apart in [false, true] {
        for hot_bytes in [0, 4 << 20] {
            let io = FaultyIo::new();
            let config = StoreConfig { hot_bytes, ..config(Path::new("cut")) };
            let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
            save_arrays(&store, &layout, &tokens, &dense, is_apart);
            let compare_all = |store: &Store| {
                for (first_token, limit) in places {
                    compare(store, &layout, &tokens, &right, first_token, limit);
                }
            };
            compare_all(&store);
            store.flush().unwrap();
            compare_all(&store);
            assert_eq!(store.stats().counts.blocks_restored_cold > 0, hot_bytes == 0);
            store.close().unwrap();
            compare_all(&on_disk(&io));
            // From the segments alone: each names its namespaces' codecs.
            io.replace("index", None);
            io.replace("journal", None);
            let store = on_disk(&io);
            assert!(store.info().opened.starts_with("rebuilt"));
            compare_all(&store);
        }
    }
}

#[test]
fn what_continues_a_prompt_inside_a_block_is_encoded_alone() {
    let layout = of_each_kind();
    let tokens = prompt(1, 0, 600);
    let dense = of_tokens(&layout, 600);
    let io = FaultyIo::new();
    let store = on_disk(&io);
    let mut before = 0;
    let ends = [1, 2, 100, 300, 301, 600];
    let mut runs: Vec<usize> = Vec::new();
    for end in ends {
        let part = |(part, array): (&PartLayout, &Vec<u8>)| -> Vec<u8> {
            let row_bytes = part.row_bytes as usize;
            array.chunks(600 * row_bytes).flat_map(|row| &row[..end * row_bytes]).copied().collect()
        };
        let arrays: Vec<Vec<u8>> = layout.parts.iter().zip(&dense).map(part).collect();
        save_arrays(&store, &layout, &tokens[..end], &arrays, false);
        let last = runs.last().copied().unwrap_or(0);
        runs.extend([256, 512].into_iter().filter(|stop| (last + 1..end).contains(stop)));
        runs.push(end);
        let encoded_bytes: u64 =
            layout.parts.iter().filter(|part| part.codec.is_some()).map(PartLayout::token_bytes).sum();
        let counts = store.stats().counts;
        assert_eq!(counts.bytes_before_encoding - before, encoded_bytes * (end - last) as u64);
        before = counts.bytes_before_encoding;
    }
    store.flush().unwrap();
    let right: Vec<Vec<u8>> =
        layout.parts.iter().zip(&dense).map(|(part, array)| through(part, array, 600, &runs)).collect();
    for limit in [600, 450, 299, 50, 1] {
        compare(&store, &layout, &tokens, &right, 0, limit);
    }
    assert_eq!(store.verify(&AtomicBool::new(false)).unwrap().bad, []);
}

#[test]
fn parts_that_lie_across_pieces_of_memory_are_whole() {
    const TOKENS: usize = 256;
    // Records of several chunks of 2 MiB, at whose ends parts are divided.
    let part = |number: usize| match number % 3 {
        0 => PartLayout::encoded(8, codec("affine:8:64", 128)),
        1 => PartLayout::encoded(8, codec("lossless", 128)),
        _ => PartLayout::plain(8, 256),
    };
    for lossless in [false, true] {
        let parts = (0..24).map(part).filter(|part| lossless || !part.is_lossless()).collect();
        let layout = Layout { parts, ..Layout::default() };
        let tokens = prompt(1, 0, TOKENS);
        let dense = of_tokens(&layout, TOKENS);
        let right: Vec<Vec<u8>> =
            layout.parts.iter().zip(&dense).map(|(part, array)| through(part, array, TOKENS, &[TOKENS])).collect();
        let io = FaultyIo::new();
        let config = StoreConfig { queue_bytes: 32 << 20, hot_bytes: 32 << 20, ..config(Path::new("large")) };
        let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
        save_arrays(&store, &layout, &tokens, &dense, false);
        for limit in [256, 200] {
            compare(&store, &layout, &tokens, &right, 0, limit);
        }
        store.close().unwrap();
        compare(&on_disk(&io), &layout, &tokens, &right, 0, 256);
    }
}

#[test]
fn a_flipped_bit_is_never_served() {
    let layout = mixed();
    let tokens = prompt(1, 0, 300);
    let io = FaultyIo::new();
    let store = on_disk(&io);
    save(&store, &namespace(1), &layout, &tokens, false);
    store.close().unwrap();
    let path = io.paths().into_iter().find(|path| path.starts_with("segments/")).unwrap();
    let whole = io.contents(&path).unwrap();
    let mut spoiled = 0;
    for byte in (0..whole.len()).step_by(97) {
        let io = io.kill();
        let mut damaged = whole.clone();
        damaged[byte] ^= 1 << (byte % 8);
        io.replace(&path, Some(damaged));
        let store = on_disk(&io);
        // Compares every byte that it is given.
        let restored = fetch(&store, &namespace(1), &layout, &tokens);
        assert!([0, 256, 300].contains(&restored), "{restored}");
        assert_eq!(store.stats().counts.quarantined, u64::from(restored < 300));
        spoiled += usize::from(restored < 300);
        if restored < 300 {
            assert_eq!(save(&store, &namespace(1), &layout, &tokens, false).new_tokens, 300 - restored);
        }
    }
    assert!(spoiled > whole.len() / 97 / 2, "{spoiled} of {}", whole.len() / 97);
}

#[test]
fn a_record_that_holds_and_cannot_be_decoded_is_bad() {
    let part = PartLayout::encoded(2, codec("lossless", 32));
    let layout = Layout { parts: vec![part, PartLayout::plain(1, 4)], ..Layout::default() };
    let tokens = prompt(1, 0, 200);
    // Fewer bytes than any 200 tokens can be, of the right codec; then what would be right, of another.
    let most = usize::try_from(part.most_stored_bytes(200)).unwrap();
    let wrong = [(vec![7; 5], codec_tag(&part)), (vec![0xFF; most], 0), (vec![0xFF; most], codec_tag(&part) ^ 1)];
    for (bytes, codec) in wrong {
        let io = FaultyIo::new();
        let (disk, _) = Disk::open(Arc::new(io.clone()), DiskSettings { segment_bytes: 1 << 20 }).unwrap();
        let namespace = namespace(1);
        let row = NamespaceRow { key: namespace.key, layout: layout.clone(), label: namespace.label.clone() };
        disk.note(&[Fact::Namespace(row)], true).unwrap();
        let info = RecordInfo {
            id: RecordId(1),
            namespace: namespace.key,
            attach: None,
            attach_chain: root_chain(&namespace.key),
            kind: RecordKind::Block { start: 0, tokens: tokens.clone() },
        };
        let plain = vec![1; 800];
        let entry = |bytes: &[u8], codec| PartEntry {
            stored_bytes: u32::try_from(bytes.len()).unwrap(),
            codec,
            checksum: checksum(bytes),
        };
        let parts = [entry(&bytes, codec), entry(&plain, 0)];
        let payload: [&[u8]; 2] = [&bytes, &plain];
        disk.commit(&[NewRecord { info: &info, parts: &parts, payload: &payload, last_used_ms: 1 }]).unwrap();
        drop(disk);
        let store = on_disk(&io);
        assert_eq!(store.verify(&AtomicBool::new(false)).unwrap().bad, [], "its checksums hold");
        let found = store.lookup(&namespace, &tokens, 200);
        assert_eq!(found.restorable(), 200);
        let mut target = vec![0; 2 * 200 * 64];
        let place =
            Target { ptr: target.as_mut_ptr(), row_stride_bytes: 200 * 64, token_capacity: 200, first_token: 0 };
        // SAFETY: the target has room for its rows.
        let restored = unsafe { store.restore(&found, 0..1, &[place]) }.unwrap();
        drop(found);
        assert_eq!((restored.tokens, store.stats().counts.quarantined), (0, 1));
        assert_eq!(store.lookup(&namespace, &tokens, 200).tokens(), 0);
        store.close().unwrap();
        assert_eq!(on_disk(&io).lookup(&namespace, &tokens, 200).tokens(), 0, "for good");
    }
}

#[test]
fn what_is_stored_is_counted_as_long_as_it_is() {
    let layout = Layout { parts: vec![PartLayout::encoded(4, codec("lossless", 64)); 4], ..Layout::default() };
    let io = FaultyIo::new();
    let config = StoreConfig { hot_bytes: 2 << 20, queue_bytes: 4 << 20, ..config(Path::new("counted")) };
    let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
    let mut right = 0;
    for prompt_number in 0..4 {
        let tokens = prompt(prompt_number, 0, 512);
        // Mostly zeros.
        let dense: Vec<Vec<u8>> = vec![
            numbers(prompt_number, 4 * 512 * 64)
                .into_iter()
                .enumerate()
                .map(|(at, byte)| if at % 16 < 12 { 0 } else { byte })
                .collect();
            4
        ];
        save_arrays(&store, &layout, &tokens, &dense, false);
        compare(&store, &layout, &tokens, &dense, 0, 512);
        right += layout.token_bytes() * 512;
    }
    store.flush().unwrap();
    let stats = store.stats();
    let counts = &stats.counts;
    assert_eq!((counts.bytes_saved, counts.bytes_before_encoding), (right, right));
    assert_eq!(counts.bytes_committed, counts.bytes_after_encoding);
    assert_eq!(stats.written_today_bytes, counts.bytes_after_encoding, "what was not taken is given back");
    assert_eq!((stats.queue_bytes, stats.backlog_bytes, stats.queue_records), (0, 0, 0));
    assert!(stats.live_bytes < counts.bytes_after_encoding + 8 * 8192);
    assert!(stats.hot_bytes >= counts.bytes_after_encoding);
    // Each record has pieces of a chunk's power-of-two parts, the last of them not all used.
    assert!(stats.hot_bytes <= 2 * counts.bytes_after_encoding + 8 * 8192);
    assert_eq!(stats.encode_us.count, 4 * 2 * 4);
    assert_eq!(stats.decode_us.count, 4 * 2 * 4);
}

#[test]
fn the_quota_and_the_daily_budget_hold_with_parts_of_any_length() {
    let layout = Layout { parts: vec![PartLayout::encoded(2, codec("lossless", 64)); 2], ..Layout::default() };
    let io = FaultyIo::new();
    let quota_bytes = 1_500_000;
    let config = StoreConfig {
        quota_bytes,
        segment_bytes: Some(200_000),
        daily_write_bytes: Some(20_000_000),
        hot_bytes: 0,
        ..config(Path::new("quota"))
    };
    let store = Store::open_with(config, Arc::new(io.clone())).unwrap();
    for number in 0..60 {
        let tokens = prompt(number, 0, 300);
        let mut dense = of_tokens(&layout, 300);
        // From all zeros to no two bytes alike.
        for array in &mut dense {
            array.iter_mut().step_by(1 + number as usize % 5).for_each(|byte| *byte = 0);
        }
        save_arrays(&store, &layout, &tokens, &dense, false);
        store.flush().unwrap();
        compare(&store, &layout, &tokens, &dense, 0, 300);
        assert!(io.bytes() <= quota_bytes, "{} bytes", io.bytes());
    }
    let stats = store.stats();
    assert!(stats.counts.records_evicted > 0);
    assert_eq!(stats.written_today_bytes, stats.counts.bytes_after_encoding);
}

#[test]
fn a_namespace_keeps_its_codecs() {
    let io = FaultyIo::new();
    let store = on_disk(&io);
    let layout = of_each_kind();
    let tokens = prompt(1, 0, 300);
    save_arrays(&store, &layout, &tokens, &of_tokens(&layout, 300), false);
    let mut other = layout.clone();
    // Of the same lengths, in memory and on disk.
    other.parts[0] = PartLayout::encoded(3, Codec::parse("affine:4:64", Element::Float16, 64).unwrap());
    assert_eq!(other.most_stored_bytes(256), layout.most_stored_bytes(256));
    let refused = |layout: &Layout| {
        let source = Source { ptr: std::ptr::null(), row_stride_bytes: 0, token_stride_bytes: 0, first_token: 0 };
        let sources = vec![source; layout.parts.len()];
        // SAFETY: refused before a source is read.
        unsafe { store.save(&namespace(1), layout, &prompt(2, 0, 10), &sources, None, Box::new(())) }.refused
    };
    assert_eq!(refused(&other), Some(Refusal::LayoutChanged));
    let mut wrong = layout;
    wrong.parts[0].row_bytes += 2;
    assert_eq!(refused(&wrong), Some(Refusal::SourceMismatch));
    // Emptied, it takes others. What was encoded by the former ones is not decoded by these, even if its removal is lost.
    store.purge(None).unwrap();
    let fresh = prompt(3, 0, 300);
    save_arrays(&store, &other, &fresh, &of_tokens(&other, 300), false);
    store.close().unwrap();
    io.replace("index", None);
    io.replace("journal", None);
    let store = on_disk(&io);
    for (tokens, restorable) in [(&tokens, 0), (&fresh, 300)] {
        let found = store.lookup(&namespace(1), tokens, 300);
        if found.restorable() > 0 {
            let mut target = vec![0; 3 * 300 * 128];
            let place =
                Target { ptr: target.as_mut_ptr(), row_stride_bytes: 300 * 128, token_capacity: 300, first_token: 0 };
            // SAFETY: the target has room for its rows.
            assert_eq!(unsafe { store.restore(&found, 0..1, &[place]) }.unwrap().tokens, restorable);
        }
    }
}

#[test]
fn a_folder_of_the_version_before_is_told_and_left_alone() {
    let io = FaultyIo::new();
    let store = on_disk(&io);
    save(&store, &namespace(1), &mixed(), &prompt(1, 0, 300), false);
    store.close().unwrap();
    let said = String::from_utf8(io.contents("store.json").unwrap()).unwrap();
    assert!(said.contains("\"version\": 2"), "{said}");
    io.replace("store.json", Some(said.replace("\"version\": 2", "\"version\": 1").into_bytes()));
    let before: Vec<_> = io.paths().into_iter().map(|path| (io.contents(&path), path)).collect();
    let opened = Store::open_with(config(Path::new("encoded")), Arc::new(io.clone()));
    assert!(matches!(&opened, Err(StoreError::Format { what, .. }) if what.contains("format version 1")));
    assert_eq!(io.paths().into_iter().map(|path| (io.contents(&path), path)).collect::<Vec<_>>(), before);
}
