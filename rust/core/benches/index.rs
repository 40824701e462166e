//! The index of the store: lookups, saves, loading and eviction among 100,000 blocks.
//!
//! `cargo bench -p hwledger-omlx-core --bench index`. Bars of issue 3: longest prefix of 128k tokens among 100,000 blocks in
//! at most 0.5 ms; saving linear in the tokens; at most 400 B a block beside the token ids.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hwledger_omlx_core::store::disk::{NO_ROW, Recovered};
use hwledger_omlx_core::store::index::{Continues, Index, Limits, Place};
use hwledger_omlx_core::store::types::{BLOCK_TOKENS, Layout, Location, NamespaceKey, PartLayout, RecordId, SegmentId};

const KEY: NamespaceKey = NamespaceKey([7; 32]);
const PROMPTS: u32 = 200;
const PROMPT_TOKENS: usize = 128_000;
/// Blocks of 36 MiB would make 14,000 segments; these are of a small model, seven to the megabyte.
const BLOCK_BYTES: u64 = 150_000;
const BLOCKS_IN_SEGMENT: u64 = 1700;

fn limits() -> Limits {
    Limits { quota_bytes: u64::MAX, min_free_bytes: 0, daily_write_bytes: None, ttl_ms: None }
}

fn index() -> Index {
    let mut index = Index::new(limits());
    let layout = Layout { parts: vec![PartLayout::plain(8, 256); 72], ..Layout::default() };
    index.open_namespace(&KEY, "model", &layout).expect("a new namespace");
    index
}

/// Agents' prompts begin alike, then differ.
fn prompt(seed: u32, tokens: usize) -> Vec<u32> {
    let token = |position: u32| position.wrapping_mul(2_654_435_761).wrapping_add(seed) % 150_000;
    let shared = |position| if position < 1000 { 1 } else { seed + 2 };
    (0..u32::try_from(tokens).expect("few tokens")).map(|position| token(position ^ (shared(position) << 20))).collect()
}

/// As the store does it: all blocks are reserved at once, then copied, then written in order.
fn save(index: &mut Index, tokens: &[u32], now_ms: u64) {
    let plan = index.plan_save(&KEY, tokens, 0..tokens.len(), now_ms).expect("an open namespace");
    let mut attach = plan.attach;
    let mut records = Vec::with_capacity(plan.runs.len());
    for run in &plan.runs {
        let own = &tokens[run.start..run.start + run.tokens];
        let (node, record) = index.insert_block(&KEY, attach, own, Place::Pending, now_ms).expect("as planned");
        attach = Some(Continues { node, tokens: u16::try_from(run.tokens).expect("at most 256") });
        records.push(record);
    }
    for record in &records {
        index.filled(*record);
    }
    for record in records {
        index.committed(record, location(record));
    }
}

fn location(record: RecordId) -> Location {
    Location {
        segment: SegmentId(u32::try_from(record.0 / BLOCKS_IN_SEGMENT).expect("few segments")),
        offset: record.0 % BLOCKS_IN_SEGMENT * BLOCK_BYTES,
        header_bytes: 4096,
        payload_bytes: BLOCK_BYTES - 4096,
    }
}

fn large() -> Index {
    let mut index = index();
    for seed in 0..PROMPTS {
        save(&mut index, &prompt(seed, PROMPT_TOKENS), u64::from(seed) * 5000);
    }
    index
}

fn recovered(index: &mut Index) -> Recovered {
    let image = index.dump();
    let row = |record| image.blocks.binary_search_by_key(&record, |row| row.id).expect("a parent is there");
    let parent = |row: usize| u32::try_from(row).expect("few rows");
    let parent_rows =
        image.blocks.iter().map(|block| block.attach.map_or(NO_ROW, |attach| parent(row(attach.parent)))).collect();
    Recovered { image, parent_rows, ..Recovered::default() }
}

