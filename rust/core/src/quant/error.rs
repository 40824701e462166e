//! What can be wrong with a codec's name or with the bytes it is given.

use thiserror::Error;

use super::codec::Scheme;

/// A codec that cannot be: the text names none, or the scheme does not go with the width.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CodecError {
    /// The text names no scheme.
    #[error("{0:?} names no codec: try lossless, affine:4:64, rotated:3.5 or channel:4:64")]
    Unknown(String),
    /// The scheme has no such number of bits.
    #[error("{scheme}: {allowed} bits are to be had")]
    Bits {
        /// As asked for.
        scheme: Scheme,
        /// What there is.
        allowed: &'static str,
    },
    /// The scheme has no such group.
    #[error("{0}: groups have 32, 64 or 128 numbers")]
    Group(Scheme),
    /// Vectors of this width cannot be cut as the scheme asks.
    #[error("{scheme} cannot take vectors of {width} numbers: the width must be a multiple of {multiple}")]
    Width {
        /// As asked for.
        scheme: Scheme,
        /// Numbers of a vector.
        width: u32,
        /// What would divide it.
        multiple: u32,
    },
}

/// Bytes that no [`Codec::encode`](super::Codec::encode) of this codec wrote for this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// Too few or too many.
    #[error("{found} encoded bytes where {expected} were to be")]
    Length {
        /// What the run takes.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// A byte plane is marked as nothing known, or its length is beyond the bytes.
    #[error("the byte planes are not laid out as a lossless run")]
    Planes,
    /// The entropy coder refuses a plane, or it has another length than the run's.
    #[error("a byte plane does not decompress to the run's length")]
    Entropy,
}
