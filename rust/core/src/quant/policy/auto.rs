//! `auto`: the formats of least measured harm under a budget, written out layer by layer.
//!
//! Each layer's keys and values have the formats that calibration measured to choose from, and to stay plain. Harms are taken
//! to add up (`KVTuner`, arXiv 2502.04420).

use std::collections::BTreeMap;

use super::KvPolicy;
use super::budget::{Budget, Share};
use super::bytes::{PlainTokens, held_tokens, live_part, rest_part};
use super::dial::{Base, Dial, Override};
use super::error::PolicyError;
use super::format::{Format, FormatSpec, KeyValue, Part};
use super::geometry::{Cache, Geometry, Layer};
use super::layers::LayerRange;
use super::profile::{Profile, Whole};
use super::resolve::{formats_of, settle};
use super::solver::{Choice, TooSmall, solve};

/// Tokens that a share is taken of: every group divides them, so that the share is the same at any larger number.
const SHARE_TOKENS: u64 = 256;

/// Digits of the smallest share that an error tells.
const SHARE_DIGITS: f64 = 1e4;

/// The formats of layers, for those that have keys and values.
type Layers = BTreeMap<u32, KeyValue<FormatSpec>>;

/// The policy with the formats that its `auto`s stand for.
pub(super) fn solved(
    policy: &KvPolicy,
    geometry: &Geometry,
    profile: Option<&Profile>,
) -> Result<KvPolicy, PolicyError> {
    let plain = PlainTokens { first: policy.first_tokens(), recent: policy.recent_tokens() };
    let live = match policy.live().base() {
        Base::Formats(_) => policy.live().clone(),
        Base::Auto(budget) => {
            let auto = Auto::new(policy.live(), *budget, geometry, profile)?;
            written(&auto.live(plain, policy.rest().is_none())?)
        }
    };
    let rest = match policy.rest().map(|rest| (rest, rest.base())) {
        Some((rest, Base::Auto(budget))) => Some(written(&Auto::new(rest, *budget, geometry, profile)?.at_rest()?)),
        Some((rest, Base::Formats(_))) => Some(rest.clone()),
        None => None,
    };
    Ok(KvPolicy::new(live, rest, policy.first_tokens(), policy.recent_tokens()))
}

/// One dial to solve.
struct Auto<'a> {
    dial: &'a Dial,
    budget: Budget,
    geometry: &'a Geometry,
    profile: &'a Profile,
}

/// How the bytes of a choice are counted.
#[derive(Clone, Copy)]
enum Counted {
    /// As running caches hold them at so many tokens.
    Live { tokens: u64, plain: PlainTokens },
    /// As [`SHARE_TOKENS`] more tokens make running caches grow: windows do not.
    Growth,
    /// As the store holds so many tokens.
    AtRest { tokens: u64 },
}

impl Counted {
    fn bytes(self, cache: &Cache, part: Part, format: Format) -> u64 {
        let Some(kv) = cache.kv() else { return 0 };
        let is_window = matches!(cache, Cache::Window { .. });
        match self {
            Self::Growth if is_window => 0,
            Self::Growth => live_part(format, kv, part, SHARE_TOKENS, PlainTokens::default()),
            Self::Live { tokens, plain } => {
                let format = if is_window { Format::Plain } else { format };
                live_part(format, kv, part, held_tokens(cache, tokens), plain)
            }
            Self::AtRest { tokens } => rest_part(format, kv, part, tokens),
        }
    }
}

/// The keys, or the values, of one layer, with what they may be held in.
struct Slot {
    layer: u32,
    part: Part,
    is_free: bool,
    formats: Vec<FormatSpec>,
    choices: Vec<Choice>,
    plain_bytes: u64,
}

impl<'a> Auto<'a> {
    fn new(
        dial: &'a Dial,
        budget: Budget,
        geometry: &'a Geometry,
        profile: Option<&'a Profile>,
    ) -> Result<Self, PolicyError> {
        let profile = profile.ok_or(PolicyError::NoProfile { budget })?;
        profile.check()?;
        let other = |what: String| Err(PolicyError::OtherModel { what });
        if let Some(model) = &geometry.model
            && !model.eq_ignore_ascii_case(&profile.model)
        {
            return other(format!("it is of the model {}, and this is {model}", profile.model));
        }
        if profile.layers.len() != geometry.layers.len() {
            return other(format!("it has {} layers, and the model {}", profile.layers.len(), geometry.layers.len()));
        }
        Ok(Self { dial, budget, geometry, profile })
    }

