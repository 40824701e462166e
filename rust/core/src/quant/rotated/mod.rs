//! `rotated`: a randomized Hadamard rotation, the vector's size, and a code for each coordinate (`TurboQuant`, arXiv
//! 2504.19874, its variant for least squares).
//!
//! A vector is cut into blocks of the largest power of two that divides its width, 1024 at most. A block is
//! [rotated](rotation), divided by its root mean square, and each coordinate becomes the code of the nearest level of
//! the [codebook]. With half a bit, the first half of a block's coordinates has the bit more. A block whose root mean
//! square is no finite number in binary32, since NaN or infinity is in it or its squares overflow, is NaN throughout.
//!
//! A run is the codes `[rows, tokens, blocks]`, a block's as two [bit strings](super::packing): its first half, then its
//! second; then the root mean squares `[rows, tokens, blocks]` in the element's type.

#![expect(clippy::cast_precision_loss, reason = "1024 numbers are rotated together at most")]

mod codebook;
mod rotation;

use std::marker::PhantomData;
use std::ops::Range as Tokens;

use super::element::Number;
use super::packing::{pack, packed_bytes, unpack};
use super::run::{Pieces, Source, Target};
use super::simd::{Kernel, LANES, Simd};
use codebook::{CELLS, CELLS_OF_UNIT, Codebook, MIDDLE_CELL};
use rotation::{MOST, SIGNS, hadamard};

/// The sizes of a run.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) tokens: usize,
    pub(super) width: usize,
    pub(super) half_bits: usize,
}

impl Shape {
    /// Numbers that are rotated together.
    fn block(self) -> usize {
        MOST.min(1 << self.width.trailing_zeros())
    }

    /// Bits of the first half's codes and of the second's.
    fn bits(self) -> [usize; 2] {
        [self.half_bits.div_ceil(2), self.half_bits / 2]
    }

    /// Bytes of the codes.
    fn codes_bytes(self, rows: usize) -> usize {
        rows * self.tokens * self.width * self.half_bits / 16
    }

    /// Bytes of a run.
    pub(super) fn run_bytes(self, rows: usize, element_bytes: usize) -> usize {
        self.codes_bytes(rows) + rows * self.tokens * (self.width / self.block()) * element_bytes
    }
}

/// Writes a run.
pub(super) struct Encode<'a, E> {
    pub(super) source: Source,
    pub(super) shape: Shape,
    pub(super) into: &'a mut [u8],
    pub(super) element: PhantomData<E>,
}

impl<E: Number> Kernel for Encode<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let block = self.shape.block();
        let (codes, sizes) = self.into.split_at_mut(self.shape.codes_bytes(self.source.rows()));
        let mut pieces = Pieces::new(&self.source, self.shape.tokens, block * E::BYTES);
        let mut buffer = [0.0; MOST];
        let numbers = &mut buffer[..block];
        let bits = self.shape.bits();
        let books = bits.map(Codebook::of);
        let half_bytes = block / 2 * bits[0] / 8;
        let blocks = codes.chunks_exact_mut(block * self.shape.half_bits / 16);
        for (codes, size) in blocks.zip(sizes.chunks_exact_mut(E::BYTES)) {
            let size = {
                let root = load::<S, E>(simd, pieces.next(), numbers);
                E::store_some(simd, simd.splat(if root.is_finite() { root } else { f32::NAN }), size);
                E::get(size)
            };
            hadamard(simd, numbers);
            let unit = if size > 0.0 { 1.0 / (size * (block as f32).sqrt()) } else { 0.0 };
            let (first, second) = numbers.split_at(block / 2);
            let (first_codes, second_codes) = codes.split_at_mut(half_bytes);
            with_bits!(bits[0], one of [1, 2, 3, 4, 5, 6, 7, 8], BITS => code::<S, BITS>(simd, first, unit, books[0], first_codes));
            with_bits!(bits[1], one of [1, 2, 3, 4, 5, 6, 7, 8], BITS => code::<S, BITS>(simd, second, unit, books[1], second_codes));
        }
    }
}

/// Takes numbers into `to`, with the rotation's signs. Gives their root mean square.
#[inline(always)]
fn load<S: Simd, E: Number>(simd: S, from: &[u8], to: &mut [f32]) -> f32 {
    let mut squares = simd.splat(0.0);
    let (signs, _) = SIGNS.as_chunks::<LANES>();
    let count = to.len() as f32;
    for ((from, to), signs) in from.chunks_exact(LANES * E::BYTES).zip(to.as_chunks_mut::<LANES>().0).zip(signs) {
        let numbers = E::load(simd, from);
        squares = simd.add(squares, simd.mul(numbers, numbers));
        *to = simd.to_array(simd.mul(numbers, simd.lanes(signs)));
    }
    let mut squares = simd.to_array(squares);
    // In this order on every path.
    for apart in [8, 4, 2, 1] {
        for at in 0..apart {
            squares[at] += squares[at + apart];
        }
    }
    (squares[0] / count).sqrt()
}

