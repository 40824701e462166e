//! Recording digests in a manifest without disturbing what a person wrote there.

use std::collections::BTreeMap;

use toml_edit::{DocumentMut, Item, Table, value};

use super::{Manifest, SeriesError};

/// The manifest `text` with `digests` (hook id → digest) recorded for the fork `release`; comments and layout stay.
///
/// # Errors
/// [`SeriesError`] where the text is no manifest, a digest is malformed, or a hook id is not in it.
pub fn lock(file: &str, text: &str, release: &str, digests: &BTreeMap<String, String>) -> Result<String, SeriesError> {
    let manifest = Manifest::parse(file, text)?;
    if let Some(hook) = digests.keys().find(|id| !manifest.hooks.iter().any(|hook| hook.id == **id)) {
        return Err(SeriesError::UnknownHook { file: file.to_owned(), hook: hook.clone() });
    }
    let invalid = |hook: &str, problem: &str| SeriesError::Invalid {
        file: file.to_owned(),
        hook: hook.to_owned(),
        problem: problem.to_owned(),
    };
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| invalid("*", error.message()))?;
    let tables = document
        .get_mut("hook")
        .and_then(Item::as_array_of_tables_mut)
        .ok_or_else(|| invalid("*", "hooks are written as [[hook]] tables"))?;
    for (table, hook) in tables.iter_mut().zip(&manifest.hooks) {
        let Some(digest) = digests.get(&hook.id) else { continue };
        let recorded = table
            .entry("digests")
            .or_insert(Item::Table(Table::new()))
            .as_table_like_mut()
            .ok_or_else(|| invalid(&hook.id, "digests is not a table"))?;
        recorded.insert(release, value(digest));
        recorded.sort_values();
    }
    let locked = document.to_string();
    Manifest::parse(file, &locked)?;
    Ok(locked)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::MINIMAL;
    use super::*;

    fn digest(byte: char) -> String {
        std::iter::repeat_n(byte, 32).collect()
    }

    #[test]
    fn a_digest_is_added_and_replaced_and_the_rest_stays() {
        let once = lock("0.toml", MINIMAL, "0.7.0", &[("a.b".to_owned(), digest('a'))].into()).expect("locks");
        let twice = lock("0.toml", &once, "0.5.0", &[("a.b".to_owned(), digest('b'))].into()).expect("locks");
        let again = lock("0.toml", &twice, "0.7.0", &[("a.b".to_owned(), digest('c'))].into()).expect("locks");
        assert!(again.starts_with(MINIMAL.trim_end()) && again.contains("# kept"), "{again}");
        let hook = &Manifest::parse("0.toml", &again).expect("parses").hooks[0];
        assert_eq!(hook.digests, [("0.5.0".to_owned(), digest('b')), ("0.7.0".to_owned(), digest('c'))].into());
    }

    #[test]
    fn what_cannot_be_recorded_is_refused() {
        let unknown = lock("0.toml", MINIMAL, "0.7.0", &[("a.c".to_owned(), digest('a'))].into());
        assert!(matches!(unknown, Err(SeriesError::UnknownHook { hook, .. }) if hook == "a.c"));
        let malformed = lock("0.toml", MINIMAL, "0.7.0", &[("a.b".to_owned(), "XYZ".to_owned())].into());
        assert!(matches!(malformed, Err(SeriesError::Invalid { hook, .. }) if hook == "a.b"));
    }
}
