//! Sixteen numbers in two registers of AVX2, with F16C for binary16.

#![expect(unsafe_code, reason = "calls the instruction set by name")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "dozens of intrinsics"))]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::super::packing::{join, squeeze};
use super::{Kernel, LANES, Simd, halves};

/// Proof of AVX2 and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

type Lanes = [__m256; 2];

/// Runs instructions of AVX2 and F16C.
macro_rules! avx2 {
    ($instructions:expr) => {
        // SAFETY: a value of `Avx2` is proof that the processor has them; what is transmuted is of the same size, and
        // any bits are valid in it.
        unsafe { $instructions }
    };
}

impl Avx2 {
    /// If the processor has it.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(Self(()))
    }

    /// Runs `kernel`, compiled for it.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,f16c")]
        fn compiled<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        avx2!(compiled(self, kernel))
    }
}

/// The upper halves, rounded to nearest, ties to even, as 32-bit integers; of NaN as `Simd::store_bf16` says.
#[inline(always)]
fn round_bf16(lanes: __m256) -> __m256i {
    avx2!({
        let bits = _mm256_castps_si256(lanes);
        let upper = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        _mm256_srli_epi32::<16>(rounded)
    })
}

/// The sum of both, but `other - a` in the lanes of `MINUS`.
#[inline(always)]
fn add_sub<const MINUS: i32>(a: __m256, other: __m256) -> __m256 {
    avx2!(_mm256_blend_ps::<MINUS>(_mm256_add_ps(a, other), _mm256_sub_ps(other, a)))
}

impl Simd for Avx2 {
    type Lanes = Lanes;

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Lanes {
        avx2!(transmute::<[u8; 32], [__m128i; 2]>(*from).map(|half| _mm256_cvtph_ps(half)))
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> Lanes {
        avx2!({
            let [low, high] = transmute::<[u8; 32], [__m128i; 2]>(*from);
            let widen = |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
            [widen(low), widen(high)]
        })
    }

    #[inline(always)]
    fn load_f32(self, from: &[u8; 64]) -> Lanes {
        avx2!(transmute::<[u8; 64], Lanes>(*from))
    }

    #[inline(always)]
    fn store_f16(self, [low, high]: Lanes) -> [u8; 32] {
        avx2!({
            let narrow = |half| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(half);
            transmute::<[__m128i; 2], [u8; 32]>([narrow(low), narrow(high)])
        })
    }

    #[inline(always)]
    fn store_bf16(self, [low, high]: Lanes) -> [u8; 32] {
        avx2!({
            let packed = _mm256_packus_epi32(round_bf16(low), round_bf16(high));
            transmute::<__m256i, [u8; 32]>(_mm256_permute4x64_epi64::<0b11_01_10_00>(packed))
        })
    }

    #[inline(always)]
    fn store_f32(self, lanes: Lanes) -> [u8; 64] {
        avx2!(transmute::<Lanes, [u8; 64]>(lanes))
    }

    #[inline(always)]
    fn round_f16(self, [low, high]: Lanes) -> Lanes {
        avx2!({
            let round = |half| _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(half));
            [round(low), round(high)]
        })
    }

    #[inline(always)]
    fn round_bf16(self, [low, high]: Lanes) -> Lanes {
        avx2!({
            let round = |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(round_bf16(half)));
            [round(low), round(high)]
        })
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Lanes {
        avx2!([_mm256_set1_ps(number); 2])
    }

    #[inline(always)]
    fn lanes(self, numbers: &[f32; LANES]) -> Lanes {
        avx2!(transmute::<[f32; LANES], Lanes>(*numbers))
    }

    #[inline(always)]
    fn to_array(self, lanes: Lanes) -> [f32; LANES] {
        avx2!(transmute::<Lanes, [f32; LANES]>(lanes))
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        avx2!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        avx2!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        avx2!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        avx2!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        avx2!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        avx2!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        avx2!({
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        })
    }

    #[inline(always)]
    fn select_greater(self, a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        avx2!({
            let select =
                |half: usize| _mm256_blendv_ps(no[half], yes[half], _mm256_cmp_ps::<_CMP_GT_OQ>(a[half], b[half]));
            [select(0), select(1)]
        })
    }

