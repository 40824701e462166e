//! Reasons of misses, the order of eviction, admission, expiry, memory.

use super::{KEY, OTHER, at, index, layout, limits, recurrent, reserve, save, text};
use crate::store::index::{Index, Limits, MissReason, Place, Refusal};
use crate::store::types::{Layout, SegmentId};

const DAY_MS: u64 = 86_400_000;

#[test]
fn a_lookup_stops_inside_a_block_and_at_its_limit() {
    let mut index = index();
    let tokens = text(1, 700);
    save(&mut index, &KEY, &tokens, 0, 1);
    assert_eq!(index.lookup(&KEY, "model", &tokens, 699, 2).matched_tokens, 699);
    let mut edited = tokens.clone();
    edited[300] ^= 1;
    let found = index.lookup(&KEY, "model", &edited, 700, 2);
    assert_eq!((found.matched_tokens, found.path.len(), found.path[1].tokens), (300, 2, 44));
    assert_eq!(found.stopped, Some(MissReason::NoPrefix));
    // Only what follows the edit is stored, up to the multiples of 256.
    let plan = index.plan_save(&KEY, &edited, 0..700, 3).unwrap();
    let runs: Vec<_> = plan.runs.iter().map(|run| (run.start, run.tokens)).collect();
    assert_eq!((plan.stored_tokens, runs), (300, vec![(300, 212), (512, 188)]));
    save(&mut index, &KEY, &edited, 0, 3);
    assert_eq!(index.lookup(&KEY, "model", &edited, 700, 4).stopped, None);
    assert_eq!(index.lookup(&KEY, "model", &tokens, 700, 4).matched_tokens, 700);
    assert_eq!(index.lookup(&KEY, "model", &[], 700, 4).stopped, None);
}

#[test]
fn what_is_being_copied_is_not_served_and_not_saved_twice() {
    let mut index = index();
    let tokens = text(1, 300);
    let plan = index.plan_save(&KEY, &tokens, 0..300, 1).unwrap();
    let records = reserve(&mut index, &KEY, &tokens, &plan, 1);
    assert_eq!(index.plan_save(&KEY, &tokens, 0..300, 1).unwrap().new_tokens, 0);
    assert_eq!(index.lookup(&KEY, "model", &tokens, 300, 1).matched_tokens, 0);
    index.filled(records[0]);
    assert_eq!(index.lookup(&KEY, "model", &tokens, 300, 1).matched_tokens, 256);
    // The second could not be copied.
    assert_eq!(index.remove(records[1]).records, [records[1]]);
    assert!(!index.filled(records[1]) && !index.committed(records[1], at(0, 0, 5)));
    assert_eq!(index.plan_save(&KEY, &tokens, 0..300, 1).unwrap().stored_tokens, 256);
    assert_eq!(index.dump().blocks.len(), 0);
}

#[test]
fn misses_say_why() {
    let mut index = index();
    let tokens = text(1, 600);
    assert_eq!(index.lookup(&KEY, "model", &tokens, 600, 1).stopped, Some(MissReason::NoPrefix));
    assert_eq!(index.lookup(&OTHER, "model", &tokens, 600, 1).stopped, Some(MissReason::IdentityChanged));
    assert_eq!(index.lookup(&OTHER, "another model", &tokens, 600, 1).stopped, Some(MissReason::NoPrefix));
    let records = save(&mut index, &KEY, &tokens, 0, 1);
    index.remove(records[1]);
    let found = index.lookup(&KEY, "model", &tokens, 600, 1);
    assert_eq!((found.matched_tokens, found.stopped), (256, Some(MissReason::Evicted)));
    index.remove(records[0]);
    assert_eq!(index.lookup(&KEY, "model", &tokens, 600, 1).stopped, Some(MissReason::Evicted));
    assert_eq!(index.lookup(&KEY, "model", &text(2, 9), 9, 1).stopped, Some(MissReason::NoPrefix));
    // It is still remembered after a restart.
    let recovered = crate::store::disk::Recovered { image: index.dump(), ..Default::default() };
    let (mut index, _) = Index::load(recovered, limits(), 1);
    assert_eq!(index.lookup(&KEY, "model", &tokens, 600, 1).stopped, Some(MissReason::Evicted));
}

