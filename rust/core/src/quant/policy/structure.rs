//! The struct form of a policy, for JSON, TOML and whatever else serde reads. A string is the text form, in the place of
//! the policy, of one side of it, or of a format.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::KvPolicy;
use super::dial::{Base, Dial, Override};
use super::error::PolicyError;
use super::format::{Format, FormatSpec, KeyValue};
use super::text::{self, Piece, Scheme};

/// What can be given as a text or as fields of its own.
trait Written: Sized {
    type Fields: for<'de> Deserialize<'de>;
    const EXPECTED: &'static str;
    fn of_text(text: &str) -> Result<Self, PolicyError>;
    fn of_fields(fields: Self::Fields) -> Result<Self, PolicyError>;
}

/// Takes what is written either way. An untagged enum would not say what is wrong.
struct Either<T>(PhantomData<T>);

impl<'de, T: Written> Visitor<'de> for Either<T> {
    type Value = T;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::of_text(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::of_fields(T::Fields::deserialize(MapAccessDeserializer::new(fields))?).map_err(A::Error::custom)
    }
}

/// Text that may be given as a number.
#[derive(Clone, PartialEq, Eq)]
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Either::<Self>(PhantomData))
    }
}

/// Fields that nothing has.
#[derive(Deserialize)]
enum Never {}

impl Written for Word {
    type Fields = Never;
    const EXPECTED: &'static str = "a number or a text";

    fn of_text(text: &str) -> Result<Self, PolicyError> {
        Ok(Self(text.to_owned()))
    }

    fn of_fields(never: Never) -> Result<Self, PolicyError> {
        match never {}
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFields {
    live: Dial,
    #[serde(default)]
    rest: Option<Dial>,
    #[serde(default)]
    first_tokens: u32,
    #[serde(default)]
    recent_tokens: u32,
}

impl Written for KvPolicy {
    type Fields = PolicyFields;
    const EXPECTED: &'static str =
        "a KV policy: a text such as \"k8v4\", or fields live, rest, first_tokens, recent_tokens";

    fn of_text(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text)
    }

    fn of_fields(fields: PolicyFields) -> Result<Self, PolicyError> {
        Ok(Self::new(fields.live, fields.rest, fields.first_tokens, fields.recent_tokens))
    }
}

/// The fields of one side.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DialFields {
    /// Of keys and values alike.
    bits: Option<Word>,
    k: Option<Word>,
    v: Option<Word>,
    /// In their place: what stands behind `auto:`.
    auto: Option<Word>,
    /// Of bits that stand alone.
    scheme: Option<String>,
    /// Of formats that have none of their own.
    group: Option<Word>,
    #[serde(default)]
    layers: Vec<OverrideFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideFields {
    layers: Word,
    bits: Option<Word>,
    k: Option<Word>,
    v: Option<Word>,
}

impl Written for Dial {
    type Fields = DialFields;
    const EXPECTED: &'static str = "the formats of all layers: a text such as \"k8v4\", or fields k and v (or bits, or auto), scheme, group, layers";

    fn of_text(text: &str) -> Result<Self, PolicyError> {
        text::dial(text)
    }

    fn of_fields(fields: DialFields) -> Result<Self, PolicyError> {
        let scheme = fields.scheme.as_deref().map(|name| Scheme::named(Piece::whole(name))).transpose()?;
        let scheme = scheme.unwrap_or(Scheme::Affine);
        let mut base = match (formats(fields.bits, fields.k, fields.v, scheme)?, fields.auto) {
            (Some(formats), None) => Base::Formats(formats),
            (None, Some(budget)) => Base::Auto(text::budget(Piece::whole(&budget.0))?),
            (None, None) => return structure("a side needs k and v, or bits, or auto"),
            (Some(_), Some(_)) => return structure("a side has formats (bits, k, v) or auto, not both"),
        };
        let mut overrides = Vec::new();
        for each in fields.layers {
            let layers = text::layers(Piece::whole(&each.layers.0))?;
            let Some(formats) = formats(each.bits, each.k, each.v, scheme)? else {
                return structure(&format!("layers {layers} need k and v, or bits"));
            };
            overrides.push(Override { layers, formats });
        }
        if let Some(group) = fields.group {
            let group = text::group(Piece::whole(&group.0))?;
            let base = match &mut base {
                Base::Formats(formats) => Some(formats),
                Base::Auto(_) => None,
            };
            let pairs = base.into_iter().chain(overrides.iter_mut().map(|each| &mut each.formats));
            if !text::give_group(pairs.flat_map(|pair| [&mut pair.k, &mut pair.v]), group) {
                return structure(
                    "a group is set, and no format of the side has groups: affine and channel formats do",
                );
            }
        }
        Self::new(base, &overrides)
            .or_else(|(index, problem)| structure(&format!("layers {}: {problem}", overrides[index].layers)))
    }
}

/// The formats that the fields of a side or of an override say.
fn formats(
    bits: Option<Word>,
    k: Option<Word>,
    v: Option<Word>,
    scheme: Scheme,
) -> Result<Option<KeyValue<FormatSpec>>, PolicyError> {
    match (bits, k, v) {
        (None, None, None) => Ok(None),
        (Some(bits), None, None) => Ok(Some(text::pair(Piece::whole(&bits.0), scheme)?.0)),
        (None, Some(k), Some(v)) => {
            let (k, v) = (text::single(Piece::whole(&k.0), scheme)?, text::single(Piece::whole(&v.0), scheme)?);
            Ok(Some(KeyValue { k, v: v.of_values() }))
        }
        (Some(_), _, _) => structure("bits are of K and V both: leave out k and v, or bits"),
        (None, _, _) => structure("k and v are given together: 16 is as the model has it"),
    }
}

fn structure<T>(what: &str) -> Result<T, PolicyError> {
    Err(PolicyError::Structure(what.to_owned()))
}

impl<'de> Deserialize<'de> for KvPolicy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Either::<Self>(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Dial {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Either::<Self>(PhantomData))
    }
}

#[derive(Serialize)]
struct PolicyWritten<'p> {
    first_tokens: u32,
    recent_tokens: u32,
    live: &'p Dial,
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<&'p Dial>,
}

#[derive(Serialize)]
struct DialWritten {
    #[serde(skip_serializing_if = "Option::is_none")]
    auto: Option<String>,
    #[serde(flatten)]
    formats: Option<KeyValue<FormatSpec>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<OverrideWritten>,
}

#[derive(Serialize)]
struct OverrideWritten {
    layers: String,
    #[serde(flatten)]
    formats: KeyValue<FormatSpec>,
}

impl Serialize for KvPolicy {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        PolicyWritten {
            first_tokens: self.first_tokens(),
            recent_tokens: self.recent_tokens(),
            live: self.live(),
            rest: self.rest(),
        }
        .serialize(to)
    }
}

impl Serialize for Dial {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (auto, formats) = match self.base() {
            Base::Formats(formats) => (None, Some(*formats)),
            Base::Auto(budget) => (Some(budget.to_string()), None),
        };
        let layers = self.overrides().iter();
        let layers = layers.map(|each| OverrideWritten { layers: each.layers.to_string(), formats: each.formats });
        DialWritten { auto, formats, layers: layers.collect() }.serialize(to)
    }
}

impl Serialize for FormatSpec {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
