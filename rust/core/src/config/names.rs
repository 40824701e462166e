//! The settings by name: how each is given, and when a change of it counts.

use super::kv::KvSetting;
use super::tree::{Node, Value};

/// When a change counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// At once, where the configuration is loaded anew.
    Now,
    /// When the model is next loaded.
    Loading,
    /// When the program is next started.
    Restart,
}

/// How a setting is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Section and key, such as `server.port`.
    pub name: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The flags of `hwledger-omlx serve`; `MODEL` are its arguments.
    pub flags: &'static [&'static str],
    /// When a change counts.
    pub takes: Takes,
}

impl Name {
    pub(super) fn path(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.name.split('.')
    }
}

const fn name(name: &'static str, variable: &'static str, flags: &'static [&'static str], takes: Takes) -> Name {
    Name { name, variable, flags, takes }
}

use Takes::{Loading, Now, Restart};

/// Every setting but those of models.
#[rustfmt::skip]
pub const NAMES: &[Name] = &[
    name("server.host", "HWLEDGER_OMLX_HOST", &["--host"], Restart),
    name("server.port", "HWLEDGER_OMLX_PORT", &["--port"], Restart),
    name("server.api_key", "HWLEDGER_OMLX_API_KEY", &["--api-key"], Restart),
    name("server.models", "HWLEDGER_OMLX_MODELS", &["MODEL"], Now),
    name("server.model_dirs", "HWLEDGER_OMLX_MODEL_DIR", &["--model-dir"], Now),
    name("server.shutdown_seconds", "HWLEDGER_OMLX_SHUTDOWN_SECONDS", &["--shutdown-seconds"], Now),
    name("server.stuck_after_seconds", "HWLEDGER_OMLX_STUCK_AFTER_SECONDS", &["--stuck-after-seconds"], Now),
    name("server.restart_stuck", "HWLEDGER_OMLX_RESTART_STUCK", &["--restart-stuck"], Restart),
    name("server.restart_after_seconds", "HWLEDGER_OMLX_RESTART_AFTER_SECONDS", &["--restart-after-seconds"], Now),
    name("server.sse_keepalive_mode", "HWLEDGER_OMLX_SSE_KEEPALIVE_MODE", &["--sse-keepalive-mode"], Now),
    name("server.memory_guard_tier", "HWLEDGER_OMLX_MEMORY_GUARD_TIER", &["--memory-guard-tier"], Restart),
    name("server.mcp_config", "HWLEDGER_OMLX_MCP_CONFIG", &["--mcp-config"], Restart),
    name("engine.home", "HWLEDGER_OMLX_HOME", &["--base-path"], Restart),
    name("engine.fork", "HWLEDGER_OMLX_FORK", &["--fork"], Restart),
    name("engine.kv", "HWLEDGER_OMLX_KV", &["--kv"], Now),
    name("engine.ledger", "HWLEDGER_OMLX_LEDGER", &[], Restart),
    name("engine.max_concurrent_requests", "HWLEDGER_OMLX_MAX_CONCURRENT_REQUESTS", &["--max-concurrent-requests"], Restart),
    name("cache.kind", "HWLEDGER_OMLX_CACHE", &["--no-cache"], Restart),
    name("cache.dir", "HWLEDGER_OMLX_CACHE_DIR", &["--cache-dir", "--paged-ssd-cache-dir"], Restart),
    name("cache.quota_bytes", "HWLEDGER_OMLX_CACHE_QUOTA_BYTES", &["--paged-ssd-cache-max-size"], Now),
    name("cache.hot_bytes", "HWLEDGER_OMLX_CACHE_HOT_BYTES", &["--hot-cache-max-size"], Now),
    name("cache.queue_bytes", "HWLEDGER_OMLX_CACHE_QUEUE_BYTES", &[], Restart),
    name("cache.backlog_bytes", "HWLEDGER_OMLX_CACHE_BACKLOG_BYTES", &[], Restart),
    name("cache.min_free_bytes", "HWLEDGER_OMLX_CACHE_MIN_FREE_BYTES", &[], Now),
    name("cache.daily_write_bytes", "HWLEDGER_OMLX_CACHE_DAILY_WRITE_BYTES", &[], Now),
    name("cache.ttl_seconds", "HWLEDGER_OMLX_CACHE_TTL_SECONDS", &[], Now),
    name("cache.reader_threads", "HWLEDGER_OMLX_CACHE_READER_THREADS", &[], Restart),
    name("cache.segment_bytes", "HWLEDGER_OMLX_CACHE_SEGMENT_BYTES", &[], Restart),
    name("sampling.max_context_window", "HWLEDGER_OMLX_MAX_CONTEXT_WINDOW", &[], Now),
    name("sampling.max_tokens", "HWLEDGER_OMLX_MAX_TOKENS", &[], Now),
    name("sampling.temperature", "HWLEDGER_OMLX_TEMPERATURE", &[], Now),
    name("sampling.top_p", "HWLEDGER_OMLX_TOP_P", &[], Now),
    name("sampling.top_k", "HWLEDGER_OMLX_TOP_K", &[], Now),
    name("sampling.repetition_penalty", "HWLEDGER_OMLX_REPETITION_PENALTY", &[], Now),
    name("sampling.force_sampling", "HWLEDGER_OMLX_FORCE_SAMPLING", &[], Now),
    name("log.level", "HWLEDGER_OMLX_LOG", &["--log-level"], Now),
    name("network.hf_endpoint", "HWLEDGER_OMLX_HF_ENDPOINT", &["--hf-endpoint"], Restart),
    name("network.ms_endpoint", "HWLEDGER_OMLX_MS_ENDPOINT", &["--ms-endpoint"], Restart),
    name("network.http_proxy", "HWLEDGER_OMLX_HTTP_PROXY", &["--http-proxy"], Restart),
    name("network.https_proxy", "HWLEDGER_OMLX_HTTPS_PROXY", &["--https-proxy"], Restart),
    name("network.no_proxy", "HWLEDGER_OMLX_NO_PROXY", &["--no-proxy"], Restart),
    name("network.ca_bundle", "HWLEDGER_OMLX_CA_BUNDLE", &["--ca-bundle"], Restart),
];

