//! A model as its files describe it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::config::Config;
use super::error::IngestError;
use super::evaluate::Scope;
use super::families::Table;
use super::formula::Formula;
use super::layers::{Builder, LAYERS_AT_MOST, Laid, LayerShape};
use super::weights::{Tensors, Weights};
use crate::quant::Element;
use crate::quant::policy::Geometry;

/// A model as its files describe it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Model {
    /// `model_type` of config.json: that of the whole, or of the text model within it, whichever is known.
    pub model_type: String,
    /// Whether its layers are known. Else they have bounds.
    pub is_known: bool,
    /// Type of its activations, and so of keys and values.
    pub element: Element,
    /// Where that comes from.
    pub element_source: String,
    /// The engine's list of layer caches, as policies take it.
    #[serde(skip)]
    pub geometry: Geometry,
    /// Its layers, and caches beside them.
    pub layers: Vec<LayerShape>,
    /// Sizes that activations hang on.
    pub sizes: Sizes,
    /// What its weights take; absent where no weights were looked at.
    pub weights: Option<Weights>,
}

/// Sizes of a model, the largest of all layers; absent where config.json does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Sizes {
    /// Numbers of a token between layers.
    pub hidden: Option<u64>,
    /// Query heads.
    pub heads: Option<u64>,
    /// Heads of keys and values.
    pub kv_heads: Option<u64>,
    /// Numbers of a query or a key.
    pub head_dim: Option<u64>,
    /// Numbers of a value.
    pub value_dim: Option<u64>,
    /// Numbers in the middle of an MLP.
    pub mlp: Option<u64>,
    /// Experts that a token visits.
    pub experts_per_token: Option<u64>,
    /// Numbers in the middle of an expert.
    pub expert_mlp: Option<u64>,
    /// Tokens that there are.
    pub vocabulary: Option<u64>,
    /// Tokens of the longest context that config.json allows.
    pub context_tokens: Option<u64>,
}

/// Every `model_type` whose layers are known.
pub fn known_types() -> impl Iterator<Item = &'static str> {
    Table::built_in().types()
}

impl Model {
    /// Reads config.json and the headers of the weights.
    ///
    /// # Errors
    /// [`IngestError`], which names the file or the setting.
    pub fn read(folder: &Path) -> Result<Self, IngestError> {
        let config = Config::read(&folder.join("config.json"))?;
        let (tensors, files) = Tensors::of_folder(folder)?;
        Self::of(&config, Some((&tensors, files)))
    }

    /// The same by config.json's text alone, without weights.
    ///
    /// # Errors
    /// [`IngestError`], which names the setting.
    pub fn of_config(text: &str) -> Result<Self, IngestError> {
        let json = serde_json::from_str(text);
        let json = json.map_err(|source| IngestError::Json { path: "config.json".into(), source })?;
        Self::of(&Config::of_json(json)?, None)
    }

    fn of(config: &Config, weights: Option<(&Tensors, usize)>) -> Result<Self, IngestError> {
        let table = Table::built_in();
        let none = BTreeMap::new();
        let family = table.family_of(config.model_types());
        let own = family.map_or(&none, |(family, _)| &family.formulas);
        let scope = Scope::new(config, [own, &table.formulas]);
        let layers = layer_count(&scope, family.is_some())?;
        let (element, element_source) = element(config, weights.map(|(tensors, _)| tensors));
        let model_type = family.map_or_else(|| config.model_types().last().unwrap_or_default(), |(_, name)| name);
        let in_32_bit = weights.is_some_and(|(tensors, _)| tensors.decay_in_32_bit());
        let decayed = if in_32_bit { Element::Float32 } else { element };
        let builder = Builder { table, element, decayed, model_type };
        let mut laid = match family {
            Some((family, _)) => builder.of_family(family, &scope, layers)?,
            None => builder.of_unknown(&scope, layers)?,
        };
        let sizes = sizes(&scope, layers);
        mark_experts(&mut laid, sizes, weights.map(|(tensors, _)| tensors));
        let tied = scope.formula("tied").map_or(Ok(false), |tied| scope.holds(tied))?;
        let known_layers = family.is_some().then_some(layers);
        let geometry = Geometry { model: None, layers: laid.caches };
        geometry.check().map_err(|error| IngestError::Geometry(error.to_string()))?;
        Ok(Self {
            model_type: model_type.to_owned(),
            is_known: laid.shapes.iter().all(|shape| shape.bounds.is_none()),
            element,
            element_source,
            geometry,
            layers: laid.shapes,
            sizes,
            weights: weights.map(|(tensors, files)| tensors.weights(files, known_layers, tied)),
        })
    }
}

fn layer_count(scope: &Scope, is_known: bool) -> Result<u32, IngestError> {
    let name = if is_known { "layers" } else { "any_layers" };
    let missing = || IngestError::Config("does not say how many layers the model has (`num_hidden_layers`)");
    let formula: &Formula = scope.formula(name).ok_or_else(missing)?;
    let layers = scope.optional(formula)?.ok_or_else(missing)?;
    u32::try_from(layers).ok().filter(|layers| (1..=LAYERS_AT_MOST).contains(&u64::from(*layers))).ok_or_else(|| {
        IngestError::Geometry(format!("`{formula}` is {layers}; a model has 1 to {LAYERS_AT_MOST} layers"))
    })
}

fn element(config: &Config, tensors: Option<&Tensors>) -> (Element, String) {
    if let Some((element, name)) = tensors.and_then(Tensors::element) {
        return (element, format!("dtype of {name}"));
    }
    for setting in ["dtype", "torch_dtype"] {
        let element = match config.get(setting).and_then(serde_json::Value::as_str) {
            Some("bfloat16") => Element::Bfloat16,
            Some("float16") => Element::Float16,
            Some("float32") => Element::Float32,
            _ => continue,
        };
        return (element, format!("{setting} of config.json"));
    }
    (Element::Bfloat16, "16 bit, for neither weights nor config.json say another type".to_owned())
}

/// A size that config.json does not give, or not as it should, is absent: only activations hang on it.
fn sizes(scope: &Scope, layers: u32) -> Sizes {
    let scopes: Vec<Scope> = (0..layers).map(|layer| scope.of_layer(layer)).collect();
    let of = |name: &str| scopes.iter().filter_map(|scope| scope.named_size(name).ok().flatten()).max();
    Sizes {
        hidden: of("hidden"),
        heads: of("heads"),
        kv_heads: of("kv_heads"),
        head_dim: of("head_dim"),
        value_dim: of("value_dim"),
        mlp: of("mlp"),
        experts_per_token: of("experts_per_token").filter(|experts| *experts > 0),
        expert_mlp: of("expert_mlp"),
        vocabulary: of("vocabulary"),
        context_tokens: of("context"),
    }
}

/// By the names of the tensors, or else by whether config.json speaks of experts.
fn mark_experts(laid: &mut Laid, sizes: Sizes, tensors: Option<&Tensors>) {
    let by_names = tensors.map(Tensors::layers_with_experts);
    for shape in &mut laid.shapes {
        shape.experts = match (&by_names, shape.layer) {
            (Some(layers), Some(layer)) => layers.contains(&layer),
            (None, Some(_)) => sizes.experts_per_token.is_some(),
            (_, None) => false,
        };
    }
}
