//! The configuration as a whole: what wins, where it comes from, and what is said of mistakes.

mod example;
mod flags;
mod layers;
mod mistakes;
mod schema;
mod sizes;

use std::path::PathBuf;

use serde_json::Value as Json;

use super::{ConfigError, Loaded, Sources};

/// What a file of that text and these variables and flags say.
fn load(text: &str, variables: &[(&str, &str)], flags: &[(&str, Json)]) -> Result<Loaded, ConfigError> {
    load_bytes(text.as_bytes(), variables, flags)
}

fn load_bytes(bytes: &[u8], variables: &[(&str, &str)], flags: &[(&str, Json)]) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hwledger.toml");
    std::fs::write(&path, bytes).unwrap();
    let variables: Vec<_> = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let flags: Vec<_> = flags.iter().map(|(name, json)| ((*name).to_owned(), json.clone())).collect();
    Loaded::load(&Sources { file: Some(&path), variables: &variables, flags: &flags })
}

fn told(loaded: &Loaded, name: &str) -> (Json, String) {
    let entry = loaded.entries.iter().find(|entry| entry.name == name).unwrap();
    (entry.value.clone(), entry.origin.to_string())
}

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
