//! The randomized Hadamard transform: signs, then a Walsh-Hadamard matrix.
//!
//! It spreads what is large in a vector over all coordinates, so that each is nearly normal (`QuaRot`, arXiv 2404.00456).
//! The signs are the bits of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014)
//! from the state [`SEED`]: coordinate `i` is negated where bit `i % 64` of output `i / 64` is 1. The matrix is
//! Sylvester's, in the natural order, as `mx.hadamard_transform` has it.

use super::super::simd::{LANES, Simd};

/// Most numbers that are rotated together.
pub(super) const MOST: usize = 1024;

/// State of the generator before its first output.
const SEED: u64 = 0x6877_4C65_6467_6572;

/// -1 where a coordinate is negated, elsewhere 1.
pub(super) static SIGNS: [f32; MOST] = signs();

const fn signs() -> [f32; MOST] {
    let mut signs = [1.0; MOST];
    let mut state = SEED;
    let mut bits = 0;
    let mut at = 0;
    while at < MOST {
        if at % 64 == 0 {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            bits = z ^ z >> 31;
        }
        if bits >> (at % 64) & 1 == 1 {
            signs[at] = -1.0;
        }
        at += 1;
    }
    signs
}

/// Multiplies `numbers`, a power of two of them and at least 16, by the Hadamard matrix of ones and minus ones.
#[inline(always)]
pub(super) fn hadamard<S: Simd>(simd: S, numbers: &mut [f32]) {
    let (sixteens, _) = numbers.as_chunks_mut::<LANES>();
    for sixteen in sixteens.iter_mut() {
        *sixteen = simd.to_array(simd.hadamard(simd.lanes(sixteen)));
    }
    let mut apart = 1;
    while apart < sixteens.len() {
        for pair in sixteens.chunks_exact_mut(2 * apart) {
            let (first, second) = pair.split_at_mut(apart);
            for (a, b) in first.iter_mut().zip(second) {
                let (x, y) = (simd.lanes(a), simd.lanes(b));
                *a = simd.to_array(simd.add(x, y));
                *b = simd.to_array(simd.sub(x, y));
            }
        }
        apart *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::simd::{Kernel, dispatch, tests::on_each_path};
    use super::*;

    struct Transform<'a>(&'a mut [f32]);

    impl Kernel for Transform<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            hadamard(simd, self.0);
        }
    }

    #[test]
    fn it_is_sylvesters_matrix_on_every_path() {
        for size in [16, 32, 64, 128, 1024] {
            for column in [0, 1, 2, 4, 9, 15, size / 2 + 3, size - 1] {
                for (path, numbers) in on_each_path(|| {
                    let mut numbers = vec![0.0; size];
                    numbers[column] = 1.0;
                    dispatch(Transform(&mut numbers));
                    numbers
                }) {
                    for (row, number) in numbers.into_iter().enumerate() {
                        let sign = if (row & column).count_ones() % 2 == 0 { 1.0_f32 } else { -1.0 };
                        assert_eq!(number.to_bits(), sign.to_bits(), "row {row}, column {column} of {size} on {path}");
                    }
                }
            }
        }
    }
}
