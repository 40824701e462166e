//! The layers of a model: of which kind each is, and what its caches hold.

use serde::Serialize;

use super::attention::Attention;
use super::error::IngestError;
use super::evaluate::Scope;
use super::families::{ArrayRule, CacheRule, Family, Rule, StateType, Table};
use super::formula::Formula;
use crate::quant::Element;
use crate::quant::policy::{Cache, KeyValue, Kv, Layer, Vectors};

/// More of them, or larger sizes, are no model's; a limit for configurations that are none.
pub(super) const LAYERS_AT_MOST: u64 = 4096;
const STATE_BYTES_AT_MOST: u64 = 1 << 40;

/// One layer of the model, or a cache that belongs to none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LayerShape {
    /// Its number; absent for what is beside the layers.
    pub layer: Option<u32>,
    /// Its place in the engine's list of layer caches, by which policies name it; absent where it has none.
    pub cache: Option<u32>,
    /// How it attends.
    pub attention: Attention,
    /// Whether its MLP is a mixture of experts.
    pub experts: bool,
    /// Whether its attention has sinks.
    pub sinks: bool,
    /// Heads of its queries, where it has attention and says how many.
    pub heads: Option<u64>,
    /// Where its numbers come from.
    pub source: String,
    /// Of a layer of a kind that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
}

/// What a layer of a kind that is not known takes, at 16 bit: nothing at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Bounds {
    /// Of each token, at most: keys and values of every head.
    pub token_bytes_at_most: u64,
    /// Of the sequence, at most: a matrix in 32 bit for each head.
    pub state_bytes_at_most: u64,
}

/// Layers, and the engine's list of their caches.
#[derive(Default)]
pub(super) struct Laid {
    pub(super) shapes: Vec<LayerShape>,
    pub(super) caches: Vec<Layer>,
}

/// Goes through the layers of a family's model.
pub(super) struct Builder<'t> {
    pub(super) table: &'t Table,
    pub(super) element: Element,
    /// That of states that decay with a parameter of the model.
    pub(super) decayed: Element,
    /// What config.json calls the model.
    pub(super) model_type: &'t str,
}

impl<'t> Builder<'t> {
    /// The layers of a model of a family, whose layers are so many.
    pub(super) fn of_family(&self, family: &'t Family, scope: &Scope<'t>, layers: u32) -> Result<Laid, IngestError> {
        let mut laid = Laid::default();
        if let Some(rule) = family.before.first() {
            self.lay(&mut laid, scope, std::slice::from_ref(rule), None)?;
        }
        for layer in 0..layers {
            self.lay(&mut laid, &scope.of_layer(layer), &family.layers, Some(layer))?;
        }
        if !family.again.is_empty() {
            for layer in 0..layers {
                self.lay(&mut laid, &scope.of_layer(layer), &family.again, Some(layer))?;
            }
        }
        Ok(laid)
    }

    /// The layers of a model of which nothing is known but how many they are.
    pub(super) fn of_unknown(&self, scope: &Scope<'t>, layers: u32) -> Result<Laid, IngestError> {
        let mut laid = Laid::default();
        for layer in 0..layers {
            let why = format!("model_type `{}` is not known", self.model_type);
            self.lay_unknown(&mut laid, &scope.of_layer(layer), Some(layer), &why)?;
        }
        Ok(laid)
    }

    fn lay(
        &self,
        laid: &mut Laid,
        scope: &Scope<'t>,
        rules: &'t [Rule],
        layer: Option<u32>,
    ) -> Result<(), IngestError> {
        let mut found = None;
        for rule in rules {
            if rule.when.as_ref().map_or(Ok(true), |when| scope.holds(when))? {
                found = Some(rule);
                break;
            }
        }
        let Some((name, kind)) = found.and_then(|rule| Some((&rule.is, self.table.kinds.get(&rule.is)?))) else {
            let settings = scope.take_used().join(", ");
            return self.lay_unknown(laid, scope, layer, &format!("a kind of layer that is not known, by {settings}"));
        };
        let mut caches = Vec::new();
        let mut said = Vec::new();
        let mut grouped = None;
        for cache in &kind.caches {
            let Some(rule) = self.table.caches.get(cache) else { continue };
            let (cache, text) = self.cache(scope, rule)?;
            grouped = grouped.or(cache.any_kv().map(|kv| u64::from(kv.vectors.k.heads)));
            caches.push(cache);
            said.push(text);
        }
        let heads = if kind.attention == Attention::None { None } else { scope.named_size("heads").ok().flatten() };
        let attention = kind.attention.of_heads(heads.unwrap_or(0), grouped.unwrap_or(0));
        let sinks = scope.formula("sinks").map_or(Ok(false), |sinks| scope.holds(sinks))?;
        let settings = scope.take_used();
        let from =
            if settings.is_empty() { String::new() } else { format!("; {} of config.json", settings.join(", ")) };
        let said = if said.is_empty() { "nothing of its own".to_owned() } else { said.join(", ") };
        let source = format!("`{name}` of {}: {said}{from}", self.model_type);
        let listed = kind.listed || !caches.is_empty();
        let cache = listed.then(|| place(laid));
        if listed {
            laid.caches.push(Layer { caches });
        }
        laid.shapes.push(LayerShape { layer, cache, attention, experts: false, sinks, heads, source, bounds: None });
        Ok(())
    }

