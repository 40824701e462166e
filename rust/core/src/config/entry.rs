//! A configuration as a list: each value with its name and where it comes from.

use serde::Serialize;
use serde_json::Value as Json;

use super::names::{NAMES, Takes, model_takes};
use super::origin::Origin;
use super::read::joined;
use super::settings::Config;
use super::tree::Node;

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The sections and the key.
    pub path: Vec<String>,
    /// The same as one name, as TOML writes it.
    pub name: String,
    /// The value; null for what is found out when it is needed, or left to the fork.
    pub value: Json,
    /// Where it was given.
    #[serde(serialize_with = "as_text")]
    pub origin: Origin,
    /// When a change counts.
    pub takes: Takes,
}

fn as_text<S: serde::Serializer>(origin: &Origin, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(origin)
}

/// The values of `config`, which was read from `root`.
pub(super) fn entries(config: &Config, root: &Node) -> Vec<Entry> {
    // Its types are texts, numbers, lists and maps of texts, all of which JSON has.
    let json = serde_json::to_value(config).unwrap_or_default();
    let mut entries: Vec<Entry> =
        NAMES.iter().map(|name| entry(name.path().map(str::to_owned).collect(), &json, root, name.takes)).collect();
    for (id, model) in json["models"].as_object().into_iter().flatten() {
        for key in model.as_object().into_iter().flatten().map(|(key, _)| key) {
            entries.push(entry(vec!["models".to_owned(), id.clone(), key.clone()], &json, root, model_takes(key)));
        }
    }
    entries
}

fn entry(path: Vec<String>, json: &Json, root: &Node, takes: Takes) -> Entry {
    let value = path.iter().fold(json, |json, key| &json[key.as_str()]).clone();
    let origin = root.at(path.iter().map(String::as_str)).map_or(Origin::Default, |node| node.origin.clone());
    Entry { name: joined(path.iter().map(String::as_str)), path, value, origin, takes }
}
