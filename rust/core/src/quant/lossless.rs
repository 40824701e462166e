//! `lossless`: byte planes, each through an entropy coder.
//!
//! Of an array's numbers the exponents are much alike, the mantissas are noise. Each number is rotated left by one bit,
//! so that its sign is beside the mantissa and the exponent is in the uppermost byte, and the bytes of equal weight are
//! brought together: the uppermost plane becomes short, the others mostly stay as they are.
//!
//! A run is, for each plane from the lowest: a byte, [`RAW`] or [`ZSTD`], the length as a `u32` in little endian, and so
//! many bytes: the plane `[rows, tokens, width]` itself, or one frame of Zstandard (RFC 8878). Zstandard is asked to
//! look for repeats rarely, for there are few, and to code the bytes by their frequency always.

use std::cell::RefCell;
use std::ops::Range;

use zstd_safe::{CCtx, CParameter, DCtx, ParamSwitch, Strategy};

use super::error::Malformed;
use super::run::{Source, Target};
use super::simd::{Kernel, Simd, dispatch};

/// The plane as it is.
const RAW: u8 = 0;

/// A frame of Zstandard.
const ZSTD: u8 = 1;

/// Of a plane's kind and length.
const HEADER_BYTES: usize = 5;

/// Most bytes of a number.
const MOST_PLANES: usize = 4;

/// Bytes between two places where Zstandard looks for a repeat.
const SEARCH_STEP_BYTES: u32 = 64;

/// What a thread keeps from run to run, so that a run allocates nothing.
struct Coder {
    compressor: CCtx<'static>,
    decompressor: DCtx<'static>,
    planes: Vec<u8>,
}

thread_local! {
    static CODER: RefCell<Coder> = RefCell::new(Coder::new());
}

impl Coder {
    fn new() -> Self {
        let mut compressor = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(1),
            CParameter::Strategy(Strategy::ZSTD_fast),
            CParameter::TargetLength(SEARCH_STEP_BYTES),
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ] {
            compressor.set_parameter(parameter).expect("a parameter within its bounds");
        }
        Self { compressor, decompressor: DCtx::create(), planes: Vec::new() }
    }
}

/// Most bytes of a run of vectors of `vector_bytes`, whose numbers have `element_bytes` each.
pub(super) const fn most_bytes(vectors: usize, vector_bytes: usize, element_bytes: usize) -> usize {
    vectors * vector_bytes + element_bytes * HEADER_BYTES
}

/// Writes a run; gives the bytes written.
pub(super) fn encode(source: Source, tokens: usize, width: usize, element_bytes: usize, into: &mut [u8]) -> usize {
    CODER.with_borrow_mut(|Coder { compressor, planes, .. }| {
        let plane_bytes = source.rows() * tokens * width;
        planes.resize(element_bytes * plane_bytes, 0);
        dispatch(Split { source, tokens, width, element_bytes, planes });
        let mut written = 0;
        for plane in planes.chunks_exact(plane_bytes) {
            let (header, body) = into[written..].split_at_mut(HEADER_BYTES);
            // Where the frame would not be shorter than the plane, there is no room for it.
            let frame = compressor.compress2(&mut body[..plane_bytes - 1], plane);
            let (kind, length) = frame.map_or((RAW, plane_bytes), |length| (ZSTD, length));
            if kind == RAW {
                body[..plane_bytes].copy_from_slice(plane);
            }
            header[0] = kind;
            header[1..].copy_from_slice(&u32::try_from(length).expect("a run is below 4 GiB").to_le_bytes());
            written += HEADER_BYTES + length;
        }
        written
    })
}

/// Reads some tokens of a run.
pub(super) fn decode(
    bytes: &[u8],
    tokens: usize,
    wanted: Range<usize>,
    width: usize,
    element_bytes: usize,
    target: Target,
) -> Result<(), Malformed> {
    CODER.with_borrow_mut(|Coder { decompressor, planes, .. }| {
        let plane_bytes = target.rows() * tokens * width;
        planes.resize(element_bytes * plane_bytes, 0);
        let mut rest = bytes;
        let mut ready: [&[u8]; MOST_PLANES] = [&[]; MOST_PLANES];
        for (plane, ready) in planes.chunks_exact_mut(plane_bytes).zip(&mut ready) {
            let (header, body) = rest.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed::Planes)?;
            let [kind, length @ ..] = *header;
            let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| Malformed::Planes)?;
            let (body, after) = body.split_at_checked(length).ok_or(Malformed::Planes)?;
            rest = after;
            *ready = match kind {
                RAW if length == plane_bytes => body,
                ZSTD if decompressor.decompress(plane, body) == Ok(plane_bytes) => plane,
                ZSTD => return Err(Malformed::Entropy),
                _ => return Err(Malformed::Planes),
            };
        }
        if !rest.is_empty() {
            return Err(Malformed::Planes);
        }
        dispatch(Join { planes: ready, tokens, wanted, width, element_bytes, target });
        Ok(())
    })
}

/// Makes planes of numbers.
struct Split<'a> {
    source: Source,
    tokens: usize,
    width: usize,
    element_bytes: usize,
    planes: &'a mut [u8],
}

impl Kernel for Split<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let plane_bytes = self.planes.len() / self.element_bytes;
        let mut planes = self.planes.chunks_exact_mut(plane_bytes).map(|plane| plane.chunks_exact_mut(self.width));
        let mut next = || planes.next().into_iter().flatten();
        let vectors = (0..self.source.rows()).flat_map(|row| (0..self.tokens).map(move |token| (row, token)));
        if self.element_bytes == 2 {
            for (((row, token), low), high) in vectors.zip(next()).zip(next()) {
                let (numbers, _) = self.source.vector(row, token).as_chunks::<2>();
                for ((number, low), high) in numbers.iter().zip(low).zip(high) {
                    [*low, *high] = u16::from_le_bytes(*number).rotate_left(1).to_le_bytes();
                }
            }
        } else {
            for (((((row, token), a), b), c), d) in vectors.zip(next()).zip(next()).zip(next()).zip(next()) {
                let (numbers, _) = self.source.vector(row, token).as_chunks::<4>();
                for ((((number, a), b), c), d) in numbers.iter().zip(a).zip(b).zip(c).zip(d) {
                    [*a, *b, *c, *d] = u32::from_le_bytes(*number).rotate_left(1).to_le_bytes();
                }
            }
        }
    }
}

/// Makes numbers of planes.
struct Join<'a> {
    planes: [&'a [u8]; MOST_PLANES],
    tokens: usize,
    wanted: Range<usize>,
    width: usize,
    element_bytes: usize,
    target: Target,
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) {
        for row in 0..self.target.rows() {
            for (to, token) in self.wanted.clone().enumerate() {
                let at = (row * self.tokens + token) * self.width;
                let plane = |index: usize| &self.planes[index][at..at + self.width];
                if self.element_bytes == 2 {
                    let (numbers, _) = self.target.vector(row, to).as_chunks_mut::<2>();
                    for ((number, low), high) in numbers.iter_mut().zip(plane(0)).zip(plane(1)) {
                        *number = u16::from_le_bytes([*low, *high]).rotate_right(1).to_le_bytes();
                    }
                } else {
                    let (numbers, _) = self.target.vector(row, to).as_chunks_mut::<4>();
                    let bytes = plane(0).iter().zip(plane(1)).zip(plane(2)).zip(plane(3));
                    for (number, (((a, b), c), d)) in numbers.iter_mut().zip(bytes) {
                        *number = u32::from_le_bytes([*a, *b, *c, *d]).rotate_right(1).to_le_bytes();
                    }
                }
            }
        }
    }
}
