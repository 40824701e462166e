//! What an engine is started with. Fields as `hwledger_omlx.engine.config.EngineConfig` has them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Configuration of one engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// A model's folder, or a Hugging Face id where online; `None` for an engine that begins without a model.
    pub model: Option<String>,
    /// Folder of the KV cache on disk; `None` is the package's default folder.
    #[serde(default)]
    pub cache_dir: Option<PathBuf>,
    /// Which KV cache outlives the request; `None` is none.
    #[serde(default = "default_cache")]
    pub cache: Option<CacheKind>,
    /// The policy at which keys and values are held, such as `8`, `k8v4` or `auto:0.35`; `None` is 16 bit.
    #[serde(default)]
    pub kv: Option<String>,
    /// A checkout of the fork, put before the installed one.
    #[serde(default)]
    pub fork: Option<PathBuf>,
    /// Where each request is recorded.
    #[serde(default)]
    pub ledger: RequestLedger,
    /// How many requests are decoded in one batch; more wait.
    #[serde(default = "default_concurrency")]
    pub max_concurrent_requests: u32,
}

/// Who keeps the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CacheKind {
    /// Ours: paged, token-exact, in Rust.
    Paged,
    /// The fork's own paged SSD cache.
    Fork,
}

/// The database with a row for each request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "LedgerSetting", into = "LedgerSetting")]
pub enum RequestLedger {
    /// The package's own, beside the cache.
    #[default]
    Usual,
    /// None.
    Off,
    /// The one of this path, made where there is none.
    At(PathBuf),
}

/// As Python has it: a truth value or a path.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum LedgerSetting {
    Wanted(bool),
    At(PathBuf),
}

impl From<LedgerSetting> for RequestLedger {
    fn from(setting: LedgerSetting) -> Self {
        match setting {
            LedgerSetting::Wanted(true) => Self::Usual,
            LedgerSetting::Wanted(false) => Self::Off,
            LedgerSetting::At(path) => Self::At(path),
        }
    }
}

impl From<RequestLedger> for LedgerSetting {
    fn from(ledger: RequestLedger) -> Self {
        match ledger {
            RequestLedger::Usual => Self::Wanted(true),
            RequestLedger::Off => Self::Wanted(false),
            RequestLedger::At(path) => Self::At(path),
        }
    }
}

impl Default for EngineConfig {
    /// An engine without a model, to which [`crate::Engine::load`] or a [`crate::Server`] gives some.
    fn default() -> Self {
        Self {
            model: None,
            cache_dir: None,
            cache: default_cache(),
            kv: None,
            fork: None,
            ledger: RequestLedger::default(),
            max_concurrent_requests: default_concurrency(),
        }
    }
}

impl EngineConfig {
    /// The defaults, with `model`.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self { model: Some(model.into()), ..Self::default() }
    }

    /// Keeps the KV cache in this folder.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// Holds keys and values at this policy, such as `8`, `k8v4` or `auto:0.35`.
    #[must_use]
    pub fn kv(mut self, policy: impl Into<String>) -> Self {
        self.kv = Some(policy.into());
        self
    }

    /// Records requests there, or not at all.
    #[must_use]
    pub fn ledger(mut self, ledger: RequestLedger) -> Self {
        self.ledger = ledger;
        self
    }

    /// Takes the fork from this checkout.
    #[must_use]
    pub fn fork(mut self, checkout: impl Into<PathBuf>) -> Self {
        self.fork = Some(checkout.into());
        self
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field it is a default of")]
fn default_cache() -> Option<CacheKind> {
    Some(CacheKind::Paged)
}

fn default_concurrency() -> u32 {
    8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_said_as_python_has_it() {
        for (ledger, text) in [
            (RequestLedger::Usual, "true"),
            (RequestLedger::Off, "false"),
            (RequestLedger::At("/a/b.db".into()), "\"/a/b.db\""),
        ] {
            assert_eq!(serde_json::to_string(&ledger).expect("plain data"), text);
            assert_eq!(serde_json::from_str::<RequestLedger>(text).expect("its own form"), ledger);
        }
    }
}
