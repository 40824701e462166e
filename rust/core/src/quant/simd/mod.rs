//! Sixteen binary32 numbers at a time, on whatever this processor has.
//!
//! A codec is written once, as a [`Kernel`] over a [`Simd`]; [`dispatch`] compiles it for each instruction set and runs
//! the best that the processor has. Every operation is an exactly rounded one of IEEE 754 or works on bits, so that all
//! paths write the same bytes.

mod portable;

pub(super) use portable::Portable;

/// Numbers at a time.
pub(super) const LANES: usize = 16;

/// An instruction set. A value of it is a proof that the processor has it.
pub(super) trait Simd: Copy {
    /// Sixteen binary32 numbers.
    type Lanes: Copy;

    fn load_f16(self, from: &[u8; 32]) -> Self::Lanes;
    fn load_bf16(self, from: &[u8; 32]) -> Self::Lanes;
    fn load_f32(self, from: &[u8; 64]) -> Self::Lanes;
    /// To nearest, ties to even.
    fn store_f16(self, lanes: Self::Lanes) -> [u8; 32];
    /// To nearest, ties to even.
    fn store_bf16(self, lanes: Self::Lanes) -> [u8; 32];
    fn store_f32(self, lanes: Self::Lanes) -> [u8; 64];
    /// A store and a load.
    fn round_f16(self, lanes: Self::Lanes) -> Self::Lanes;
    /// A store and a load.
    fn round_bf16(self, lanes: Self::Lanes) -> Self::Lanes;

    fn splat(self, number: f32) -> Self::Lanes;
    fn from_array(self, numbers: &[f32; LANES]) -> Self::Lanes;
    fn to_array(self, lanes: Self::Lanes) -> [f32; LANES];

    fn add(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    fn sub(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    fn mul(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    fn div(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// The lesser; `b` where either is NaN.
    fn min(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// The greater; `b` where either is NaN.
    fn max(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Without the sign.
    fn abs(self, a: Self::Lanes) -> Self::Lanes;
    /// `yes` where `a > b`, elsewhere `no`.
    fn select_greater(self, a: Self::Lanes, b: Self::Lanes, yes: Self::Lanes, no: Self::Lanes) -> Self::Lanes;
    /// `yes` where `a` is 0, elsewhere `no`.
    fn select_zero(self, a: Self::Lanes, yes: Self::Lanes, no: Self::Lanes) -> Self::Lanes;
    /// The least lane; none is NaN.
    fn least(self, a: Self::Lanes) -> f32;
    /// The greatest lane; none is NaN.
    fn greatest(self, a: Self::Lanes) -> f32;
    /// To an integer, ties to even.
    fn round(self, a: Self::Lanes) -> Self::Lanes;

    /// Whole numbers of 0 to 255.
    fn load_codes(self, codes: [u8; LANES]) -> Self::Lanes;
    /// Of whole numbers of 0 to 255.
    fn store_codes(self, lanes: Self::Lanes) -> [u8; LANES];
}

/// A loop to be compiled for each instruction set.
pub(super) trait Kernel {
    /// What it gives.
    type Output;

    /// Its body: `#[inline(always)]`, and so is all that it calls, or it is not compiled for the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` on the best instruction set that the processor has.
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}
