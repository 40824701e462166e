//! Sixteen numbers on any processor.

use half::{bf16, f16};

use super::{LANES, Simd};

/// No instruction set in particular.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Lanes = [f32; LANES];

#[inline(always)]
fn each2(a: Lanes, b: Lanes, of: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| of(a[lane], b[lane]))
}

#[inline(always)]
fn load<const N: usize, const BYTES: usize>(from: &[u8; BYTES], of: impl Fn([u8; N]) -> f32) -> Lanes {
    let (numbers, _) = from.as_chunks::<N>();
    std::array::from_fn(|lane| of(numbers[lane]))
}

#[inline(always)]
fn store<const N: usize, const BYTES: usize>(lanes: Lanes, of: impl Fn(f32) -> [u8; N]) -> [u8; BYTES] {
    let mut to = [0; BYTES];
    for (number, to) in lanes.into_iter().zip(to.as_chunks_mut::<N>().0) {
        *to = of(number);
    }
    to
}

impl Simd for Portable {
    type Lanes = Lanes;

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Lanes {
        load(from, |bytes| f16::from_le_bytes(bytes).to_f32_const())
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> Lanes {
        load(from, |bytes| bf16::from_le_bytes(bytes).to_f32_const())
    }

    #[inline(always)]
    fn load_f32(self, from: &[u8; 64]) -> Lanes {
        load(from, f32::from_le_bytes)
    }

    #[inline(always)]
    fn store_f16(self, lanes: Lanes) -> [u8; 32] {
        store(lanes, |number| f16::from_f32_const(number).to_le_bytes())
    }

    #[inline(always)]
    fn store_bf16(self, lanes: Lanes) -> [u8; 32] {
        store(lanes, |number| bf16::from_f32_const(number).to_le_bytes())
    }

    #[inline(always)]
    fn store_f32(self, lanes: Lanes) -> [u8; 64] {
        store(lanes, f32::to_le_bytes)
    }

    #[inline(always)]
    fn round_f16(self, lanes: Lanes) -> Lanes {
        lanes.map(|number| f16::from_f32_const(number).to_f32_const())
    }

    #[inline(always)]
    fn round_bf16(self, lanes: Lanes) -> Lanes {
        lanes.map(|number| bf16::from_f32_const(number).to_f32_const())
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Lanes {
        [number; LANES]
    }

    #[inline(always)]
    fn lanes(self, numbers: &[f32; LANES]) -> Lanes {
        *numbers
    }

    #[inline(always)]
    fn to_array(self, lanes: Lanes) -> [f32; LANES] {
        lanes
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn select_greater(self, a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        std::array::from_fn(|lane| if a[lane] > b[lane] { yes[lane] } else { no[lane] })
    }

    #[inline(always)]
    fn select_zero(self, a: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        std::array::from_fn(|lane| if a[lane] == 0.0 { yes[lane] } else { no[lane] })
    }

    #[inline(always)]
    fn least(self, a: Lanes) -> f32 {
        a.into_iter().fold(f32::INFINITY, f32::min)
    }

    #[inline(always)]
    fn greatest(self, a: Lanes) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        a.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn hadamard(self, mut a: Lanes) -> Lanes {
        for apart in [8, 4, 2, 1] {
            a = std::array::from_fn(|lane| {
                if lane & apart == 0 { a[lane] + a[lane + apart] } else { a[lane - apart] - a[lane] }
            });
        }
        a
    }

    #[inline(always)]
    fn pick(self, table: &[u8; 32], codes: [u8; LANES]) -> [u8; 32] {
        let (table, _) = table.as_chunks::<2>();
        let mut picked = [0; 32];
        for (to, code) in picked.as_chunks_mut().0.iter_mut().zip(codes) {
            *to = table[usize::from(code & 15)];
        }
        picked
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers")]
    fn gather<const N: usize>(self, table: &[f32; N], at: Lanes) -> Lanes {
        at.map(|at| table[at as usize % N])
    }

    #[inline(always)]
    fn load_codes(self, codes: [u8; LANES]) -> Lanes {
        codes.map(f32::from)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers of 0 to 255")]
    fn store_codes(self, lanes: Lanes) -> [u8; LANES] {
        lanes.map(|number| number as u8)
    }
}
