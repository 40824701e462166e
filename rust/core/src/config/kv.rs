//! The KV policy as a configuration gives it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quant::policy::KvPolicy;

/// A policy, or the file that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvSetting {
    /// As text, or as a table of its fields.
    Policy(KvPolicy),
    /// A TOML or JSON file of its fields. Nobody has read it yet.
    File(PathBuf),
}

impl KvSetting {
    /// Whether a text is the path of a file rather than a policy: no policy ends so.
    #[must_use]
    pub fn is_file(text: &str) -> bool {
        let extension = Path::new(text).extension();
        extension.is_some_and(|each| each.eq_ignore_ascii_case("toml") || each.eq_ignore_ascii_case("json"))
    }
}

impl Serialize for KvSetting {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Policy(policy) => to.collect_str(policy),
            Self::File(path) => path.serialize(to),
        }
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = KvSetting;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a KV policy such as \"k8v4\", its fields, or the path of a TOML or JSON file with them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<KvSetting, E> {
        if KvSetting::is_file(text) {
            return Ok(KvSetting::File(PathBuf::from(text)));
        }
        KvPolicy::parse(text).map(KvSetting::Policy).map_err(|error| E::custom(format_args!("is none: {error}")))
    }

    fn visit_i64<E: Error>(self, bits: i64) -> Result<KvSetting, E> {
        self.visit_str(&bits.to_string())
    }

    fn visit_u64<E: Error>(self, bits: u64) -> Result<KvSetting, E> {
        self.visit_str(&bits.to_string())
    }

    fn visit_f64<E: Error>(self, bits: f64) -> Result<KvSetting, E> {
        self.visit_str(&bits.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<KvSetting, A::Error> {
        KvPolicy::deserialize(MapAccessDeserializer::new(fields)).map(KvSetting::Policy)
    }
}

impl<'de> Deserialize<'de> for KvSetting {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for KvSetting {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KvSetting".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A KV policy such as \"k8v4\", its fields, or the path of a TOML or JSON file with them.",
            "type": ["string", "number", "object"],
        })
    }
}
