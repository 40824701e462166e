//! The canonical text of a policy: the shortest that reads as the same policy.

use std::fmt::{self, Formatter};

use super::super::KvPolicy;
use super::super::dial::{Base, Dial};
use super::super::format::{Format, FormatSpec, HalfBits, KeyValue};
use super::formats::Scheme;
use super::{FIRST, GROUP, RECENT};

impl fmt::Display for KvPolicy {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        dial(to, self.live())?;
        for (name, tokens) in [(FIRST, self.first_tokens()), (RECENT, self.recent_tokens())] {
            if tokens > 0 {
                write!(to, ",{name}={tokens}")?;
            }
        }
        if let Some(rest) = self.rest() {
            to.write_str("/")?;
            dial(to, rest)?;
        }
        Ok(())
    }
}

fn dial(to: &mut Formatter<'_>, written: &Dial) -> fmt::Result {
    let common = common_group(written);
    let scheme = match written.base() {
        Base::Auto(budget) => {
            write!(to, "auto:{budget}")?;
            Scheme::Affine
        }
        Base::Formats(formats) => pair(to, formats, common, Scheme::Affine)?,
    };
    for each in written.overrides() {
        write!(to, ",{}:", each.layers)?;
        pair(to, &each.formats, common, scheme)?;
    }
    if let Some(group) = common {
        write!(to, ",{GROUP}={group}")?;
    }
    Ok(())
}

/// The group that every format with groups was given.
fn common_group(written: &Dial) -> Option<u16> {
    let mut groups = written.written().flat_map(|pair| [&pair.k, &pair.v]).filter_map(Format::group);
    let first = (*groups.next()?)?;
    groups.all(|group| *group == Some(first)).then_some(first)
}

/// Writes a pair where bits alone are of the scheme `inherited`; gives what bits alone are of behind it, if it is the base.
fn pair(
    to: &mut Formatter<'_>,
    formats: &KeyValue<FormatSpec>,
    common: Option<u16>,
    inherited: Scheme,
) -> Result<Scheme, fmt::Error> {
    let alike = Alike::of(formats, common);
    let Some(Alike { scheme, group, k, v }) = alike else {
        if formats.k == formats.v {
            // Neither has bits: both are plain or lossless.
            write!(to, "{}", formats.k)?;
        } else {
            write!(to, "{}+{}", without(formats.k, common), without(formats.v, common))?;
        }
        return Ok(Scheme::Affine);
    };
    match group {
        Some(_) => write!(to, "{}:", scheme.name())?,
        None if scheme != inherited => write!(to, "{}-", scheme.name())?,
        None => {}
    }
    if k == v {
        write!(to, "{}", HalfBits(k))?;
    } else {
        write!(to, "k{}v{}", HalfBits(k), HalfBits(v))?;
    }
    if let Some(group) = group {
        write!(to, ":{group}")?;
    }
    Ok(scheme)
}

/// The format without a group that is the common one.
fn without(format: FormatSpec, common: Option<u16>) -> FormatSpec {
    let left = format.try_map_group(|group| Ok::<_, std::convert::Infallible>(group.filter(|_| group != common)));
    left.unwrap_or(format)
}

/// Formats of keys and values that one scheme and one group can be said of.
struct Alike {
    scheme: Scheme,
    group: Option<u16>,
    k: u8,
    v: u8,
}

impl Alike {
    fn of(formats: &KeyValue<FormatSpec>, common: Option<u16>) -> Option<Self> {
        let (k, v) = (bits(without(formats.k, common))?, bits(without(formats.v, common))?);
        let (scheme, group) = match (k.of, v.of) {
            (Some(of), None) | (None, Some(of)) => of,
            // The values of the scheme `channel` are affine.
            (Some((Scheme::Channel, group)), Some((Scheme::Affine, other))) if group == other => {
                (Scheme::Channel, group)
            }
            (Some(of), Some(other)) if of == other => of,
            _ => return None,
        };
        Some(Self { scheme, group, k: k.half_bits, v: v.half_bits })
    }
}

struct Said {
    half_bits: u8,
    /// Scheme and group; a plain format is of any.
    of: Option<(Scheme, Option<u16>)>,
}

fn bits(format: FormatSpec) -> Option<Said> {
    let (half_bits, of) = match format {
        FormatSpec::Lossless => return None,
        FormatSpec::Plain => (32, None),
        FormatSpec::Rotated { half_bits } => (half_bits, Some((Scheme::Rotated, None))),
        FormatSpec::Affine { bits, group } => (2 * bits, Some((Scheme::Affine, group))),
        FormatSpec::Channel { bits, group } => (2 * bits, Some((Scheme::Channel, group))),
    };
    Some(Said { half_bits, of })
}
