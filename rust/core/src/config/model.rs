//! The settings of one model: those of the fork's `ModelSettings` (`omlx/model_settings.py`), by its names, and the KV policy.
//!
//! Of the fork's, three are left out: `turboquant_kv_*`, which it reads nowhere, in favour of `kv`; `active_profile_name`,
//! which is the admin page's; what a release of the fork lacks is refused when it is applied.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::kv::KvSetting;
use super::number::{Above0, AtLeast0, Penalty, Share};
use super::size::Size;

/// What holds for one model. What has no value is left to the admin page and the fork.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "they are the fork's, which documents them; ours are documented")]
pub struct ModelSettings {
    /// At which policy its keys and values are held, in place of `engine.kv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv: Option<KvSetting>,

    // Sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_context_window: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<AtLeast0>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<Above0>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<Penalty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_sampling: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tool_result_tokens: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<Map<String, Json>>"))]
    pub chat_template_kwargs: Option<Map<String, Json>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced_ct_kwargs: Option<Vec<String>>,

    // Thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_thinking: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve_thinking: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_budget_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_budget_tokens: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort_budgets: Option<BTreeMap<String, u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_parser: Option<String>,

    // How it is loaded and named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_type_override: Option<ModelType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_pinned: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_default: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_remote_code: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_requests: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_cache_freq: Option<NonZeroU32>,

    // Sparse prefill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specprefill_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specprefill_draft_model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specprefill_keep_pct: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specprefill_threshold: Option<NonZeroU32>,

    // Speculative decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_draft_model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_draft_quant_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_draft_quant_weight_bits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_draft_quant_activation_bits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_draft_quant_group_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_max_ctx: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_max_concurrent: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_kv_pressure_threshold: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_in_memory_cache: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_in_memory_cache_max_entries: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_in_memory_cache_max_bytes: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dflash_ssd_cache: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtp_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlm_mtp_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlm_mtp_draft_model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlm_mtp_draft_block_size: Option<NonZeroU32>,

    // Audio, images and video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aligner_model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aligner_max_audio_seconds: Option<Above0>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_aligner_overflow: Option<Overflow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_diarize_quality: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_long_audio: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_audio_chunk_minutes: Option<Above0>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_default_steps: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_default_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_default_steps: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_default_fps: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_default_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_default_seconds: Option<Above0>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_default_upscale_resolution: Option<u32>,
}

/// What kind of model the fork is to take a folder for, by its own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "they are the fork's")]
pub enum ModelType {
    Llm,
    Vlm,
    Embedding,
    Reranker,
    AudioStt,
    AudioTts,
    AudioSts,
    Video,
    VideoUpscaler,
    Image,
}

/// What becomes of audio that is too long to be aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// It is refused.
    Error,
    /// It is split.
    Chunk,
}
