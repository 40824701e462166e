//! Affine against MLX: `quant_mlx.py` says what MLX gives, in digests, for numbers that are made here alike.

#![expect(unsafe_code, reason = "codecs follow addresses")]

use hwledger_omlx_core::quant::{Codec, Element, Scheme, Strides};
use serde::Deserialize;

const WIDTH: usize = 256;
const VECTORS: usize = 48;

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

/// Digests of MLX's arrays.
#[derive(Deserialize)]
struct Case {
    element: Element,
    bits: u8,
    group: u16,
    codes: String,
    scales: String,
    biases: String,
    numbers: String,
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// Bits of the mantissa and of the exponent.
fn bits_of(element: Element) -> (u32, u32) {
    match element {
        Element::Float16 => (10, 5),
        Element::Bfloat16 => (7, 8),
        Element::Float32 => (23, 8),
    }
}

/// `vectors` of `quant_mlx.py`, which says what they are.
fn vectors(element: Element) -> Vec<u8> {
    let (mantissa, exponent) = bits_of(element);
    let mut state = u64::from(mantissa);
    let size = 1 + exponent + mantissa;
    let infinity = ((1_u64 << exponent) - 1) << mantissa;
    let mut bytes = Vec::new();
    for row in 0..VECTORS as u64 {
        let first = row * ((1 << exponent) - 1) / VECTORS as u64;
        let mut number = || {
            let z = splitmix64(&mut state);
            match row {
                0 => 0,
                1 => 1 << (size - 1),
                2 => infinity / 2 + 5,
                3..8 => z >> (64 - size),
                _ => {
                    let biased = (first + (z >> 40) % (row % 8 + 1)).min((1 << exponent) - 2);
                    let sign = if row % 3 == 0 { 0 } else { z >> 63 };
                    sign << (size - 1) | biased << mantissa | z & ((1 << mantissa) - 1)
                }
            }
        };
        let mut numbers: Vec<u64> = (0..WIDTH).map(|_| number()).collect();
        let at = usize::try_from(row).expect("few");
        if row >= 8 && row % 4 == 0 {
            numbers[at] = infinity | 1 << (mantissa - 1);
        }
        if row >= 8 && row % 5 == 0 {
            numbers[2 * at] = infinity | (row % 2) << (size - 1);
        }
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes().into_iter().take(element.bytes())));
    }
    bytes
}

/// FNV-1a of 64 bits.
fn fnv1a(bytes: &[u8]) -> String {
    let step = |digest: u64, byte: &u8| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", bytes.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

/// Every NaN positive, quiet and without payload.
fn without_payload(element: Element, mut bytes: Vec<u8>) -> Vec<u8> {
    let (mantissa, exponent) = bits_of(element);
    let infinity = ((1_u64 << exponent) - 1) << mantissa;
    for number in bytes.chunks_exact_mut(element.bytes()) {
        let bits = number.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        if bits & (infinity | ((1 << mantissa) - 1)) > infinity {
            number.copy_from_slice(&(infinity | 1 << (mantissa - 1)).to_le_bytes()[..number.len()]);
        }
    }
    bytes
}

#[test]
fn affine_is_bit_for_bit_what_mlx_gives() {
    let Cases { cases } = serde_json::from_str(include_str!("quant_mlx.json")).expect("cases of the script");
    assert_eq!(cases.len(), 3 * 6 * 3);
    for Case { element, bits, group, codes, scales, biases, numbers } in cases {
        let name = format!("{element:?}, {bits} bits, groups of {group}");
        let codec = Codec::new(Scheme::Affine { bits, group }, element, 256).expect("a scheme of MLX");
        let mut vectors = vectors(element);
        let vector_bytes = WIDTH * element.bytes();
        let strides = Strides { rows: 2, row_bytes: VECTORS / 2 * vector_bytes, token_bytes: vector_bytes };
        let mut encoded = vec![0; codec.encoded_bytes(2, VECTORS / 2)];
        // SAFETY: two rows of half of the vectors each are all of them.
        let written = unsafe { codec.encode(vectors.as_ptr(), strides, VECTORS / 2, &mut encoded) };
        assert_eq!(written, encoded.len(), "{name}");

        let codes_bytes = VECTORS * WIDTH * usize::from(bits) / 8;
        let scales_bytes = VECTORS * WIDTH / usize::from(group) * element.bytes();
        assert_eq!(fnv1a(&encoded[..codes_bytes]), codes, "codes of {name}");
        assert_eq!(fnv1a(&encoded[codes_bytes..][..scales_bytes]), scales, "scales of {name}");
        assert_eq!(fnv1a(&encoded[codes_bytes + scales_bytes..]), biases, "biases of {name}");

        vectors.fill(0xAA);
        // SAFETY: as above, and they are this test's alone.
        let decoded = unsafe { codec.decode(&encoded, VECTORS / 2, 0..VECTORS / 2, vectors.as_mut_ptr(), strides) };
        decoded.expect("what was encoded");
        assert_eq!(fnv1a(&without_payload(element, vectors)), numbers, "numbers of {name}");
    }
}
