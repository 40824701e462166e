//! Whether a prediction that held holds no more.

use serde::{Deserialize, Serialize};

use super::numbers::{median, rank_test};

/// The last requests, which are looked at.
const RECENT: usize = 20;
/// The least and the most that came before, which they are compared with: a change of long ago is no drift.
const EARLIER: (usize, usize) = (20, 200);
/// Up to this error, as a share, a prediction is right: the planner's own bar.
const TOLERANCE: f64 = 0.02;
/// By how much at least the error has changed.
const CHANGE: f64 = 0.01;
/// How unlikely the change must be by chance.
const CHANCE: f64 = 0.01;

/// How the errors of the last 20 requests differ from those of the up to 200 before them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Drift {
    /// The median error of the last ones, as a share.
    pub recent: f64,
    /// The median error of those before.
    pub earlier: f64,
    /// How likely as large a difference in rank is by chance.
    pub chance: f64,
    /// Whether the median of the last ones is beyond 2 %, is 1 % or more from that of the earlier ones, and a rank test
    /// gives that less than 1 in 100 by chance.
    pub drifts: bool,
}

impl Drift {
    /// Of errors in the order of their requests; none of fewer than 40.
    pub(super) fn of(errors: &[f64]) -> Option<Self> {
        let (earlier, recent) = errors.split_at(errors.len().checked_sub(RECENT)?);
        if earlier.len() < EARLIER.0 {
            return None;
        }
        let earlier = &earlier[earlier.len().saturating_sub(EARLIER.1)..];
        let chance = rank_test(recent, earlier);
        let (recent, earlier) = (median(&mut recent.to_vec()), median(&mut earlier.to_vec()));
        let drifts = recent.abs() > TOLERANCE && (recent - earlier).abs() >= CHANGE && chance < CHANCE;
        Some(Self { recent, earlier, chance, drifts })
    }
}
