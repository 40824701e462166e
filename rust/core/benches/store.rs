//! The paged KV cache against the machine: `cargo bench -p hwledger-omlx-core --bench store [-- FILTER]`.
//!
//! The shape is that of the table: 64 blocks of 36 MiB (256 tokens × 36 layers × K and V × 8 heads × 128 × 16 bits),
//! 2.4 GB. Files go to `HWLEDGER_OMLX_BENCH_FOLDER`, or else the system's folder for temporary files; put it on the disk
//! to be measured. Compare with `memcpy/one thread` here and with `fio --rw=read|write --bs=4M --size=2415919104` there.
#![expect(unsafe_code, reason = "saves and restores through pointers")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hwledger_omlx_core::quant::{Codec, Element};
use hwledger_omlx_core::store::types::{Layout, NamespaceKey, PartLayout};
use hwledger_omlx_core::store::{Namespace, Source, Store, StoreConfig, Target};

const BLOCKS: usize = 64;
const BLOCK_TOKENS: usize = 256;
const HEADS: usize = 8;
const ROW_BYTES: usize = 128 * 2;
const PARTS: usize = 36 * 2;
const TOKENS: usize = BLOCKS * BLOCK_TOKENS;
const BLOCK_BYTES: usize = BLOCK_TOKENS * PARTS * HEADS * ROW_BYTES;
const BYTES: u64 = (BLOCKS * BLOCK_BYTES) as u64;

fn folder() -> tempfile::TempDir {
    let parent = std::env::var_os("HWLEDGER_OMLX_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).expect("the folder for the benchmark's files")
}

/// Kept as they are, or encoded.
fn layout(scheme: Option<&str>) -> Layout {
    let (heads, row_bytes) = (u32::try_from(HEADS).unwrap_or(0), u32::try_from(ROW_BYTES).unwrap_or(0));
    let part = match scheme {
        None => PartLayout::plain(heads, row_bytes),
        Some(scheme) => {
            let codec = Codec::parse(scheme, Element::Bfloat16, row_bytes / 2);
            PartLayout::encoded(heads, codec.expect("a codec for vectors of 128 numbers"))
        }
    };
    Layout { parts: vec![part; PARTS], ..Layout::default() }
}

fn config(folder: &Path, hot_bytes: u64) -> StoreConfig {
    StoreConfig {
        quota_bytes: 32 << 30,
        hot_bytes,
        queue_bytes: 3 << 30,
        min_free_bytes: 0,
        ..StoreConfig::new(folder)
    }
}

/// A prompt that no other begins like.
fn prompt(number: u32, tokens: usize) -> Vec<u32> {
    (0..tokens)
        .map(|position| if position == 0 { number } else { u32::try_from(position % 50_000).unwrap_or(0) })
        .collect()
}

/// Layer caches of 64 blocks: every part in one array `[heads, tokens, 128]`, as MLX has them.
struct Caches(Vec<Vec<u8>>);

impl Caches {
    fn new(value: u8) -> Self {
        let bytes = HEADS * TOKENS * ROW_BYTES;
        Self((0..PARTS).map(|part| vec![value.wrapping_add(u8::try_from(part).unwrap_or(0)); bytes]).collect())
    }

    /// Numbers like those of keys and values: `bfloat16`, about normal.
    fn of_numbers() -> Self {
        let mut caches = Self::new(0);
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from(i16::from_le_bytes([state.to_le_bytes()[6], state.to_le_bytes()[7]])) / 32768.0
        };
        // Their number divides no stride of the arrays, so that nothing recurs within a part of a block.
        let numbers: Vec<[u8; 2]> = (0..1_000_003)
            .map(|_| {
                let bytes = (next() + next() + next() + next()).to_le_bytes();
                [bytes[2], bytes[3]]
            })
            .collect();
        for (part, array) in caches.0.iter_mut().enumerate() {
            let from = numbers.iter().cycle().skip(part * 7919);
            array.as_chunks_mut::<2>().0.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        caches
    }

    fn sources(&self) -> Vec<Source> {
        let source = |array: &Vec<u8>| Source {
            ptr: array.as_ptr(),
            row_stride_bytes: TOKENS * ROW_BYTES,
            token_stride_bytes: ROW_BYTES,
            first_token: 0,
        };
        self.0.iter().map(source).collect()
    }

    fn targets(&mut self) -> Vec<Target> {
        let target = |array: &mut Vec<u8>| Target {
            ptr: array.as_mut_ptr(),
            row_stride_bytes: TOKENS * ROW_BYTES,
            token_capacity: TOKENS,
            first_token: 0,
        };
        self.0.iter_mut().map(target).collect()
    }
}

fn save(store: &Store, number: u32, tokens: usize, caches: &Caches) {
    save_as(store, &layout(None), number, tokens, caches);
}

fn save_as(store: &Store, layout: &Layout, number: u32, tokens: usize, caches: &Caches) {
    let namespace = Namespace::new(NamespaceKey([1; 32]), "bench");
    // SAFETY: the caches outlive the benchmark's flush.
    let saved =
        unsafe { store.save(&namespace, layout, &prompt(number, tokens), &caches.sources(), None, Box::new(())) };
    assert_eq!((saved.new_tokens, saved.refused), (tokens, None));
}

/// Makes the system forget the files' pages.
fn drop_pages(folder: &Path) {
    #[cfg(target_os = "linux")]
    for file in std::fs::read_dir(folder.join("segments")).into_iter().flatten().flatten() {
        if let Ok(file) = std::fs::File::open(file.path()) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = folder;
}

fn restore(store: &Store, targets: &[Target]) -> Duration {
    let namespace = Namespace::new(NamespaceKey([1; 32]), "bench");
    let tokens = prompt(0, TOKENS);
    let start = Instant::now();
    let found = store.lookup(&namespace, &tokens, TOKENS);
    // SAFETY: the targets are whole caches.
    let restored = unsafe { store.restore(&found, 0..PARTS, targets) }.expect("targets that fit");
    assert_eq!(restored.tokens, TOKENS);
    start.elapsed()
}

fn copies(criterion: &mut Criterion) {
    let (from, mut into) = (Caches::new(1), Caches::new(2));
    let mut group = criterion.benchmark_group("memcpy");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES));
    group.bench_function("one thread", |bencher| {
        bencher.iter(|| from.0.iter().zip(&mut into.0).for_each(|(from, into)| into.copy_from_slice(black_box(from))));
    });
    let block = vec![1u8; BLOCK_BYTES];
    let mut copy = vec![2u8; BLOCK_BYTES];
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    group.bench_function("one thread, one block", |bencher| bencher.iter(|| copy.copy_from_slice(black_box(&block))));
}

