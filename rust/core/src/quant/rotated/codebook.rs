//! The numbers that a rotated coordinate becomes: the Lloyd-Max quantizer of the normal distribution.
//!
//! S. Lloyd, "Least squares quantization in PCM", 1957/1982; J. Max, "Quantizing for minimum distortion", 1960: each
//! level is the mean of its cell, each boundary is halfway between two levels. Max's table gives the distortions
//! 0.3634, 0.1175, 0.03454 and 0.009497 for 1 to 4 bits, which `TurboQuant` (arXiv 2504.19874) prints as 0.36, 0.117,
//! 0.03 and 0.009. The levels here solve both conditions by Newton's method, once in a process, from those of the
//! compander of Panter and Dite, 1951.

use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::LazyLock;

use libm::{erfc, exp, sqrt};

use super::super::simd::LANES;

/// Cells that the line from -[`REACH`] to [`REACH`] is cut into to find a coordinate's level: narrow enough that no two
/// boundaries of eight bits share one.
pub(super) const CELLS: usize = 1024;

/// No boundary of eight bits is beyond it.
const REACH: f32 = 5.0;

/// Cells of a unit.
pub(super) const CELLS_OF_UNIT: f32 = CELLS as f32 / (2.0 * REACH);

/// Where 0 is in cells.
pub(super) const MIDDLE_CELL: f32 = CELLS as f32 / 2.0;

/// Newton's method doubles the digits each time: from two, six are plenty.
const NEWTON_STEPS: usize = 12;

/// The levels of a number of bits, and how to find a coordinate's.
pub(super) struct Codebook {
    /// By code, repeated to the end.
    pub(super) levels: [f32; 256],
    /// Of up to five bits: by bit of the code from the uppermost, and by the bits above it, the boundary that decides it.
    pub(super) deciding: [[f32; LANES]; 5],
    /// By cell, for more bits: the code below the boundary in it, as a number.
    pub(super) lower: [f32; CELLS],
    /// By cell: the boundary in it, or infinity.
    pub(super) boundary: [f32; CELLS],
}

impl Codebook {
    /// Of 1 to 8 bits.
    pub(super) fn of(bits: usize) -> &'static Self {
        static BOOKS: [LazyLock<Box<Codebook>>; 8] = [
            LazyLock::new(|| Codebook::new(1)),
            LazyLock::new(|| Codebook::new(2)),
            LazyLock::new(|| Codebook::new(3)),
            LazyLock::new(|| Codebook::new(4)),
            LazyLock::new(|| Codebook::new(5)),
            LazyLock::new(|| Codebook::new(6)),
            LazyLock::new(|| Codebook::new(7)),
            LazyLock::new(|| Codebook::new(8)),
        ];
        &BOOKS[bits - 1]
    }

    #[expect(clippy::cast_possible_truncation, reason = "kept as binary32")]
    fn new(bits: usize) -> Box<Self> {
        let levels = levels(bits);
        let boundaries: Vec<f32> = levels.windows(2).map(|two| (f64::midpoint(two[0], two[1])) as f32).collect();
        let mut book = Box::new(Self {
            levels: std::array::from_fn(|code| levels[code % levels.len()] as f32),
            deciding: std::array::from_fn(|bit| {
                let step = boundaries.len().div_ceil(2) >> bit;
                std::array::from_fn(|above| {
                    let decides = (2 * above + 1) * step;
                    boundaries.get(decides.wrapping_sub(1)).copied().unwrap_or(f32::INFINITY)
                })
            }),
            lower: [0.0; CELLS],
            boundary: [f32::INFINITY; CELLS],
        });
        for (cell, (lower, boundary)) in book.lower.iter_mut().zip(&mut book.boundary).enumerate() {
            let below = boundaries.partition_point(|boundary| cell_of(*boundary) < cell);
            *lower = below as f32;
            if let Some(own) = boundaries.get(below).filter(|boundary| cell_of(**boundary) == cell) {
                *boundary = *own;
            }
        }
        book
    }
}

/// The cell of a coordinate, as the kernel finds it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of 0 to 1023")]
fn cell_of(coordinate: f32) -> usize {
    (coordinate * CELLS_OF_UNIT + MIDDLE_CELL).clamp(0.0, (CELLS - 1) as f32) as usize
}

/// Density of the normal distribution.
fn density(x: f64) -> f64 {
    exp(-x * x / 2.0) / sqrt(2.0 * PI)
}

/// Probability of more than `x`.
fn beyond(x: f64) -> f64 {
    erfc(x * FRAC_1_SQRT_2) / 2.0
}

