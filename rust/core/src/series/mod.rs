//! The patch series: numbered manifests that name each place of the fork we hook, compiled in from `patches/`, so that the
//! wheel and the host carry the same series. Applying them is Python's business (`hwledger_omlx.fork`).

mod lock;
mod manifest;

pub use lock::lock;
pub use manifest::{Form, Hook, Kind, Manifest, Protocol};

use include_dir::{Dir, include_dir};

static PATCHES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../patches");

/// Why a manifest was not taken. Every message names the file and what to change.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// The text is no TOML, misses a key or has an unknown one.
    #[error("{file}: {source}")]
    Syntax {
        /// File name of the manifest.
        file: String,
        /// What the parser said, with line and column.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The TOML is well formed but says something impossible.
    #[error("{file}: hook `{hook}`: {problem}")]
    Invalid {
        /// File name of the manifest.
        file: String,
        /// Id of the hook.
        hook: String,
        /// What is wrong and what it should be.
        problem: String,
    },
    /// A manifest to be locked has no such hook.
    #[error("{file}: no hook `{hook}` to record a digest for")]
    UnknownHook {
        /// File name of the manifest.
        file: String,
        /// Id that was asked for.
        hook: String,
    },
}

/// The compiled-in manifests, in the order of their numbers.
///
/// # Errors
/// [`SeriesError`] where a manifest is malformed or two hooks share an id; a test keeps the shipped series free of both.
pub fn shipped() -> Result<Vec<Manifest>, SeriesError> {
    let mut texts: Vec<(&str, &str)> = PATCHES
        .files()
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|file| Some((file.path().file_name()?.to_str()?, file.contents_utf8()?)))
        .collect();
    texts.sort_unstable();
    let manifests = parse_all(texts)?;
    tracing::debug!(manifests = manifests.len(), "read the patch series");
    Ok(manifests)
}

/// Manifests from `(file name, text)` pairs, in the order given.
///
/// # Errors
/// As [`shipped`].
pub fn parse_all<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Vec<Manifest>, SeriesError> {
    let mut manifests: Vec<Manifest> = Vec::new();
    for (file, text) in texts {
        let manifest = Manifest::parse(file, text)?;
        for hook in &manifest.hooks {
            let twice = manifests.iter().flat_map(|earlier| &earlier.hooks).any(|other| other.id == hook.id);
            if twice {
                return Err(SeriesError::Invalid {
                    file: file.to_owned(),
                    hook: hook.id.clone(),
                    problem: "the id is taken by an earlier manifest; ids are unique in the series".to_owned(),
                });
            }
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_series_parses_and_starts_with_home() {
        let series = shipped().expect("patches/*.toml parse");
        assert_eq!(series[0].name, "000-home");
        assert!(series.iter().all(|manifest| !manifest.hooks.is_empty()));
        assert!(series.is_sorted_by_key(|manifest| manifest.name.clone()));
    }

    #[test]
    fn an_id_may_stand_only_once_in_the_series() {
        let text = manifest::tests::MINIMAL;
        let error = parse_all([("001-a.toml", text), ("002-b.toml", text)]).expect_err("same id twice");
        assert!(error.to_string().contains("002-b.toml: hook `a.b`"), "{error}");
    }
}
