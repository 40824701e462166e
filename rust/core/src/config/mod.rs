//! The configuration of a program of ours: one typed file, `hwledger.toml`, below environment variables, below flags.
//!
//! Each layer becomes a tree of values that know where they come from; a stronger value takes a weaker one's place; what is
//! left is read by serde into [`Config`], so that whatever is wrong is said with its name and its place. Knows nothing of
//! what the settings do.

mod document;
mod entry;
mod error;
mod find;
mod flags;
mod kv;
mod model;
mod names;
mod number;
mod origin;
mod read;
mod settings;
mod size;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod tree;

use std::path::Path;

pub use entry::Entry;
pub use error::ConfigError;
pub use find::find;
pub use flags::Flags;
pub use kv::KvSetting;
pub use model::{ModelSettings, ModelType, Overflow};
pub use names::{NAMES, Name, Takes, nearest};
pub use number::{Above0, AtLeast0, Penalty, Share};
pub use origin::Origin;
pub use settings::{
    CacheKind, CacheSettings, Config, EngineSettings, GuardTier, Keepalive, LogLevel, LogSettings, NetworkSettings,
    Recording, SamplingSettings, ServerSettings,
};
pub use size::Size;

use tree::{Node, Value};

/// What a configuration is put together from, the weakest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'s> {
    /// The file, if there is one.
    pub file: Option<&'s Path>,
    /// Environment variables; those that are none of ours are passed over, and so are empty ones.
    pub variables: &'s [(String, String)],
    /// Flags by their name, such as `--port`, with what was given.
    pub flags: &'s [(String, serde_json::Value)],
}

/// A configuration, and where each of its values comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Each value with its origin, in the order of [`NAMES`]; those of models come last.
    pub entries: Vec<Entry>,
    /// What is odd and no mistake for sure: variables that are nearly ours.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Reads and checks what `sources` say.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, is no TOML, or a source says something that cannot be.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let mut root = match sources.file {
            Some(path) => document::read(path)?,
            None => Node::new(Value::Table(Vec::new()), Origin::Default),
        };
        let mut warnings = Vec::new();
        for (variable, text) in sources.variables {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            match NAMES.iter().find(|name| name.variable == variable) {
                Some(name) => {
                    root.put(name.path(), Node::new(Value::Word(text.to_owned()), Origin::Variable(name.variable)));
                }
                None => warnings.extend(names::misspelt(variable)),
            }
        }
        for (flag, given) in sources.flags {
            let Some(name) = NAMES.iter().find(|name| name.flags.contains(&flag.as_str())) else {
                return Err(ConfigError::NoSuchFlag { flag: flag.clone() });
            };
            let origin = Origin::Flag(flag.clone());
            root.put(name.path(), Node::of_json(given, &origin));
        }
        let config: Config = read::typed(&root)?;
        let entries = entry::entries(&config, &root);
        Ok(Self { config, entries, warnings })
    }
}
