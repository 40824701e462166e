//! The model as a policy sees it: the caches of its layers, their widths and element types. Comes as JSON from Python,
//! which has the model.

use serde::{Deserialize, Serialize};

use super::error::PolicyError;
use super::format::{KeyValue, Part};
use super::layers::LAYERS_AT_MOST;
use crate::quant::Element;

/// Most heads, and most numbers of a vector: far above any model, so that no size overflows.
const AT_MOST: u32 = 1 << 20;

/// The caches of a model's layers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// The fingerprint of the model's files in hexadecimal; absent where nobody asks whether a profile is of this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// In order.
    pub layers: Vec<Layer>,
}

/// One layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its caches: one, mostly.
    pub caches: Vec<Cache>,
}

/// One cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "CacheFields", into = "CacheFields")]
pub enum Cache {
    /// Keys and values of every token.
    Sequence(Kv),
    /// Keys and values of the last tokens.
    Window {
        /// What it has of each.
        kv: Kv,
        /// Tokens that it holds at most.
        window_tokens: u64,
    },
    /// Keys and values of the current chunk of the sequence and of what is left of the one before. No policy is about it.
    Chunked {
        /// What it has of each.
        kv: Kv,
        /// Tokens of a chunk.
        chunk_tokens: u64,
    },
    /// What a recurrent layer remembers. It has no keys and values, and no policy is about it.
    State {
        /// Its size, the same at any context; 0 where nobody said.
        bytes: u64,
    },
}

/// Keys and values of one token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kv {
    /// Their heads and widths, which differ in some models; a width of 0 is an array that is not there.
    pub vectors: KeyValue<Vectors>,
    /// The type of their numbers.
    pub element: Element,
}

/// The keys or the values of one token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vectors {
    /// How many vectors.
    pub heads: u32,
    /// Numbers of each.
    pub width: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Sequence,
    Window,
    Chunked,
    State,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheFields {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    k: Option<Vectors>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<Vectors>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    element: Option<Element>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunk_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl Geometry {
    /// Reads it from JSON.
    ///
    /// # Errors
    /// [`PolicyError::Json`] where it is none, [`PolicyError::Geometry`] where it says what cannot be.
    pub fn from_json(text: &str) -> Result<Self, PolicyError> {
        let read = serde_json::from_str(text);
        let geometry: Self = read.map_err(|source| PolicyError::Json { what: "KV geometry", source })?;
        geometry.check()?;
        Ok(geometry)
    }

    /// Number of layers.
    pub(super) fn layer_count(&self) -> u32 {
        u32::try_from(self.layers.len()).unwrap_or(u32::MAX)
    }

    /// The layers with their numbers.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &Layer)> {
        (0..).zip(&self.layers)
    }

    /// Whether every number is one that can be.
    ///
    /// # Errors
    /// [`PolicyError::Geometry`], which says what cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.layers.is_empty() {
            return Err(PolicyError::Geometry("the model has no layers".to_owned()));
        }
        if self.layer_count() > LAYERS_AT_MOST {
            return Err(PolicyError::Geometry(format!("more than {LAYERS_AT_MOST} layers cannot be")));
        }
        for (layer, each) in self.numbered() {
            for kv in each.caches.iter().filter_map(Cache::any_kv) {
                for part in Part::ALL {
                    let Vectors { heads, width } = *kv.vectors.get(part);
                    if heads > AT_MOST || width > AT_MOST {
                        let what = format!("layer {layer}: {part} has more than {AT_MOST} heads or numbers");
                        return Err(PolicyError::Geometry(what));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Layer {
    /// Whether it has keys and values at all.
    pub(super) fn has_kv(&self) -> bool {
        self.caches.iter().any(|cache| cache.kv().is_some())
    }

    /// Whether it has keys and values of every token.
    pub(super) fn has_sequence(&self) -> bool {
        self.caches.iter().any(|cache| matches!(cache, Cache::Sequence(_)))
    }
}

impl Cache {
    /// The keys and values that a policy is about; `None` for chunks and states.
    #[must_use]
    pub fn kv(&self) -> Option<&Kv> {
        match self {
            Self::Sequence(kv) | Self::Window { kv, .. } => Some(kv),
            Self::Chunked { .. } | Self::State { .. } => None,
        }
    }

    /// Its keys and values, whether a policy is about them or not; `None` for a state.
    #[must_use]
    pub fn any_kv(&self) -> Option<&Kv> {
        match self {
            Self::Sequence(kv) | Self::Window { kv, .. } | Self::Chunked { kv, .. } => Some(kv),
            Self::State { .. } => None,
        }
    }
}

impl TryFrom<CacheFields> for Cache {
    type Error = String;

    fn try_from(fields: CacheFields) -> Result<Self, String> {
        let kv = match (fields.k, fields.v, fields.element) {
            (Some(k), Some(v), Some(element)) => Some(Kv { vectors: KeyValue { k, v }, element }),
            _ => None,
        };
        let incomplete = || "a cache of the kind sequence, window or chunked needs k, v and element".to_owned();
        let is = |kind: Kind| fields.kind == kind;
        if fields.window_tokens.is_some() && !is(Kind::Window) {
            return Err("a cache of this kind has no window_tokens".to_owned());
        }
        if fields.chunk_tokens.is_some() && !is(Kind::Chunked) {
            return Err("a cache of this kind has no chunk_tokens".to_owned());
        }
        if fields.bytes.is_some() && !is(Kind::State) {
            return Err("a cache of this kind has no bytes".to_owned());
        }
        match fields.kind {
            Kind::State if fields.k.is_some() || fields.v.is_some() => {
                Err("a cache of the kind state has no k and v".to_owned())
            }
            Kind::State => Ok(Self::State { bytes: fields.bytes.unwrap_or(0) }),
            Kind::Sequence => Ok(Self::Sequence(kv.ok_or_else(incomplete)?)),
            Kind::Window => match fields.window_tokens {
                Some(window_tokens) if window_tokens > 0 => {
                    Ok(Self::Window { kv: kv.ok_or_else(incomplete)?, window_tokens })
                }
                _ => Err("a cache of the kind window needs window_tokens above 0".to_owned()),
            },
            Kind::Chunked => match fields.chunk_tokens {
                Some(chunk_tokens) if chunk_tokens > 0 => {
                    Ok(Self::Chunked { kv: kv.ok_or_else(incomplete)?, chunk_tokens })
                }
                _ => Err("a cache of the kind chunked needs chunk_tokens above 0".to_owned()),
            },
        }
    }
}

impl From<Cache> for CacheFields {
    fn from(cache: Cache) -> Self {
        let kv = cache.any_kv();
        let mut fields = Self {
            kind: Kind::Sequence,
            k: kv.map(|kv| kv.vectors.k),
            v: kv.map(|kv| kv.vectors.v),
            element: kv.map(|kv| kv.element),
            window_tokens: None,
            chunk_tokens: None,
            bytes: None,
        };
        match cache {
            Cache::Sequence(_) => {}
            Cache::Window { window_tokens, .. } => {
                (fields.kind, fields.window_tokens) = (Kind::Window, Some(window_tokens));
            }
            Cache::Chunked { chunk_tokens, .. } => {
                (fields.kind, fields.chunk_tokens) = (Kind::Chunked, Some(chunk_tokens));
            }
            Cache::State { bytes } => (fields.kind, fields.bytes) = (Kind::State, Some(bytes)),
        }
        fields
    }
}