/// Where [`beyond`] is `probability`, at most a half.
fn beyond_inverse(probability: f64) -> f64 {
    let (mut low, mut high) = (0.0, 10.0);
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if beyond(middle) > probability { low = middle } else { high = middle }
    }
    low
}

/// The `2^bits` levels, ascending. The upper half is solved for, the lower is its mirror image.
fn levels(bits: usize) -> Vec<f64> {
    let half = 1_usize << (bits - 1);
    let start = |index: usize| sqrt(3.0) * beyond_inverse(0.5 - (index as f64 + 0.5) / (2 * half) as f64);
    let mut upper: Vec<f64> = (0..half).map(start).collect();
    for _ in 0..NEWTON_STEPS {
        step(&mut upper);
    }
    upper.iter().rev().map(|level| -level).chain(upper.iter().copied()).collect()
}

/// One step of Newton's method on "each level is the mean of its cell". Its Jacobian has three diagonals, so it is
/// solved by elimination and substitution back.
fn step(levels: &mut [f64]) {
    let count = levels.len();
    let mut eliminated: Vec<(f64, f64)> = Vec::with_capacity(count);
    for index in 0..count {
        let from = if index == 0 { 0.0 } else { f64::midpoint(levels[index - 1], levels[index]) };
        let to = levels.get(index + 1).map(|next| f64::midpoint(levels[index], *next));
        let (density_to, beyond_to) = to.map_or((0.0, 0.0), |to| (density(to), beyond(to)));
        let probability = beyond(from) - beyond_to;
        let mean = (density(from) - density_to) / probability;
        // Half of what the mean moves by when the lower or the upper boundary moves by one.
        let lower = if index == 0 { 0.0 } else { density(from) * (mean - from) / probability / 2.0 };
        let upper = to.map_or(0.0, |to| density_to * (to - mean) / probability / 2.0);
        let (before_upper, before_value) = eliminated.last().copied().unwrap_or_default();
        let pivot = 1.0 - lower - upper + lower * before_upper;
        eliminated.push((-upper / pivot, (levels[index] - mean + lower * before_value) / pivot));
    }
    let mut change = 0.0;
    for (level, (upper, value)) in levels.iter_mut().zip(eliminated).rev() {
        change = value - upper * change;
        *level -= change;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `x^power` times the density over `from..to`, by Simpson's rule.
    fn moment(power: i32, from: f64, to: f64) -> f64 {
        let width = (to - from) / 2000.0;
        let weight = |index: i32| if index == 0 || index == 2000 { 1.0 } else { f64::from(2 + index % 2 * 2) };
        let at = |index: i32| from + width * f64::from(index);
        (0..=2000).map(|index| weight(index) * at(index).powi(power) * density(at(index))).sum::<f64>() * width / 3.0
    }

    #[test]
    fn every_level_is_the_mean_of_its_cell() {
        for bits in 1..=8 {
            let levels = levels(bits);
            for (index, level) in levels.iter().enumerate() {
                let edge = |other: Option<&f64>, end| other.map_or(end, |other| f64::midpoint(*level, *other));
                let from = edge(index.checked_sub(1).map(|index| &levels[index]), -12.0);
                let to = edge(levels.get(index + 1), 12.0);
                let mean = moment(1, from, to) / moment(0, from, to);
                assert!((mean - level).abs() < 1e-7, "level {index} of {bits} bits: {level}, the mean is {mean}");
            }
        }
    }

    #[test]
    fn the_distortion_is_of_maxs_table() {
        for (bits, expected) in [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009_497)] {
            let levels = levels(bits);
            let kept: f64 = (0..levels.len())
                .map(|index| {
                    let edge =
                        |other: Option<&f64>, end| other.map_or(end, |other| f64::midpoint(levels[index], *other));
                    let from = edge(index.checked_sub(1).map(|index| &levels[index]), -12.0);
                    let to = edge(levels.get(index + 1), 12.0);
                    levels[index] * moment(1, from, to)
                })
                .sum();
            assert!(((1.0 - kept) / expected - 1.0).abs() < 1e-3, "{bits} bits: {}", 1.0 - kept);
        }
    }

    #[test]
    fn no_two_boundaries_share_a_cell() {
        for bits in 1..=8 {
            let book = Codebook::of(bits);
            let boundaries = book.boundary.iter().filter(|boundary| boundary.is_finite()).count();
            assert_eq!(boundaries, (1 << bits) - 1, "{bits} bits");
        }
    }
}