    #[inline(always)]
    fn select_zero(self, a: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        avx2!({
            let select = |half: usize| {
                _mm256_blendv_ps(no[half], yes[half], _mm256_cmp_ps::<_CMP_EQ_OQ>(a[half], _mm256_setzero_ps()))
            };
            [select(0), select(1)]
        })
    }

    #[inline(always)]
    fn least(self, a: Lanes) -> f32 {
        avx2!({
            let eight = _mm256_min_ps(a[0], a[1]);
            let four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn greatest(self, a: Lanes) -> f32 {
        avx2!({
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        avx2!({
            let round = |half| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(half);
            [round(a[0]), round(a[1])]
        })
    }

    #[inline(always)]
    fn hadamard(self, [low, high]: Lanes) -> Lanes {
        avx2!({
            let within = |a| {
                let a = add_sub::<0xf0>(a, _mm256_permute2f128_ps::<1>(a, a));
                let a = add_sub::<0xcc>(a, _mm256_permute_ps::<0b01_00_11_10>(a));
                add_sub::<0xaa>(a, _mm256_permute_ps::<0b10_11_00_01>(a))
            };
            [within(_mm256_add_ps(low, high)), within(_mm256_sub_ps(low, high))]
        })
    }

    #[inline(always)]
    fn pick(self, table: &[u8; 32], codes: [u8; LANES]) -> [u8; 32] {
        avx2!({
            let codes = transmute::<[u8; LANES], __m128i>(codes);
            let [first, last] = transmute::<[u8; 32], [__m128i; 2]>(*table);
            let byte = _mm_set1_epi16(0xff);
            let lower = _mm_packus_epi16(_mm_and_si128(first, byte), _mm_and_si128(last, byte));
            let upper = _mm_packus_epi16(_mm_srli_epi16::<8>(first), _mm_srli_epi16::<8>(last));
            let (lower, upper) = (_mm_shuffle_epi8(lower, codes), _mm_shuffle_epi8(upper, codes));
            let picked = [_mm_unpacklo_epi8(lower, upper), _mm_unpackhi_epi8(lower, upper)];
            transmute::<[__m128i; 2], [u8; 32]>(picked)
        })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "asserted")]
    fn gather<const N: usize>(self, table: &[f32; N], at: Lanes) -> Lanes {
        const { assert!(N.is_power_of_two() && N >= LANES && N <= 1 << 16) };
        avx2!({
            let gather = |at| {
                // Whatever `at` is, it is below N after this.
                let at = _mm256_and_si256(_mm256_cvttps_epi32(at), _mm256_set1_epi32(const { (N - 1) as i32 }));
                if const { N == LANES } {
                    let first = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), at);
                    let last = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), at);
                    _mm256_blendv_ps(first, last, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(at)))
                } else {
                    _mm256_i32gather_ps::<4>(table.as_ptr(), at)
                }
            };
            [gather(at[0]), gather(at[1])]
        })
    }

    #[inline(always)]
    fn squeeze<const BITS: u32>(self, codes: [u8; LANES]) -> [u64; 2] {
        if const { BITS > 6 } {
            // The factors would be beyond a signed byte.
            return halves(codes).map(squeeze::<BITS>);
        }
        avx2!({
            let codes = transmute::<[u8; LANES], __m128i>(codes);
            let twos = _mm_maddubs_epi16(codes, _mm_set1_epi16(const { 1 | 1_i16.unbounded_shl(8 + BITS) }));
            let fours = _mm_madd_epi16(twos, _mm_set1_epi32(const { 1 | 1_i32.unbounded_shl(16 + 2 * BITS) }));
            transmute::<__m128i, [u64; 2]>(fours).map(|fours| join(fours, 32, const { 4 * BITS }))
        })
    }

    #[inline(always)]
    fn load_codes(self, codes: [u8; LANES]) -> Lanes {
        avx2!({
            let codes = transmute::<[u8; LANES], __m128i>(codes);
            let low = _mm256_cvtepu8_epi32(codes);
            let high = _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(codes, codes));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        })
    }

    #[inline(always)]
    fn store_codes(self, lanes: Lanes) -> [u8; LANES] {
        avx2!({
            let words = _mm256_packus_epi32(_mm256_cvtps_epi32(lanes[0]), _mm256_cvtps_epi32(lanes[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            transmute::<__m128i, [u8; LANES]>(bytes)
        })
    }
}
