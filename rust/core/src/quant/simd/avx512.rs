//! Sixteen numbers in one register of AVX-512 (F, BW, DQ and VL: Intel's servers since 2017, AMD's Zen 4 and later).
//!
//! Codes are packed by BMI2, which all processors with AVX-512 do in one step; older ones of AMD take hundreds, so that
//! it is not used with AVX2.

#![expect(unsafe_code, reason = "calls the instruction set by name")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "dozens of intrinsics"))]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::super::packing::every;
use super::{Kernel, LANES, Simd, halves, whole};

/// Proof of AVX-512 F, BW, DQ and VL, and of F16C and BMI2.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

type Lanes = __m512;

/// Runs instructions of AVX-512.
macro_rules! avx512 {
    ($instructions:expr) => {
        // SAFETY: a value of `Avx512` is proof that the processor has them; what is transmuted is of the same size, and
        // any bits are valid in it.
        unsafe { $instructions }
    };
}

impl Avx512 {
    /// If the processor has it.
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi2");
        has.then_some(Self(()))
    }

    /// Runs `kernel`, compiled for it.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,bmi2")]
        fn compiled<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        avx512!(compiled(self, kernel))
    }
}

/// The upper halves, rounded to nearest, ties to even, as 32-bit integers; of NaN as `Simd::store_bf16` says.
#[inline(always)]
fn round_bf16(lanes: Lanes) -> __m512i {
    avx512!({
        let bits = _mm512_castps_si512(lanes);
        let upper = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        _mm512_srli_epi32::<16>(rounded)
    })
}

/// The sum of both, but `other - a` in the lanes of `MINUS`.
#[inline(always)]
fn add_sub<const MINUS: u16>(a: Lanes, other: Lanes) -> Lanes {
    avx512!(_mm512_mask_sub_ps(_mm512_add_ps(a, other), MINUS, other, a))
}

impl Simd for Avx512 {
    type Lanes = Lanes;

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Lanes {
        avx512!(_mm512_cvtph_ps(transmute::<[u8; 32], __m256i>(*from)))
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> Lanes {
        avx512!({
            let upper = _mm512_cvtepu16_epi32(transmute::<[u8; 32], __m256i>(*from));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper))
        })
    }

    #[inline(always)]
    fn load_f32(self, from: &[u8; 64]) -> Lanes {
        avx512!(transmute::<[u8; 64], Lanes>(*from))
    }

    #[inline(always)]
    fn store_f16(self, lanes: Lanes) -> [u8; 32] {
        avx512!(transmute::<__m256i, [u8; 32]>(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes)))
    }

    #[inline(always)]
    fn store_bf16(self, lanes: Lanes) -> [u8; 32] {
        avx512!(transmute::<__m256i, [u8; 32]>(_mm512_cvtepi32_epi16(round_bf16(lanes))))
    }

    #[inline(always)]
    fn store_f32(self, lanes: Lanes) -> [u8; 64] {
        avx512!(transmute::<Lanes, [u8; 64]>(lanes))
    }

    #[inline(always)]
    fn round_f16(self, lanes: Lanes) -> Lanes {
        avx512!(_mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes)))
    }

    #[inline(always)]
    fn round_bf16(self, lanes: Lanes) -> Lanes {
        avx512!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(round_bf16(lanes))))
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Lanes {
        avx512!(_mm512_set1_ps(number))
    }

    #[inline(always)]
    fn lanes(self, numbers: &[f32; LANES]) -> Lanes {
        avx512!(transmute::<[f32; LANES], Lanes>(*numbers))
    }

    #[inline(always)]
    fn to_array(self, lanes: Lanes) -> [f32; LANES] {
        avx512!(transmute::<Lanes, [f32; LANES]>(lanes))
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        avx512!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        avx512!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        avx512!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        avx512!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        avx512!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        avx512!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn select_greater(self, a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        avx512!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes))
    }

    #[inline(always)]
    fn select_zero(self, a: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        avx512!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, _mm512_setzero_ps()), no, yes))
    }

    #[inline(always)]
    fn least(self, a: Lanes) -> f32 {
        avx512!(_mm512_reduce_min_ps(a))
    }

    #[inline(always)]
    fn greatest(self, a: Lanes) -> f32 {
        avx512!(_mm512_reduce_max_ps(a))
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn hadamard(self, a: Lanes) -> Lanes {
        avx512!({
            let a = add_sub::<0xff00>(a, _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a));
            let a = add_sub::<0xf0f0>(a, _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a));
            let a = add_sub::<0xcccc>(a, _mm512_permute_ps::<0b01_00_11_10>(a));
            add_sub::<0xaaaa>(a, _mm512_permute_ps::<0b10_11_00_01>(a))
        })
    }

    #[inline(always)]
    fn pick(self, table: &[u8; 32], codes: [u8; LANES]) -> [u8; 32] {
        avx512!({
            let codes = _mm256_cvtepu8_epi16(transmute::<[u8; LANES], __m128i>(codes));
            let table = transmute::<[u8; 32], __m256i>(*table);
            transmute::<__m256i, [u8; 32]>(_mm256_permutexvar_epi16(codes, table))
        })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "asserted")]
    fn gather<const N: usize>(self, table: &[f32; N], at: Lanes) -> Lanes {
        const { assert!(N.is_power_of_two() && N >= LANES && N <= 1 << 16) };
        avx512!({
            let at = _mm512_cvttps_epi32(at);
            let sixteen = |first: usize| _mm512_loadu_ps(table[first * LANES..][..LANES].as_ptr());
            let two = |first| _mm512_permutex2var_ps(sixteen(first), at, sixteen(first + 1));
            match N {
                16 => _mm512_permutexvar_ps(at, sixteen(0)),
                32 => two(0),
                64 => _mm512_mask_blend_ps(_mm512_test_epi32_mask(at, _mm512_set1_epi32(32)), two(0), two(2)),
                _ => {
                    // Whatever `at` is, it is below N after this.
                    let at = _mm512_and_si512(at, _mm512_set1_epi32(const { (N - 1) as i32 }));
                    _mm512_i32gather_ps::<4>(at, table.as_ptr())
                }
            }
        })
    }

    #[inline(always)]
    fn squeeze<const BITS: u32>(self, codes: [u8; LANES]) -> [u64; 2] {
        halves(codes).map(|codes| avx512!(_pext_u64(codes, const { every(8, BITS) })))
    }

    #[inline(always)]
    fn spread<const BITS: u32>(self, bits: [u64; 2]) -> [u8; LANES] {
        whole(bits.map(|bits| avx512!(_pdep_u64(bits, const { every(8, BITS) }))))
    }

    #[inline(always)]
    fn load_codes(self, codes: [u8; LANES]) -> Lanes {
        avx512!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(transmute::<[u8; LANES], __m128i>(codes))))
    }

    #[inline(always)]
    fn store_codes(self, lanes: Lanes) -> [u8; LANES] {
        avx512!(transmute::<__m128i, [u8; LANES]>(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(lanes))))
    }
}
