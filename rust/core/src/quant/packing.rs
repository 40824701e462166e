//! Codes of 1 to 8 bits as a plain bit string: code `i` is bits `i × bits` and up, counted from the lowest of byte 0.
//!
//! It is the order of `mx.quantize` for every number of bits: its 32-bit words of 8-, 4- and 2-bit codes, its three and
//! five bytes of eight 3- and 5-bit codes and its three bytes of four 6-bit codes are all this string in little endian.

use super::simd::{LANES, Simd};

/// The low `low` bits of every `of` bits.
pub(super) const fn every(of: u32, low: u32) -> u64 {
    let mut mask = 0;
    let mut at = 0;
    while at < u64::BITS {
        mask |= (u64::MAX >> (u64::BITS - low)) << at;
        at += of;
    }
    mask
}

/// Moves the upper neighbour of each two fields down to the lower: fields of `bits` at every `at` bits become fields of
/// twice the bits at every `2 * at`.
#[inline(always)]
pub(super) const fn join(fields: u64, at: u32, bits: u32) -> u64 {
    let lower = every(2 * at, bits);
    fields & lower | fields >> (at - bits) & lower << bits
}

/// The opposite of [`join`].
#[inline(always)]
const fn part(fields: u64, at: u32, bits: u32) -> u64 {
    let lower = every(2 * at, bits);
    fields & lower | fields << (at - bits) & lower << at
}

/// Eight codes of a byte each as `8 × BITS` bits.
#[inline(always)]
pub(super) const fn squeeze<const BITS: u32>(codes: u64) -> u64 {
    join(join(join(codes, 8, BITS), 16, 2 * BITS), 32, 4 * BITS)
}

/// The opposite of [`squeeze`]; bits past those of eight codes are passed over.
#[inline(always)]
pub(super) const fn spread<const BITS: u32>(bits: u64) -> u64 {
    part(part(part(bits, 32, 4 * BITS), 16, 2 * BITS), 8, BITS)
}

/// Bytes of sixteen codes.
pub(super) const fn packed_bytes(bits: u32) -> usize {
    LANES * bits as usize / 8
}

/// Packs sixteen codes below `1 << BITS` into the first [`packed_bytes`] of `to`.
#[inline(always)]
pub(super) fn pack<S: Simd, const BITS: u32>(simd: S, codes: [u8; LANES], to: &mut [u8]) {
    let [low, high] = simd.squeeze::<BITS>(codes);
    let bytes = (u128::from(low) | u128::from(high) << (8 * BITS)).to_le_bytes();
    let count = const { packed_bytes(BITS) };
    to[..count].copy_from_slice(&bytes[..count]);
}

/// Unpacks sixteen codes from the first [`packed_bytes`] of `from`.
#[inline(always)]
pub(super) fn unpack<S: Simd, const BITS: u32>(simd: S, from: &[u8]) -> [u8; LANES] {
    let count = const { packed_bytes(BITS) };
    let mut bytes = [0; LANES];
    bytes[..count].copy_from_slice(&from[..count]);
    let bits = u128::from_le_bytes(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    simd.spread::<BITS>([bits as u64, (bits >> (8 * BITS)) as u64])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::simd::{Kernel, dispatch, tests::on_each_path};
    use super::*;

    /// Packs and unpacks.
    struct RoundTrip<const BITS: u32>([u8; LANES]);

    impl<const BITS: u32> Kernel for RoundTrip<BITS> {
        type Output = ([u8; LANES], [u8; LANES]);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut packed = [0; LANES];
            pack::<S, BITS>(simd, self.0, &mut packed);
            (packed, unpack::<S, BITS>(simd, &packed[..packed_bytes(BITS)]))
        }
    }

    fn check<const BITS: u32>(codes: [u8; LANES]) {
        let codes = codes.map(|code| code & (u8::MAX >> (8 - BITS)));
        for (path, (packed, unpacked)) in on_each_path(|| dispatch(RoundTrip::<BITS>(codes))) {
            for (index, code) in codes.into_iter().enumerate() {
                for bit in 0..BITS as usize {
                    let at = index * BITS as usize + bit;
                    let (found, expected) = (packed[at / 8] >> (at % 8) & 1, code >> bit & 1);
                    assert_eq!(found, expected, "bit {bit} of code {index} of {BITS} bits on {path}");
                }
            }
            assert_eq!(unpacked, codes, "{BITS} bits on {path}");
        }
    }

    proptest! {
        #[test]
        fn codes_are_a_bit_string(codes: [u8; LANES]) {
            check::<1>(codes);
            check::<2>(codes);
            check::<3>(codes);
            check::<4>(codes);
            check::<5>(codes);
            check::<6>(codes);
            check::<7>(codes);
            check::<8>(codes);
        }
    }
}
