//! Sixteen numbers in four registers of aarch64's NEON.

#![expect(unsafe_code, reason = "calls the instruction set by name")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "dozens of intrinsics"))]

use std::arch::aarch64::*;
use std::arch::asm;
use std::mem::transmute;

use super::{LANES, Simd};

/// NEON, which every aarch64 processor that runs `std` has.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

type Lanes = [float32x4_t; 4];

/// Runs instructions of NEON.
macro_rules! neon {
    ($instructions:expr) => {
        // SAFETY: they are part of the target; what is transmuted is of the same size, and any bits are valid in it.
        unsafe { $instructions }
    };
}

#[inline(always)]
fn each2(a: Lanes, b: Lanes, of: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Lanes {
    [of(a[0], b[0]), of(a[1], b[1]), of(a[2], b[2]), of(a[3], b[3])]
}

/// Four binary16 as binary32. By name, for the intrinsic needs a type that is not in stable Rust.
#[inline(always)]
fn widen_f16(half: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    neon!(asm!(
        "fcvtl {wide:v}.4s, {half:v}.4h",
        half = in(vreg) half,
        wide = lateout(vreg) wide,
        options(pure, nomem, nostack, preserves_flags),
    ));
    wide
}

/// Four binary32 as binary16, to nearest, ties to even.
#[inline(always)]
fn narrow_f16(wide: float32x4_t) -> uint16x4_t {
    let half: uint16x4_t;
    neon!(asm!(
        "fcvtn {half:v}.4h, {wide:v}.4s",
        wide = in(vreg) wide,
        half = lateout(vreg) half,
        options(pure, nomem, nostack, preserves_flags),
    ));
    half
}

#[inline(always)]
fn widen_bf16(upper: uint16x4_t) -> float32x4_t {
    neon!(vreinterpretq_f32_u32(vshll_n_u16::<16>(upper)))
}

/// The upper halves, to nearest, ties to even; of NaN as `Simd::store_bf16` says.
#[inline(always)]
fn narrow_bf16(lanes: float32x4_t) -> uint16x4_t {
    neon!({
        let bits = vreinterpretq_u32_f32(lanes);
        let upper = vshrq_n_u32::<16>(bits);
        let odd = vandq_u32(upper, vdupq_n_u32(1));
        vshrn_n_u32::<16>(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))))
    })
}

