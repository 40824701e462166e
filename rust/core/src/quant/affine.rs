//! `affine`: a scale and a bias for each group of numbers of a vector, as `mx.quantize` writes them.
//!
//! A run of `tokens` is the codes `[rows, tokens, width]` as [a bit string](super::packing), then the scales
//! `[rows, tokens, width / group]`, then the biases likewise, both in the element's type. The arithmetic is
//! [`quantizer`](super::quantizer)'s. Each of the three is what `mx.quantize` gives, byte for byte, but for the sign and
//! payload of NaN, which MLX leaves to the processor: here NaN is positive, quiet, and without payload.

use std::marker::PhantomData;
use std::ops::Range as Tokens;

use super::element::Number;
use super::packing::{pack, packed_bytes, unpack};
use super::quantizer::{Quantizer, Range};
use super::run::{Source, Target};
use super::simd::{Kernel, LANES, Simd};

/// The sizes of a run.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) tokens: usize,
    pub(super) width: usize,
    pub(super) group: usize,
}

impl Shape {
    /// Bytes of the codes, and of the scales.
    fn part_bytes(self, rows: usize, bits: u32, element_bytes: usize) -> (usize, usize) {
        let numbers = rows * self.tokens * self.width;
        (numbers * bits as usize / 8, numbers / self.group * element_bytes)
    }
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
        let top = const { ((1 << BITS) - 1) as f32 };
        let (codes_bytes, scales_bytes) = self.shape.part_bytes(self.source.rows(), BITS, E::BYTES);
        let (codes, parameters) = self.into.split_at_mut(codes_bytes);
        let (scales, biases) = parameters.split_at_mut(scales_bytes);
        let groups = width / group;
        let mut codes = codes.chunks_exact_mut(group * BITS as usize / 8);
        let mut scales = scales.chunks_mut(LANES * E::BYTES);
        let mut biases = biases.chunks_mut(LANES * E::BYTES);
        let all = self.source.rows() * tokens * groups;
        let numbers = |index: usize| {
            let vector = index / groups;
            let at = index % groups * group * E::BYTES;
            &self.source.vector(vector / tokens, vector % tokens)[at..at + group * E::BYTES]
        };
        for first in (0..all).step_by(LANES) {
            let batch = first..all.min(first + LANES);
            let mut min = [0.0; LANES];
            let mut max = [0.0; LANES];
            for (index, (min, max)) in batch.clone().zip(min.iter_mut().zip(&mut max)) {
                let mut range = Range::new(simd);
                for sixteen in numbers(index).chunks_exact(LANES * E::BYTES) {
                    range.see(simd, E::load(simd, sixteen));
                }
                *min = simd.least(range.min);
                *max = simd.greatest(range.max);
            }
            let range = Range { min: simd.from_array(&min), max: simd.from_array(&max) };
            let quantizers = Quantizer::of(simd, &range, top);
            E::store_some(simd, quantizers.scale, scales.next().expect("as many as groups"));
            E::store_some(simd, quantizers.bias, biases.next().expect("as many as groups"));
            let scale = simd.to_array(quantizers.scale);
            let bias = simd.to_array(quantizers.bias);
            for ((index, codes), (scale, bias)) in batch.zip(&mut codes).zip(scale.into_iter().zip(bias)) {
                let quantizer = Quantizer { scale: simd.splat(scale), bias: simd.splat(bias) };
                let sixteens = numbers(index).chunks_exact(LANES * E::BYTES);
                for (sixteen, codes) in sixteens.zip(codes.chunks_exact_mut(const { packed_bytes(BITS) })) {
                    pack::<BITS>(quantizer.codes(simd, E::load(simd, sixteen), top), codes);
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
        let (codes_bytes, scales_bytes) = self.shape.part_bytes(self.target.rows(), BITS, E::BYTES);
        let (codes, parameters) = self.bytes.split_at(codes_bytes);
        let (scales, biases) = parameters.split_at(scales_bytes);
        let vector_codes = width * BITS as usize / 8;
        let vector_parameters = width / group * E::BYTES;
        for row in 0..self.target.rows() {
            for (at, token) in self.wanted.clone().enumerate() {
                let vector = row * tokens + token;
                let codes = &codes[vector * vector_codes..][..vector_codes];
                let scales = &scales[vector * vector_parameters..][..vector_parameters];
                let biases = &biases[vector * vector_parameters..][..vector_parameters];
                let groups = self.target.vector(row, at).chunks_exact_mut(group * E::BYTES);
                let parameters = scales.chunks_exact(E::BYTES).zip(biases.chunks_exact(E::BYTES));
                for ((numbers, codes), (scale, bias)) in
                    groups.zip(codes.chunks_exact(group * BITS as usize / 8)).zip(parameters)
                {
                    let quantizer = Quantizer { scale: simd.splat(E::get(scale)), bias: simd.splat(E::get(bias)) };
                    let sixteens = numbers.chunks_exact_mut(LANES * E::BYTES);
                    for (sixteen, codes) in sixteens.zip(codes.chunks_exact(const { packed_bytes(BITS) })) {
                        E::store(simd, quantizer.numbers::<E>(simd, unpack::<BITS>(codes)), sixteen);
                    }
                }
            }
        }
    }
}
