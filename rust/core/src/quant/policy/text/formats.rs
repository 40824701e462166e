//! The formats of keys and values as people write them: `8`, `k8v4`, `rotated-3.5`, `affine:8:32+rotated:4`.

use super::super::error::PolicyError;
use super::super::format::{AFFINE_BITS, FormatSpec, GROUPS, KeyValue};
use super::super::problem::{Problem, nearest};
use super::numbers::decimal;
use super::piece::Piece;

/// What bits mean where they stand alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Scheme {
    Affine,
    Rotated,
    Channel,
}

const SCHEMES: [(&str, Scheme); 3] =
    [("affine", Scheme::Affine), ("rotated", Scheme::Rotated), ("channel", Scheme::Channel)];

const LOSSLESS: &str = "lossless";

/// All that formats may begin with.
const NAMES: [&str; 5] = ["affine", "rotated", "channel", LOSSLESS, "auto"];

impl Scheme {
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Rotated => "rotated",
            Self::Channel => "channel",
        }
    }

    /// The scheme of that name.
    pub(in super::super) fn named(piece: Piece<'_>) -> Result<Self, PolicyError> {
        let found = SCHEMES.iter().find(|(name, _)| piece.is(name));
        found.map(|(_, scheme)| *scheme).ok_or_else(|| unknown(piece))
    }
}

/// The error that no scheme has that name.
pub(super) fn unknown(name: Piece<'_>) -> PolicyError {
    let text = name.text();
    name.fault(Problem::UnknownScheme { name: name.quoted(), nearest: nearest(text, &NAMES) })
}

/// Formats of keys and values, and the scheme that they were written with. Bits alone are of the scheme `inherited`.
pub(in super::super) fn pair(
    piece: Piece<'_>,
    inherited: Scheme,
) -> Result<(KeyValue<FormatSpec>, Scheme), PolicyError> {
    if let Some((keys, values)) = piece.split_once('+') {
        if values.split_once('+').is_some() {
            return Err(piece.fault(Problem::NotPair));
        }
        let formats = KeyValue { k: single(keys, Scheme::Affine)?, v: single(values, Scheme::Affine)?.of_values() };
        return Ok((formats, Scheme::Affine));
    }
    let Some(Spelled { scheme, bits, group }) = Spelled::of(piece, inherited)? else {
        return Ok((KeyValue { k: FormatSpec::Lossless, v: FormatSpec::Lossless }, Scheme::Affine));
    };
    let (keys, values) = match bits.text().strip_prefix(['k', 'K']) {
        Some(_) => {
            let (_, both) = bits.split_at(1);
            let letter = both.text().find(['v', 'V']).ok_or_else(|| piece.fault(Problem::HalfOfPair))?;
            let (keys, values) = both.split_at(letter);
            (keys, values.split_at(1).1)
        }
        None if bits.text().starts_with(['v', 'V']) => return Err(piece.fault(Problem::HalfOfPair)),
        None => (bits, bits),
    };
    let formats = KeyValue { k: with_bits(keys, scheme, group)?, v: with_bits(values, scheme, group)?.of_values() };
    Ok((formats, scheme))
}

/// The format of keys, or of values, alone. Bits alone are of the scheme `inherited`.
pub(in super::super) fn single(piece: Piece<'_>, inherited: Scheme) -> Result<FormatSpec, PolicyError> {
    match Spelled::of(piece, inherited)? {
        Some(Spelled { scheme, bits, group }) => with_bits(bits, scheme, group),
        None => Ok(FormatSpec::Lossless),
    }
}

/// A group's number.
pub(in super::super) fn group(piece: Piece<'_>) -> Result<u16, PolicyError> {
    let found = piece.text().parse().ok().filter(|group| GROUPS.contains(group));
    found.ok_or_else(|| piece.fault(Problem::Group { found: piece.quoted() }))
}

/// Gives the group to every format that has none yet. Whether one could have taken it.
pub(in super::super) fn give_group<'f>(formats: impl Iterator<Item = &'f mut FormatSpec>, wanted: u16) -> bool {
    let mut taken = false;
    for format in formats {
        if let FormatSpec::Affine { group, .. } | FormatSpec::Channel { group, .. } = format {
            group.get_or_insert(wanted);
            taken = true;
        }
    }
    taken
}

/// `SCHEME-BITS:GROUP`, taken apart.
struct Spelled<'t> {
    scheme: Scheme,
    bits: Piece<'t>,
    group: Option<u16>,
}

impl<'t> Spelled<'t> {
    /// `None` for `lossless`.
    fn of(piece: Piece<'t>, inherited: Scheme) -> Result<Option<Self>, PolicyError> {
        if piece.is_empty() {
            return Err(piece.fault(Problem::Empty("a format")));
        }
        let text = piece.text();
        let (word, behind) = piece.split_at(text.find(|letter: char| !letter.is_alphabetic()).unwrap_or(text.len()));
        let is_pair =
            (word.is("k") || word.is("v")) && behind.text().starts_with(|letter: char| letter.is_ascii_digit());
        if word.is_empty() || is_pair {
            return Ok(Some(Self { scheme: inherited, bits: piece, group: None }));
        }
        if word.is(LOSSLESS) {
            return if behind.is_empty() { Ok(None) } else { Err(piece.fault(Problem::LosslessBits)) };
        }
        let scheme = Scheme::named(word)?;
        if !behind.text().starts_with(['-', ':']) || behind.text().len() == 1 {
            return Err(piece.fault(Problem::NoBits { scheme: scheme.name() }));
        }
        let (_, behind) = behind.split_at(1);
        let Some((bits, grouped)) = behind.split_once(':') else {
            return Ok(Some(Self { scheme, bits: behind, group: None }));
        };
        if scheme == Scheme::Rotated {
            return Err(piece.fault(Problem::GroupNotTaken { scheme: scheme.name() }));
        }
        Ok(Some(Self { scheme, bits, group: Some(group(grouped)?) }))
    }
}

/// The scheme's format of so many bits.
fn with_bits(piece: Piece<'_>, scheme: Scheme, group: Option<u16>) -> Result<FormatSpec, PolicyError> {
    let text = piece.text();
    let (whole, fraction) = decimal(text).ok_or_else(|| piece.fault(Problem::NotBits { found: piece.quoted() }))?;
    let none = || piece.fault(Problem::Bits { scheme: scheme.name(), bits: piece.quoted() });
    let whole: u8 = whole.parse().ok().filter(|bits| *bits <= 16).ok_or_else(none)?;
    let half_bits = match fraction.trim_end_matches('0') {
        "" => 2 * whole,
        "5" => 2 * whole + 1,
        _ => return Err(none()),
    };
    let affine = half_bits % 2 == 0 && AFFINE_BITS.contains(&whole);
    match scheme {
        _ if half_bits == 32 => Ok(FormatSpec::Plain),
        Scheme::Rotated if (2..=16).contains(&half_bits) => Ok(FormatSpec::Rotated { half_bits }),
        Scheme::Affine if affine => Ok(FormatSpec::Affine { bits: whole, group }),
        Scheme::Channel if affine => Ok(FormatSpec::Channel { bits: whole, group }),
        _ => Err(none()),
    }
}
