//! The KV policy: how each layer's keys and values are held, live (in the running cache) and at rest (in the store).
//!
//! A policy comes from text ([`KvPolicy::parse`]), or from whatever serde reads, in which a string is the text form. It is
//! checked against a model ([`Geometry`]) and settled for each of its caches by [`KvPolicy::resolve`], which also solves
//! `auto` with what calibration measured ([`Profile`]).
//!
//! # The text
//!
//! People type it. Letters of either case, white space around pieces does not matter.
//!
//! ```text
//! policy   = side [ "/" side ]                  live, and at rest; without "/", at rest is as live
//! side     = base *( "," item )
//! base     = formats | "auto:" budget           what all layers have that no item names
//! item     = layers ":" formats                 what these layers have instead; a layer stands in one item only
//!          | "group=" ( "32" | "64" | "128" )   of the formats of this side that have none of their own
//!          | "first=" tokens                    the first tokens stay in 16 bit; before the "/" only
//!          | "recent=" tokens                   the latest tokens stay in 16 bit; before the "/" only
//! layers   = number [ "-" number ]              from 0; the last one included
//! formats  = [ scheme ] bits [ ":" group ]      keys and values alike:      8   rotated-3.5   affine:4:32
//!          | [ scheme ] "k" bits "v" bits [ ":" group ]                     k8v4   channel-k4v2
//!          | format "+" format                  keys + values:              affine:8:32+rotated-4
//!          | "lossless"
//! format   = [ scheme ] bits [ ":" group ] | "lossless"
//! scheme   = ( "affine" | "rotated" | "channel" ) ( "-" | ":" )
//! bits     = 8 6 5 4 3 2 | 1 to 8 in halves if rotated | 16
//! budget   = share                              of the 16-bit bytes, above 0 and at most 1:    0.35
//!          | size "@" tokens                    bytes of one request of so many tokens:        12GiB@128k
//! size     = decimal ( "B" | "kB" | "MB" | "GB" | "TB" | "KiB" | "MiB" | "GiB" | "TiB" )
//! tokens   = number [ "k" | "m" ]               k is 1024, m is 1024 k: 128k is 131072
//! ```
//!
//! A group is given only where the scheme is (`affine:4:32`, not `4:32`). Bits alone are of the scheme that the side's base
//! is written with, affine if none. `16` is as the model has it, under any scheme. Of the scheme `channel`, values are
//! affine (KIVI). `lossless` is 16 bit live and packed without loss at rest. What a policy comes to on a model stands at
//! [`KvPolicy::resolve`].
//!
//! | text | means |
//! |---|---|
//! | `8` | affine, 8 bits, groups of 64 |
//! | `k8v4,0-1:16` | keys 8 and values 4 bits, the first two layers in 16 |
//! | `rotated-3.5,34-35:8` | rotated at 3.5 bits, two layers rotated at 8 |
//! | `16/lossless` | the running cache as it is, the store's records packed without loss |
//! | `4,first=4,recent=128` | 4 bits; in the running cache all but the first 4 and the latest 128 tokens |
//! | `auto:0.35,recent=64` | the best formats that take at most 35% of the 16-bit bytes |
//! | `auto:12GiB@128k/4` | the best formats for 12 GiB at 131072 tokens, and 4 bits in the store |

mod auto;
mod budget;
mod bytes;
mod dial;
mod error;
mod format;
mod geometry;
mod layers;
mod problem;
mod profile;
mod resolve;
mod solver;
mod structure;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod text;

use std::str::FromStr;

pub use budget::{Budget, Share};
pub use bytes::{LayerBytes, LayerPlan, Plan};
pub use dial::{Base, Dial, Override};
pub use error::PolicyError;
pub use format::{AFFINE_BITS, DEFAULT_GROUP, Format, FormatSpec, GROUPS, KeyValue, Part};
pub use geometry::{Cache, Geometry, Kv, Layer, Vectors};
pub use layers::LayerRange;
pub use problem::Problem;
pub use profile::{Measured, MeasuredFormats, PROFILE_VERSION, Profile, Whole};
pub use resolve::{CacheFormats, Resolved, ResolvedLayer};

/// How each layer's keys and values are to be held. Its text ([`ToString`]) is canonical: policies that are equal have one,
/// and it reads as an equal policy.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KvPolicy {
    live: Dial,
    rest: Option<Dial>,
    first_tokens: u32,
    recent_tokens: u32,
}

impl KvPolicy {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`PolicyError::Text`], which says what is wrong, where, and what would be right.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        text::policy(text)
    }

    /// Reads JSON: the struct form, or a string in the text form.
    ///
    /// # Errors
    /// [`PolicyError::Json`].
    pub fn from_json(text: &str) -> Result<Self, PolicyError> {
        serde_json::from_str(text).map_err(|source| PolicyError::Json { what: "KV policy", source })
    }

    /// Reads a TOML document of the struct form.
    ///
    /// # Errors
    /// [`PolicyError::Toml`].
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        toml::from_str(text).map_err(|source| PolicyError::Toml { source: Box::new(source) })
    }

    /// The formats of the running cache.
    #[must_use]
    pub fn live(&self) -> &Dial {
        &self.live
    }

    /// The formats of the store; `None` where they are those of the running cache.
    #[must_use]
    pub fn rest(&self) -> Option<&Dial> {
        self.rest.as_ref()
    }

    /// Tokens at the beginning that the running cache keeps plain.
    #[must_use]
    pub fn first_tokens(&self) -> u32 {
        self.first_tokens
    }

    /// Latest tokens that the running cache keeps plain.
    #[must_use]
    pub fn recent_tokens(&self) -> u32 {
        self.recent_tokens
    }

    /// Whether it must be solved for, with a [`Profile`].
    #[must_use]
    pub fn needs_profile(&self) -> bool {
        std::iter::once(&self.live).chain(&self.rest).any(|dial| matches!(dial.base(), Base::Auto(_)))
    }

    /// Formats at rest that are those of the running cache are left out. What `auto` finds may differ between the two.
    fn new(live: Dial, rest: Option<Dial>, first_tokens: u32, recent_tokens: u32) -> Self {
        let rest = rest.filter(|rest| *rest != live || matches!(rest.base(), Base::Auto(_)));
        Self { live, rest, first_tokens, recent_tokens }
    }
}

impl FromStr for KvPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text)
    }
}

impl FromStr for Format {
    type Err = PolicyError;

    /// Reads what its text says, as a resolved policy has it.
    fn from_str(name: &str) -> Result<Self, PolicyError> {
        text::format(name)
    }
}