impl Simd for Neon {
    type Lanes = Lanes;

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Lanes {
        neon!(transmute::<[u8; 32], [uint16x4_t; 4]>(*from)).map(widen_f16)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> Lanes {
        neon!(transmute::<[u8; 32], [uint16x4_t; 4]>(*from)).map(widen_bf16)
    }

    #[inline(always)]
    fn load_f32(self, from: &[u8; 64]) -> Lanes {
        neon!(transmute::<[u8; 64], Lanes>(*from))
    }

    #[inline(always)]
    fn store_f16(self, lanes: Lanes) -> [u8; 32] {
        neon!(transmute::<[uint16x4_t; 4], [u8; 32]>(lanes.map(narrow_f16)))
    }

    #[inline(always)]
    fn store_bf16(self, lanes: Lanes) -> [u8; 32] {
        neon!(transmute::<[uint16x4_t; 4], [u8; 32]>(lanes.map(narrow_bf16)))
    }

    #[inline(always)]
    fn store_f32(self, lanes: Lanes) -> [u8; 64] {
        neon!(transmute::<Lanes, [u8; 64]>(lanes))
    }

    #[inline(always)]
    fn round_f16(self, lanes: Lanes) -> Lanes {
        lanes.map(|four| widen_f16(narrow_f16(four)))
    }

    #[inline(always)]
    fn round_bf16(self, lanes: Lanes) -> Lanes {
        lanes.map(|four| widen_bf16(narrow_bf16(four)))
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Lanes {
        neon!([vdupq_n_f32(number); 4])
    }

    #[inline(always)]
    fn lanes(self, numbers: &[f32; LANES]) -> Lanes {
        neon!(transmute::<[f32; LANES], Lanes>(*numbers))
    }

    #[inline(always)]
    fn to_array(self, lanes: Lanes) -> [f32; LANES] {
        neon!(transmute::<Lanes, [f32; LANES]>(lanes))
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| neon!(vaddq_f32(a, b)))
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| neon!(vsubq_f32(a, b)))
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| neon!(vmulq_f32(a, b)))
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| neon!(vdivq_f32(a, b)))
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| neon!(vbslq_f32(vcltq_f32(a, b), a, b)))
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each2(a, b, |a, b| neon!(vbslq_f32(vcgtq_f32(a, b), a, b)))
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        a.map(|four| neon!(vabsq_f32(four)))
    }

    #[inline(always)]
    fn select_greater(self, a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        let select = |at: usize| neon!(vbslq_f32(vcgtq_f32(a[at], b[at]), yes[at], no[at]));
        [select(0), select(1), select(2), select(3)]
    }

    #[inline(always)]
    fn select_zero(self, a: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        let select = |at: usize| neon!(vbslq_f32(vceqzq_f32(a[at]), yes[at], no[at]));
        [select(0), select(1), select(2), select(3)]
    }

    #[inline(always)]
    fn least(self, a: Lanes) -> f32 {
        neon!(vminvq_f32(vminq_f32(vminq_f32(a[0], a[1]), vminq_f32(a[2], a[3]))))
    }

    #[inline(always)]
    fn greatest(self, a: Lanes) -> f32 {
        neon!(vmaxvq_f32(vmaxq_f32(vmaxq_f32(a[0], a[1]), vmaxq_f32(a[2], a[3]))))
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        a.map(|four| neon!(vrndnq_f32(four)))
    }

    #[inline(always)]
    fn hadamard(self, a: Lanes) -> Lanes {
        neon!({
            let (a, b) =
                ([vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3])], [vsubq_f32(a[0], a[2]), vsubq_f32(a[1], a[3])]);
            let within = |a: float32x4_t| {
                let two = vcombine_f32(vget_low_f32(a), vget_low_f32(a));
                let other = vcombine_f32(vget_high_f32(a), vneg_f32(vget_high_f32(a)));
                let a = vaddq_f32(two, other);
                let (even, odd) = (vtrn1q_f32(a, a), vtrn2q_f32(a, a));
                vtrn1q_f32(vaddq_f32(even, odd), vsubq_f32(even, odd))
            };
            [
                within(vaddq_f32(a[0], a[1])),
                within(vsubq_f32(a[0], a[1])),
                within(vaddq_f32(b[0], b[1])),
                within(vsubq_f32(b[0], b[1])),
            ]
        })
    }

    #[inline(always)]
    fn pick(self, table: &[u8; 32], codes: [u8; LANES]) -> [u8; 32] {
        neon!({
            let codes = transmute::<[u8; LANES], uint8x16_t>(codes);
            let bytes = vld2q_u8(table.as_ptr());
            let (lower, upper) = (vqtbl1q_u8(bytes.0, codes), vqtbl1q_u8(bytes.1, codes));
            transmute::<[uint8x16_t; 2], [u8; 32]>([vzip1q_u8(lower, upper), vzip2q_u8(lower, upper)])
        })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers")]
    fn gather<const N: usize>(self, table: &[f32; N], at: Lanes) -> Lanes {
        if N != LANES {
            return self.lanes(&self.to_array(at).map(|at| table[at as usize % N]));
        }
        neon!({
            let quarter = |quarter: usize| vreinterpretq_u8_f32(vld1q_f32(table[4 * quarter..][..4].as_ptr()));
            let bytes = uint8x16x4_t(quarter(0), quarter(1), quarter(2), quarter(3));
            // A number's four bytes follow each other.
            let first = vdupq_n_u32(0x0302_0100);
            let pick = |at| vmlaq_u32(first, vcvtq_u32_f32(at), vdupq_n_u32(0x0404_0404));
            at.map(|at| vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_u32(pick(at)))))
        })
    }

    #[inline(always)]
    fn load_codes(self, codes: [u8; LANES]) -> Lanes {
        neon!({
            let codes = transmute::<[u8; LANES], uint8x16_t>(codes);
            let low = vmovl_u8(vget_low_u8(codes));
            let high = vmovl_high_u8(codes);
            [
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
                vcvtq_f32_u32(vmovl_high_u16(low)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                vcvtq_f32_u32(vmovl_high_u16(high)),
            ]
        })
    }

    #[inline(always)]
    fn store_codes(self, lanes: Lanes) -> [u8; LANES] {
        neon!({
            let narrow = |at: usize| vmovn_u32(vcvtq_u32_f32(lanes[at]));
            let low = vcombine_u16(narrow(0), narrow(1));
            let high = vcombine_u16(narrow(2), narrow(3));
            transmute::<uint8x16_t, [u8; LANES]>(vcombine_u8(vmovn_u16(low), vmovn_u16(high)))
        })
    }
}
