//! Of any sequence of samples, the ring has the latest ones whole, or not at all.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::memory::live::ring::Ring;
use crate::memory::live::sample::{Cell, Counters, Moment, Phase};

fn moment(number: u32) -> Moment {
    Moment { unix_s: 0.0, phase: Phase::Decode, request: number, chunk: 0, counters: Counters::default() }
}

fn cells(number: u32, count: usize) -> Vec<Cell> {
    (0..count as u64).map(|place| Cell { request: number, tokens: place, ..Cell::default() }).collect()
}

proptest! {
    #[test]
    fn what_is_there_is_whole(
        heads in 1_usize..7, room in 1_usize..20, sizes in vec(0_usize..24, 0..40),
    ) {
        let mut ring = Ring::new(heads, room);
        let mut kept: Vec<(u32, usize)> = Vec::new();
        let mut dropped = 0;
        for (number, &size) in (0_u32..).zip(&sizes) {
            if ring.push(moment(number), &cells(number, size)) {
                kept.push((number, size));
            } else {
                prop_assert!(size > room);
                dropped += 1;
            }
        }
        prop_assert_eq!((ring.count(), ring.dropped()), (kept.len() as u64, dropped));
        // Those whose heads and cells fit, counted from the latest back.
        let mut left = room;
        let fits = |size: usize, left: &mut usize| { *left = left.checked_sub(size)?; Some(()) };
        let there: Vec<_> = kept.iter().rev().take(heads).take_while(|(_, size)| fits(*size, &mut left).is_some()).collect();
        let found: Vec<_> = ring.iter().collect();
        prop_assert_eq!(found.len(), there.len());
        for (sample, (number, size)) in found.iter().rev().zip(there) {
            prop_assert_eq!(sample.moment.request, *number);
            let held: Vec<Cell> = sample.cells().copied().collect();
            prop_assert_eq!(held, cells(*number, *size));
        }
    }

    #[test]
    fn nothing_grows_after_the_first_round(sizes in vec(0_usize..10, 20..40)) {
        let mut ring = Ring::new(4, 16);
        for size in sizes {
            ring.push(moment(0), &cells(0, size));
        }
        prop_assert!(ring.iter().count() <= 4);
        prop_assert!(ring.get(ring.count()).is_none());
        prop_assert!(ring.get(0).is_none());
    }
}
