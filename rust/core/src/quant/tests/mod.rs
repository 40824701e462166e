//! What holds for every codec. The arrays are strided, with bytes between the vectors that no one may touch.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "few and small"
)]

mod bounds;
mod quality;
mod robust;

use std::ops::Range;

use half::{bf16, f16};
use proptest::prelude::*;

use super::{Codec, Element, Malformed, Scheme, Strides};

/// Between vectors, and before any decoding.
const UNTOUCHED: u8 = 0xA5;

/// Bytes between a vector and the next, and between a row and the next.
const GAP: usize = 6;

/// An array `[rows, tokens, width]` with gaps.
#[derive(Clone, PartialEq, Debug)]
struct Array {
    bytes: Vec<u8>,
    strides: Strides,
    tokens: usize,
    vector_bytes: usize,
}

impl PartialEq for Strides {
    fn eq(&self, other: &Self) -> bool {
        (self.rows, self.row_bytes, self.token_bytes) == (other.rows, other.row_bytes, other.token_bytes)
    }
}

impl Array {
    fn untouched(codec: &Codec, rows: usize, tokens: usize) -> Self {
        let vector_bytes = codec.vector_bytes();
        let token_bytes = vector_bytes + GAP;
        let row_bytes = tokens * token_bytes + GAP;
        let strides = Strides { rows, row_bytes, token_bytes };
        Self { bytes: vec![UNTOUCHED; rows * row_bytes], strides, tokens, vector_bytes }
    }

    /// With the vectors' bytes taken from `bits`, again and again.
    fn of_bits(codec: &Codec, rows: usize, tokens: usize, bits: &[u8]) -> Self {
        let mut array = Self::untouched(codec, rows, tokens);
        let mut bits = bits.iter().cycle();
        array.each_vector_mut(|vector| vector.iter_mut().for_each(|byte| *byte = *bits.next().expect("endless")));
        array
    }

    /// With numbers rounded to the codec's element type.
    fn of_numbers(codec: &Codec, rows: usize, tokens: usize, mut number: impl FnMut() -> f32) -> Self {
        let mut array = Self::untouched(codec, rows, tokens);
        let element = codec.element();
        array.each_vector_mut(|vector| {
            for bytes in vector.chunks_exact_mut(element.bytes()) {
                let number = number();
                match element {
                    Element::Float16 => bytes.copy_from_slice(&f16::from_f32(number).to_le_bytes()),
                    Element::Bfloat16 => bytes.copy_from_slice(&bf16::from_f32(number).to_le_bytes()),
                    Element::Float32 => bytes.copy_from_slice(&number.to_le_bytes()),
                }
            }
        });
        array
    }

    fn offsets(&self) -> impl Iterator<Item = usize> + use<> {
        let Strides { rows, row_bytes, token_bytes } = self.strides;
        let tokens = self.tokens;
        (0..rows).flat_map(move |row| (0..tokens).map(move |token| row * row_bytes + token * token_bytes))
    }

    fn each_vector_mut(&mut self, mut of: impl FnMut(&mut [u8])) {
        for offset in self.offsets() {
            of(&mut self.bytes[offset..offset + self.vector_bytes]);
        }
    }

    fn numbers(&self, element: Element) -> Vec<f32> {
        let vectors = self.offsets().flat_map(|offset| self.bytes[offset..offset + self.vector_bytes].to_vec());
        let bytes: Vec<u8> = vectors.collect();
        let number = |bytes: &[u8]| match *bytes {
            [a, b] if element == Element::Float16 => f16::from_le_bytes([a, b]).to_f32(),
            [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("an element has two or four bytes"),
        };
        bytes.chunks_exact(element.bytes()).map(number).collect()
    }

    #[expect(unsafe_code, reason = "codecs follow addresses")]
    fn encode(&self, codec: &Codec) -> Vec<u8> {
        let mut bytes = vec![0; codec.encoded_bytes(self.strides.rows, self.tokens)];
        // SAFETY: the strides are this array's.
        let written = unsafe { codec.encode(self.bytes.as_ptr(), self.strides, self.tokens, &mut bytes) };
        assert!(codec.is_lossless() || written == bytes.len(), "{codec}: {written} of {}", bytes.len());
        bytes.truncate(written);
        bytes
    }

    /// The wanted tokens of a run of `tokens`.
    #[expect(unsafe_code, reason = "codecs follow addresses")]
    fn decode(
        codec: &Codec,
        bytes: &[u8],
        rows: usize,
        tokens: usize,
        wanted: Range<usize>,
    ) -> Result<Self, Malformed> {
        let mut array = Self::untouched(codec, rows, wanted.len());
        // SAFETY: the strides are this array's, which has room for the wanted tokens.
        unsafe { codec.decode(bytes, tokens, wanted, array.bytes.as_mut_ptr(), array.strides) }?;
        let mut gaps = array.clone();
        gaps.each_vector_mut(|vector| vector.fill(UNTOUCHED));
        assert!(gaps.bytes.iter().all(|byte| *byte == UNTOUCHED), "{codec} wrote between the vectors");
        Ok(array)
    }

    fn round_trip(&self, codec: &Codec) -> Self {
        let Strides { rows, .. } = self.strides;
        Self::decode(codec, &self.encode(codec), rows, self.tokens, 0..self.tokens).expect("what was encoded")
    }
}

/// Every NaN as the same, for its sign and payload are the processor's.
fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| if number.is_nan() { f32::NAN.to_bits() } else { number.to_bits() }).collect()
}

fn element() -> impl Strategy<Value = Element> {
    prop_oneof![Just(Element::Float16), Just(Element::Bfloat16), Just(Element::Float32)]
}

fn scheme() -> impl Strategy<Value = Scheme> {
    let bits = || prop_oneof![Just(8), Just(6), Just(5), Just(4), Just(3), Just(2)];
    let group = || prop_oneof![Just(32), Just(64), Just(128)];
    prop_oneof![
        Just(Scheme::Lossless),
        (bits(), group()).prop_map(|(bits, group)| Scheme::Affine { bits, group }),
        (bits(), group()).prop_map(|(bits, group)| Scheme::Channel { bits, group }),
        (2..=16_u8).prop_map(|half_bits| Scheme::Rotated { half_bits }),
    ]
}

/// Any codec, for a width that suits it.
fn codec() -> impl Strategy<Value = Codec> {
    (scheme(), element(), 1..=5_u32).prop_map(|(scheme, element, times)| {
        let step = match scheme {
            Scheme::Lossless => 1,
            Scheme::Affine { group, .. } => u32::from(group),
            Scheme::Channel { .. } => 16,
            Scheme::Rotated { .. } => 32,
        };
        Codec::new(scheme, element, step * times).expect("a width that suits")
    })
}

/// Independent normal numbers: splitmix64 through the method of Box and Muller.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }
}
