//! A policy against a model: the settled formats of each cache, or the layer that cannot take what is asked.

use serde::Serialize;

use super::KvPolicy;
use super::auto;
use super::dial::{Base, Dial};
use super::error::PolicyError;
use super::format::{DEFAULT_GROUP, Format, FormatSpec, KeyValue, Part};
use super::geometry::{Cache, Geometry, Layer};
use super::profile::Profile;

/// Groups to fall back to, in this order, where none was asked for.
const GROUPS_BY_CHOICE: [u16; 2] = [DEFAULT_GROUP, 32];

/// The formats of one cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct CacheFormats {
    /// Of the running cache.
    pub live: KeyValue<Format>,
    /// In the store.
    pub rest: KeyValue<Format>,
}

/// The formats of one layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ResolvedLayer {
    /// Of each cache; `None` for a state.
    pub caches: Vec<Option<CacheFormats>>,
}

/// A policy that fits a model, settled for each of its caches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Resolved {
    /// The policy; what `auto` stood for is written out, layer by layer.
    #[serde(serialize_with = "as_text")]
    pub policy: KvPolicy,
    /// Tokens at the beginning that the running cache keeps plain.
    pub first_tokens: u32,
    /// Latest tokens that the running cache keeps plain.
    pub recent_tokens: u32,
    /// In order.
    pub layers: Vec<ResolvedLayer>,
}

fn as_text<S: serde::Serializer>(policy: &KvPolicy, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(policy)
}

impl KvPolicy {
    /// Settles the policy for a model; `auto` is solved with the model's profile.
    ///
    /// - Layers whose caches are recurrent states have no formats, and no range may name them.
    /// - A format without a group takes 64, or 32 where only that divides the width.
    /// - `first` and `recent` tokens are plain in running caches only: the store holds all tokens of a part in one format.
    /// - The running caches of windows are plain; what the store keeps of them follows the policy.
    /// - An `auto` share is of the bytes that each further token takes, live or at rest; the first and the recent tokens,
    ///   and windows where live, do not count. `auto` bytes count all that one request of that many tokens holds.
    /// - An `auto` for both live and at rest gives the layers of windows the formats at rest that keep the share which the
    ///   other layers came to.
    ///
    /// # Errors
    /// [`PolicyError`] that names the layer which cannot take its format, or says what `auto` lacks.
    pub fn resolve(&self, geometry: &Geometry, profile: Option<&Profile>) -> Result<Resolved, PolicyError> {
        geometry.check()?;
        for dial in [Some(self.live()), self.rest()].into_iter().flatten() {
            check_layers(dial, geometry)?;
        }
        let policy = auto::solved(self, geometry, profile)?;
        let at_rest = policy.rest().unwrap_or(policy.live());
        let mut layers = Vec::with_capacity(geometry.layers.len());
        for (number, layer) in geometry.numbered() {
            layers.push(resolved_layer(number, layer, policy.live(), at_rest)?);
        }
        Ok(Resolved { first_tokens: policy.first_tokens(), recent_tokens: policy.recent_tokens(), policy, layers })
    }
}

/// Whether the layers that a dial names are there and have keys and values.
fn check_layers(dial: &Dial, geometry: &Geometry) -> Result<(), PolicyError> {
    for each in dial.overrides() {
        let range = each.layers;
        if range.last >= geometry.layer_count() {
            return Err(PolicyError::NoSuchLayer { range, layers: geometry.layer_count() });
        }
        let mut named = geometry.numbered().filter(|(number, _)| range.contains(*number));
        if let Some((layer, _)) = named.find(|(_, layer)| !layer.has_kv()) {
            return Err(PolicyError::LayerWithoutKv { layer, range });
        }
    }
    Ok(())
}

fn resolved_layer(number: u32, layer: &Layer, live: &Dial, rest: &Dial) -> Result<ResolvedLayer, PolicyError> {
    let caches = layer.caches.iter().map(|cache| {
        let Some(kv) = cache.kv() else { return Ok(None) };
        let settled = |wanted: KeyValue<FormatSpec>| -> Result<KeyValue<Format>, PolicyError> {
            Ok(KeyValue {
                k: settle(wanted.k, number, Part::Keys, kv.vectors.k.width)?,
                v: settle(wanted.v, number, Part::Values, kv.vectors.v.width)?,
            })
        };
        let wanted = formats_of(live, number);
        let live = settled(KeyValue { k: held_live(wanted.k, cache), v: held_live(wanted.v, cache) })?;
        Ok(Some(CacheFormats { live, rest: settled(formats_of(rest, number))? }))
    });
    Ok(ResolvedLayer { caches: caches.collect::<Result<_, PolicyError>>()? })
}

/// What a dial without `auto` says of a layer.
pub(super) fn formats_of(dial: &Dial, layer: u32) -> KeyValue<FormatSpec> {
    let base = match dial.base() {
        Base::Formats(formats) => *formats,
        // Solving has named every layer that has keys and values, and written a base.
        Base::Auto(_) => KeyValue { k: FormatSpec::Plain, v: FormatSpec::Plain },
    };
    dial.override_of(layer).map_or(base, |each| each.formats)
}

/// Numbers that the store's codec of `rotated` takes at least.
const LEAST_ROTATED_WIDTH: u32 = 32;
/// Of which the store's codec of `channel` takes a multiple.
const CHANNELS_AT_A_TIME: u32 = 16;

/// The format that a part of that width takes for what is wanted.
pub(super) fn settle(wanted: FormatSpec, layer: u32, part: Part, width: u32) -> Result<Format, PolicyError> {
    if width == 0 {
        // The array has no numbers: latent attention keeps all of it in the other part.
        return Ok(Format::Plain);
    }
    if matches!(wanted, FormatSpec::Rotated { .. }) && !(width.is_power_of_two() && width >= LEAST_ROTATED_WIDTH) {
        return Err(PolicyError::WidthNotPowerOfTwo { layer, part, width, format: wanted });
    }
    if matches!(wanted, FormatSpec::Channel { .. }) && !width.is_multiple_of(CHANNELS_AT_A_TIME) {
        return Err(PolicyError::OddChannels { layer, part, width, format: wanted });
    }
    // A channel's group is of tokens, which every width takes.
    let divides = |group: u16| matches!(wanted, FormatSpec::Channel { .. }) || width.is_multiple_of(u32::from(group));
    wanted.try_map_group(|group| match group {
        Some(group) if divides(group) => Ok(group),
        Some(group) => Err(PolicyError::GroupDoesNotDivide { layer, part, width, group, format: wanted }),
        None => {
            let fitting = GROUPS_BY_CHOICE.into_iter().find(|group| divides(*group));
            fitting.ok_or(PolicyError::NoGroupDivides { layer, part, width, format: wanted })
        }
    })
}

/// What a running cache really holds of the format that the policy gives it.
///
/// A window stays plain: it overwrites its tokens in place, one by one and from any position on, which formats that pack
/// several tokens or numbers together cannot do without unpacking all of it at each token. It is bounded, so that this costs
/// the same at any context. `lossless` is plain too, for attention reads every number at every token.
fn held_live(wanted: FormatSpec, cache: &Cache) -> FormatSpec {
    match (wanted, cache) {
        (FormatSpec::Lossless, _) | (_, Cache::Window { .. } | Cache::Chunked { .. } | Cache::State { .. }) => {
            FormatSpec::Plain
        }
        (wanted, Cache::Sequence(_)) => wanted,
    }
}
