//! The table of families, as it stands in `families.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::attention::Attention;
use super::formula::Formula;

/// All of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// Formulas that hold where a family has none of that name.
    #[serde(rename = "let")]
    pub(super) formulas: BTreeMap<String, Formula>,
    #[serde(rename = "cache")]
    pub(super) caches: BTreeMap<String, CacheRule>,
    #[serde(rename = "layer")]
    pub(super) kinds: BTreeMap<String, Kind>,
    #[serde(rename = "family")]
    pub(super) families: Vec<Family>,
}

/// Architectures that mlx-lm treats alike.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Family {
    /// `model_type` of config.json.
    types: Vec<String>,
    #[serde(rename = "let", default)]
    pub(super) formulas: BTreeMap<String, Formula>,
    /// Which kind a layer is of: the first rule that holds.
    #[serde(default = "all_full")]
    pub(super) layers: Vec<Rule>,
    /// Caches before those of the layers.
    #[serde(default)]
    pub(super) before: Vec<Rule>,
    /// Caches of a second pass over the layers.
    #[serde(default)]
    pub(super) again: Vec<Rule>,
}

/// A kind of layer, and when a layer is of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) when: Option<Formula>,
    pub(super) is: String,
}

/// A kind of layer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kind {
    pub(super) attention: Attention,
    pub(super) caches: Vec<String>,
    /// Whether it has a place in the list of caches though it has none.
    #[serde(default)]
    pub(super) listed: bool,
}

/// What a cache holds.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum CacheRule {
    Sequence { k: [Formula; 2], v: [Formula; 2] },
    Window { k: [Formula; 2], v: [Formula; 2], tokens: Formula },
    Chunked { k: [Formula; 2], v: [Formula; 2], tokens: Formula },
    State { arrays: Vec<ArrayRule> },
}

/// An array of a recurrent state.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArrayRule {
    pub(super) shape: Vec<Formula>,
    pub(super) dtype: StateType,
}

/// The type of its numbers.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum StateType {
    /// That of the model's activations.
    Model,
    /// That of the model's activations, or of what they decay with, whichever is wider.
    Decay,
    Float32,
    Int64,
}

impl Table {
    /// The one that is compiled in.
    pub(super) fn built_in() -> &'static Self {
        static TABLE: LazyLock<Table> = LazyLock::new(|| match toml::from_str(include_str!("families.toml")) {
            Ok(table) => table,
            Err(error) => unreachable!("families.toml is read by a test: {error}"),
        });
        &TABLE
    }

    /// The family of the first of these types that has one, and that type.
    pub(super) fn family_of<'t>(&self, types: impl Iterator<Item = &'t str>) -> Option<(&Family, &'t str)> {
        let mut types = types;
        types.find_map(|name| {
            let has = |family: &&Family| family.types.iter().any(|each| each == name);
            self.families.iter().find(has).map(|family| (family, name))
        })
    }

    /// Every `model_type` that it knows.
    pub(super) fn types(&self) -> impl Iterator<Item = &str> {
        self.families.iter().flat_map(|family| &family.types).map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Formula {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

fn all_full() -> Vec<Rule> {
    vec![Rule { when: None, is: "full".to_owned() }]
}
