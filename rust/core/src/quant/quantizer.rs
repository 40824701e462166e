//! Scale and bias of a group, and the codes that they give: the arithmetic of `mx.quantize(mode="affine")` on MLX's CPU.
//!
//! MLX 0.32.3, `mlx/backend/cpu/quantized.cpp`, whose outcomes `tests/quant_mlx.rs` compares bit for bit:
//! with `top = 2^bits - 1`, all in binary32, `s = max((max - min) / top, 1e-7)`, negative unless `|min| > |max|`; the
//! `edge` is whichever of the two is farther from 0, `q = round(edge / s)`; where `q` is 0 the bias is 0, elsewhere the
//! bias is the edge and the scale `edge / q`, so that the edge and 0 are both kept exactly. A code is
//! `round((x - bias) / scale)` clipped to `0..=top`. Ties go to even. The codes come from the scale and bias before they
//! are rounded to the element's type; NaN counts neither for min nor max and has code 0.
//!
//! A number is back at `round(round(code × scale) + bias)`, rounded to the element's type each time.

use super::element::Number;
use super::simd::{LANES, Simd};

/// Least scale, for groups without a range.
const EPSILON: f32 = 1e-7;

/// The greatest code of `bits` bits.
#[expect(clippy::cast_precision_loss, reason = "255 at most")]
pub(super) const fn top_code(bits: u32) -> f32 {
    ((1_u32 << bits) - 1) as f32
}

/// The least and the greatest of numbers seen. NaN is not seen.
pub(super) struct Range<S: Simd> {
    /// Infinity before any.
    pub(super) min: S::Lanes,
    /// Minus infinity before any.
    pub(super) max: S::Lanes,
}

impl<S: Simd> Range<S> {
    #[inline(always)]
    pub(super) fn new(simd: S) -> Self {
        Self { min: simd.splat(f32::INFINITY), max: simd.splat(f32::NEG_INFINITY) }
    }

    #[inline(always)]
    pub(super) fn see(&mut self, simd: S, numbers: S::Lanes) {
        self.min = simd.min(numbers, self.min);
        self.max = simd.max(numbers, self.max);
    }
}

/// Scale and bias of sixteen groups at a time, or of one splat over the lanes, as binary32.
pub(super) struct Quantizer<S: Simd> {
    pub(super) scale: S::Lanes,
    pub(super) bias: S::Lanes,
}

impl<S: Simd> Quantizer<S> {
    /// Of sixteen groups, from their ranges.
    #[inline(always)]
    pub(super) fn of(simd: S, range: &Range<S>, top: f32) -> Self {
        let Range { min, max } = *range;
        let zero = simd.splat(0.0);
        let least = simd.abs(min);
        let most = simd.abs(max);
        let step = simd.max(simd.splat(EPSILON), simd.div(simd.sub(max, min), simd.splat(top)));
        let step = simd.select_greater(least, most, step, simd.sub(zero, step));
        let edge = simd.select_greater(least, most, min, max);
        let steps = simd.round(simd.div(edge, step));
        Self { scale: simd.select_zero(steps, step, simd.div(edge, steps)), bias: simd.select_zero(steps, zero, edge) }
    }

    /// The codes of sixteen numbers.
    #[inline(always)]
    pub(super) fn codes(&self, simd: S, numbers: S::Lanes, top: f32) -> [u8; LANES] {
        let steps = simd.round(simd.div(simd.sub(numbers, self.bias), self.scale));
        simd.store_codes(simd.min(simd.max(steps, simd.splat(0.0)), simd.splat(top)))
    }

    /// Numbers from their codes, to be stored.
    #[inline(always)]
    pub(super) fn numbers<E: Number>(&self, simd: S, codes: [u8; LANES]) -> S::Lanes {
        let product = simd.mul(simd.load_codes(codes), self.scale);
        simd.add(E::round(simd, product), self.bias)
    }
}