fn restores(criterion: &mut Criterion) {
    let mut caches = Caches::new(3);
    let mut group = criterion.benchmark_group("restore");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES));
    for (name, hot_bytes, drops_pages) in [("hot tier", 3 << 30, false), ("page cache", 0, false), ("cold", 0, true)] {
        let folder = folder();
        let store = Store::open(config(folder.path(), hot_bytes)).expect("a new store");
        save(&store, 0, TOKENS, &caches);
        store.flush().expect("a disk with room");
        let targets = caches.targets();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| {
                        if drops_pages {
                            drop_pages(folder.path());
                        }
                        restore(&store, &targets)
                    })
                    .sum()
            });
        });
        store.close().expect("a disk with room");
    }
}

fn saves(criterion: &mut Criterion) {
    let caches = Caches::new(4);
    let folder = folder();
    let store = Store::open(config(folder.path(), 0)).expect("a new store");
    let mut next = 0;
    let mut group = criterion.benchmark_group("save");
    group.sample_size(10);
    // Buffers are recycled: the first use of memory is the system's cost, not the store's.
    save(&store, u32::MAX, TOKENS, &caches);
    store.flush().expect("a disk with room");
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    group.bench_function("one block, until the caller goes on", |bencher| {
        bencher.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                next += 1;
                let start = Instant::now();
                save(&store, next, BLOCK_TOKENS, &caches);
                total += start.elapsed();
                store.flush().expect("a disk with room");
            }
            total
        });
    });
    group.throughput(Throughput::Bytes(BYTES));
    group.bench_function("64 blocks, until durable", |bencher| {
        bencher.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                next += 1;
                store.purge(None).expect("a disk that can be written");
                let start = Instant::now();
                save(&store, next, TOKENS, &caches);
                store.flush().expect("a disk with room");
                total += start.elapsed();
            }
            total
        });
    });
    assert_eq!(store.stats().counts.records_lost, 0);
    store.close().expect("a disk with room");
}

