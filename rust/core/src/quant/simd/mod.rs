//! Sixteen binary32 numbers at a time, on whatever this processor has.
//!
//! A codec is written once, as a [`Kernel`] over a [`Simd`]; [`dispatch`] compiles it for each instruction set and runs
//! the best that the processor has. Every operation is an exactly rounded one of IEEE 754 or works on bits, so that all
//! paths write the same bytes.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use neon::Neon;
use portable::Portable;

use super::packing;

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
    /// To nearest, ties to even. NaN must come from arithmetic on numbers of this type: then it is quiet and its lower
    /// half is zero, so that rounding carries nothing into the upper one and needs no case of its own.
    fn store_bf16(self, lanes: Self::Lanes) -> [u8; 32];
    fn store_f32(self, lanes: Self::Lanes) -> [u8; 64];
    /// A store and a load.
    fn round_f16(self, lanes: Self::Lanes) -> Self::Lanes;
    /// A store and a load.
    fn round_bf16(self, lanes: Self::Lanes) -> Self::Lanes;

    fn splat(self, number: f32) -> Self::Lanes;
    fn lanes(self, numbers: &[f32; LANES]) -> Self::Lanes;
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

    /// Times the Hadamard matrix of sixteen, of ones and minus ones in Sylvester's order: numbers 8 apart are added and
    /// subtracted first, then those 4, 2 and 1 apart.
    fn hadamard(self, a: Self::Lanes) -> Self::Lanes;
    /// The 16-bit numbers of `table` that `codes` below 16 name.
    fn pick(self, table: &[u8; 32], codes: [u8; LANES]) -> [u8; 32];
    /// The numbers of `table` that the whole numbers `at` name, modulo its length, a power of two of at least 16.
    fn gather<const N: usize>(self, table: &[f32; N], at: Self::Lanes) -> Self::Lanes;
    /// Twice eight codes below `1 << BITS` as bits without gaps: [`packing::squeeze`].
    #[inline(always)]
    fn squeeze<const BITS: u32>(self, codes: [u8; LANES]) -> [u64; 2] {
        halves(codes).map(packing::squeeze::<BITS>)
    }

    /// The opposite of [`Self::squeeze`]; bits past those of eight codes are passed over.
    #[inline(always)]
    fn spread<const BITS: u32>(self, bits: [u64; 2]) -> [u8; LANES] {
        whole(bits.map(packing::spread::<BITS>))
    }

    /// Whole numbers of 0 to 255.
    fn load_codes(self, codes: [u8; LANES]) -> Self::Lanes;
    /// Of whole numbers of 0 to 255.
    fn store_codes(self, lanes: Self::Lanes) -> [u8; LANES];
}

/// The first eight bytes and the last.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a half")]
const fn halves(codes: [u8; LANES]) -> [u64; 2] {
    let codes = u128::from_le_bytes(codes);
    [codes as u64, (codes >> 64) as u64]
}

/// The opposite of [`halves`].
#[inline(always)]
const fn whole([low, high]: [u64; 2]) -> [u8; LANES] {
    (low as u128 | (high as u128) << 64).to_le_bytes()
}

/// A loop to be compiled for each instruction set.
pub(super) trait Kernel {
    /// What it gives.
    type Output;

    /// Its body: `#[inline(always)]`, and so is all that it calls, or it is not compiled for the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The instruction sets that a kernel is compiled for.
#[derive(Clone, Copy)]
pub(super) enum Path {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Also where nothing better is, and in tests.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code))]
    Portable,
}

impl Path {
    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        Avx512::detect().map(Self::Avx512).or_else(|| Avx2::detect().map(Self::Avx2)).unwrap_or(Self::Portable)
    }

    #[cfg(target_arch = "aarch64")]
    const fn best() -> Self {
        Self::Neon
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const fn best() -> Self {
        Self::Portable
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => kernel.run(Neon),
            Self::Portable => kernel.run(Portable),
        }
    }
}

/// Runs `kernel` on the best instruction set that the processor has.
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    if cfg!(fuzzing) {
        unreachable!("the parsers that are fuzzed run no codec, and without this most of what is compiled is kernels");
    }
    #[cfg(test)]
    if let Some(path) = tests::chosen() {
        return path.run(kernel);
    }
    Path::best().run(kernel)
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::Path;

    thread_local! {
        static CHOSEN: Cell<Option<Path>> = const { Cell::new(None) };
    }

    pub(super) fn chosen() -> Option<Path> {
        CHOSEN.get()
    }

    /// Every path that this processor has, by name, the portable one first.
    fn paths() -> Vec<(&'static str, Path)> {
        let mut paths = vec![("portable", Path::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            paths.extend(super::Avx2::detect().map(|simd| ("AVX2", Path::Avx2(simd))));
            paths.extend(super::Avx512::detect().map(|simd| ("AVX-512", Path::Avx512(simd))));
        }
        #[cfg(target_arch = "aarch64")]
        paths.push(("NEON", Path::Neon));
        paths
    }

    /// What `work` gives on this thread on every path, by the path's name.
    pub(in super::super) fn on_each_path<T>(work: impl Fn() -> T) -> Vec<(&'static str, T)> {
        let run = |(name, path)| {
            CHOSEN.set(Some(path));
            let outcome = work();
            CHOSEN.set(None);
            (name, outcome)
        };
        paths().into_iter().map(run).collect()
    }
}
