//! What is written is read back, which rows a question means, and which are kept.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{all, folder, ids, now_s, open, open_with, record, row, settings};
use crate::memory::ledger::{Filter, LedgerError, LedgerSettings, Row};

const MOST: u64 = i64::MAX.cast_unsigned();

prop_compose! {
    fn any_row()(
        texts in [".{1,20}", ".{1,20}", ".{0,20}", ".{0,20}", ".{0,20}"],
        arrived_unix_s in -1e12..1e12f64,
        counts in [0..=MOST, 0..=MOST, 0..=MOST, 0..=MOST, 0..=MOST],
        seconds in vec(option::of(-1e300..1e300f64), 5),
        bytes in vec(option::of(0..=MOST), 9),
        prediction_error in option::of(".{0,40}"),
    ) -> Row {
        let [request_id, model, device, kv_policy, finish_reason] = texts;
        let [prompt_tokens, cached_tokens, completion_tokens, batch_peak, chunk_tokens] = counts;
        Row {
            request_id, model, device, kv_policy, finish_reason, arrived_unix_s,
            prompt_tokens, cached_tokens, completion_tokens, batch_peak, chunk_tokens,
            queue_s: seconds[0], prefill_s: seconds[1], ttft_s: seconds[2], decode_s: seconds[3], total_s: seconds[4],
            weights_bytes: bytes[0], kv_bytes: bytes[1], peak_bytes: bytes[2],
            predicted_weights_bytes: bytes[3], predicted_kv_bytes: bytes[4], predicted_state_bytes: bytes[5],
            predicted_activations_bytes: bytes[6], predicted_runtime_bytes: bytes[7], predicted_peak_bytes: bytes[8],
            prediction_error,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_recorded_is_read_back(rows in vec(any_row(), 1..8)) {
        let folder = folder();
        let ledger = open_with(&folder, &LedgerSettings { max_age: None, ..settings() });
        let mut once: Vec<Row> = Vec::new();
        for row in &rows {
            if !once.iter().any(|seen| (&seen.request_id, seen.arrived_unix_s) == (&row.request_id, row.arrived_unix_s)) {
                once.push(row.clone());
            }
        }
        let stats = record(&ledger, rows.clone());
        prop_assert_eq!(all(&ledger), once.clone());
        prop_assert_eq!(stats.written_rows, once.len() as u64);
        prop_assert_eq!(stats.duplicate_rows, (rows.len() - once.len()) as u64);
        ledger.close();
        prop_assert_eq!(all(&ledger), once);
    }

    #[test]
    fn a_row_is_the_same_as_json(row in any_row()) {
        let text = serde_json::to_string(&row).expect("JSON of a row");
        prop_assert_eq!(serde_json::from_str::<Row>(&text).expect("a row of JSON"), row);
    }
}

#[test]
fn what_cannot_be_a_row_is_refused() {
    let folder = folder();
    let ledger = open(&folder);
    for wrong in [
        Row { model: String::new(), ..row("a") },
        Row { request_id: String::new(), ..row("a") },
        Row { ttft_s: Some(f64::NAN), ..row("a") },
        Row { arrived_unix_s: f64::INFINITY, ..row("a") },
        Row { kv_bytes: Some(MOST + 1), ..row("a") },
        Row { prompt_tokens: u64::MAX, ..row("a") },
    ] {
        assert!(matches!(ledger.record(wrong), Err(LedgerError::Row(_))));
    }
    assert_eq!(record(&ledger, [row("b")]).written_rows, 1);
}

#[test]
fn a_request_that_two_listeners_saw_has_one_row() {
    let folder = folder();
    let (one, other) = (open(&folder), open(&folder));
    let seen = row("a");
    assert_eq!(record(&one, [seen.clone()]).written_rows, 1);
    let stats = record(&other, [seen.clone(), Row { arrived_unix_s: seen.arrived_unix_s + 1.0, ..seen.clone() }]);
    assert_eq!((stats.written_rows, stats.duplicate_rows), (1, 1));
    assert_eq!(all(&one).len(), 2);
}

#[test]
fn questions_are_of_a_model_and_of_a_time() {
    let folder = folder();
    let ledger = open(&folder);
    let now = now_s();
    let rows = (0..10).map(|number| Row {
        model: if number % 2 == 0 { "even" } else { "odd" }.to_owned(),
        arrived_unix_s: now - 100.0 + f64::from(number),
        ..row(&number.to_string())
    });
    record(&ledger, rows);
    let even = Filter { model: Some("even".to_owned()), since_unix_s: None };
    let late = Filter { since_unix_s: Some(now - 93.0), ..Filter::default() };
    let both = Filter { since_unix_s: late.since_unix_s, ..even.clone() };
    let told = |filter: &Filter, limit: u64| -> Vec<String> {
        let rows = ledger.latest(filter, limit).unwrap_or_else(|error| panic!("{error}"));
        rows.into_iter().map(|recorded| recorded.row.request_id).collect()
    };
    assert_eq!(told(&Filter::default(), 3), ["7", "8", "9"]);
    assert_eq!(told(&even, 2), ["6", "8"]);
    assert_eq!(told(&late, 100), ["7", "8", "9"]);
    assert_eq!(told(&both, 100), ["8"]);
    assert!(told(&Filter { model: Some("none".to_owned()), ..even.clone() }, 100).is_empty());

    let mut paged = Vec::new();
    let mut after = i64::MIN;
    loop {
        let page = ledger.page(&even, after, 2).unwrap_or_else(|error| panic!("{error}"));
        let Some(last) = page.last() else { break };
        after = last.id;
        paged.extend(page.into_iter().map(|recorded| recorded.row.request_id));
    }
    assert_eq!(paged, ["0", "2", "4", "6", "8"]);
}

#[test]
fn the_first_rows_go_when_there_are_too_many() {
    let folder = folder();
    let ledger = open_with(&folder, &LedgerSettings { max_rows: 3, ..settings() });
    for number in 0..7 {
        record(&ledger, [row(&number.to_string())]);
    }
    assert_eq!(ids(&all(&ledger)), ["4", "5", "6"]);
    record(&ledger, (7..12).map(|number| row(&number.to_string())));
    assert_eq!(ids(&all(&ledger)), ["9", "10", "11"]);
}

#[test]
fn old_rows_go_with_the_next_that_is_written() {
    let folder = folder();
    let kept = Duration::from_secs(3600);
    let ledger = open_with(&folder, &LedgerSettings { max_age: None, ..settings() });
    record(&ledger, [Row { arrived_unix_s: now_s() - 3700.0, ..row("old") }, row("new")]);
    ledger.close();
    let ledger = open_with(&folder, &LedgerSettings { max_age: Some(kept), ..settings() });
    assert_eq!(ids(&all(&ledger)), ["old", "new"]);
    record(&ledger, [row("newer")]);
    assert_eq!(ids(&all(&ledger)), ["new", "newer"]);
}

#[test]
fn closing_writes_what_was_taken_and_then_nothing_is_taken() {
    let folder = folder();
    let ledger = open(&folder);
    for number in 0..1000 {
        assert!(ledger.record(row(&number.to_string())).unwrap_or_else(|error| panic!("{error}")));
    }
    ledger.close();
    ledger.close();
    let stats = ledger.stats();
    assert_eq!((stats.written_rows, stats.queued_rows, stats.closed), (1000, 0, true));
    assert!(stats.transactions < 1000, "rows that wait are committed together");
    assert!(matches!(ledger.record(row("late")), Err(LedgerError::Closed)));
    assert!(matches!(ledger.flush(), Err(LedgerError::Closed)));
    assert_eq!(all(&ledger).len(), 1000);
}

#[test]
fn threads_record_at_once() {
    let folder = folder();
    let ledger = open(&folder);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let ledger = &ledger;
            scope.spawn(move || record(ledger, (0..50).map(|number| row(&format!("{thread} {number}")))));
        }
    });
    assert_eq!(ledger.stats().written_rows, 200);
    assert_eq!(all(&ledger).len(), 200);
}
