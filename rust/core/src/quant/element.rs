//! The types of an array's numbers in memory, and their exact conversions to and from binary32.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::simd::{LANES, Simd};

/// The type of an array's numbers in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// IEEE binary16.
    Float16,
    /// The upper half of a binary32.
    Bfloat16,
    /// IEEE binary32.
    Float32,
}

impl Element {
    /// Bytes of one number.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Float32 => 4,
        }
    }
}

/// An [`Element`] known when compiling. Numbers are little endian, without alignment.
pub(super) trait Number: Copy {
    /// Bytes of one number.
    const BYTES: usize;

    /// Sixteen numbers off the front of `from`.
    fn load<S: Simd>(simd: S, from: &[u8]) -> S::Lanes;

    /// Sixteen numbers to the front of `to`, rounded to nearest, ties to even.
    fn store<S: Simd>(simd: S, lanes: S::Lanes, to: &mut [u8]);

    /// What a store and a load make of `lanes`.
    fn round<S: Simd>(simd: S, lanes: S::Lanes) -> S::Lanes;

    /// One number off the front of `from`.
    fn get(from: &[u8]) -> f32;

    /// The quiet NaN that is positive and without payload.
    const NAN: &'static [u8];

    /// As many numbers as `to` has room for, sixteen at most, rounded to nearest, ties to even; every NaN as
    /// [`Self::NAN`], so that what is written does not hang on the processor.
    #[inline(always)]
    fn store_some<S: Simd>(simd: S, lanes: S::Lanes, to: &mut [u8]) {
        let mut bytes = [0; 4 * LANES];
        Self::store(simd, lanes, &mut bytes);
        let numbers = simd.to_array(lanes);
        if numbers.iter().any(|number| number.is_nan()) {
            for (number, bytes) in numbers.iter().zip(bytes.chunks_exact_mut(Self::BYTES)) {
                if number.is_nan() {
                    bytes.copy_from_slice(Self::NAN);
                }
            }
        }
        to.copy_from_slice(&bytes[..to.len()]);
    }
}

/// [`Element::Float16`].
#[derive(Clone, Copy)]
pub(super) struct Float16;

/// [`Element::Bfloat16`].
#[derive(Clone, Copy)]
pub(super) struct Bfloat16;

/// [`Element::Float32`].
#[derive(Clone, Copy)]
pub(super) struct Float32;

/// The first `N` bytes: slices come from `chunks_exact`, so that the check is compiled away.
#[inline(always)]
fn front<const N: usize>(from: &[u8]) -> &[u8; N] {
    from.first_chunk().expect("a chunk of sixteen numbers")
}

#[inline(always)]
fn front_mut<const N: usize>(to: &mut [u8]) -> &mut [u8; N] {
    to.first_chunk_mut().expect("a chunk of sixteen numbers")
}

impl Number for Float16 {
    const BYTES: usize = 2;
    const NAN: &'static [u8] = &f16::NAN.to_le_bytes();

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[u8]) -> S::Lanes {
        simd.load_f16(front::<{ 2 * LANES }>(from))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, lanes: S::Lanes, to: &mut [u8]) {
        *front_mut(to) = simd.store_f16(lanes);
    }

    #[inline(always)]
    fn round<S: Simd>(simd: S, lanes: S::Lanes) -> S::Lanes {
        simd.round_f16(lanes)
    }

    #[inline(always)]
    fn get(from: &[u8]) -> f32 {
        f16::from_le_bytes(*front(from)).to_f32_const()
    }
}

impl Number for Bfloat16 {
    const BYTES: usize = 2;
    const NAN: &'static [u8] = &bf16::NAN.to_le_bytes();

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[u8]) -> S::Lanes {
        simd.load_bf16(front::<{ 2 * LANES }>(from))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, lanes: S::Lanes, to: &mut [u8]) {
        *front_mut(to) = simd.store_bf16(lanes);
    }

    #[inline(always)]
    fn round<S: Simd>(simd: S, lanes: S::Lanes) -> S::Lanes {
        simd.round_bf16(lanes)
    }

    #[inline(always)]
    fn get(from: &[u8]) -> f32 {
        bf16::from_le_bytes(*front(from)).to_f32_const()
    }
}

impl Number for Float32 {
    const BYTES: usize = 4;
    const NAN: &'static [u8] = &f32::NAN.to_le_bytes();

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[u8]) -> S::Lanes {
        simd.load_f32(front::<{ 4 * LANES }>(from))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, lanes: S::Lanes, to: &mut [u8]) {
        *front_mut(to) = simd.store_f32(lanes);
    }

    #[inline(always)]
    fn round<S: Simd>(_: S, lanes: S::Lanes) -> S::Lanes {
        lanes
    }

    #[inline(always)]
    fn get(from: &[u8]) -> f32 {
        f32::from_le_bytes(*front(from))
    }
}