fn among_100_000_blocks(criterion: &mut Criterion) {
    let mut index = large();
    let blocks = index.totals().blocks;
    let (memory, tokens) = (index.memory_bytes(), index.token_bytes());
    eprintln!(
        "{blocks} blocks: {} B a block, {} B of token ids a block",
        memory as u64 / blocks,
        tokens as u64 / blocks
    );

    let mut group = criterion.benchmark_group("lookup");
    for tokens in [8_000, 32_000, PROMPT_TOKENS] {
        // Other prompts each time, so that the caches of the processor hold none of them.
        let prompts: Vec<_> = (0..PROMPTS).step_by(7).map(|seed| prompt(seed, tokens)).collect();
        let mut next = prompts.iter().cycle();
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::new("whole prompt", tokens), |bencher| {
            bencher.iter(|| {
                let tokens = next.next().expect("a cycle");
                let found = index.lookup(&KEY, "model", tokens, tokens.len() - 1, 2_000_000);
                assert_eq!(found.matched_tokens, tokens.len() - 1);
                found
            });
        });
    }
    let miss = prompt(PROMPTS + 1, PROMPT_TOKENS);
    group.bench_function("miss behind 1,000 tokens", |bencher| {
        bencher.iter(|| index.lookup(&KEY, "model", black_box(&miss), miss.len(), 2_000_000));
    });
    group.bench_function("hold and release 500 blocks", |bencher| {
        let tokens = prompt(3, PROMPT_TOKENS);
        let path = index.lookup(&KEY, "model", &tokens, tokens.len(), 2_000_000).path;
        let deepest = path.last().expect("a hit").node;
        bencher.iter(|| {
            index.hold(deepest);
            index.release(deepest);
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("store of 100,000 blocks");
    group.sample_size(20);
    let rows = recovered(&mut index);
    group.bench_function("load", |bencher| {
        bencher.iter_batched(|| rows.clone(), |rows| Index::load(rows, limits(), 2_000_000), BatchSize::PerIteration);
    });
    group.bench_function("dump", |bencher| bencher.iter_with_large_drop(|| index.dump()));
    group.bench_function("evict one segment", |bencher| {
        let limits = Limits { quota_bytes: 0, ..limits() };
        bencher.iter_batched(
            || Index::load(rows.clone(), limits, 2_000_000).0,
            |mut index| (index.room_for(1, 0, u64::MAX, &[]).expect("nothing is held"), index),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn saving(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("save");
    group.sample_size(20);
    for tokens in [64_000, 256_000, 1_024_000] {
        let tokens = prompt(1, tokens);
        group.throughput(Throughput::Elements(tokens.len() as u64));
        group.bench_function(BenchmarkId::new("new prompt", tokens.len()), |bencher| {
            bencher.iter_batched(
                index,
                |mut index| {
                    save(&mut index, &tokens, 1);
                    index
                },
                BatchSize::PerIteration,
            );
        });
    }
    // Blocks that come one by one over a long time touch their ancestors at most once a second.
    group.throughput(Throughput::Elements(PROMPT_TOKENS as u64));
    group.bench_function("block by block, 20 ms apart, 128000", |bencher| {
        let tokens = prompt(1, PROMPT_TOKENS);
        bencher.iter_batched(
            index,
            |mut index| {
                for (block, end) in (BLOCK_TOKENS..=tokens.len()).step_by(BLOCK_TOKENS).enumerate() {
                    save(&mut index, &tokens[..end], block as u64 * 20);
                }
                index
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn many_children(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("100,000 children of one block");
    let mut index = index();
    let children = 100_000_u32;
    let mut tokens = prompt(1, 100);
    save(&mut index, &tokens, 1);
    tokens.push(0);
    for child in 0..children {
        tokens[100] = child;
        save(&mut index, &tokens, 1);
    }
    group.bench_function("lookup", |bencher| {
        let mut child = 0;
        bencher.iter(|| {
            child = (child + 7919) % children;
            tokens[100] = child;
            index.lookup(&KEY, "model", &tokens, 101, 2)
        });
    });
    group.bench_function("insert and remove", |bencher| {
        let at = index.prefix_at(&KEY, &tokens[..100]).expect("it is there");
        bencher.iter(|| {
            let added = index.insert_block(&KEY, Some(at), &[u32::MAX], Place::Memory, 1).expect("a new token");
            index.remove(added.1)
        });
    });
    group.finish();
}

criterion_group!(benches, among_100_000_blocks, saving, many_children);
criterion_main!(benches);
