//! What a ledger makes of its samples.

use std::time::Duration;

use super::{around, cell, counters, ledger, record, shape};
use crate::memory::live::sample::UNKNOWN;
use crate::memory::live::{
    CacheKind, Counters, Figure, HISTORY_POINTS, HISTORY_WORDS, LayerMemory, LayerTable, Limits, NoSampler, Phase,
    ROW_WORDS, Row, SamplingState, Shape, Source, Stage, report, wait_for_sample,
};

#[test]
fn sums_are_those_of_the_cells() {
    let ledger = ledger();
    ledger.set_weights_bytes(Ok(1000));
    let shapes = [
        ledger.shape(shape(0, CacheKind::Sequence)),
        ledger.shape(shape(1, CacheKind::State)),
        ledger.shape(Shape { shared: true, ..shape(0, CacheKind::Sequence) }),
    ];
    let (one, two) = (ledger.begin("one", 10, "8"), ledger.begin("two", 20, "16"));
    ledger.begin("three", 5, "16");
    ledger.advance(one, Stage::Decode, 4);
    ledger.advance(two, Stage::Prefill, 0);
    let rows = [Row { request: one, cells: 2 }, Row { request: two, cells: 1 }];
    let cells = [cell(shapes[0], 100, 40, 4), cell(shapes[1], 7, 7, UNKNOWN), cell(shapes[2], 50, 50, 9)];
    assert!(ledger.record(Phase::Decode, 0, 0, Counters::default(), &rows, cells));

    let told = report(&[&ledger], around());
    let model = &told.models[0];
    assert_eq!(model.kv_allocated_bytes.value, Some(150));
    assert_eq!(model.kv_allocated_bytes.source, Source::Computed);
    assert_eq!((model.kv_used_bytes.value, model.state_bytes.value), (Some(90), Some(7)));
    assert_eq!((model.weights_bytes.value, model.weights_bytes.source), (Some(1000), Source::Measured));
    let [one, two, three] = &model.requests[..] else { panic!("{:?}", model.requests) };
    assert_eq!((one.request_id.as_str(), one.kv_allocated_bytes.value, one.tokens.value), ("one", Some(100), Some(4)));
    assert_eq!((one.cached_tokens, one.stage, one.kv_allocated_bytes.source), (4, Stage::Decode, Source::Measured));
    assert_eq!((two.kv_allocated_bytes.value, two.tokens.source), (Some(50), Source::Computed));
    // Nobody knows what a waiting request will hold; that is no zero.
    assert_eq!((three.stage, three.kv_allocated_bytes.value), (Stage::Waiting, None));
    assert!(three.kv_allocated_bytes.how.contains("waits"), "{}", three.kv_allocated_bytes.how);
    assert_eq!(model.layers.len(), 2);
    assert_eq!(model.layers[0].kv_allocated_bytes.value, Some(150));
    assert_eq!(model.layers[1].state_bytes.value, Some(7));

    let table = LayerTable::of(&told);
    assert_eq!(table.layers.len(), 3 * ROW_WORDS);
    assert_eq!(table.layers[11], 100);
    assert_eq!(table.layers[ROW_WORDS + 10], -1, "tokens of a state are not known");
    assert_eq!(table.histories[0].len(), HISTORY_WORDS + 2);
    assert_eq!(&table.histories[0][HISTORY_WORDS..], &[150, 7]);
}

#[test]
fn what_is_not_known_is_never_a_zero() {
    let ledger = ledger();
    let odd = Shape { why_unknown: "no nbytes".to_owned(), ..shape(0, CacheKind::Other) };
    let shapes = [ledger.shape(odd), ledger.shape(shape(1, CacheKind::Sequence))];
    let request = ledger.begin("odd", 1, "16");
    ledger.advance(request, Stage::Decode, 0);
    let cells = [cell(shapes[0], UNKNOWN, UNKNOWN, UNKNOWN), cell(shapes[1], 64, 64, 1)];
    record(&ledger, Phase::Decode, request, 0, Counters::default(), &cells);
    let told = report(&[&ledger], around());
    let unknown = Figure::<u64>::unavailable("no nbytes");
    assert_eq!(told.models[0].kv_allocated_bytes, unknown);
    assert_eq!(told.models[0].requests[0].caches[0].allocated_bytes, unknown);
    assert_eq!(told.models[0].weights_bytes.source, Source::Unavailable);
    assert_eq!(told.store.hot_bytes, Figure::unavailable("the engine has no cache"));
    assert!(told.models[0].activations_bytes.value.is_none());
    assert_eq!(ledger.event(0).expect("a sample").kv_allocated_bytes, None);
}

