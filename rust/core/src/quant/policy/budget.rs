//! What `auto:` is given: a share of the 16-bit bytes, or bytes at a context.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Bytes of the units that people write, and their names; binary ones first, so that they win where both fit.
pub(super) const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Tokens of the units that people write. `k` is 1024: contexts of models are powers of two, and 128k is 131072.
pub(super) const TOKEN_UNITS: [(&str, u64); 2] = [("m", 1 << 20), ("k", 1 << 10)];

/// Most bytes of a budget.
pub(super) const BYTES_AT_MOST: u64 = 1 << 60;

/// Most tokens of a context.
pub(super) const TOKENS_AT_MOST: u64 = 1 << 32;

/// More than the products of floats are off by, relatively, and less than a byte of any cache.
const ROUNDING: f64 = 1e-15;

/// What the solver may spend. Written as `0.35` or `12GiB@128k`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Budget {
    /// A share of the bytes that the same keys and values take at 16 bit, whatever their number.
    Share(Share),
    /// Bytes for one request of so many tokens.
    Bytes {
        /// Most bytes.
        bytes: u64,
        /// Tokens of the context.
        tokens: u64,
    },
}

/// Above 0 and at most 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share(f64);

impl Share {
    /// `None` where it is not above 0 and at most 1.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        (share > 0.0 && share <= 1.0).then_some(Self(share))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// That share of `bytes`, rounded down. 29% of 100 bytes are 29, though the product of the nearest floats is less.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of at most 1 of bytes below 2^53"
    )]
    pub(super) fn of(self, bytes: u64) -> u64 {
        ((bytes as f64 * self.0 * (1.0 + ROUNDING)).floor() as u64).min(bytes)
    }
}

/// It is never NaN.
impl Eq for Share {}

impl Hash for Share {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// A number of bytes in the unit that needs the fewest digits and loses nothing.
pub(super) struct ExactBytes(pub(super) u64);

impl fmt::Display for ExactBytes {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = BYTE_UNITS.iter().filter(|(_, unit)| self.0.is_multiple_of(*unit));
        match fitting.min_by_key(|(_, unit)| self.0 / unit) {
            Some((name, unit)) => write!(to, "{}{name}", self.0 / unit),
            None => write!(to, "{}B", self.0),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Share(Share(share)) => write!(to, "{share}"),
            Self::Bytes { bytes, tokens } => {
                write!(to, "{}@", ExactBytes(bytes))?;
                match TOKEN_UNITS.iter().find(|(_, unit)| tokens.is_multiple_of(*unit)) {
                    Some((name, unit)) => write!(to, "{}{name}", tokens / unit),
                    None => write!(to, "{tokens}"),
                }
            }
        }
    }
}
