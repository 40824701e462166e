//! Sizes in bytes as people write them: `"64GiB"`, `"1.5 TB"`, `4096`.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes. `KiB`, `MiB`, … count by 1024, `kB`, `MB`, … by 1000, as in `PagedCache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

const LARGEST: u64 = i64::MAX.cast_unsigned();
const PREFIXES: &str = "kmgtp";

impl Size {
    /// The number of bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The size that a text says; `None` for what is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim_start().to_ascii_lowercase());
        let well_written = number.starts_with(|letter: char| letter.is_ascii_digit()) && !number.ends_with('.');
        let factor = factor(&unit)?;
        if !well_written {
            return None;
        }
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(factor)?,
            #[expect(clippy::cast_precision_loss, reason = "a factor is a power of 1000 or 1024")]
            Err(_) => whole(number.parse::<f64>().ok()? * factor as f64)?,
        };
        (bytes <= LARGEST).then_some(Self(bytes))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the limits")]
fn whole(bytes: f64) -> Option<u64> {
    (0.0..9.2e18).contains(&bytes).then(|| bytes.round() as u64)
}

fn factor(unit: &str) -> Option<u64> {
    let (base, rest): (u64, &str) = match unit.strip_suffix("ib") {
        Some(rest) => (1024, rest),
        None => (1000, unit.strip_suffix('b').unwrap_or(unit)),
    };
    let mut letters = rest.chars();
    match (letters.next(), letters.next()) {
        (None, None) if base == 1000 => Some(1),
        // A prefix without its `B` says no unit.
        (Some(prefix), None) if unit != rest => {
            let power = PREFIXES.find(prefix)? + 1;
            base.checked_pow(u32::try_from(power).ok()?)
        }
        _ => None,
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Size;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a number of bytes, or a text such as \"64GiB\"")
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
        if bytes <= LARGEST { Ok(Size(bytes)) } else { Err(E::invalid_value(Unexpected::Unsigned(bytes), &self)) }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        Size::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Bytes, or a text such as \"64GiB\": KiB, MiB, ... count by 1024, kB, MB, ... by 1000.",
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": r"^\s*\d+(\.\d+)?\s*([KkMmGgTtPp]?[Ii]?[Bb])?\s*$",
        })
    }
}