/// The same with parts that are kept encoded. Bytes are those of the arrays.
fn encoded(criterion: &mut Criterion) {
    let mut caches = Caches::of_numbers();
    let mut group = criterion.benchmark_group("encoded");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES));
    for scheme in ["lossless", "affine:4:64", "affine:8:64", "channel:4:64", "rotated:4"] {
        let layout = layout(Some(scheme));
        for (name, hot_bytes) in [("hot tier", 3 << 30), ("page cache", 0)] {
            let folder = folder();
            let store = Store::open(config(folder.path(), hot_bytes)).expect("a new store");
            save_as(&store, &layout, 0, TOKENS, &caches);
            store.flush().expect("a disk with room");
            let targets = caches.targets();
            group.bench_function(format!("restore from {name}, {scheme}"), |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| restore(&store, &targets)).sum());
            });
            let counts = store.stats().counts;
            eprintln!("{scheme}: {} bytes kept as {}", counts.bytes_before_encoding, counts.bytes_after_encoding);
            store.close().expect("a disk with room");
        }
        let folder = folder();
        let store = Store::open(config(folder.path(), 0)).expect("a new store");
        let mut next = 0;
        group.bench_function(format!("save until durable, {scheme}"), |bencher| {
            bencher.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    next += 1;
                    store.purge(None).expect("a disk that can be written");
                    let start = Instant::now();
                    save_as(&store, &layout, next, TOKENS, &caches);
                    store.flush().expect("a disk with room");
                    total += start.elapsed();
                }
                total
            });
        });
        store.close().expect("a disk with room");
    }
}

/// 100,000 blocks of 256 tokens, 500 to a prompt.
fn large_index(criterion: &mut Criterion) {
    const PROMPTS: u32 = 200;
    const LONG: usize = 500 * BLOCK_TOKENS;
    let namespace = Namespace::new(NamespaceKey([2; 32]), "bench");
    let layout = Layout { parts: vec![PartLayout::plain(1, 1)], ..Layout::default() };
    let folder = folder();
    let config = config(folder.path(), 0);
    let store = Store::open(config.clone()).expect("a new store");
    let bytes = Arc::new(vec![0u8; LONG]);
    let source = Source { ptr: bytes.as_ptr(), row_stride_bytes: LONG, token_stride_bytes: 1, first_token: 0 };
    for number in 0..PROMPTS {
        // SAFETY: `keep` holds the source.
        let saved = unsafe {
            store.save(&namespace, &layout, &prompt(number, LONG), &[source], None, Box::new(Arc::clone(&bytes)))
        };
        assert_eq!(saved.refused, None);
        store.flush().expect("a disk with room");
    }
    let stats = store.stats();
    eprintln!(
        "{} blocks, {} bytes of index a block, {} of tokens",
        stats.blocks,
        stats.index_bytes / stats.blocks,
        stats.token_bytes / stats.blocks
    );
    let mut group = criterion.benchmark_group("100,000 blocks");
    group.sample_size(20);
    let tokens = prompt(PROMPTS / 2, LONG);
    group.bench_function("lookup of 128,000 tokens", |bencher| {
        bencher.iter(|| assert_eq!(store.lookup(&namespace, black_box(&tokens), LONG).tokens(), LONG));
    });
    store.close().expect("a disk with room");
    drop(store);
    group.bench_function("open", |bencher| {
        bencher.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                let start = Instant::now();
                let store = Store::open(config.clone()).expect("the store just closed");
                total += start.elapsed();
                assert_eq!(store.info().opened, "indexed");
                store.close().expect("a disk with room");
            }
            total
        });
    });
}

criterion_group!(benches, copies, restores, saves, encoded, large_index);
criterion_main!(benches);
