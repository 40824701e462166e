//! One manifest: its format, and what makes one invalid.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::SeriesError;

/// A file `patches/NNN-name.toml`: one change to the fork, made of one or more hooks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// File name without `.toml`, such as `000-home`. Not in the file.
    #[serde(skip)]
    pub name: String,
    /// What the patch does, in one line.
    pub title: String,
    /// Why the fork's own behaviour does not do.
    pub why: String,
    /// The places it hooks.
    #[serde(rename = "hook")]
    pub hooks: Vec<Hook>,
}

/// One place of the fork that is hooked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Unique in the series, `patch.place`, such as `home.base-path`.
    pub id: String,
    /// What is hooked: `package.module:Class.attribute` or `package.module:name`.
    pub target: String,
    /// How the shim stands to the target.
    pub kind: Kind,
    /// `module:function` of ours. For [`Kind::Wrap`] a `wrapt` wrapper `(wrapped, instance, args, kwargs)`; for
    /// [`Kind::Replace`] a function that takes the original and returns what stands in its place.
    pub shim: String,
    /// `module:function` of ours that proves the hook on a fork whose target has an unknown body.
    pub self_test: String,
    /// What the target is in the fork's source. If absent, a function for [`Kind::Wrap`] and anything but an `async`
    /// function for [`Kind::Replace`].
    #[serde(default)]
    pub form: Option<Form>,
    /// Places that hold a copy of the target, made by `from x import y`, which must hold ours too.
    #[serde(default)]
    pub rebind: Vec<String>,
    /// Parameters of the target that the shim relies on, by name.
    #[serde(default)]
    pub parameters: Vec<String>,
    /// Feature that turns the hook on.
    pub feature: String,
    /// Without this hook the fork must not be loaded at all.
    #[serde(default)]
    pub required: bool,
    /// Releases of the fork that have the target, as a PEP 440 specifier; all of them if absent.
    #[serde(default)]
    pub releases: Option<String>,
    /// What the fork may do with an object that the hook puts in place.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Digest of the target's syntax tree for each fork release the hook was proven on.
    #[serde(default)]
    pub digests: BTreeMap<String, String>,
}

/// The calls that a replacement object answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// Names of the variables and attributes under which the fork holds the object.
    pub objects: Vec<String>,
    /// Methods and attributes that the replacement has.
    pub calls: Vec<String>,
}

/// How a shim stands to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The shim is called in the target's place and may call it.
    Wrap,
    /// The shim makes an object that stands in the target's place.
    Replace,
}

/// What a target is in the fork's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `def`, at module level or in a class.
    Function,
    /// `async def`.
    AsyncFunction,
    /// A method read like an attribute.
    Property,
    /// `class`.
    Class,
    /// A name bound by an assignment.
    Assignment,
}

impl Form {
    /// The word used in manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::AsyncFunction => "async-function",
            Self::Property => "property",
            Self::Class => "class",
            Self::Assignment => "assignment",
        }
    }
}

impl Kind {
    /// The word used in manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Replace => "replace",
        }
    }
}

impl Manifest {
    /// Reads the manifest `text` of the file named `file`.
    ///
    /// # Errors
    /// [`SeriesError::Syntax`] for TOML that is malformed or has missing or unknown keys, [`SeriesError::Invalid`] for
    /// values that can't be.
    pub fn parse(file: &str, text: &str) -> Result<Self, SeriesError> {
        let mut manifest: Self = toml::from_str(text)
            .map_err(|source| SeriesError::Syntax { file: file.to_owned(), source: Box::new(source) })?;
        file.strip_suffix(".toml").unwrap_or(file).clone_into(&mut manifest.name);
        for (position, hook) in manifest.hooks.iter().enumerate() {
            let twice = manifest.hooks[..position].iter().any(|other| other.id == hook.id);
            let problem = if twice { Some("the id stands twice in this manifest".to_owned()) } else { hook.problem() };
            if let Some(problem) = problem {
                return Err(SeriesError::Invalid { file: file.to_owned(), hook: hook.id.clone(), problem });
            }
        }
        Ok(manifest)
    }
}

impl Hook {
    fn problem(&self) -> Option<String> {
        if !is_place(&self.target) {
            return Some(format!("target `{}` is not `package.module:Class.attribute`", self.target));
        }
        for (key, value) in [("shim", &self.shim), ("self_test", &self.self_test)] {
            if !is_place(value) {
                return Some(format!("{key} `{value}` is not `module:function`"));
            }
        }
        if let Some(place) = self.rebind.iter().find(|place| !is_place(place)) {
            return Some(format!("rebind `{place}` is not `package.module:name`"));
        }
        if self.feature.is_empty() {
            return Some("feature is empty; name the switch that turns the hook on".to_owned());
        }
        let odd = self.digests.iter().find(|(_, digest)| {
            digest.len() != 32 || !digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        odd.map(|(release, digest)| {
            format!("digest `{digest}` of release {release} is not 32 lower-case hexadecimal digits")
        })
    }
}

/// Whether `text` reads `dotted.module:dotted.attribute`, each part a Python identifier.
fn is_place(text: &str) -> bool {
    let dotted = |name: &str| {
        name.split('.').all(|part| {
            part.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
                && part.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
        })
    };
    text.split_once(':').is_some_and(|(module, attribute)| dotted(module) && dotted(attribute))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::series) const MINIMAL: &str = r#"
title = "t"
why = "w"

[[hook]]
id = "a.b" # kept
target = "omlx.settings:X"
kind = "replace"
shim = "hwledger_omlx.hooks.home:x"
self_test = "hwledger_omlx.hooks.home:self_test"
feature = "home"
"#;

    #[test]
    fn defaults_are_the_cautious_ones() {
        let manifest = Manifest::parse("000-home.toml", MINIMAL).expect("parses");
        let hook = &manifest.hooks[0];
        assert_eq!((manifest.name.as_str(), hook.kind), ("000-home", Kind::Replace));
        assert!(hook.form.is_none() && hook.rebind.is_empty());
        assert!(!hook.required && hook.digests.is_empty() && hook.releases.is_none() && hook.protocol.is_none());
    }

    #[test]
    fn a_mistake_is_named_with_file_and_place() {
        let cases = [
            (MINIMAL.replace("kind = \"replace\"", "kind = \"graft\""), "graft"),
            (MINIMAL.replace("feature", "features"), "features"),
            (MINIMAL.replace("omlx.settings:X", "omlx.settings.X"), "hook `a.b`: target `omlx.settings.X`"),
            (MINIMAL.replace("hooks.home:x", "hooks.home:1x"), "hook `a.b`: shim"),
            (MINIMAL.replace("feature =", "form = \"lambda\"\nfeature ="), "lambda"),
            (MINIMAL.replace("feature =", "rebind = [\"omlx.y\"]\nfeature ="), "hook `a.b`: rebind `omlx.y`"),
            (MINIMAL.replace("\"home\"", "\"\""), "hook `a.b`: feature is empty"),
            (format!("{MINIMAL}[hook.digests]\n\"0.7.0\" = \"abc\"\n"), "digest `abc` of release 0.7.0"),
            (format!("{MINIMAL}{}", &MINIMAL[MINIMAL.find("[[hook]]").unwrap_or(0)..]), "stands twice"),
        ];
        for (text, said) in cases {
            let error = Manifest::parse("000-home.toml", &text).expect_err(said).to_string();
            assert!(error.starts_with("000-home.toml: ") && error.contains(said), "{error}");
        }
    }
}
