//! Why a configuration was not taken.

use std::path::PathBuf;

use super::origin::Origin;

/// Why a configuration was not taken. Every message says where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or cannot be read.
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is far longer than any configuration.
    #[error("{} is no configuration: it is longer than {largest_bytes} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest that is read.
        largest_bytes: u64,
    },
    /// The file has bytes that are no UTF-8.
    #[error("{file}:{line}: not UTF-8, as TOML must be; save the file in that encoding")]
    Encoding {
        /// Name of the file.
        file: String,
        /// Line of the first such byte.
        line: usize,
    },
    /// The file is no TOML.
    #[error("{file}:{line}: {problem}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// Line of the mistake.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A value cannot be.
    #[error("{origin}: {}{problem}", before(.name))]
    Setting {
        /// Where it was given.
        origin: Origin,
        /// Its name, such as `server.port`; empty for the file as a whole.
        name: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// A flag that no setting has.
    #[error("{flag} is a flag of no setting")]
    NoSuchFlag {
        /// The flag.
        flag: String,
    },
}

fn before(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{name}: ") }
}