    fn live(&self, plain: PlainTokens, also_at_rest: bool) -> Result<Layers, PolicyError> {
        let counted = match self.budget {
            Budget::Share(_) => Counted::Growth,
            Budget::Bytes { tokens, .. } => Counted::Live { tokens, plain },
        };
        let growing = self.slots(Layer::has_sequence, counted)?;
        let windows = self.geometry.layers.iter().filter(|layer| !layer.has_sequence());
        let windows = windows.flat_map(|layer| &layer.caches);
        let fixed_bytes = windows.flat_map(|cache| Part::ALL.map(|part| counted.bytes(cache, part, Format::Plain)));
        let mut layers = self.solve(&growing, fixed_bytes.sum())?;
        layers.extend(self.windows(&layers, also_at_rest)?);
        Ok(layers)
    }

    fn at_rest(&self) -> Result<Layers, PolicyError> {
        let tokens = match self.budget {
            Budget::Share(_) => SHARE_TOKENS,
            Budget::Bytes { tokens, .. } => tokens,
        };
        self.solve(&self.slots(Layer::has_kv, Counted::AtRest { tokens })?, 0)
    }

    /// The layers that have windows only. Live they are plain whatever is said of them. Where no other formats are given for
    /// the store, they take the share there that the other layers came to.
    fn windows(&self, others: &Layers, also_at_rest: bool) -> Result<Layers, PolicyError> {
        let only_windows = |layer: &Layer| layer.has_kv() && !layer.has_sequence();
        let slots = self.slots(only_windows, Counted::AtRest { tokens: SHARE_TOKENS })?;
        let share = if also_at_rest { self.share_of(others) } else { Share::new(1.0) };
        let plain_bytes: u64 = slots.iter().map(|slot| slot.plain_bytes).sum();
        let budget = share.map_or(plain_bytes, |share| share.of(plain_bytes));
        let choices: Vec<Vec<Choice>> = slots.iter().map(|slot| slot.choices.clone()).collect();
        // Below the smallest possible the smallest is as near as it gets.
        let chosen = solve(&choices, budget, &[]).or_else(|TooSmall(smallest)| solve(&choices, smallest, &[]));
        Ok(layers_of(&slots, &chosen.unwrap_or_else(|_| vec![0; slots.len()])))
    }

    /// The share of their 16-bit bytes that layers grow by; that of the budget where no layer grows.
    #[expect(clippy::cast_precision_loss, reason = "bytes of 256 tokens are far below 2^52")]
    fn share_of(&self, layers: &Layers) -> Option<Share> {
        let (mut bytes, mut plain_bytes) = (0, 0);
        for (number, layer) in self.geometry.numbered() {
            let Some(formats) = layers.get(&number) else { continue };
            for (cache, part) in layer.caches.iter().flat_map(|cache| Part::ALL.map(|part| (cache, part))) {
                let width = cache.kv().map_or(0, |kv| kv.vectors.get(part).width);
                let format = settle(*formats.get(part), number, part, width).unwrap_or(Format::Plain);
                bytes += Counted::Growth.bytes(cache, part, format);
                plain_bytes += Counted::Growth.bytes(cache, part, Format::Plain);
            }
        }
        match self.budget {
            _ if plain_bytes > 0 => Share::new(bytes as f64 / plain_bytes as f64),
            Budget::Share(share) => Some(share),
            Budget::Bytes { .. } => None,
        }
    }

    fn slots(&self, belongs: impl Fn(&Layer) -> bool, counted: Counted) -> Result<Vec<Slot>, PolicyError> {
        let mut slots = Vec::new();
        for (number, layer) in self.geometry.numbered().filter(|(_, layer)| belongs(layer)) {
            for part in Part::ALL {
                slots.push(self.slot(number, layer, part, counted)?);
            }
        }
        Ok(slots)
    }

