//! What a layer does to know of other tokens.

use serde::{Deserialize, Serialize};

/// What a layer does to know of other tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Attention to all tokens; stands in the table for one of the next three.
    Full,
    /// Attention to all tokens, each head with keys and values of its own.
    Mha,
    /// Attention to all tokens, groups of heads sharing keys and values.
    Gqa,
    /// Attention to all tokens, all heads sharing keys and values.
    Mqa,
    /// Latent attention: keys and values of all heads come from one short vector a token.
    Mla,
    /// Attention to the last tokens.
    SlidingWindow,
    /// Attention within chunks of the sequence.
    Chunked,
    /// Linear attention: a state of one size, whatever the context.
    Linear,
    /// Linear attention by the gated delta rule.
    GatedDelta,
    /// A state-space model.
    Ssm,
    /// A short convolution over the last tokens.
    Convolution,
    /// Two of these side by side in one layer.
    Hybrid,
    /// Attention to the keys and values of a layer before.
    SharedKv,
    /// No look at other tokens.
    None,
    /// Of a kind that is not known.
    Unknown,
}

impl Attention {
    /// Full attention as its heads have it.
    #[must_use]
    pub(super) fn of_heads(self, heads: u64, kv_heads: u64) -> Self {
        match self {
            Self::Full if kv_heads == 1 && heads > 1 => Self::Mqa,
            Self::Full if kv_heads == heads => Self::Mha,
            Self::Full => Self::Gqa,
            other => other,
        }
    }
}
