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
use super::quantizer::{Quantizer, Range, top_code};
use super::run::{Pieces, Source, Target};
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
        let top = top_code(BITS);
        let (codes_bytes, scales_bytes) = self.shape.part_bytes(self.source.rows(), BITS, E::BYTES);
        let (codes, parameters) = self.into.split_at_mut(codes_bytes);
        let (scales, biases) = parameters.split_at_mut(scales_bytes);
        let mut codes = codes.chunks_exact_mut(group * BITS as usize / 8);
        let mut scales = scales.chunks_mut(LANES * E::BYTES);
        let mut biases = biases.chunks_mut(LANES * E::BYTES);
        let all = self.source.rows() * tokens * (width / group);
        let mut pieces = Pieces::new(&self.source, tokens, group * E::BYTES);
        for first in (0..all).step_by(LANES) {
            let batch = LANES.min(all - first);
            let mut min = [0.0; LANES];
            let mut max = [0.0; LANES];
            let mut ahead = pieces.clone();
            for (min, max) in min.iter_mut().zip(&mut max).take(batch) {
                let mut range = Range::new(simd);
                for two in ahead.next().chunks_exact(2 * LANES * E::BYTES) {
                    let (one, other) = two.split_at(LANES * E::BYTES);
                    range.see(simd, E::load(simd, one));
                    range.see(simd, E::load(simd, other));
                }
                *min = simd.least(range.min);
                *max = simd.greatest(range.max);
            }
            let range = Range { min: simd.lanes(&min), max: simd.lanes(&max) };
            let quantizers = Quantizer::of(simd, &range, top);
            E::store_some(simd, quantizers.scale, scales.next().expect("as many as groups"));
            E::store_some(simd, quantizers.bias, biases.next().expect("as many as groups"));
            let scale = simd.to_array(quantizers.scale);
            let bias = simd.to_array(quantizers.bias);
            for (codes, (scale, bias)) in (&mut codes).zip(scale.into_iter().zip(bias)).take(batch) {
                let quantizer = Quantizer { scale: simd.splat(scale), bias: simd.splat(bias) };
                let twos = pieces.next().chunks_exact(2 * LANES * E::BYTES);
                for (two, codes) in twos.zip(codes.chunks_exact_mut(const { 2 * packed_bytes(BITS) })) {
                    let (one, other) = two.split_at(LANES * E::BYTES);
                    let (one_codes, other_codes) = codes.split_at_mut(const { packed_bytes(BITS) });
                    pack::<S, BITS>(simd, quantizer.codes(simd, E::load(simd, one), top), one_codes);
                    pack::<S, BITS>(simd, quantizer.codes(simd, E::load(simd, other), top), other_codes);
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
                    let sixteens = sixteens.zip(codes.chunks_exact(const { packed_bytes(BITS) }));
                    if const { BITS <= 4 && E::BYTES == 2 } {
                        // A group has more numbers than there are codes: each code's number is made once.
                        let mut table = [0; 2 * LANES];
                        E::store(simd, quantizer.numbers::<E>(simd, EVERY_CODE), &mut table);
                        for (sixteen, codes) in sixteens {
                            sixteen.copy_from_slice(&simd.pick(&table, unpack::<S, BITS>(simd, codes)));
                        }
                    } else {
                        for (sixteen, codes) in sixteens {
                            E::store(simd, quantizer.numbers::<E>(simd, unpack::<S, BITS>(simd, codes)), sixteen);
                        }
                    }
                }
            }
        }
    }
}

/// The codes of up to four bits.
const EVERY_CODE: [u8; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
