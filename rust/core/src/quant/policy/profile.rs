//! What calibration measured: how much each format of each layer's keys and values changes what the model says. Written and
//! read as JSON; knows nothing of how it was measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::KvPolicy;
use super::error::PolicyError;
use super::format::{Format, KeyValue, Part};
use super::resolve::Resolved;

/// The version of the file that this program writes and reads.
pub const PROFILE_VERSION: u32 = 1;

/// What a format does to the model where nothing else is changed.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Mean Kullback-Leibler divergence of the next-token distribution from the 16-bit one, in nats.
    pub kl: f64,
    /// Relative error of the layer's attention output.
    pub error: f64,
}

/// The formats that were measured on the keys, or on the values, of one layer.
pub type MeasuredFormats = BTreeMap<Format, Measured>;

/// What a policy does to the model, all layers together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whole {
    /// The formats of all layers, written out as those of the layers are.
    pub policy: KvPolicy,
    /// As [`Measured::kl`].
    pub kl: f64,
    /// The same of each piece of the text, which all policies have in common. Empty where they were not kept apart.
    #[serde(default)]
    pub kl_of_pieces: Vec<f64>,
}

impl Whole {
    /// Whether there is little doubt that this one would do less harm than `other` on any text: the mean is
    /// [`CLEARLY_BETTER`], and so is nearly every piece.
    ///
    /// A mean KL of thousands of tokens is that of a few among them. On another text of the shipped model, a policy that
    /// was better by its mean on the first had 2.3 times the KL of the uniform one, and one of less than half the mean
    /// 1.3 times. Better in 14 of 16 pieces comes by chance 2 times in 1,000 (sign test).
    #[must_use]
    pub fn is_surely_better_than(&self, other: &Self) -> bool {
        let pairs = self.kl_of_pieces.iter().zip(&other.kl_of_pieces);
        let better = pairs.filter(|(this, other)| this < other).count();
        self.kl < other.kl * CLEARLY_BETTER
            && self.kl_of_pieces.len() == other.kl_of_pieces.len()
            && better >= FEWEST_BETTER_PIECES
            && better * MOST_PIECES_TO_ONE_WORSE >= self.kl_of_pieces.len() * (MOST_PIECES_TO_ONE_WORSE - 1)
    }
}

/// Share of the other's mean.
const CLEARLY_BETTER: f64 = 0.5;
const FEWEST_BETTER_PIECES: usize = 7;
/// One piece in eight may be worse.
const MOST_PIECES_TO_ONE_WORSE: usize = 8;

/// The sensitivity of a model's layers, keys and values apart.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// [`PROFILE_VERSION`].
    pub version: u32,
    /// The fingerprint of the model's files, in hexadecimal.
    pub model: String,
    /// The digest of the text that it was measured on, in hexadecimal.
    pub text: String,
    /// Tokens of the text that were measured.
    pub tokens: u64,
    /// Of every layer of the model; `None` where it has no keys and values.
    pub layers: Vec<Option<KeyValue<MeasuredFormats>>>,
    /// Policies that were measured as wholes: errors of layers do not quite add up.
    #[serde(default)]
    pub wholes: Vec<Whole>,
}

impl Profile {
    /// Reads it from JSON.
    ///
    /// # Errors
    /// [`PolicyError::Json`] where it is none, [`PolicyError::Profile`] for another version or a number that cannot be.
    pub fn from_json(text: &str) -> Result<Self, PolicyError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let json = |source| PolicyError::Json { what: "KV profile", source };
        let Versioned { version } = serde_json::from_str(text).map_err(json)?;
        check_version(version)?;
        let profile: Self = serde_json::from_str(text).map_err(json)?;
        profile.check()?;
        Ok(profile)
    }

    /// What was measured of one part of a layer.
    #[must_use]
    pub fn measured(&self, layer: u32, part: Part) -> Option<&MeasuredFormats> {
        let layer = self.layers.get(usize::try_from(layer).ok()?)?.as_ref()?;
        Some(layer.get(part)).filter(|measured| !measured.is_empty())
    }

    /// The sum of what each part's format (live, or at rest) was measured to cost, in nats; `None` where one was not
    /// measured. Errors of layers are taken to add up, as `KVTuner` (arXiv 2502.04420) does.
    #[must_use]
    pub fn predicted_kl(&self, resolved: &Resolved, at_rest: bool) -> Option<f64> {
        let mut sum = 0.0;
        for (layer, each) in (0..).zip(&resolved.layers) {
            for part in Part::ALL {
                // The caches of one layer were measured together, in one format.
                let held = each.caches.iter().flatten().map(|cache| if at_rest { cache.rest } else { cache.live });
                let mut formats = held.map(|held| *held.get(part));
                if let Some(format) = formats.find(|format| format.is_lossy()) {
                    sum += self.measured(layer, part)?.get(&format)?.kl;
                }
            }
        }
        Some(sum)
    }

    /// Whether every number is one that can be.
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        check_version(self.version)?;
        let wrong = |what: String| Err(PolicyError::Profile(what));
        for (name, digest) in [("model", &self.model), ("text", &self.text)] {
            if digest.is_empty() || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return wrong(format!("{name} is no hexadecimal digest"));
            }
        }
        for (layer, measured) in self.layers.iter().enumerate() {
            let Some(measured) = measured else { continue };
            for part in Part::ALL {
                for (format, Measured { kl, error }) in measured.get(part) {
                    if !(kl.is_finite() && *kl >= 0.0 && error.is_finite() && *error >= 0.0) {
                        return wrong(format!("layer {layer}: {part}: `{format}`: kl and error are 0 or above"));
                    }
                    if part == Part::Values && matches!(format, Format::Channel { .. }) {
                        return wrong(format!("layer {layer}: V: `{format}` is for keys; of values it is affine"));
                    }
                }
            }
        }
        let mut figures = self.wholes.iter().map(|whole| (whole, whole.kl_of_pieces.iter().chain([&whole.kl])));
        match figures.find(|(_, found)| !found.clone().all(|kl| kl.is_finite() && *kl >= 0.0)) {
            Some((whole, _)) => wrong(format!("policy `{}`: kl is 0 or above", whole.policy)),
            None => Ok(()),
        }
    }
}

fn check_version(version: u32) -> Result<(), PolicyError> {
    if version == PROFILE_VERSION {
        return Ok(());
    }
    Err(PolicyError::Profile(format!(
        "it is of version {version}, and this program reads {PROFILE_VERSION}: measure the model again with \
         `hwledger-omlx kv calibrate MODEL --text FILE`"
    )))
}