#[test]
fn layers_that_cannot_be_cut_restore_at_snapshots_only() {
    let mut index = Index::new(limits());
    index.open_namespace(&KEY, "model", &recurrent()).unwrap();
    let tokens = text(1, 600);
    save(&mut index, &KEY, &tokens, 0, 1);
    let found = index.lookup(&KEY, "model", &tokens, 600, 1);
    assert_eq!((found.restorable_tokens, found.stopped), (0, Some(MissReason::NoSnapshot)));
    for position in [300, 310, 600] {
        let place = index.prefix_at(&KEY, &tokens[..position]).unwrap();
        index.insert_snapshot(place, b"state", Place::Memory, 1).unwrap();
        assert_eq!(index.insert_snapshot(place, b"state", Place::Memory, 1), Err(Refusal::Stale));
    }
    for (limit, restorable) in [(600, 600), (599, 310), (309, 300), (299, 0)] {
        assert_eq!(index.lookup(&KEY, "model", &tokens, limit, 1).restorable_tokens, restorable);
    }
    assert!(index.plan_save(&KEY, &tokens, 0..310, 1).unwrap().has_snapshot);
    assert!(!index.plan_save(&KEY, &tokens, 0..311, 1).unwrap().has_snapshot);
}

#[test]
fn a_layout_stays_as_it_was_first_saved() {
    let mut index = index();
    let other = Layout { description: vec![1], ..layout() };
    assert_eq!(index.open_namespace(&KEY, "model", &other), Ok(true), "nothing is stored with the first");
    save(&mut index, &KEY, &text(1, 5), 0, 1);
    assert_eq!(index.open_namespace(&KEY, "model", &layout()), Err(Refusal::LayoutChanged));
    assert_eq!(index.open_namespace(&KEY, "model", &other), Ok(false));
}

#[test]
fn segments_go_by_their_last_use_and_never_while_in_use() {
    let mut index = index();
    index.set_limits(Limits { quota_bytes: 100_000, ..limits() });
    let prompts: Vec<_> = (0..4).map(|prompt| text(prompt, 200)).collect();
    for (segment, prompt) in prompts.iter().enumerate() {
        save(&mut index, &KEY, prompt, u32::try_from(segment).unwrap(), 10 + segment as u64);
    }
    let used = index.segments()[0].file_bytes;
    index.lookup(&KEY, "model", &prompts[0], 5, 50);
    let held = index.lookup(&KEY, "model", &prompts[1], 200, 20).path[0].node;
    index.hold(held);
    // Segment 1 is held, 2 is the oldest that is not, then 3, then 0.
    let physical = 100_000;
    let room = index.room_for(used + 1, physical, u64::MAX, &[SegmentId(3)]).unwrap();
    assert_eq!(room.victims, [SegmentId(2), SegmentId(0)]);
    assert_eq!((room.freed_bytes, room.removed.blocks), (2 * used, 2));
    assert_eq!(index.room_for(1, physical, u64::MAX, &[SegmentId(3)]), Err(Refusal::NoRoom));
    index.release(held);
    assert_eq!(index.room_for(1, physical, u64::MAX, &[SegmentId(3)]).unwrap().victims, [SegmentId(1)]);
    // The floor counts too, and what fits needs no victim.
    index.set_limits(Limits { quota_bytes: u64::MAX, min_free_bytes: 1000, ..limits() });
    assert_eq!(index.room_for(10, physical, 1010, &[]).unwrap().victims, []);
    assert_eq!(index.room_for(10, physical, 0, &[SegmentId(3)]), Err(Refusal::FreeSpace));
    assert_eq!(index.room_for(10, physical, 1009, &[]).unwrap().victims, [SegmentId(3)]);
}

#[test]
fn the_last_use_of_a_segment_is_found_again_when_its_newest_record_goes() {
    let mut index = index();
    index.set_limits(Limits { quota_bytes: 0, ..limits() });
    save(&mut index, &KEY, &text(1, 10), 0, 10);
    let newest = save(&mut index, &KEY, &text(2, 10), 0, 90);
    save(&mut index, &KEY, &text(3, 10), 1, 50);
    index.remove(newest[0]);
    assert_eq!(index.room_for(1, 0, u64::MAX, &[]).unwrap().victims, [SegmentId(0)]);
}

#[test]
fn near_the_daily_budget_only_what_is_reused_is_admitted() {
    let mut index = index();
    index.set_limits(Limits { daily_write_bytes: Some(1000), ..limits() });
    let now_ms = 100 * DAY_MS;
    let known = text(1, 300);
    save(&mut index, &KEY, &known, 0, now_ms);
    let offer = |index: &mut Index, tokens: &[u32], bytes, now_ms| {
        let plan = index.plan_save(&KEY, tokens, 0..tokens.len(), now_ms).unwrap();
        index.admit(&KEY, tokens, &plan, bytes, now_ms)
    };
    assert_eq!(offer(&mut index, &text(2, 300), 500, now_ms), Ok(()));
    // Above half: offered once is not enough, twice is.
    assert_eq!(offer(&mut index, &text(3, 300), 100, now_ms), Err(Refusal::DailyBudget));
    assert_eq!(offer(&mut index, &text(3, 300), 100, now_ms), Ok(()));
    // What continues a prefix counts once that was hit.
    let mut longer = known.clone();
    longer.extend(text(9, 300));
    assert_eq!(offer(&mut index, &longer, 100, now_ms), Err(Refusal::DailyBudget));
    index.lookup(&KEY, "model", &longer, 600, now_ms);
    longer.truncate(400);
    longer[310] ^= 1;
    assert_eq!(offer(&mut index, &longer, 100, now_ms), Ok(()));
    // The end is the end, and tomorrow is another day.
    assert_eq!(offer(&mut index, &longer, 301, now_ms), Err(Refusal::DailyBudget));
    index.refund(1, now_ms);
    assert_eq!(offer(&mut index, &longer, 301, now_ms), Ok(()));
    assert_eq!(index.written().bytes, 1000);
    assert_eq!(offer(&mut index, &text(4, 300), 400, now_ms + DAY_MS), Ok(()));
    // A clock that goes back gives nothing back.
    assert_eq!(offer(&mut index, &text(5, 300), 700, now_ms), Err(Refusal::DailyBudget));
}

