//! Where a value was given.

use std::fmt;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In the file.
    File {
        /// Name of the file, without its folder.
        file: String,
        /// Line, counted from 1.
        line: usize,
    },
    /// In an environment variable.
    Variable(&'static str),
    /// On the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => to.write_str("default"),
            Self::File { file, line } => write!(to, "{file}:{line}"),
            Self::Variable(name) => to.write_str(name),
            Self::Flag(name) => to.write_str(name),
        }
    }
}
