//! How the keys or the values of one layer are held: the formats, their names and their sizes. Knows no model and no policy.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quant::Element;

/// Bits of a number that the packing of `mx.quantize` has.
pub const AFFINE_BITS: [u8; 6] = [2, 3, 4, 5, 6, 8];

/// Numbers (or, for [`Format::Channel`], tokens) that may share a scale and a bias.
pub const GROUPS: [u16; 3] = [32, 64, 128];

/// The group where none was asked for.
pub const DEFAULT_GROUP: u16 = 64;

/// Bytes of the norm that a rotated vector keeps, an IEEE binary16.
const NORM_BYTES: u64 = 2;

/// One of something for the keys, one for the values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyValue<T> {
    /// For the keys.
    pub k: T,
    /// For the values.
    pub v: T,
}

impl<T> KeyValue<T> {
    /// What it has for a part.
    pub fn get(&self, part: Part) -> &T {
        match part {
            Part::Keys => &self.k,
            Part::Values => &self.v,
        }
    }
}

/// Keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Part {
    /// The keys.
    Keys,
    /// The values.
    Values,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Keys, Self::Values];
}

impl fmt::Display for Part {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Keys => "K",
            Self::Values => "V",
        })
    }
}

/// How the keys or the values of one layer are held. `Group` is `u16` where the group is settled, and `Option<u16>` in a
/// policy, which may leave it to the model's width.
///
/// Written as `16`, `lossless`, `affine:BITS:GROUP`, `rotated:BITS`, `channel:BITS:GROUP`, in JSON too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Format<Group = u16> {
    /// As the model has it, whose numbers mostly have 16 bits.
    Plain,
    /// As the model has it; at rest in byte planes behind an entropy coder, so that nothing is lost.
    Lossless,
    /// A scale and a bias for each `group` numbers of a vector, in the packing of `mx.quantize`.
    Affine {
        /// Of a number: one of [`AFFINE_BITS`].
        bits: u8,
        /// Numbers that share scale and bias: one of [`GROUPS`].
        group: Group,
    },
    /// A randomized Hadamard rotation of each vector, its norm, and a Lloyd-Max codebook (`TurboQuant`, arXiv 2504.19874).
    Rotated {
        /// Twice the bits of a number, 2 to 16: 3.5 bits are 7, half of the numbers having 4 and half 3.
        half_bits: u8,
    },
    /// Of keys: a scale and a bias for each channel over `group` tokens that follow each other (KIVI, arXiv 2402.02750).
    Channel {
        /// Of a number: one of [`AFFINE_BITS`].
        bits: u8,
        /// Tokens that share a channel's scale and bias: one of [`GROUPS`].
        group: Group,
    },
}

/// A format as a policy asks for it.
pub type FormatSpec = Format<Option<u16>>;

impl<Group> Format<Group> {
    /// The same format with another way to say its group, if it has one.
    pub(super) fn try_map_group<Other, E>(
        self,
        settle: impl FnOnce(Group) -> Result<Other, E>,
    ) -> Result<Format<Other>, E> {
        Ok(match self {
            Self::Plain => Format::Plain,
            Self::Lossless => Format::Lossless,
            Self::Rotated { half_bits } => Format::Rotated { half_bits },
            Self::Affine { bits, group } => Format::Affine { bits, group: settle(group)? },
            Self::Channel { bits, group } => Format::Channel { bits, group: settle(group)? },
        })
    }

    /// Its group, if it has one.
    pub(super) fn group(&self) -> Option<&Group> {
        match self {
            Self::Affine { group, .. } | Self::Channel { group, .. } => Some(group),
            Self::Plain | Self::Lossless | Self::Rotated { .. } => None,
        }
    }

    /// What the values have under a scheme that treats keys in a way of their own: `channel` is affine for values.
    #[must_use]
    pub(super) fn of_values(self) -> Self {
        match self {
            Self::Channel { bits, group } => Self::Affine { bits, group },
            other => other,
        }
    }
}