    fn slot(&self, number: u32, layer: &Layer, part: Part, counted: Counted) -> Result<Slot, PolicyError> {
        let bytes = |wanted: FormatSpec| -> Result<u64, PolicyError> {
            let mut bytes: u64 = 0;
            for (cache, kv) in layer.caches.iter().filter_map(|cache| Some((cache, cache.kv()?))) {
                let format = settle(wanted, number, part, kv.vectors.get(part).width)?;
                bytes = bytes.saturating_add(counted.bytes(cache, part, format));
            }
            Ok(bytes)
        };
        let fixed = self.dial.override_of(number).map(|each| *each.formats.get(part));
        let has_numbers = layer.caches.iter().any(|cache| cache.kv().is_some_and(|kv| kv.vectors.get(part).width > 0));
        let measured = self.profile.measured(number, part);
        if measured.is_none() && fixed.is_none() && has_numbers && layer.has_sequence() {
            return Err(PolicyError::OtherModel { what: format!("layer {number}: {part} was not measured") });
        }
        let plain = (FormatSpec::Plain, 0.0);
        let mut options = vec![plain];
        if let Some(fixed) = fixed {
            // What everyone asked for costs what it costs.
            options = vec![(fixed, 0.0)];
        } else if let Some(measured) = measured.filter(|_| has_numbers) {
            let lossy = measured.iter().filter(|(format, _)| format.is_lossy());
            options.extend(lossy.map(|(format, measured)| (FormatSpec::from(*format), measured.kl)));
        } else if has_numbers {
            let typical = self.typical(part).into_iter().map(|(format, kl)| (FormatSpec::from(format), kl));
            options.extend(typical.filter(|(format, _)| bytes(*format).is_ok()));
        }
        let mut slot = Slot {
            layer: number,
            part,
            is_free: fixed.is_none() && has_numbers,
            formats: Vec::new(),
            choices: Vec::new(),
            plain_bytes: bytes(FormatSpec::Plain)?,
        };
        for (format, loss) in options {
            slot.choices.push(Choice { bytes: bytes(format)?, loss });
            slot.formats.push(format);
        }
        Ok(slot)
    }

    /// What the measured layers lose by each format in the mean. Windows run plain, so calibration cannot measure what
    /// storing them in fewer bits does; they are taken to be like the others.
    #[expect(clippy::cast_precision_loss, reason = "layers are few")]
    fn typical(&self, part: Part) -> Vec<(Format, f64)> {
        let layers: Vec<_> = self.profile.layers.iter().flatten().map(|layer| layer.get(part)).collect();
        let Some(first) = layers.first() else { return Vec::new() };
        let lossy = first.keys().filter(|format| format.is_lossy());
        let of_all = lossy.filter_map(|format| {
            let losses: Option<Vec<f64>> = layers.iter().map(|layer| layer.get(format).map(|each| each.kl)).collect();
            Some((*format, losses?.iter().sum::<f64>() / layers.len() as f64))
        });
        of_all.collect()
    }

    fn solve(&self, slots: &[Slot], fixed_bytes: u64) -> Result<Layers, PolicyError> {
        let plain_bytes = slots.iter().map(|slot| slot.plain_bytes).fold(0, u64::saturating_add);
        let bytes = match self.budget {
            Budget::Share(share) => Some(share.of(plain_bytes)),
            Budget::Bytes { bytes, .. } => bytes.checked_sub(fixed_bytes),
        };
        if let Some(measured) = bytes.and_then(|bytes| self.best_whole(slots, bytes)) {
            return Ok(layers_of(slots, &measured));
        }
        let choices: Vec<Vec<Choice>> = slots.iter().map(|slot| slot.choices.clone()).collect();
        // A budget that the fixed bytes exceed is below any smallest.
        let found = match bytes {
            Some(bytes) => solve(&choices, bytes, &uniform(slots)),
            None => Err(TooSmall(choices.iter().map(|each| least_bytes(each)).fold(0, u64::saturating_add))),
        };
        let chosen = found.map_err(|TooSmall(smallest)| {
            let smallest = self.smallest_budget(smallest, fixed_bytes, plain_bytes);
            PolicyError::BudgetTooSmall { budget: self.budget, smallest }
        })?;
        Ok(layers_of(slots, &chosen))
    }

    /// The policy of least harm among those that fit and were measured as wholes, which is more than a sum can tell.
    ///
    /// One with formats of their own for some layers must be surely better than the best without.
    fn best_whole(&self, slots: &[Slot], bytes: u64) -> Option<Vec<usize>> {
        let mut fitting = Vec::new();
        for whole in &self.profile.wholes {
            let Some(chosen) = indices_of(slots, whole.policy.live()) else { continue };
            let taken: u64 = slots.iter().zip(&chosen).map(|(slot, index)| slot.choices[*index].bytes).sum();
            if taken <= bytes {
                fitting.push((whole, taken, chosen));
            }
        }
        let plain_bytes: u64 = slots.iter().map(|slot| slot.choices[0].bytes).sum();
        if !self.profile.wholes.is_empty() && plain_bytes <= bytes {
            // Plain loses nothing, and what is asked for comes first everywhere.
            return Some(vec![0; slots.len()]);
        }
        let least = |found: Vec<(&'a Whole, u64, Vec<usize>)>| {
            found.into_iter().min_by(|one, other| one.0.kl.total_cmp(&other.0.kl).then(one.1.cmp(&other.1)))
        };
        let (uniform, layered): (Vec<_>, Vec<_>) =
            fitting.into_iter().partition(|(whole, ..)| whole.policy.live().overrides().is_empty());
        let uniform = least(uniform);
        let surely = |whole: &Whole| uniform.as_ref().is_none_or(|(best, ..)| whole.is_surely_better_than(best));
        let layered = least(layered.into_iter().filter(|(whole, ..)| surely(whole)).collect());
        layered.or(uniform).map(|(_, _, chosen)| chosen)
    }

