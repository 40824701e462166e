//! Planted errors, a planted drift and a planted runtime are found; and what is not there is not.

use proptest::prelude::*;

use super::{folder, now_s, open, open_with, record, row, settings};
use crate::memory::ledger::drift::Drift;
use crate::memory::ledger::numbers::{median, quantile, rank_test};
use crate::memory::ledger::{Filter, Ledger, LedgerError, LedgerSettings, ModelErrors, Row, Term, TermError};

const MB: u64 = 1_000_000;

/// Alternates around the middle, so that nothing is exact.
fn jitter(number: u64) -> u64 {
    [0, 3, 1, 4, 2][usize::try_from(number % 5).unwrap_or(0)]
}

/// A request whose peak is all terms as predicted, and a runtime of its own.
fn request(number: u64, runtime: u64) -> Row {
    Row {
        predicted_weights_bytes: Some(100 * MB),
        weights_bytes: Some(100 * MB),
        predicted_kv_bytes: Some(10 * MB),
        kv_bytes: Some(10 * MB),
        predicted_state_bytes: Some(0),
        predicted_activations_bytes: Some(10 * MB),
        predicted_runtime_bytes: Some(0),
        predicted_peak_bytes: Some(120 * MB),
        peak_bytes: Some(120 * MB + runtime),
        ..row(&number.to_string())
    }
}