impl Format {
    /// Bytes of a run of tokens with one vector of `width` numbers each, scales, biases and norms included. For
    /// [`Format::Lossless`] about the most that it takes, which is the plain size: what it takes depends on the numbers.
    ///
    /// The tokens behind the last full group of [`Format::Channel`] are a smaller group with a scale and a bias of its own.
    #[must_use]
    pub fn run_bytes(self, tokens: u64, width: u32, element: Element) -> u64 {
        let width = u64::from(width);
        let scale_and_bias = 2 * element.bytes() as u64;
        match self {
            Self::Plain | Self::Lossless => tokens.saturating_mul(width * element.bytes() as u64),
            Self::Affine { bits, group } => {
                let packed = (width * u64::from(bits)).div_ceil(8);
                tokens.saturating_mul(packed + width.div_ceil(u64::from(group)) * scale_and_bias)
            }
            Self::Rotated { half_bits } => {
                tokens.saturating_mul((width * u64::from(half_bits)).div_ceil(16) + NORM_BYTES)
            }
            Self::Channel { bits, group } => {
                let packed = tokens.saturating_mul(width * u64::from(bits)).div_ceil(8);
                packed.saturating_add(tokens.div_ceil(u64::from(group)).saturating_mul(width * scale_and_bias))
            }
        }
    }

    /// The same as running caches hold it: the codes of a rotated vector are whole 32-bit words.
    #[must_use]
    pub fn live_run_bytes(self, tokens: u64, width: u32, element: Element) -> u64 {
        match self {
            Self::Rotated { half_bits } => {
                let words = (u64::from(width) * u64::from(half_bits)).div_ceil(64);
                tokens.saturating_mul(4 * words + NORM_BYTES)
            }
            other => other.run_bytes(tokens, width, element),
        }
    }

    /// Bits of a number, its share of scales, biases and norms included: 4.5 for `affine:4:64` of 16-bit numbers. For
    /// [`Format::Lossless`] the most.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes of vectors are far below 2^52")]
    pub fn bits_per_number(self, width: u32, element: Element) -> f64 {
        // A run that every group divides.
        let tokens = u64::from(GROUPS[GROUPS.len() - 1]);
        8.0 * self.run_bytes(tokens, width, element) as f64 / (tokens * u64::from(width.max(1))) as f64
    }

    /// Whether what it holds is not exactly what was given to it.
    #[must_use]
    pub fn is_lossy(self) -> bool {
        !matches!(self, Self::Plain | Self::Lossless)
    }

    /// Whether numbers that were held in this format lose nothing more that matters by being held in `other`: this one is
    /// exact, or of the same scheme with more bits, or with as many and no larger groups.
    #[must_use]
    pub fn is_at_least_as_precise_as(self, other: Self) -> bool {
        match (self, other) {
            (Self::Plain | Self::Lossless, _) => true,
            (Self::Affine { bits, group }, Self::Affine { bits: other_bits, group: other_group })
            | (Self::Channel { bits, group }, Self::Channel { bits: other_bits, group: other_group }) => {
                bits > other_bits || (bits == other_bits && group <= other_group)
            }
            (Self::Rotated { half_bits }, Self::Rotated { half_bits: other_bits }) => half_bits >= other_bits,
            _ => false,
        }
    }
}

/// Bits as people write them: `4`, `3.5`.
pub(super) struct HalfBits(pub(super) u8);

impl fmt::Display for HalfBits {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}{}", self.0 / 2, if self.0 % 2 == 1 { ".5" } else { "" })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => to.write_str("16"),
            Self::Lossless => to.write_str("lossless"),
            Self::Affine { bits, group } => write!(to, "affine:{bits}:{group}"),
            Self::Rotated { half_bits } => write!(to, "rotated:{}", HalfBits(*half_bits)),
            Self::Channel { bits, group } => write!(to, "channel:{bits}:{group}"),
        }
    }
}

impl fmt::Display for FormatSpec {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine { bits, group: None } => write!(to, "affine:{bits}"),
            Self::Channel { bits, group: None } => write!(to, "channel:{bits}"),
            // The default stands for nothing here: every group that is left is there.
            settled => settled.try_map_group(|group| Ok::<u16, fmt::Error>(group.unwrap_or(DEFAULT_GROUP)))?.fmt(to),
        }
    }
}

impl From<Format> for FormatSpec {
    fn from(format: Format) -> Self {
        match format {
            Format::Plain => Self::Plain,
            Format::Lossless => Self::Lossless,
            Format::Rotated { half_bits } => Self::Rotated { half_bits },
            Format::Affine { bits, group } => Self::Affine { bits, group: Some(group) },
            Format::Channel { bits, group } => Self::Channel { bits, group: Some(group) },
        }
    }
}
