//! A tree of values, read by serde. Errors know the name of the value and where it was given.

use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::error::ConfigError;
use super::names::nearest;
use super::origin::Origin;
use super::tree::{Node, Value};

/// What a tree says, as `T`.
pub(super) fn typed<T: DeserializeOwned>(root: &Node) -> Result<T, ConfigError> {
    T::deserialize(Reader(root)).map_err(|problem| ConfigError::Setting {
        origin: problem.origin.unwrap_or_else(|| root.origin.clone()),
        name: joined(problem.keys.iter().rev().map(String::as_str)),
        problem: problem.text,
    })
}

/// Keys as one name, in quotes where TOML needs them.
pub(super) fn joined<'k>(keys: impl IntoIterator<Item = &'k str>) -> String {
    let is_bare = |key: &str| {
        !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-')
    };
    let keys = keys.into_iter().map(|key| if is_bare(key) { key.to_owned() } else { format!("{key:?}") });
    keys.collect::<Vec<_>>().join(".")
}

#[derive(Debug)]
struct Problem {
    /// Where it is, the innermost first.
    keys: Vec<String>,
    origin: Option<Origin>,
    text: String,
}

impl Problem {
    /// The same, one level further out.
    fn within(mut self, key: Option<&str>, node: &Node) -> Self {
        self.keys.extend(key.map(str::to_owned));
        self.origin.get_or_insert_with(|| node.origin.clone());
        self
    }
}

impl Display for Problem {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.text)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: Display>(text: T) -> Self {
        Self { keys: Vec::new(), origin: None, text: text.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("must be {}, not {}", wanted(&expected.to_string()), given(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::custom(format_args!("must be one of {}, not {word:?}", known.join(", ")))
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        let hint = match nearest(key, known.iter().copied()) {
            _ if key.starts_with("turboquant_kv_") => "the fork reads it nowhere: give kv in its place".to_owned(),
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {}", known.join(", ")),
        };
        Self::custom(format_args!("no such setting; {hint}"))
    }
}

fn wanted(expected: &str) -> String {
    let said = match expected {
        "u16" => "a whole number from 0 to 65535",
        "u8" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "a nonzero u32" => "a whole number above 0",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "path string" => "a path",
        "a sequence" => "a list",
        "a map" => "a table",
        expected if expected.starts_with("struct ") => "a table",
        expected => expected,
    };
    said.to_owned()
}

fn given(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("{text:?}"),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Bool(switch) => switch.to_string(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        other => other.to_string(),
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Reader<'n>(&'n Node);

impl Reader<'_> {
    fn found(&self) -> Unexpected<'_> {
        match &self.0.value {
            Value::Nothing => Unexpected::Unit,
            Value::Switch(switch) => Unexpected::Bool(*switch),
            Value::Whole(number) => Unexpected::Signed(*number),
            Value::Decimal(number) => Unexpected::Float(*number),
            Value::Text(text) | Value::Word(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Table(_) => Unexpected::Map,
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if let Value::Word(word) = &self.0.value {
            if let Ok(whole) = word.parse() {
                return whole_number(whole, visitor);
            }
            if let Ok(decimal) = word.parse() {
                return visitor.visit_f64(decimal);
            }
        }
        self.deserialize_any(visitor)
    }
}

fn whole_number<'de, V: Visitor<'de>>(number: i64, visitor: V) -> Result<V::Value, Problem> {
    match u64::try_from(number) {
        Ok(number) => visitor.visit_u64(number),
        Err(_) => visitor.visit_i64(number),
    }
}

/// What a word says of a switch.
fn switch(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            self.number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.0.value {
            Value::Nothing => visitor.visit_unit(),
            Value::Switch(switch) => visitor.visit_bool(*switch),
            Value::Whole(number) => whole_number(*number, visitor),
            Value::Decimal(number) => visitor.visit_f64(*number),
            Value::Text(text) | Value::Word(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Table(fields) => visitor.visit_map(Fields { left: fields.iter(), value: None }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if let Value::Word(word) = &self.0.value
            && let Some(switch) = switch(word)
        {
            return visitor.visit_bool(switch);
        }
        self.deserialize_any(visitor)
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.0.value {
            Value::Nothing => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.0.value {
            Value::Word(word) => {
                let texts = word.split(',').map(str::trim).filter(|text| !text.is_empty());
                let item = |text: &str| Node::new(Value::Text(text.to_owned()), self.0.origin.clone());
                let items: Vec<Node> = texts.map(item).collect();
                visitor.visit_seq(Items(items.iter()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let word = match &self.0.value {
            Value::Text(text) => text.clone(),
            Value::Word(word) => word.to_ascii_lowercase(),
            _ => {
                return Err(de::Error::invalid_type(self.found(), &format!("one of {}", variants.join(", ")).as_str()));
            }
        };
        let reader: StrDeserializer<'_, Problem> = word.as_str().into_deserializer();
        reader.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'n>(std::slice::Iter<'n, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let Some(node) = self.0.next() else { return Ok(None) };
        seed.deserialize(Reader(node)).map(Some).map_err(|problem| problem.within(None, node))
    }
}

struct Fields<'n> {
    left: std::slice::Iter<'n, (String, Node)>,
    value: Option<&'n (String, Node)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        self.value = self.left.next();
        let Some((key, node)) = self.value else { return Ok(None) };
        let reader: StrDeserializer<'_, Problem> = key.as_str().into_deserializer();
        seed.deserialize(reader).map(Some).map_err(|problem| problem.within(Some(key), node))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let (key, node) = self.value.take().unwrap_or_else(|| unreachable!("serde asks for a key first"));
        seed.deserialize(Reader(node)).map_err(|problem| problem.within(Some(key), node))
    }
}
