//! The index against a naive model, and what it promises about misses, budgets and segments.

mod behaviour;
mod naive;
mod property;

use crate::store::index::{Index, Limits, Place, SavePlan};
use crate::store::types::{Layout, Location, NamespaceKey, PartLayout, RecordId, SegmentId};

const KEY: NamespaceKey = NamespaceKey([7; 32]);
const OTHER: NamespaceKey = NamespaceKey([9; 32]);

fn limits() -> Limits {
    Limits { quota_bytes: u64::MAX, min_free_bytes: 0, daily_write_bytes: None, ttl_ms: None }
}

fn layout() -> Layout {
    Layout { parts: vec![PartLayout::plain(2, 4)], ..Layout::default() }
}

fn recurrent() -> Layout {
    Layout { needs_snapshot: true, ..Layout::default() }
}

fn index() -> Index {
    let mut index = Index::new(limits());
    assert_eq!(index.open_namespace(&KEY, "model", &layout()), Ok(true));
    index
}

fn at(segment: u32, offset: u64, payload_bytes: u64) -> Location {
    Location { segment: SegmentId(segment), offset, header_bytes: 64, payload_bytes }
}

/// Reserves all that the plan wants.
fn reserve(index: &mut Index, key: &NamespaceKey, tokens: &[u32], plan: &SavePlan, now_ms: u64) -> Vec<RecordId> {
    let mut attach = plan.attach;
    let mut records = Vec::new();
    for run in &plan.runs {
        let own = &tokens[run.start..run.start + run.tokens];
        let (node, record) = index.insert_block(key, attach, own, Place::Pending, now_ms).unwrap();
        attach = Some(crate::store::index::Continues { node, tokens: u16::try_from(run.tokens).unwrap() });
        records.push(record);
    }
    records
}

/// Saves what is missing of `tokens` to one segment, 100 bytes of payload a token.
fn save(index: &mut Index, key: &NamespaceKey, tokens: &[u32], segment: u32, now_ms: u64) -> Vec<RecordId> {
    let plan = index.plan_save(key, tokens, 0..tokens.len(), now_ms).unwrap();
    let records = reserve(index, key, tokens, &plan, now_ms);
    let file = index.segments().into_iter().find(|used| used.segment == SegmentId(segment));
    let mut offset = file.map_or(0, |used| used.file_bytes);
    for (record, run) in records.iter().zip(&plan.runs) {
        let location = at(segment, offset, 100 * run.tokens as u64);
        offset += location.record_bytes();
        assert!(index.filled(*record));
        assert!(index.committed(*record, location));
    }
    records
}

/// So many tokens of one made-up text.
fn text(seed: u32, tokens: usize) -> Vec<u32> {
    (0..u32::try_from(tokens).unwrap())
        .map(|position| seed.wrapping_mul(1_000_003).wrapping_add(position * 7))
        .collect()
}