    #[expect(clippy::cast_precision_loss, reason = "rounded to four digits")]
    fn smallest_budget(&self, smallest: u64, fixed_bytes: u64, plain_bytes: u64) -> Budget {
        match self.budget {
            Budget::Bytes { tokens, .. } => {
                Budget::Bytes { bytes: readable(smallest.saturating_add(fixed_bytes)), tokens }
            }
            Budget::Share(share) => {
                let least = (smallest as f64 / plain_bytes as f64 * SHARE_DIGITS).ceil() / SHARE_DIGITS;
                Budget::Share(Share::new(least).unwrap_or(share))
            }
        }
    }
}

/// As many bytes, or a few more, that have few digits in one of the units.
fn readable(bytes: u64) -> u64 {
    let unit = match bytes {
        0..=0xF_FFFF => 1,
        0x10_0000..=0x3FFF_FFFF => 1 << 10,
        _ => 1 << 20,
    };
    bytes.div_ceil(unit).saturating_mul(unit)
}

/// Where each slot has the format that a dial gives it; `None` where one does not have it.
fn indices_of(slots: &[Slot], dial: &Dial) -> Option<Vec<usize>> {
    let index = |slot: &Slot| {
        let wanted = *formats_of(dial, slot.layer).get(slot.part);
        if slot.is_free { slot.formats.iter().position(|format| *format == wanted) } else { Some(0) }
    };
    slots.iter().map(index).collect()
}

fn least_bytes(choices: &[Choice]) -> u64 {
    choices.iter().map(|choice| choice.bytes).min().unwrap_or(0)
}

/// Every policy with one format for all keys and one for all values, as far as they are free: what the solver finds is no
/// worse than the best of them.
fn uniform(slots: &[Slot]) -> Vec<Vec<usize>> {
    let everywhere = |part: Part| -> Vec<Vec<usize>> {
        let free: Vec<&Slot> = slots.iter().filter(|slot| slot.part == part && slot.is_free).collect();
        let Some(first) = free.first() else { return vec![Vec::new()] };
        let index_in = |slot: &Slot, format| slot.formats.iter().position(|each| each == format);
        first.formats.iter().filter_map(|format| free.iter().map(|slot| index_in(slot, format)).collect()).collect()
    };
    let (keys, values) = (everywhere(Part::Keys), everywhere(Part::Values));
    let mut starts = Vec::with_capacity(keys.len() * values.len());
    for (k, v) in keys.iter().flat_map(|k| values.iter().map(move |v| (k, v))) {
        let mut of = KeyValue { k: k.iter(), v: v.iter() };
        let indices = slots.iter().map(|slot| match (slot.is_free, slot.part) {
            (false, _) => 0,
            (true, Part::Keys) => of.k.next().copied().unwrap_or(0),
            (true, Part::Values) => of.v.next().copied().unwrap_or(0),
        });
        starts.push(indices.collect());
    }
    starts
}

fn layers_of(slots: &[Slot], chosen: &[usize]) -> Layers {
    let mut layers = Layers::new();
    for (slot, &index) in slots.iter().zip(chosen) {
        let plain = KeyValue { k: FormatSpec::Plain, v: FormatSpec::Plain };
        let formats = layers.entry(slot.layer).or_insert(plain);
        match slot.part {
            Part::Keys => formats.k = slot.formats[index],
            Part::Values => formats.v = slot.formats[index],
        }
    }
    layers
}

/// The dial that gives layers these formats: what most of them have, and ranges for the others.
fn written(layers: &Layers) -> Dial {
    let mut most = KeyValue { k: FormatSpec::Plain, v: FormatSpec::Plain };
    let mut count = 0;
    for formats in layers.values() {
        let alike = layers.values().filter(|other| *other == formats).count();
        if alike > count {
            (most, count) = (*formats, alike);
        }
    }
    let others = layers.iter().filter(|(_, formats)| **formats != most);
    let others = others.map(|(layer, formats)| {
        let layers = LayerRange { first: *layer, last: *layer };
        Override { layers, formats: *formats }
    });
    let base = Base::Formats(most);
    // Layers are the keys of a map: none is named twice.
    Dial::new(base, &others.collect::<Vec<_>>()).unwrap_or_else(|_| Dial::uniform(base))
}
