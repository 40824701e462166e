//! What the store's tests share: prompts whose right bytes follow from their tokens alone, so that a wrong one is always seen.
#![allow(dead_code, reason = "each test uses its own part")]
#![expect(unsafe_code, reason = "saves and restores through pointers")]

use std::sync::Arc;

use hwledger_omlx_core::quant::{Codec, Element, Scheme, Strides};
use hwledger_omlx_core::store::types::{BLOCK_TOKENS, Layout, NamespaceKey, PartLayout};
use hwledger_omlx_core::store::{
    Match, Namespace, Saved, SnapshotArray, SnapshotSource, SnapshotTarget, Source, Store, StoreConfig, Target,
};

/// A digest of a prefix: that of all but its last token, and the last token.
fn follow(before: u64, token: u32) -> u64 {
    let mut x = before.rotate_left(23) ^ u64::from(token).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The digest of each prefix, from one token on.
pub(crate) fn digests(namespace: &Namespace, tokens: &[u32]) -> Vec<u64> {
    tokens
        .iter()
        .scan(u64::from(namespace.key.0[0]) + 1, |digest, token| {
            *digest = follow(*digest, *token);
            Some(*digest)
        })
        .collect()
}

fn fill(slice: &mut [u8], digest: u64, part: usize, row: usize) {
    let mut word = follow(digest, u32::try_from(part * 1000 + row).unwrap());
    for bytes in slice.chunks_mut(8) {
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        word = follow(word, 1);
    }
}

/// Numbers in the caller's format, sixteen bits of the digest each.
fn fill_numbers(slice: &mut [u8], codec: &Codec, digest: u64, part: usize, row: usize) {
    let mut raw = vec![0; slice.len() / codec.element().bytes() * 2];
    fill(&mut raw, digest, part, row);
    for (to, raw) in slice.chunks_mut(codec.element().bytes()).zip(raw.as_chunks::<2>().0) {
        let word = i16::from_le_bytes(*raw);
        match codec.scheme() {
            // Of two values, of which either or both in a group are kept exactly: then what comes back does not depend on
            // the runs that were saved. The tests that know the runs take other numbers.
            Scheme::Channel { bits, .. } => put(to, codec, if word < 0 { 0.0 } else { f32::from((1_u16 << bits) - 1) }),
            // Few different bytes, and often the same: how many is told by the digest.
            Scheme::Lossless => to.fill(if u64::from(raw[0]) < digest % 256 { 0 } else { raw[1] }),
            _ => put(to, codec, f32::from(word) / 4096.0),
        }
    }
}

fn put(to: &mut [u8], codec: &Codec, number: f32) {
    match codec.element() {
        Element::Float32 => to.copy_from_slice(&number.to_le_bytes()),
        Element::Bfloat16 => to.copy_from_slice(&number.to_le_bytes()[2..]),
        Element::Float16 => panic!("no number of the tests is a half but the lossless ones, which are any bytes"),
    }
}

/// What comes back of `array`, rows of `capacity` tokens of which the first `tokens` are saved in runs that end at `ends`.
pub(crate) fn through(part: &PartLayout, array: &[u8], capacity: usize, ends: &[usize]) -> Vec<u8> {
    let Some(codec) = part.codec else { return array.to_vec() };
    let token_bytes = part.row_bytes as usize;
    let strides = Strides { rows: part.rows as usize, row_bytes: capacity * token_bytes, token_bytes };
    let mut back = array.to_vec();
    let mut start = 0;
    for end in ends {
        let tokens = end - start;
        let mut encoded = vec![0; codec.encoded_bytes(strides.rows, tokens)];
        // SAFETY: both arrays have all rows of `capacity` tokens.
        unsafe {
            let bytes = codec.encode(array[start * token_bytes..].as_ptr(), strides, tokens, &mut encoded);
            let to = back[start * token_bytes..].as_mut_ptr();
            codec.decode(&encoded[..bytes], tokens, 0..tokens, to, strides).unwrap();
        }
        start = *end;
    }
    back
}

/// The ends of the runs of a prompt that is saved at once.
pub(crate) fn whole_runs(tokens: usize) -> Vec<usize> {
    (0..tokens).step_by(BLOCK_TOKENS).map(|start| tokens.min(start + BLOCK_TOKENS)).collect()
}

pub(crate) fn namespace(name: u8) -> Namespace {
    Namespace::new(NamespaceKey([name; 32]), format!("model-{name}"))
}

/// Three parts of different shapes, 2 × 8 + 3 × 5 + 1 × 40 bytes a token.
pub(crate) fn layout() -> Layout {
    let part = PartLayout::plain;
    Layout { parts: vec![part(2, 8), part(3, 5), part(1, 40)], needs_snapshot: false, description: b"test".to_vec() }
}

/// Seven parts, plain and of each kind of codec: 16 + 128 + 64 + 96 + 15 + 128 + 64 bytes a token in memory.
pub(crate) fn mixed() -> Layout {
    let part =
        |rows, scheme: &str, element, width| PartLayout::encoded(rows, Codec::parse(scheme, element, width).unwrap());
    let parts = vec![
        PartLayout::plain(2, 8),
        part(2, "affine:4:32", Element::Bfloat16, 32),
        part(1, "channel:4:32", Element::Bfloat16, 32),
        part(2, "lossless", Element::Float16, 24),
        PartLayout::plain(3, 5),
        part(1, "affine:8:32", Element::Float32, 32),
        part(1, "lossless", Element::Bfloat16, 32),
    ];
    Layout { parts, needs_snapshot: false, description: b"mixed".to_vec() }
}

/// Prompts of a small alphabet of tokens: each differs from the first one of its family from `edit` on.
pub(crate) fn prompt(family: u32, edit: usize, tokens: usize) -> Vec<u32> {
    (0..tokens)
        .map(|position| {
            let variant = if position < edit { 0 } else { u32::try_from(edit).unwrap() + 1 };
            u32::try_from(
                follow(u64::from(family) << 32 | u64::from(variant), u32::try_from(position).unwrap()) % 50_000,
            )
            .unwrap()
        })
        .collect()
}

/// The arrays of a prompt, with room for `capacity` tokens.
pub(crate) fn arrays(namespace: &Namespace, layout: &Layout, tokens: &[u32], capacity: usize) -> Vec<Vec<u8>> {
    let digests = digests(namespace, tokens);
    layout
        .parts
        .iter()
        .enumerate()
        .map(|(part, &PartLayout { rows, row_bytes, codec })| {
            let (rows, row_bytes) = (rows as usize, row_bytes as usize);
            let mut array = vec![0xEE; rows * capacity * row_bytes];
            for row in 0..rows {
                for (token, digest) in digests.iter().enumerate() {
                    let at = (row * capacity + token) * row_bytes;
                    let slice = &mut array[at..at + row_bytes];
                    match &codec {
                        None => fill(slice, *digest, part, row),
                        Some(codec) => fill_numbers(slice, codec, *digest, part, row),
                    }
                }
            }
            array
        })
        .collect()
}

pub(crate) fn state_arrays(digest: u64) -> Vec<Vec<u8>> {
    [1usize, 100, 0, 5000]
        .iter()
        .enumerate()
        .map(|(part, bytes)| {
            let mut array = vec![0; *bytes];
            fill(&mut array, digest, part, 77);
            array
        })
        .collect()
}

/// A pointer's memory, alive until dropped by the store.
pub(crate) fn save(store: &Store, namespace: &Namespace, layout: &Layout, tokens: &[u32], with_state: bool) -> Saved {
    let capacity = tokens.len() + 3; // rows are not adjacent
    let arrays = Arc::new(arrays(namespace, layout, tokens, capacity));
    let sources: Vec<Source> = arrays
        .iter()
        .zip(&layout.parts)
        .map(|(array, part)| Source {
            ptr: array.as_ptr(),
            row_stride_bytes: capacity * part.row_bytes as usize,
            token_stride_bytes: part.row_bytes as usize,
            first_token: 0,
        })
        .collect();
    let state = Arc::new(digests(namespace, tokens).last().map(|digest| state_arrays(*digest)).unwrap_or_default());
    let snapshot = with_state.then(|| SnapshotSource {
        meta: format!("after {}", tokens.len()).into_bytes(),
        arrays: state.iter().map(|array| SnapshotArray { ptr: array.as_ptr(), bytes: array.len() }).collect(),
    });
    // SAFETY: `keep` holds all arrays, which nobody writes.
    unsafe { store.save(namespace, layout, tokens, &sources, snapshot, Box::new((arrays, state))) }
}

/// Restores what matched and compares every byte. Gives the tokens that were restored.
pub(crate) fn restore(store: &Store, namespace: &Namespace, layout: &Layout, tokens: &[u32], found: &Match) -> usize {
    if found.restorable() == 0 {
        return 0;
    }
    assert_eq!(found.layout(), Some(layout));
    let capacity = found.restorable() + 2;
    let mut targets: Vec<Vec<u8>> =
        layout.parts.iter().map(|part| vec![0; part.rows as usize * capacity * part.row_bytes as usize]).collect();
    let places: Vec<Target> = targets
        .iter_mut()
        .zip(&layout.parts)
        .map(|(target, part)| Target {
            ptr: target.as_mut_ptr(),
            row_stride_bytes: capacity * part.row_bytes as usize,
            token_capacity: capacity,
            first_token: 0,
        })
        .collect();
    // SAFETY: the targets have room for all rows.
    let restored = unsafe { store.restore(found, 0..places.len(), &places) }.unwrap();
    assert!(restored.tokens <= found.restorable());
    let right = arrays(namespace, layout, &tokens[..restored.tokens], capacity);
    let runs = whole_runs(restored.tokens);
    for ((target, right), part) in targets.iter().zip(&right).zip(&layout.parts) {
        let right = through(part, right, capacity, &runs);
        let row = capacity * part.row_bytes as usize;
        let used = restored.tokens * part.row_bytes as usize;
        for (target, right) in target.chunks(row).zip(right.chunks(row)) {
            assert!(target[..used] == right[..used], "a wrong byte was served");
        }
    }
    restored.tokens
}

/// Restores the match's snapshot and compares every byte; false if there is none or it was bad.
pub(crate) fn restore_state(store: &Store, namespace: &Namespace, tokens: &[u32], found: &Match) -> bool {
    let Some(info) = found.snapshot() else { return false };
    assert_eq!(info.meta, format!("after {}", info.position).into_bytes());
    let mut arrays: Vec<Vec<u8>> =
        info.array_bytes.iter().map(|bytes| vec![0; usize::try_from(*bytes).unwrap()]).collect();
    let targets: Vec<SnapshotTarget> =
        arrays.iter_mut().map(|array| SnapshotTarget { ptr: array.as_mut_ptr(), bytes: array.len() }).collect();
    // SAFETY: the targets are as long as they say.
    if !unsafe { store.restore_snapshot(found, &targets) }.unwrap() {
        return false;
    }
    assert!(arrays == state_arrays(digests(namespace, tokens)[info.position - 1]), "a wrong state was served");
    true
}

/// Looks up and restores all. Gives the tokens restored.
pub(crate) fn fetch(store: &Store, namespace: &Namespace, layout: &Layout, tokens: &[u32]) -> usize {
    let found = store.lookup(namespace, tokens, tokens.len());
    restore(store, namespace, layout, tokens, &found)
}

/// A small store: 64 MiB on disk, 1 MiB each hot and queued, two lanes.
pub(crate) fn config(folder: &std::path::Path) -> StoreConfig {
    StoreConfig {
        quota_bytes: 64 << 20,
        hot_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        backlog_bytes: 64 << 20,
        min_free_bytes: 0,
        reader_threads: Some(2),
        ..StoreConfig::new(folder)
    }
}