    fn lay_unknown(
        &self,
        laid: &mut Laid,
        scope: &Scope<'t>,
        layer: Option<u32>,
        why: &str,
    ) -> Result<(), IngestError> {
        let bounds = self.bounds(scope)?;
        let from = scope.take_used().join(", ");
        let cache = Some(place(laid));
        laid.caches.push(Layer { caches: Vec::new() });
        laid.shapes.push(LayerShape {
            layer,
            cache,
            attention: Attention::Unknown,
            experts: false,
            sinks: false,
            heads: None,
            source: format!("{why}: bounds by the heads of all attention there is; {from} of config.json"),
            bounds: Some(bounds),
        });
        Ok(())
    }

    /// From nothing, to keys and values of every query head in full and a matrix for each head.
    fn bounds(&self, scope: &Scope<'t>) -> Result<Bounds, IngestError> {
        let needed = |name: &'static str| {
            let what = || IngestError::Setting {
                formula: name.to_owned(),
                what: format!("neither `model_type` {} nor what bounds its layers is known", self.model_type),
            };
            scope.named_size(name)?.ok_or_else(what)
        };
        let (heads, width) = (needed("heads")?, needed("head_dim")?);
        let latent = scope.named_size("latent_head_dim")?.unwrap_or(0);
        let (heads, width) = (sized(heads, "heads")?, sized(width.max(latent), "head_dim")?);
        let one = u64::from(heads) * u64::from(width);
        Ok(Bounds {
            token_bytes_at_most: 2 * one * self.element.bytes() as u64,
            state_bytes_at_most: one * u64::from(width) * Element::Float32.bytes() as u64,
        })
    }

    fn cache(&self, scope: &Scope<'t>, rule: &'t CacheRule) -> Result<(Cache, String), IngestError> {
        let kv = |k: &'t [Formula; 2], v: &'t [Formula; 2]| -> Result<(Kv, String), IngestError> {
            let vectors = KeyValue { k: vectors(scope, k)?, v: vectors(scope, v)? };
            let Vectors { heads, width } = vectors.k;
            let text = format!("K {heads} x {width}, V {} x {}", vectors.v.heads, vectors.v.width);
            Ok((Kv { vectors, element: self.element }, text))
        };
        let tokens = |formula: &'t Formula| {
            let tokens = scope.size(formula)?;
            if tokens > 0 { Ok(tokens) } else { Err(IngestError::Geometry(format!("`{formula}` is 0"))) }
        };
        match rule {
            CacheRule::Sequence { k, v } => {
                let (kv, text) = kv(k, v)?;
                Ok((Cache::Sequence(kv), format!("{text} a token")))
            }
            CacheRule::Window { k, v, tokens: window } => {
                let ((kv, text), window_tokens) = (kv(k, v)?, tokens(window)?);
                Ok((Cache::Window { kv, window_tokens }, format!("{text} a token of the last {window_tokens}")))
            }
            CacheRule::Chunked { k, v, tokens: chunk } => {
                let ((kv, text), chunk_tokens) = (kv(k, v)?, tokens(chunk)?);
                Ok((Cache::Chunked { kv, chunk_tokens }, format!("{text} a token of a chunk of {chunk_tokens}")))
            }
            CacheRule::State { arrays } => {
                let mut bytes = 0_u64;
                let mut shapes = Vec::new();
                for array in arrays {
                    let (array_bytes, text) = self.array(scope, array)?;
                    bytes = bytes.saturating_add(array_bytes);
                    shapes.push(text);
                }
                if bytes > STATE_BYTES_AT_MOST {
                    return Err(IngestError::Geometry(format!("a recurrent state of {bytes} bytes cannot be")));
                }
                Ok((Cache::State { bytes }, format!("state {}", shapes.join(" and "))))
            }
        }
    }

    fn array(&self, scope: &Scope<'t>, rule: &'t ArrayRule) -> Result<(u64, String), IngestError> {
        let number_bytes = match rule.dtype {
            StateType::Model => self.element.bytes() as u64,
            StateType::Decay => self.decayed.bytes() as u64,
            StateType::Float32 => 4,
            StateType::Int64 => 8,
        };
        let mut bytes = number_bytes;
        let mut lengths = Vec::new();
        for formula in &rule.shape {
            let length = scope.size(formula)?;
            bytes = bytes.saturating_mul(length);
            lengths.push(length.to_string());
        }
        Ok((bytes, format!("{} in {} bit", lengths.join(" x "), 8 * number_bytes)))
    }
}

fn vectors<'t>(scope: &Scope<'t>, [heads, width]: &'t [Formula; 2]) -> Result<Vectors, IngestError> {
    let vectors =
        Vectors { heads: sized(scope.size(heads)?, &heads.text)?, width: sized(scope.size(width)?, &width.text)? };
    // A cache would take nothing, which is not so. A width may be none: of values that are the keys.
    if vectors.heads == 0 {
        return Err(IngestError::Geometry(format!("`{}` is 0, which no model has", heads.text)));
    }
    Ok(vectors)
}

fn sized(number: u64, what: &str) -> Result<u32, IngestError> {
    let fits = u32::try_from(number).ok().filter(|number| *number <= 1 << 20);
    fits.ok_or_else(|| IngestError::Geometry(format!("`{what}` is {number}, which no model has")))
}

fn place(laid: &Laid) -> u32 {
    u32::try_from(laid.caches.len()).unwrap_or(u32::MAX)
}
