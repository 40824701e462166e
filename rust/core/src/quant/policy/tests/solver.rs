//! The knapsack against every solution there is.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::solver::{Choice, TooSmall, solve};

fn totals(parts: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
    let held = || parts.iter().zip(chosen).map(|(choices, &index)| choices[index]);
    (held().map(|choice| choice.bytes).sum(), held().map(|choice| choice.loss).sum())
}

/// The least loss of all that fit.
fn brute_force(parts: &[Vec<Choice>], budget: u64) -> Option<f64> {
    let mut totals = vec![(0, 0.0)];
    for choices in parts {
        totals = totals
            .iter()
            .flat_map(|&(bytes, loss)| choices.iter().map(move |choice| (bytes + choice.bytes, loss + choice.loss)))
            .collect();
    }
    totals.into_iter().filter(|(bytes, _)| *bytes <= budget).map(|(_, loss)| loss).min_by(f64::total_cmp)
}

fn instance(bytes: impl Strategy<Value = u64> + Clone) -> impl Strategy<Value = Vec<Vec<Choice>>> {
    let choice = (bytes, prop_oneof![Just(0.0), 0.0..1.0, (0_u8..4).prop_map(f64::from)]);
    vec(vec(choice.prop_map(|(bytes, loss)| Choice { bytes, loss }), 1..6), 0..6)
}

/// Like a model's: parts of a few sizes, formats whose harm falls with their bytes.
fn model_like() -> impl Strategy<Value = Vec<Vec<Choice>>> {
    let part = (vec(0.001..1.0_f64, 7), 1_u64..4).prop_map(|(factors, size)| {
        let bits = [36, 52, 68, 72, 84, 132, 256];
        let harm = |(bits, factor): (&u64, &f64)| {
            let loss =
                if *bits == 256 { 0.0 } else { factor * (-f64::from(u32::try_from(*bits).unwrap()) / 16.0).exp2() };
            Choice { bytes: size * bits, loss }
        };
        bits.iter().zip(&factors).map(harm).collect()
    });
    vec(part, 1..7)
}

fn check(parts: &[Vec<Choice>], budget: u64) -> Result<(), TestCaseError> {
    match (solve(parts, budget, &[]), brute_force(parts, budget)) {
        (Ok(chosen), Some(least)) => {
            let (bytes, loss) = totals(parts, &chosen);
            prop_assert!(bytes <= budget);
            prop_assert!((loss - least).abs() <= 1e-9, "{} instead of {}", loss, least);
        }
        (Err(TooSmall(smallest)), None) => {
            prop_assert!(smallest > budget);
            prop_assert!(brute_force(parts, smallest).is_some() && brute_force(parts, smallest - 1).is_none());
        }
        (found, least) => prop_assert!(false, "{:?}, {:?}", found, least),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn it_finds_the_best_there_is(parts in instance(0_u64..50), budget in 0_u64..200) {
        check(&parts, budget)?;
    }

    #[test]
    fn it_finds_the_best_for_models(parts in model_like(), share in 0.0..1.1_f64) {
        let most: u64 = parts.iter().map(|choices| choices.iter().map(|choice| choice.bytes).max().unwrap()).sum();
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let budget = (most as f64 * share) as u64;
        check(&parts, budget)?;
    }

    /// Sizes without a common divisor, too large to tell all bytes apart.
    #[test]
    fn with_odd_sizes_it_fits_and_is_no_worse_than_its_starts(
        parts in instance(0_u64..1 << 40), budget in 0_u64..1 << 42, starts in vec(vec(0_usize..6, 6), 0..10)
    ) {
        let starts: Vec<Vec<usize>> = starts
            .iter()
            .map(|start| parts.iter().zip(start).map(|(choices, index)| index % choices.len()).collect())
            .collect();
        if let Ok(chosen) = solve(&parts, budget, &starts) {
            let (bytes, loss) = totals(&parts, &chosen);
            prop_assert!(bytes <= budget);
            for start in &starts {
                let (start_bytes, start_loss) = totals(&parts, start);
                prop_assert!(start_bytes > budget || loss <= start_loss + 1e-12);
            }
            prop_assert_eq!(solve(&parts, budget, &starts), Ok(chosen));
        } else {
            prop_assert_eq!(brute_force(&parts, budget), None);
        }
    }
}
