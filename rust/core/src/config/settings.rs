//! The settings of each section. `None` stands for what is found out when it is needed, or left to the fork.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::kv::KvSetting;
use super::model::ModelSettings;
use super::number::{Above0, AtLeast0, Share};
use super::size::Size;

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The HTTP server.
    pub server: ServerSettings,
    /// The engine under it.
    pub engine: EngineSettings,
    /// The KV cache on disk.
    pub cache: CacheSettings,
    /// What requests get that do not say.
    pub sampling: SamplingSettings,
    /// Messages on standard error.
    pub log: LogSettings,
    /// How the hub is reached.
    pub network: NetworkSettings,
    /// Single models, by the id that requests name them by.
    pub models: BTreeMap<String, ModelSettings>,
}

/// The HTTP server.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address to listen on; beyond this machine it takes a key.
    pub host: String,
    /// 0 for any that is free.
    pub port: u16,
    /// What requests must carry.
    pub api_key: Option<String>,
    /// Folders or Hugging Face ids that are loaded before anything is served.
    pub models: Vec<String>,
    /// Folders of models that are loaded when a request names one of them.
    pub model_dirs: Vec<PathBuf>,
    /// How long answers under way may take to end once the server is told to stop.
    pub shutdown_seconds: Above0,
    /// Without a sign of life for so long, a model with requests is stuck.
    pub stuck_after_seconds: Above0,
    /// Whether a supervisor ends and starts again what is stuck.
    pub restart_stuck: bool,
    /// Under that supervisor: how long it may be stuck.
    pub restart_after_seconds: Above0,
    /// What a stream sends while nothing else is to be sent.
    pub sse_keepalive_mode: Option<Keepalive>,
    /// How much memory the fork leaves to others.
    pub memory_guard_tier: Option<GuardTier>,
    /// File that names MCP servers.
    pub mcp_config: Option<PathBuf>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let seconds = |seconds| Above0::try_from(seconds).unwrap_or_else(|_| unreachable!("above 0"));
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            api_key: None,
            models: Vec::new(),
            model_dirs: Vec::new(),
            shutdown_seconds: seconds(20.0),
            stuck_after_seconds: seconds(8.0),
            restart_stuck: false,
            restart_after_seconds: seconds(60.0),
            sse_keepalive_mode: None,
            memory_guard_tier: None,
            mcp_config: None,
        }
    }
}

impl fmt::Debug for ServerSettings {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        to.debug_struct("ServerSettings").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// What a stream sends while nothing else is to be sent, as the fork names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Keepalive {
    /// Events of the protocol that say nothing.
    Chunk,
    /// Comments.
    Comment,
    /// Nothing.
    Off,
}

/// How much memory the fork leaves to others, as it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum GuardTier {
    /// Most.
    Safe,
    /// As by default.
    Balanced,
    /// Least.
    Aggressive,
}

/// The engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Folder of all files of ours and of the fork's that have no folder of their own.
    pub home: Option<PathBuf>,
    /// Folder of an oMLX checkout in place of the installed one.
    pub fork: Option<PathBuf>,
    /// At which policy keys and values are held.
    pub kv: Option<KvSetting>,
    /// Whether each request is recorded, or in which database.
    pub ledger: Recording,
    /// Most requests in one batch.
    pub max_concurrent_requests: NonZeroU32,
}

impl Default for EngineSettings {
    fn default() -> Self {
        const BATCH: NonZeroU32 = NonZeroU32::new(8).unwrap();
        Self { home: None, fork: None, kv: None, ledger: Recording::Switch(true), max_concurrent_requests: BATCH }
    }
}

/// Whether requests are recorded, or in which database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Recording {
    /// In the default database, or not at all.
    Switch(bool),
    /// In this one.
    Database(PathBuf),
}

struct RecordingReader;

impl Visitor<'_> for RecordingReader {
    type Value = Recording;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("true, false or the path of a database")
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<Recording, E> {
        Ok(Recording::Switch(switch))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Recording, E> {
        Ok(match text {
            "true" => Recording::Switch(true),
            "false" => Recording::Switch(false),
            path => Recording::Database(PathBuf::from(path)),
        })
    }
}

impl<'de> Deserialize<'de> for Recording {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RecordingReader)
    }
}

/// The KV cache on disk. What has no value gets one that fits the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// Whose cache it is.
    pub kind: CacheKind,
    /// Its folder.
    pub dir: Option<PathBuf>,
    /// Most that the folder takes.
    pub quota_bytes: Option<Size>,
    /// RAM for what was saved lately.
    pub hot_bytes: Option<Size>,
    /// RAM for what is on its way to the disk.
    pub queue_bytes: Option<Size>,
    /// KV that may wait for room in the queue.
    pub backlog_bytes: Option<Size>,
    /// Free space that the disk keeps.
    pub min_free_bytes: Option<Size>,
    /// Most that is written a day.
    pub daily_write_bytes: Option<Size>,
    /// How long a prefix is kept after its last use.
    pub ttl_seconds: Option<Above0>,
    /// Threads of one restore.
    pub reader_threads: Option<NonZeroU32>,
    /// Size of one file.
    pub segment_bytes: Option<Size>,
}

/// Whose cache it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// Ours.
    #[default]
    Paged,
    /// The fork's own.
    Fork,
    /// None beyond a request.
    Off,
}

/// What requests get that do not say. What has no value is left to the admin page and the fork.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SamplingSettings {
    /// Longer prompts are refused.
    pub max_context_window: Option<NonZeroU32>,
    /// Most tokens of an answer.
    pub max_tokens: Option<NonZeroU32>,
    /// 0 takes the likeliest token each time.
    pub temperature: Option<AtLeast0>,
    /// Tokens are taken from the likeliest that together have this share.
    pub top_p: Option<Share>,
    /// Tokens are taken from so many of the likeliest; 0 for all.
    pub top_k: Option<u32>,
    /// 1 for none.
    pub repetition_penalty: Option<Above0>,
    /// Whether these count also where a request says otherwise.
    pub force_sampling: Option<bool>,
}

/// Messages on standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Lesser ones are left out.
    pub level: LogLevel,
}

/// How much a message must matter to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// With the content of messages.
    Trace,
    /// For whoever looks for a mistake.
    Debug,
    /// What happens.
    Info,
    /// What should not be so.
    #[default]
    #[serde(alias = "warn")]
    Warning,
    /// What failed.
    Error,
    /// What nothing goes on after.
    Critical,
    /// Nothing.
    Off,
}

/// How the hub is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Of Hugging Face, or of a mirror.
    pub hf_endpoint: Option<String>,
    /// Of `ModelScope`.
    pub ms_endpoint: Option<String>,
    /// Proxy for HTTP.
    pub http_proxy: Option<String>,
    /// Proxy for HTTPS.
    pub https_proxy: Option<String>,
    /// Hosts that are reached without, separated by commas.
    pub no_proxy: Option<String>,
    /// Certificates in PEM.
    pub ca_bundle: Option<PathBuf>,
}
