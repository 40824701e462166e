//! How the bytes of one array are kept at rest: named, sized, encoded and decoded.

#![expect(unsafe_code, reason = "encodes from and decodes to the caller's addresses")]

use std::marker::PhantomData;
use std::ops::Range;

use super::affine;
use super::channel;
use super::element::{Bfloat16, Element, Float16, Float32, Number};
use super::error::{CodecError, Malformed};
use super::lossless;
use super::rotated;
use super::run::{Source, Target};
use super::simd::dispatch;

/// How numbers become fewer bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// Nothing is lost: byte planes and an entropy coder. Its records differ in length.
    Lossless,
    /// A scale and a bias for each `group` numbers of a vector, in the packing of `mx.quantize`.
    Affine {
        /// Of a number: 8, 6, 5, 4, 3 or 2.
        bits: u8,
        /// Numbers that share scale and bias: 32, 64 or 128.
        group: u16,
    },
    /// A randomized Hadamard rotation of each vector, its norm, and a Lloyd-Max codebook (`TurboQuant`, arXiv 2504.19874).
    Rotated {
        /// Twice the bits of a number, so that 3.5 bits are 7: half of the rotated numbers have 4 bits, half 3.
        half_bits: u8,
    },
    /// A scale and a bias for each channel over `group` tokens that follow each other (KIVI, arXiv 2402.02750).
    Channel {
        /// Of a number: 8, 6, 5, 4, 3 or 2.
        bits: u8,
        /// Tokens that share a channel's scale and bias: 32, 64 or 128.
        group: u16,
    },
}

/// A scheme for vectors of a certain kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Codec {
    scheme: Scheme,
    element: Element,
    width: u32,
}

/// Where the vectors of a run of tokens are in memory: `[rows, tokens, width]`, the last axis dense.
#[derive(Clone, Copy, Debug)]
pub struct Strides {
    /// Heads.
    pub rows: usize,
    /// Bytes from a row to the next.
    pub row_bytes: usize,
    /// Bytes from a token to the next within a row.
    pub token_bytes: usize,
}

/// Calls `$call` with the type that stands for `$element`.
macro_rules! with_number {
    ($element:expr, $name:ident => $call:expr) => {
        match $element {
            Element::Float16 => {
                type $name = Float16;
                $call
            }
            Element::Bfloat16 => {
                type $name = Bfloat16;
                $call
            }
            Element::Float32 => {
                type $name = Float32;
                $call
            }
        }
    };
}

impl Codec {
    /// `scheme` for vectors of `width` numbers.
    ///
    /// # Errors
    /// The scheme has no such bits or group, or cannot cut vectors of that width.
    pub fn new(scheme: Scheme, element: Element, width: u32) -> Result<Self, CodecError> {
        let bits_and_group = |bits: u8, group: u16| {
            if !matches!(bits, 8 | 6 | 5 | 4 | 3 | 2) {
                return Err(CodecError::Bits { scheme, allowed: "8, 6, 5, 4, 3 or 2" });
            }
            if !matches!(group, 32 | 64 | 128) {
                return Err(CodecError::Group(scheme));
            }
            Ok(())
        };
        let multiple = match scheme {
            Scheme::Lossless => 1,
            Scheme::Affine { bits, group } => {
                bits_and_group(bits, group)?;
                u32::from(group)
            }
            Scheme::Rotated { half_bits } => {
                if !(2..=16).contains(&half_bits) {
                    return Err(CodecError::Bits { scheme, allowed: "1 to 8 in steps of a half" });
                }
                32
            }
            Scheme::Channel { bits, group } => {
                bits_and_group(bits, group)?;
                16
            }
        };
        if width == 0 || !width.is_multiple_of(multiple) {
            return Err(CodecError::Width { scheme, width, multiple });
        }
        Ok(Self { scheme, element, width })
    }

    /// How numbers become fewer bytes.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The type of the array's numbers.
    #[must_use]
    pub const fn element(&self) -> Element {
        self.element
    }

    /// Numbers of a vector.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Whether the encoded length depends on the contents.
    #[must_use]
    pub const fn is_lossless(&self) -> bool {
        matches!(self.scheme, Scheme::Lossless)
    }

    /// Bytes of a vector in memory.
    #[must_use]
    pub const fn vector_bytes(&self) -> usize {
        self.width as usize * self.element.bytes()
    }

    /// Most bytes that `tokens` tokens of `rows` rows take; exactly so many unless [`Self::is_lossless`].
    #[must_use]
    pub fn encoded_bytes(&self, rows: usize, tokens: usize) -> usize {
        let width = self.width as usize;
        match self.scheme {
            Scheme::Affine { bits, group } => {
                let parameters = width / usize::from(group) * self.element.bytes();
                rows * tokens * (width * usize::from(bits) / 8 + 2 * parameters)
            }
            Scheme::Rotated { .. } => self.rotated(tokens).run_bytes(rows, self.element.bytes()),
            Scheme::Channel { bits, group } => {
                channel::run_bytes(self.grouped(tokens, group), rows, u32::from(bits), self.element.bytes())
            }
            Scheme::Lossless => lossless::most_bytes(rows * tokens, self.vector_bytes(), self.element.bytes()),
        }
    }

