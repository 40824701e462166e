//! Why a policy was not taken: its text, or the model that it does not fit.

use super::budget::Budget;
use super::format::{FormatSpec, Part};
use super::layers::LayerRange;
use super::problem::{Problem, quoted};

/// Why a policy was not taken. Every message says where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The text is none of a policy.
    #[error("KV policy `{}`: at `{}` (column {column}): {problem}", quoted(text), quoted(part))]
    Text {
        /// All of it.
        text: String,
        /// The piece that is wrong.
        part: String,
        /// Where the piece begins, in characters counted from 1.
        column: usize,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The struct form says something impossible.
    #[error("KV policy: {0}")]
    Structure(String),
    /// JSON that is malformed or says something impossible.
    #[error("{what}: {source}")]
    Json {
        /// What it should be.
        what: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// TOML that is malformed or says something impossible.
    #[error("KV policy: {source}")]
    Toml {
        /// What the parser said.
        source: Box<toml::de::Error>,
    },
    /// A range reaches past the model's last layer.
    #[error("KV policy: layer {} of `{range}` does not exist: the model has {layers} layers, 0 to {}", range.last, layers - 1)]
    NoSuchLayer {
        /// The range as written.
        range: LayerRange,
        /// Layers of the model, at least 1.
        layers: u32,
    },
    /// A range names a layer that has no keys and values.
    #[error(
        "KV policy: layer {layer} of `{range}` has no KV (its cache is a recurrent state): leave it out of the range"
    )]
    LayerWithoutKv {
        /// The layer.
        layer: u32,
        /// The range as written.
        range: LayerRange,
    },
    /// The group that was asked for does not divide the width.
    #[error(
        "KV policy: layer {layer}: {part} is {width} numbers wide, which is no multiple of the group {group} of \
         `{format}`{}",
        fitting_groups(*.width)
    )]
    GroupDoesNotDivide {
        /// The layer.
        layer: u32,
        /// Keys or values.
        part: Part,
        /// Numbers of one vector.
        width: u32,
        /// The group.
        group: u16,
        /// The format that was asked for.
        format: FormatSpec,
    },
    /// No default group divides the width.
    #[error(
        "KV policy: layer {layer}: {part} is {width} numbers wide, which is no multiple of any group (64 or 32), so \
         `{format}` cannot hold it: give the layer 16 bit"
    )]
    NoGroupDivides {
        /// The layer.
        layer: u32,
        /// Keys or values.
        part: Part,
        /// Numbers of one vector.
        width: u32,
        /// The format that was asked for.
        format: FormatSpec,
    },
    /// Rotation needs a width that this is not.
    #[error(
        "KV policy: layer {layer}: {part} is {width} numbers wide, and `{format}` needs a power of two, 32 or more: \
         give the layer an affine format or 16 bit"
    )]
    WidthNotPowerOfTwo {
        /// The layer.
        layer: u32,
        /// Keys or values.
        part: Part,
        /// Numbers of one vector.
        width: u32,
        /// The format that was asked for.
        format: FormatSpec,
    },
    /// Channels are encoded sixteen at a time.
    #[error(
        "KV policy: layer {layer}: {part} is {width} numbers wide, and `{format}` needs a multiple of 16: give the layer \
         16 bit"
    )]
    OddChannels {
        /// The layer.
        layer: u32,
        /// Keys or values.
        part: Part,
        /// Numbers of one vector.
        width: u32,
        /// The format that was asked for.
        format: FormatSpec,
    },
    /// `auto` without a profile.
    #[error(
        "KV policy: `auto:{budget}` needs the model's profile: make it once with `hwledger-omlx kv calibrate MODEL \
         --text FILE`"
    )]
    NoProfile {
        /// The budget.
        budget: Budget,
    },
    /// The profile was measured on another model.
    #[error(
        "KV profile: {what}: it was measured on another model; measure this one with `hwledger-omlx kv calibrate MODEL \
         --text FILE`"
    )]
    OtherModel {
        /// How one can tell.
        what: String,
    },
    /// The profile says something that cannot be.
    #[error("KV profile: {0}")]
    Profile(String),
    /// Not even the smallest formats fit.
    #[error("KV policy: `auto:{budget}` cannot be met: the smallest possible is `auto:{smallest}`")]
    BudgetTooSmall {
        /// The budget.
        budget: Budget,
        /// The smallest budget that can be met.
        smallest: Budget,
    },
    /// The description of the model says something that cannot be.
    #[error("KV geometry: {0}")]
    Geometry(String),
}

fn fitting_groups(width: u32) -> String {
    let fitting = super::format::GROUPS.iter().filter(|group| width.is_multiple_of(u32::from(**group)));
    let fitting: Vec<String> = fitting.map(|group| format!("`group={group}`")).collect();
    if fitting.is_empty() { ": give the layer 16 bit".to_owned() } else { format!(": write {}", fitting.join(" or ")) }
}