/// Settings of a model that the fork reads when it loads it.
const AT_LOADING: &[&str] = &[
    "index_cache_freq",
    "max_concurrent_requests",
    "model_type_override",
    "mtp_enabled",
    "specprefill_draft_model",
    "specprefill_enabled",
    "trust_remote_code",
];
/// And all that begin so.
const AT_LOADING_PREFIXES: &[&str] = &["dflash_", "vlm_mtp_"];

/// When a change of a model's setting counts.
pub(super) fn model_takes(key: &str) -> Takes {
    let loading = AT_LOADING.contains(&key) || AT_LOADING_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    if loading { Loading } else { Now }
}

/// The word that is most like `word`, if any is.
#[must_use]
pub fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    const ALIKE: f64 = 0.7;
    known
        .into_iter()
        .map(|each| (strsim::normalized_damerau_levenshtein(word, each), each))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, each)| each)
}

const PREFIX: &str = "HWLEDGER_OMLX_";
/// Variables that say something else.
const OTHERS: &[&str] = &[super::find::VARIABLE];

/// What to say of a variable that has our prefix, is no setting and looks like one.
pub(super) fn misspelt(variable: &str) -> Option<String> {
    let word = variable.strip_prefix(PREFIX).filter(|_| !OTHERS.contains(&variable))?;
    let known = NAMES.iter().map(|name| &name.variable[PREFIX.len()..]);
    nearest(word, known).map(|near| format!("{variable} is no setting; did you mean {PREFIX}{near}?"))
}

const PATHS: &[&str] = &[
    "server.mcp_config",
    "server.model_dirs",
    "engine.home",
    "engine.fork",
    "engine.ledger",
    "cache.dir",
    "network.ca_bundle",
];

/// Does something with each text that is a path.
pub(super) fn each_path(root: &mut Node, work: &mut impl FnMut(&mut String)) {
    for path in PATHS {
        if let Some(node) = root.at_mut(path.split('.')) {
            each_text(node, &mut |text| work(text));
        }
    }
    // A Hugging Face id looks like a relative path, so only what cannot be one is taken for a path.
    let mut model = |text: &mut String| {
        if text.starts_with(['.', '~', '/']) {
            work(text);
        }
    };
    if let Some(node) = root.at_mut(["server", "models"]) {
        each_text(node, &mut model);
    }
    let mut policy = |text: &mut String| {
        if KvSetting::is_file(text) {
            work(text);
        }
    };
    if let Some(node) = root.at_mut(["engine", "kv"]) {
        each_text(node, &mut policy);
    }
    if let Some(Node { value: Value::Table(models), .. }) = root.at_mut(["models"]) {
        for (_, model) in models {
            if let Some(node) = model.at_mut(["kv"]) {
                each_text(node, &mut policy);
            }
        }
    }
}

fn each_text(node: &mut Node, work: &mut impl FnMut(&mut String)) {
    match &mut node.value {
        Value::Text(text) => work(text),
        Value::List(items) => {
            for item in items {
                if let Value::Text(text) = &mut item.value {
                    work(text);
                }
            }
        }
        _ => {}
    }
}