#[test]
fn what_has_expired_is_not_served_even_before_it_is_swept() {
    let mut index = index();
    index.set_limits(Limits { ttl_ms: Some(100), ..limits() });
    let (old, kept) = (text(1, 300), text(2, 300));
    save(&mut index, &KEY, &old, 0, 1000);
    save(&mut index, &KEY, &kept, 0, 1000);
    index.pin(&KEY, &kept[..256]).unwrap();
    assert_eq!(index.lookup(&KEY, "model", &old, 256, 1100).matched_tokens, 256);
    let found = index.lookup(&KEY, "model", &old, 300, 1150);
    assert_eq!((found.matched_tokens, found.stopped), (256, Some(MissReason::Evicted)), "its tail was not used");
    assert_eq!(index.expire(1150, usize::MAX).blocks, 2, "both tails");
    assert_eq!(index.expire(9999, usize::MAX).blocks, 1, "what is pinned stays");
    assert_eq!(index.totals().blocks, 1);
}

#[test]
fn a_pinned_prefix_outlives_a_longer_one() {
    let mut index = index();
    let tokens = text(1, 700);
    let records = save(&mut index, &KEY, &tokens, 0, 1);
    assert_eq!(index.pin(&KEY, &tokens[..300]).unwrap().records, [records[1]]);
    assert_eq!(index.pin(&KEY, &tokens).unwrap().tokens, 700);
    assert_eq!(index.totals().pinned, 2);
    assert_eq!(index.unpin(&KEY, &tokens).unwrap().records, [records[2]]);
    assert_eq!(index.thin_out(SegmentId(0)).records, [records[2]]);
    assert_eq!(index.unpin(&KEY, &tokens).unwrap().tokens, 512);
    assert_eq!(index.unpin(&KEY, &tokens), None);
    assert_eq!(index.thin_out(SegmentId(0)).blocks, 2);
}

#[test]
fn only_the_deepest_block_of_a_use_is_journalled() {
    let mut index = index();
    let tokens = text(1, 700);
    let records = save(&mut index, &KEY, &tokens, 0, 1);
    index.drain_touches();
    index.lookup(&KEY, "model", &tokens, 600, 5000);
    let touches = index.drain_touches();
    assert_eq!(touches.len(), 1);
    assert_eq!((touches[0].record, touches[0].last_used_ms, touches[0].reused), (records[2], 5000, true));
    assert_eq!(index.drain_touches(), []);
}

#[test]
fn token_memory_comes_back_when_prompts_go() {
    let mut index = index();
    let mut live = std::collections::VecDeque::new();
    for round in 0..300 {
        live.push_back(save(&mut index, &KEY, &text(round * 100 + 1, 5000), 0, 1)[0]);
        if live.len() > 20 {
            // Every second one stays for long, so that each chunk keeps something.
            let leaves = if round % 2 == 0 { 0 } else { live.len() / 2 };
            index.remove(live.remove(leaves).unwrap());
        }
        if round % 50 == 0 {
            drop(index.dump());
        }
    }
    let live_bytes = usize::try_from(index.totals().tokens).unwrap() * 4;
    assert!(index.token_bytes() < 3 * live_bytes + 2 * 256 * 1024, "{} of {live_bytes}", index.token_bytes());
    index.purge(None);
    assert!(index.token_bytes() <= 256 * 1024);
}

#[test]
fn a_block_takes_at_most_400_bytes_beside_its_tokens() {
    let mut index = index();
    let mut blocks = 0;
    for prompt in 0..150 {
        blocks += save(&mut index, &KEY, &text(prompt * 5000 + 1, 256 * 40), 0, 1).len();
        // Tables double when they are full: the most is just behind that, and just the fixed sets weigh on a few blocks.
        if blocks > 4000 {
            let bytes = index.memory_bytes() / blocks;
            assert!(bytes <= 400, "{bytes} at {blocks} blocks");
        }
    }
}
