//! Short names of codecs: `lossless`, `affine:4:64`, `rotated:3.5`, `channel:4:64`.

use std::fmt;
use std::str::FromStr;

use super::codec::{Codec, Scheme};
use super::element::Element;
use super::error::CodecError;

impl fmt::Display for Scheme {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Lossless => write!(to, "lossless"),
            Self::Affine { bits, group } => write!(to, "affine:{bits}:{group}"),
            Self::Rotated { half_bits } if half_bits % 2 == 0 => write!(to, "rotated:{}", half_bits / 2),
            Self::Rotated { half_bits } => write!(to, "rotated:{}.5", half_bits / 2),
            Self::Channel { bits, group } => write!(to, "channel:{bits}:{group}"),
        }
    }
}

impl FromStr for Scheme {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Self, CodecError> {
        let scheme = || {
            let mut words = text.split(':');
            let name = words.next()?;
            let scheme = match name {
                "lossless" => Self::Lossless,
                "affine" => Self::Affine { bits: words.next()?.parse().ok()?, group: words.next()?.parse().ok()? },
                "channel" => Self::Channel { bits: words.next()?.parse().ok()?, group: words.next()?.parse().ok()? },
                "rotated" => Self::Rotated { half_bits: half_bits(words.next()?)? },
                _ => return None,
            };
            words.next().is_none().then_some(scheme)
        };
        scheme().ok_or_else(|| CodecError::Unknown(text.to_owned()))
    }
}

/// `3` or `3.5` as 6 or 7.
fn half_bits(text: &str) -> Option<u8> {
    let (whole, half) = match text.split_once('.') {
        Some((whole, "5")) => (whole, 1),
        Some((whole, "0")) => (whole, 0),
        Some(_) => return None,
        None => (text, 0),
    };
    whole.parse::<u8>().ok()?.checked_mul(2)?.checked_add(half)
}

impl fmt::Display for Codec {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scheme().fmt(to)
    }
}

impl Codec {
    /// The codec that `text` names, such as `affine:4:64`, for vectors of `width` numbers.
    ///
    /// # Errors
    /// The text names no scheme, or the scheme does not go with the width.
    pub fn parse(text: &str, element: Element, width: u32) -> Result<Self, CodecError> {
        Self::new(text.parse()?, element, width)
    }
}