    fn grouped(&self, tokens: usize, group: u16) -> affine::Shape {
        affine::Shape { tokens, width: self.width as usize, group: usize::from(group) }
    }

    fn rotated(&self, tokens: usize) -> rotated::Shape {
        let Scheme::Rotated { half_bits } = self.scheme else { unreachable!("asked by that scheme only") };
        rotated::Shape { tokens, width: self.width as usize, half_bits: usize::from(half_bits) }
    }

    /// Encodes `tokens` tokens at `from` into the front of `into`; gives the bytes written.
    ///
    /// # Panics
    /// `into` is shorter than [`Self::encoded_bytes`].
    ///
    /// # Safety
    /// The [`vector_bytes`](Self::vector_bytes) of every row and token at `from` are readable, and nobody writes them
    /// during the call.
    pub unsafe fn encode(&self, from: *const u8, strides: Strides, tokens: usize, into: &mut [u8]) -> usize {
        // SAFETY: the caller's promise.
        let source = unsafe { Source::new(from, strides, self.vector_bytes()) };
        let into = &mut into[..self.encoded_bytes(strides.rows, tokens)];
        with_number!(self.element, E => self.encode_as::<E>(source, tokens, into))
    }

    fn encode_as<E: Number>(&self, source: Source, tokens: usize, into: &mut [u8]) -> usize {
        let written = into.len();
        let element = PhantomData::<E>;
        match self.scheme {
            Scheme::Affine { bits, group } => {
                let shape = self.grouped(tokens, group);
                with_bits!(bits, one of [2, 3, 4, 5, 6, 8], BITS => dispatch(affine::Encode::<E, BITS> { source, shape, into, element }));
            }
            Scheme::Rotated { .. } => {
                dispatch(rotated::Encode::<E> { source, shape: self.rotated(tokens), into, element });
            }
            Scheme::Channel { bits, group } => {
                let shape = self.grouped(tokens, group);
                with_bits!(bits, one of [2, 3, 4, 5, 6, 8], BITS => dispatch(channel::Encode::<E, BITS> { source, shape, into, element }));
            }
            Scheme::Lossless => return lossless::encode(source, tokens, self.width as usize, E::BYTES, into),
        }
        written
    }

    /// Decodes tokens `wanted` of a run of `tokens` that `encode` wrote as `bytes`; the first of them goes to `to`.
    ///
    /// # Errors
    /// `bytes` are not what `encode` writes for such a run. The target is then written in part or not at all.
    ///
    /// # Panics
    /// `wanted` is beyond `tokens`.
    ///
    /// # Safety
    /// The [`vector_bytes`](Self::vector_bytes) of every row and wanted token at `to` are writable and overlap neither
    /// each other nor `bytes`, and nobody else reads or writes them during the call.
    pub unsafe fn decode(
        &self,
        bytes: &[u8],
        tokens: usize,
        wanted: Range<usize>,
        to: *mut u8,
        strides: Strides,
    ) -> Result<(), Malformed> {
        assert!(wanted.end <= tokens, "tokens {wanted:?} of a run of {tokens}");
        let expected = self.encoded_bytes(strides.rows, tokens);
        if !self.is_lossless() && bytes.len() != expected {
            return Err(Malformed::Length { expected, found: bytes.len() });
        }
        // SAFETY: the caller's promise.
        let target = unsafe { Target::new(to, strides, self.vector_bytes()) };
        with_number!(self.element, E => self.decode_as::<E>(bytes, tokens, wanted, target))
    }

    fn decode_as<E: Number>(
        &self,
        bytes: &[u8],
        tokens: usize,
        wanted: Range<usize>,
        target: Target,
    ) -> Result<(), Malformed> {
        let element = PhantomData::<E>;
        match self.scheme {
            Scheme::Affine { bits, group } => {
                let shape = self.grouped(tokens, group);
                with_bits!(bits, one of [2, 3, 4, 5, 6, 8], BITS => dispatch(affine::Decode::<E, BITS> { bytes, shape, wanted, target, element }));
            }
            Scheme::Rotated { .. } => {
                let shape = self.rotated(tokens);
                dispatch(rotated::Decode::<E> { bytes, shape, wanted, target, element });
            }
            Scheme::Channel { bits, group } => {
                let shape = self.grouped(tokens, group);
                with_bits!(bits, one of [2, 3, 4, 5, 6, 8], BITS => dispatch(channel::Decode::<E, BITS> { bytes, shape, wanted, target, element }));
            }
            Scheme::Lossless => {
                return lossless::decode(bytes, tokens, wanted, self.width as usize, E::BYTES, target);
            }
        }
        Ok(())
    }
}
