//! Where the configuration file is found.

use std::env;
use std::path::{Path, PathBuf};

const FILE: &str = "hwledger.toml";
/// Names the file.
pub(super) const VARIABLE: &str = "HWLEDGER_OMLX_CONFIG";

/// The configuration file: the one that is named, by a flag or else by a variable, or the first that is there, in the working
/// directory or the user's folder of settings. `None` where there is none; one that is named need not be there.
#[must_use]
pub fn find(named: Option<&Path>, variables: &[(String, String)]) -> Option<PathBuf> {
    let variable = variables.iter().find(|(name, _)| name == VARIABLE).map(|(_, text)| Path::new(text.trim()));
    if let Some(named) = named.or(variable).filter(|path| !path.as_os_str().is_empty()) {
        return Some(match (named.strip_prefix("~"), env::home_dir()) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => named.to_owned(),
        });
    }
    let theirs = user_settings().map(|folder| folder.join("hwledger-omlx").join(FILE));
    // Whatever it is, it is meant: a folder of that name is said to be none.
    [Some(PathBuf::from(FILE)), theirs].into_iter().flatten().find(|path| path.exists())
}

/// The folder where programs keep what a user has set.
fn user_settings() -> Option<PathBuf> {
    let said = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    said.or_else(|| {
        let usual = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".config" };
        env::home_dir().map(|home| home.join(usual))
    })
}
