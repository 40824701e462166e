//! `channel`: a scale and a bias for each channel over a group of tokens (KIVI, arXiv 2402.02750).
//!
//! Keys have a few channels that are far larger than the others, in all tokens alike. Where a scale is a channel's own,
//! they cost the others nothing.
//!
//! A run of `tokens` is the codes `[rows, tokens, width]` as [a bit string](super::packing), then the scales
//! `[rows, ceil(tokens / group), width]`, then the biases likewise, both in the element's type. The last group of a run
//! is shorter where the group does not divide the run. The arithmetic is [`quantizer`](super::quantizer)'s.

use std::marker::PhantomData;
use std::ops::Range as Tokens;

use super::affine::Shape;
use super::element::Number;
use super::packing::{pack, packed_bytes, unpack};
use super::quantizer::{Quantizer, Range, top_code};
use super::run::{Source, Target};
use super::simd::{Kernel, LANES, Simd};

/// Bytes of the codes, and of the scales.
fn part_bytes(shape: Shape, rows: usize, bits: u32, element_bytes: usize) -> (usize, usize) {
    let Shape { tokens, width, group } = shape;
    (rows * tokens * width * bits as usize / 8, rows * tokens.div_ceil(group) * width * element_bytes)
}

/// Bytes of a run.
pub(super) fn run_bytes(shape: Shape, rows: usize, bits: u32, element_bytes: usize) -> usize {
    let (codes, scales) = part_bytes(shape, rows, bits, element_bytes);
    codes + 2 * scales
}

/// Writes a run.
pub(super) struct Encode<'a, E, const BITS: u32> {
    pub(super) source: Source,
    pub(super) shape: Shape,
    pub(super) into: &'a mut [u8],
    pub(super) element: PhantomData<E>,
}

impl<E: Number, const BITS: u32> Kernel for Encode<'_, E, BITS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Shape { tokens, width, group } = self.shape;
        let top = top_code(BITS);
        let (codes_bytes, scales_bytes) = part_bytes(self.shape, self.source.rows(), BITS, E::BYTES);
        let (codes, parameters) = self.into.split_at_mut(codes_bytes);
        let (scales, biases) = parameters.split_at_mut(scales_bytes);
        let packed = const { packed_bytes(BITS) };
        let vector_codes = width / LANES * packed;
        let sixteen_bytes = LANES * E::BYTES;
        let groups = scales.chunks_exact_mut(width * E::BYTES).zip(biases.chunks_exact_mut(width * E::BYTES));
        for (index, (scales, biases)) in groups.enumerate() {
            let row = index / tokens.div_ceil(group);
            let first = index % tokens.div_ceil(group) * group;
            let members = first..tokens.min(first + group);
            let sixteens = scales.chunks_exact_mut(sixteen_bytes).zip(biases.chunks_exact_mut(sixteen_bytes));
            for (at, (scales, biases)) in sixteens.enumerate() {
                let numbers =
                    |token| E::load(simd, &self.source.vector(row, token)[at * sixteen_bytes..][..sixteen_bytes]);
                let mut range = Range::new(simd);
                for token in members.clone() {
                    range.see(simd, numbers(token));
                }
                let quantizer = Quantizer::of(simd, &range, top);
                E::store_some(simd, quantizer.scale, scales);
                E::store_some(simd, quantizer.bias, biases);
                for token in members.clone() {
                    let codes = &mut codes[(row * tokens + token) * vector_codes + at * packed..][..packed];
                    pack::<S, BITS>(simd, quantizer.codes(simd, numbers(token), top), codes);
                }
            }
        }
    }
}

/// Reads some tokens of a run.
pub(super) struct Decode<'a, E, const BITS: u32> {
    pub(super) bytes: &'a [u8],
    pub(super) shape: Shape,
    pub(super) wanted: Tokens<usize>,
    pub(super) target: Target,
    pub(super) element: PhantomData<E>,
}

impl<E: Number, const BITS: u32> Kernel for Decode<'_, E, BITS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Shape { tokens, width, group } = self.shape;
        let (codes_bytes, scales_bytes) = part_bytes(self.shape, self.target.rows(), BITS, E::BYTES);
        let (codes, parameters) = self.bytes.split_at(codes_bytes);
        let (scales, biases) = parameters.split_at(scales_bytes);
        let packed = const { packed_bytes(BITS) };
        let vector_codes = width / LANES * packed;
        let (vector_bytes, sixteen_bytes) = (width * E::BYTES, LANES * E::BYTES);
        for row in 0..self.target.rows() {
            for (to, token) in self.wanted.clone().enumerate() {
                let parameters = (row * tokens.div_ceil(group) + token / group) * vector_bytes;
                let scales = scales[parameters..][..vector_bytes].chunks_exact(sixteen_bytes);
                let biases = biases[parameters..][..vector_bytes].chunks_exact(sixteen_bytes);
                let codes = codes[(row * tokens + token) * vector_codes..][..vector_codes].chunks_exact(packed);
                let sixteens = self.target.vector(row, to).chunks_exact_mut(sixteen_bytes);
                for ((sixteen, codes), (scales, biases)) in sixteens.zip(codes).zip(scales.zip(biases)) {
                    let quantizer = Quantizer { scale: E::load(simd, scales), bias: E::load(simd, biases) };
                    E::store(simd, quantizer.numbers::<E>(simd, unpack::<S, BITS>(simd, codes)), sixteen);
                }
            }
        }
    }
}