/// Writes the codes of `numbers` times `unit`.
#[inline(always)]
fn code<S: Simd, const BITS: u32>(simd: S, numbers: &[f32], unit: f32, book: &Codebook, to: &mut [u8]) {
    let unit = simd.splat(unit);
    let to = to.chunks_exact_mut(const { packed_bytes(BITS) });
    for (sixteen, to) in numbers.as_chunks::<LANES>().0.iter().zip(to) {
        let coordinates = simd.mul(simd.lanes(sixteen), unit);
        let codes = if const { BITS <= 5 } {
            let mut codes = simd.splat(0.0);
            for deciding in book.deciding.iter().take(BITS as usize) {
                let twice = simd.add(codes, codes);
                let one = simd.add(twice, simd.splat(1.0));
                codes = simd.select_greater(coordinates, simd.gather(deciding, codes), one, twice);
            }
            codes
        } else {
            let cells = simd.add(simd.mul(coordinates, simd.splat(CELLS_OF_UNIT)), simd.splat(MIDDLE_CELL));
            let cells = simd.min(simd.max(cells, simd.splat(0.0)), simd.splat((CELLS - 1) as f32));
            let lower = simd.gather(&book.lower, cells);
            let upper = simd.add(lower, simd.splat(1.0));
            simd.select_greater(coordinates, simd.gather(&book.boundary, cells), upper, lower)
        };
        pack::<S, BITS>(simd, simd.store_codes(codes), to);
    }
}

/// Reads some tokens of a run.
pub(super) struct Decode<'a, E> {
    pub(super) bytes: &'a [u8],
    pub(super) shape: Shape,
    pub(super) wanted: Tokens<usize>,
    pub(super) target: Target,
    pub(super) element: PhantomData<E>,
}

impl<E: Number> Kernel for Decode<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Shape { tokens, width, half_bits } = self.shape;
        let block = self.shape.block();
        let (codes, sizes) = self.bytes.split_at(self.shape.codes_bytes(self.target.rows()));
        let (vector_codes, vector_sizes) = (width * half_bits / 16, width / block * E::BYTES);
        let mut buffer = [0.0; MOST];
        let numbers = &mut buffer[..block];
        let bits = self.shape.bits();
        let books = bits.map(Codebook::of);
        let half_bytes = block / 2 * bits[0] / 8;
        for row in 0..self.target.rows() {
            for (to, token) in self.wanted.clone().enumerate() {
                let vector = row * tokens + token;
                let codes = codes[vector * vector_codes..][..vector_codes].chunks_exact(block * half_bits / 16);
                let sizes = sizes[vector * vector_sizes..][..vector_sizes].chunks_exact(E::BYTES);
                let blocks = self.target.vector(row, to).chunks_exact_mut(block * E::BYTES);
                for ((to, codes), size) in blocks.zip(codes).zip(sizes) {
                    let (first, second) = numbers.split_at_mut(block / 2);
                    let (first_codes, second_codes) = codes.split_at(half_bytes);
                    with_bits!(bits[0], one of [1, 2, 3, 4, 5, 6, 7, 8], BITS => decode::<S, BITS>(simd, first_codes, books[0], first));
                    with_bits!(bits[1], one of [1, 2, 3, 4, 5, 6, 7, 8], BITS => decode::<S, BITS>(simd, second_codes, books[1], second));
                    hadamard(simd, numbers);
                    store::<S, E>(simd, numbers, E::get(size) / (block as f32).sqrt(), to);
                }
            }
        }
    }
}

/// The levels of codes.
#[inline(always)]
fn decode<S: Simd, const BITS: u32>(simd: S, codes: &[u8], book: &Codebook, to: &mut [f32]) {
    let codes = codes.chunks_exact(const { packed_bytes(BITS) });
    for (sixteen, codes) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(codes) {
        let codes = simd.load_codes(unpack::<S, BITS>(simd, codes));
        // Few levels fit into registers.
        *sixteen = simd.to_array(match BITS {
            1..=4 => simd.gather(front::<16>(&book.levels), codes),
            5 => simd.gather(front::<32>(&book.levels), codes),
            6 => simd.gather(front::<64>(&book.levels), codes),
            _ => simd.gather(&book.levels, codes),
        });
    }
}

#[inline(always)]
fn front<const N: usize>(levels: &[f32; 256]) -> &[f32; N] {
    levels.first_chunk().expect("256 of them")
}

/// Gives numbers times `unit` out of `from`, without the rotation's signs.
#[inline(always)]
fn store<S: Simd, E: Number>(simd: S, from: &[f32], unit: f32, to: &mut [u8]) {
    let unit = simd.splat(unit);
    let (signs, _) = SIGNS.as_chunks::<LANES>();
    for ((from, to), signs) in from.as_chunks::<LANES>().0.iter().zip(to.chunks_exact_mut(LANES * E::BYTES)).zip(signs)
    {
        let numbers = simd.mul(simd.lanes(from), unit);
        E::store(simd, simd.mul(numbers, simd.lanes(signs)), to);
    }
}