#[test]
fn the_peak_has_its_chunk_and_its_phase() {
    let ledger = ledger();
    let request = ledger.begin("long", 100, "16");
    ledger.advance(request, Stage::Prefill, 0);
    record(&ledger, Phase::Prefill, request, 1, counters(50, 80), &[]);
    record(&ledger, Phase::Prefill, request, 2, counters(60, 200), &[]);
    record(&ledger, Phase::Prefill, request, 3, counters(70, 100), &[]);
    ledger.advance(request, Stage::Decode, 0);
    record(&ledger, Phase::Decode, 0, 0, counters(70, 75), &[]);
    let later = ledger.begin("later", 3, "16");
    ledger.advance(later, Stage::Decode, 0);
    record(&ledger, Phase::Decode, 0, 0, counters(70, 90), &[]);

    let told = report(&[&ledger], around());
    let peak = told.models[0].peak.as_ref().expect("a peak");
    assert_eq!((peak.bytes.value, peak.phase, peak.chunk), (Some(200), Phase::Prefill, Some(2)));
    assert_eq!(peak.request_id.as_deref(), Some("long"));
    assert_eq!(told.models[0].activations_bytes.value, Some(140));
    assert_eq!((ledger.end(request), ledger.end(later), ledger.end(later)), (Some(200), Some(90), None));
}

#[test]
fn a_slow_reader_is_told_what_it_missed() {
    let ledger = ledger();
    for _ in 0..20 {
        record(&ledger, Phase::Decode, 0, 0, Counters::default(), &[]);
    }
    let first = ledger.event(3).expect("a sample");
    assert_eq!((first.number, first.missed), (12, 9));
    assert_eq!(ledger.event(19).map(|event| (event.number, event.missed)), Some((19, 0)));
    assert!(ledger.event(20).is_none());
}

#[test]
fn a_sample_that_has_no_room_is_counted() {
    let ledger = LayerMemory::new("model", 16, Limits { samples: 2, cells: 1 });
    let cells = [cell(0, 1, 1, 1); 2];
    assert!(!ledger.record(Phase::Decode, 0, 0, Counters::default(), &[Row { request: 0, cells: 2 }], cells));
    ledger.failed("a cache without keys");
    let sampling = report(&[&ledger], around()).models[0].sampling.clone();
    assert_eq!((sampling.dropped, sampling.failures), (1, 1));
    assert_eq!(sampling.last_failure.as_deref(), Some("a cache without keys"));
}

#[test]
fn a_history_keeps_its_highest_points() {
    let ledger = LayerMemory::new("model", 16, Limits { samples: 1000, cells: 1000 });
    for number in 0..999 {
        record(&ledger, Phase::Decode, 0, 0, counters(1, if number == 500 { 77 } else { number % 7 }), &[]);
    }
    let history = &report(&[&ledger], around()).models[0].history;
    assert!(history.unix_s.len() <= HISTORY_POINTS && history.unix_s.len() * 2 > HISTORY_POINTS);
    assert_eq!(history.samples_a_point, 5);
    assert_eq!(history.mlx_peak_bytes.iter().flatten().max(), Some(&77));
}

#[test]
fn a_model_without_samples_says_why() {
    let mut around = around();
    around.unsampled.push(NoSampler {
        model_id: "bare".to_owned(),
        kv_policy: "16".to_owned(),
        weights_bytes: Figure::unavailable("off"),
        why: "feature layer-memory is turned off".to_owned(),
    });
    let told = report(&[], around);
    assert_eq!(told.models[0].sampling.state, SamplingState::Off);
    assert_eq!(told.models[0].kv_allocated_bytes, Figure::unavailable("feature layer-memory is turned off"));
    assert_eq!(told.process.major_faults_per_s.source, Source::Unavailable);
}

#[test]
fn a_sample_wakes_who_waits() {
    let ledger = ledger();
    let seen = wait_for_sample(0, Duration::ZERO);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || wait_for_sample(seen, Duration::from_secs(60)));
        while !waiter.is_finished() {
            record(&ledger, Phase::Decode, 0, 0, Counters::default(), &[]);
            std::thread::yield_now();
        }
        assert!(waiter.join().expect("no panic") > seen);
    });
}
