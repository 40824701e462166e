//! The flags on a command line of `hwledger-omlx serve` that say what the configuration says too. All others, and arguments,
//! are passed over.

use std::path::PathBuf;

use serde_json::Value;

use super::names::NAMES;

/// What of a command line concerns the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// The file that is named.
    pub config: Option<PathBuf>,
    /// Settings, as [`super::Sources`] takes them.
    pub settings: Vec<(String, Value)>,
}

impl Flags {
    /// Reads the arguments of a command.
    #[must_use]
    pub fn of(arguments: &[String]) -> Self {
        let mut flags = Self::default();
        let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
        while let Some(argument) = arguments.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (argument.as_str(), None),
            };
            if let Some(said) = without_value(flag) {
                flags.settings.push((flag.to_owned(), said));
            } else if flag == "--config" || is_setting(flag) {
                let Some(value) = value.or_else(|| arguments.next().map(String::as_str)) else { break };
                if flag == "--config" {
                    flags.config = Some(value.into());
                } else {
                    flags.settings.push((flag.to_owned(), value.into()));
                }
            }
        }
        flags
    }
}

/// What a flag says that takes no value.
fn without_value(flag: &str) -> Option<Value> {
    match flag {
        "--no-cache" => Some("off".into()),
        "--restart-stuck" => Some(true.into()),
        _ => None,
    }
}

fn is_setting(flag: &str) -> bool {
    flag.starts_with("--") && NAMES.iter().any(|name| name.flags.contains(&flag))
}