fn reconciled(ledger: &Ledger) -> Vec<ModelErrors> {
    ledger.reconcile(&Filter::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn only(ledger: &Ledger) -> ModelErrors {
    let mut models = reconciled(ledger);
    assert_eq!(models.len(), 1);
    models.remove(0)
}

fn term(model: &ModelErrors, term: Term) -> &TermError {
    model.terms.iter().find(|error| error.term == term).unwrap_or_else(|| panic!("{term:?} was compared"))
}

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}

#[test]
fn planted_errors_are_found() {
    let folder = folder();
    let ledger = open(&folder);
    // KV is predicted 5 % too high, once 50 %; weights exactly.
    let rows = (0..21).map(|number| Row {
        predicted_kv_bytes: Some(if number == 7 { 15 * MB } else { 10_500_000 }),
        ..request(number, 0)
    });
    record(&ledger, rows);
    let model = only(&ledger);
    assert_eq!((model.model.as_str(), model.device.as_str(), model.requests), ("notes", "cpu", 21));
    let kv = term(&model, Term::Kv);
    assert_eq!((kv.count, kv.bias_bytes), (21, 500_000));
    assert!(near(kv.median, 0.05) && near(kv.bias, 0.05) && near(kv.p95, 0.05) && near(kv.worst, 0.5), "{kv:?}");
    let weights = term(&model, Term::Weights);
    assert!(near(weights.worst, 0.0) && weights.bias_bytes == 0);
    assert_eq!(kv.drift, None, "too few to tell");
}

#[test]
fn keys_values_and_state_are_held_against_what_was_measured_of_them_together() {
    let folder = folder();
    let ledger = open(&folder);
    record(&ledger, [Row { predicted_kv_bytes: Some(4 * MB), predicted_state_bytes: Some(6 * MB), ..request(0, 0) }]);
    assert!(near(term(&only(&ledger), Term::Kv).worst, 0.0));
}

#[test]
fn a_prediction_that_is_too_low_has_a_bias_below_zero() {
    let folder = folder();
    let ledger = open(&folder);
    record(&ledger, (0..5).map(|number| request(number, 40 * MB)));
    let model = only(&ledger);
    let peak = term(&model, Term::Peak);
    assert!(near(peak.bias, -0.25) && near(peak.median, 0.25), "{peak:?}");
    assert_eq!(peak.bias_bytes, -40_000_000);
}

#[test]
fn only_what_can_be_compared_is() {
    let folder = folder();
    let ledger = open(&folder);
    let wrong = |row: Row| Row { kv_bytes: Some(77 * MB), peak_bytes: Some(999 * MB), ..row };
    let unpredicted = Row {
        predicted_kv_bytes: None,
        predicted_peak_bytes: None,
        prediction_error: Some("unknown attention".to_owned()),
        ..request(4, 0)
    };
    let rows = [
        request(0, 0),
        wrong(Row { finish_reason: "cancelled".to_owned(), ..request(1, 0) }),
        wrong(Row { finish_reason: "error".to_owned(), ..request(2, 0) }),
        Row { batch_peak: 3, kv_bytes: Some(77 * MB), ..request(3, 30 * MB) },
        unpredicted,
        Row { kv_bytes: Some(0), peak_bytes: None, ..request(5, 0) },
    ];
    record(&ledger, rows);
    let model = only(&ledger);
    assert_eq!((model.requests, model.unanswered, model.unpredicted), (6, 2, 1));
    assert_eq!(model.unpredicted_because.as_deref(), Some("unknown attention"));
    let counts: Vec<(Term, u64)> = model.terms.iter().map(|error| (error.term, error.count)).collect();
    assert_eq!(counts, [(Term::Weights, 3), (Term::Kv, 1), (Term::Peak, 1), (Term::PeakInBatch, 1)]);
    assert!(near(term(&model, Term::Kv).worst, 0.0) && near(term(&model, Term::Peak).worst, 0.0));
    assert!(near(term(&model, Term::PeakInBatch).bias, -0.2));
    assert_eq!(model.runtime, None);
}

#[test]
fn models_and_devices_are_apart_and_may_be_chosen() {
    let folder = folder();
    let ledger = open(&folder);
    let gpu = |number| Row { device: "gpu (H200)".to_owned(), ..request(number, 0) };
    let late = now_s() - 10.0;
    let other = |number| Row { model: "other".to_owned(), arrived_unix_s: late - 100.0, ..request(number, 0) };
    record(&ledger, [request(0, 0), gpu(1), other(2), gpu(3)]);
    let found: Vec<_> =
        reconciled(&ledger).into_iter().map(|model| (model.model, model.device, model.requests)).collect();
    let said = |model: &str, device: &str, requests| (model.to_owned(), device.to_owned(), requests);
    assert_eq!(found, [said("notes", "cpu", 1), said("notes", "gpu (H200)", 2), said("other", "cpu", 1)]);
    let chosen = |filter: Filter| ledger.reconcile(&filter).unwrap_or_else(|error| panic!("{error}")).len();
    assert_eq!(chosen(Filter { model: Some("other".to_owned()), ..Filter::default() }), 1);
    assert_eq!(chosen(Filter { since_unix_s: Some(late), ..Filter::default() }), 2);
    assert_eq!(chosen(Filter { model: Some("none".to_owned()), ..Filter::default() }), 0);
}

#[test]
fn a_planted_drift_is_found_and_no_other() {
    let folder = folder();
    let ledger = open(&folder);
    let noisy = |number| request(number, jitter(number) * 100_000);
    record(&ledger, (0..100).map(noisy));
    let steady = term(&only(&ledger), Term::Peak).drift.clone().expect("enough to tell");
    assert!(!steady.drifts, "{steady:?}");
    // 12 MB more from here on: an update of something.
    record(&ledger, (100..120).map(|number| request(number, 12 * MB + jitter(number) * 100_000)));
    let model = only(&ledger);
    let drift = term(&model, Term::Peak).drift.clone().expect("enough to tell");
    assert!(drift.drifts && drift.chance < 1e-6, "{drift:?}");
    assert!(drift.recent < -0.08 && drift.earlier > -0.01, "{drift:?}");
    for other in [Term::Kv, Term::Weights] {
        assert!(!term(&model, other).drift.as_ref().expect("enough to tell").drifts);
    }
    // It is how things are, once there is nothing else to compare with.
    record(&ledger, (120..400).map(|number| request(number, 12 * MB + jitter(number) * 100_000)));
    assert!(!term(&only(&ledger), Term::Peak).drift.as_ref().expect("enough to tell").drifts);
}

#[test]
fn drift_takes_an_error_that_matters_and_a_change_that_is_no_chance() {
    let errors = |earlier: f64, recent: f64, noise: f64| -> Vec<f64> {
        let noisy = |middle: f64, number: u32| middle + noise * (f64::from(number * 7 % 11) / 5.0 - 1.0);
        (0..60).map(|number| noisy(if number < 40 { earlier } else { recent }, number)).collect()
    };
    let drifts = |errors: &[f64]| Drift::of(errors).expect("enough to tell").drifts;
    assert!(drifts(&errors(0.0, 0.05, 0.001)));
    assert!(drifts(&errors(0.0, -0.05, 0.001)));
    assert!(!drifts(&errors(0.0, 0.015, 0.001)), "within the bar");
    assert!(!drifts(&errors(0.05, 0.055, 0.001)), "hardly a change");
    assert!(!drifts(&errors(0.05, 0.05, 0.02)), "no change");
    assert!(!drifts(&errors(0.03, 0.045, 0.5)), "might be chance");
    assert_eq!(Drift::of(&[0.5; 39]), None);
    assert_eq!(Drift::of(&[]), None);
}

#[test]
fn a_planted_runtime_is_fitted_kept_and_told() {
    let folder = folder();
    let ledger = open(&folder);
    record(&ledger, (0..9).map(|number| request(number, 50 * MB)));
    assert_eq!(only(&ledger).runtime, None, "nine are too few");
    let told = |ledger: &Ledger, model: &str, device: &str| {
        ledger.fitted_runtime(model, device).unwrap_or_else(|error| panic!("{error}"))
    };
    assert_eq!(told(&ledger, "notes", "cpu"), None);
    // One that shared its memory with something large, and one of a batch, change little or nothing.
    record(&ledger, [request(9, 900 * MB), Row { batch_peak: 2, ..request(10, 900 * MB) }]);
    record(&ledger, (11..30).map(|number| request(number, 50 * MB + jitter(number) * 1000)));
    let fit = only(&ledger).runtime.expect("enough to tell");
    assert_eq!(fit.samples, 29);
    assert!(fit.bytes.abs_diff(50 * MB) <= 4000 && fit.spread_bytes <= 4000, "{fit:?}");
    assert!((fit.fitted_unix_s - now_s()).abs() < 60.0);
    assert_eq!(told(&ledger, "notes", "cpu"), Some(fit.clone()));
    assert_eq!(told(&ledger, "notes", "gpu (H200)"), None);
    assert_eq!(told(&ledger, "other", "cpu"), None);
    ledger.close();
    let ledger = open_with(&folder, &LedgerSettings { max_rows: 1, ..settings() });
    record(&ledger, [request(31, 0)]);
    assert_eq!(only(&ledger).runtime, None);
    assert_eq!(told(&ledger, "notes", "cpu"), Some(fit), "what was fitted outlives its rows");
}

#[test]
fn a_runtime_below_nothing_is_nothing() {
    let folder = folder();
    let ledger = open(&folder);
    record(&ledger, (0..12).map(|number| Row { peak_bytes: Some(90 * MB), ..request(number, 0) }));
    let model = only(&ledger);
    assert_eq!(model.runtime.as_ref().map(|fit| fit.bytes), Some(0));
    assert_eq!(term(&model, Term::Peak).bias_bytes, 30_000_000);
}

#[test]
fn only_the_last_requests_are_fitted() {
    let folder = folder();
    let ledger = open(&folder);
    record(&ledger, (0..300).map(|number| request(number, if number < 150 { 900 * MB } else { 50 * MB })));
    let fit = only(&ledger).runtime.expect("enough to tell");
    assert_eq!((fit.bytes, fit.samples), (50 * MB, 200));
}

#[test]
fn a_locked_ledger_cannot_keep_a_fit_and_says_so() {
    let folder = folder();
    let ledger = open(&folder);
    record(&ledger, (0..12).map(|number| request(number, MB)));
    let other = rusqlite::Connection::open(ledger.path()).expect("a second connection");
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    assert!(matches!(ledger.reconcile(&Filter::default()), Err(LedgerError::Locked { .. })));
}

#[test]
fn the_rank_test_gives_what_scipy_gives() {
    // scipy.stats.mannwhitneyu(x, y, method="asymptotic").pvalue, SciPy 1.17.1.
    let ramp = |count: u32, from: f64| -> Vec<f64> { (0..count).map(|number| from + f64::from(number)).collect() };
    let cases: [(Vec<f64>, Vec<f64>, f64); 5] = [
        (ramp(10, 1.0), ramp(11, 6.5), 0.001_726_786_484_533_93),
        (ramp(10, 1.0), ramp(10, 1.0), 1.0),
        (
            vec![1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0],
            vec![3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 5.0, 5.0, 5.0, 6.0],
            0.081_521_403_583_268,
        ),
        (vec![0.0; 20], vec![1.0; 30], 2.781_708_623_502_831_6e-12),
        (vec![1.0; 20], vec![1.0; 30], 1.0),
    ];
    for (one, other, expected) in cases {
        let found = rank_test(&one, &other);
        assert!((found - expected).abs() <= 1e-12 * expected.max(1e-3), "{found} {expected}");
        assert!((rank_test(&other, &one) - found).abs() < 1e-12);
    }
    assert!(near(rank_test(&[], &[1.0]), 1.0));
}

proptest! {
    #[test]
    fn order_statistics_lie_in_the_middle(mut values in proptest::collection::vec(-1e6..1e6f64, 1..40), share in 0.0..=1.0f64) {
        let middle = median(&mut values);
        let below = values.iter().filter(|value| **value < middle).count();
        let above = values.iter().filter(|value| **value > middle).count();
        prop_assert!(below * 2 <= values.len() && above * 2 <= values.len());
        let bound = quantile(&values, share);
        let covered = u32::try_from(values.iter().filter(|value| **value <= bound).count()).expect("few");
        prop_assert!(f64::from(covered) >= share * f64::from(u32::try_from(values.len()).expect("few")));
        prop_assert!(values.contains(&bound));
    }
}
