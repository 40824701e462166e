//! Order statistics, and the rank test that tells one sample from another.

/// The middle value, or the mean of the two in the middle; 0 of none. Sorts them.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), values.len() % 2) {
        (None, _) => 0.0,
        (Some(middle), 1) => *middle,
        (Some(upper), _) => f64::midpoint(values[half - 1], *upper),
    }
}

/// The least value that a share of them does not exceed (nearest rank); 0 of none. They are sorted.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank from 0 to their number")]
    let rank = (share * of_count(sorted.len())).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// How likely two samples of one distribution differ in rank by as much as these, in either direction: the test of Mann
/// and Whitney (Annals of Mathematical Statistics 18, 1947), in its normal approximation with the corrections for ties and
/// continuity, which is good from some ten values each. Of no values it is 1.
pub(super) fn rank_test(one: &[f64], other: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> =
        one.iter().map(|value| (*value, true)).chain(other.iter().map(|value| (*value, false))).collect();
    all.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (mut rank_sum, mut ties, mut before) = (0.0, 0.0, 0.0);
    for run in all.chunk_by(|left, right| left.0.total_cmp(&right.0).is_eq()) {
        let size = of_count(run.len());
        let rank = before + f64::midpoint(size, 1.0);
        rank_sum += rank * of_count(run.iter().filter(|value| value.1).count());
        ties += size * size * size - size;
        before += size;
    }
    let (first, second) = (of_count(one.len()), of_count(other.len()));
    let total = first + second;
    let statistic = rank_sum - first * (first + 1.0) / 2.0;
    let variance = first * second / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    // Nothing to compare, or all values alike.
    if variance.is_nan() || variance <= 0.0 {
        return 1.0;
    }
    let away = ((statistic - first * second / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    libm::erfc(away * std::f64::consts::FRAC_1_SQRT_2)
}

#[expect(clippy::cast_precision_loss, reason = "a number of rows")]
pub(super) fn of_count(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^53 bytes, or the last ones do not matter")]
pub(super) fn of_bytes(bytes: u64) -> f64 {
    bytes as f64
}

/// Bytes, rounded.
#[expect(clippy::cast_possible_truncation, reason = "differences of sizes that were integers")]
pub(super) fn to_bytes(bytes: f64) -> i64 {
    bytes.round() as i64
}
