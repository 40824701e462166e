//! The text of a policy: [`policy`] reads it, `print` writes it. The grammar stands in the documentation of the policy.

mod formats;
mod numbers;
mod piece;
mod print;

use super::KvPolicy;
use super::dial::{Base, Dial, Override};
use super::error::PolicyError;
use super::format::Format;
use super::layers::{LAYERS_AT_MOST, LayerRange};
use super::problem::{Problem, nearest};
pub(super) use formats::{Scheme, give_group, group, pair, single};
pub(super) use numbers::budget;
pub(super) use piece::Piece;

const GROUP: &str = "group";
const FIRST: &str = "first";
const RECENT: &str = "recent";
const SETTINGS: [&str; 3] = [GROUP, FIRST, RECENT];

/// Reads a policy.
pub(super) fn policy(text: &str) -> Result<KvPolicy, PolicyError> {
    let whole = Piece::whole(text);
    if whole.is_empty() {
        return Err(whole.fault(Problem::Empty("the text")));
    }
    let (live, rest) = match whole.split_once('/') {
        Some((live, rest)) => (live, Some(rest)),
        None => (whole, None),
    };
    if let Some(rest) = rest
        && let Some((_, behind)) = rest.split_once('/')
    {
        return Err(behind.fault(Problem::SecondSlash));
    }
    let live = side(live, true)?;
    let rest = rest.map(|rest| side(rest, false)).transpose()?;
    Ok(KvPolicy::new(live.dial, rest.map(|side| side.dial), live.first.unwrap_or(0), live.recent.unwrap_or(0)))
}

/// Reads one side of a policy for a place where there is no running cache to have settings of.
pub(super) fn dial(text: &str) -> Result<Dial, PolicyError> {
    Ok(side(Piece::whole(text), false)?.dial)
}

/// Reads the layers of an override.
pub(super) fn layers(piece: Piece<'_>) -> Result<LayerRange, PolicyError> {
    let not_layers = || piece.fault(Problem::NotLayers { found: piece.quoted() });
    let layer = |number: Piece<'_>| {
        if number.is_empty() || !number.text().bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_layers());
        }
        let layer = numbers::whole(number, "layers", u64::from(LAYERS_AT_MOST) - 1)?;
        u32::try_from(layer).map_err(|_| not_layers())
    };
    if piece.text().starts_with('-') {
        return Err(piece.fault(Problem::NegativeLayer));
    }
    let (first, last) = match piece.split_once('-') {
        Some((_, last)) if last.text().starts_with('-') => return Err(piece.fault(Problem::NegativeLayer)),
        Some((first, last)) => (layer(first)?, layer(last)?),
        None => (layer(piece)?, layer(piece)?),
    };
    if first > last {
        return Err(piece.fault(Problem::RangeReversed { first, last }));
    }
    Ok(LayerRange { first, last })
}

/// What stands on one side of the `/`.
struct Side {
    dial: Dial,
    first: Option<u32>,
    recent: Option<u32>,
}

fn side(piece: Piece<'_>, live: bool) -> Result<Side, PolicyError> {
    if piece.is_empty() {
        return Err(piece.fault(Problem::Empty(if live { "what is before the `/`" } else { "what is after the `/`" })));
    }
    let mut items = piece.split(',');
    let (mut base, scheme) = base(items.next().unwrap_or(piece))?;
    let mut named: Vec<(Piece<'_>, Override)> = Vec::new();
    let (mut group, mut first, mut recent) = (None, None, None);
    for item in items {
        if item.is_empty() {
            return Err(item.fault(Problem::Empty("an item between commas")));
        }
        let Some((name, value)) = item.split_once('=') else {
            named.push((item, override_of(item, scheme)?));
            continue;
        };
        if name.is(GROUP) {
            set(&mut group, item, GROUP, (item, formats::group(value)?))?;
        } else if name.is(FIRST) || name.is(RECENT) {
            let (name, slot) = if name.is(FIRST) { (FIRST, &mut first) } else { (RECENT, &mut recent) };
            if !live {
                return Err(item.fault(Problem::LiveOnly { name }));
            }
            let tokens = numbers::tokens(value)?;
            let most = u64::from(u32::MAX);
            let fits = u32::try_from(tokens).map_err(|_| value.fault(Problem::TooLarge { what: "tokens", most }))?;
            set(slot, item, name, fits)?;
        } else {
            let written = name.text();
            let problem = Problem::UnknownSetting { name: name.quoted(), nearest: nearest(written, &SETTINGS) };
            return Err(name.fault(problem));
        }
    }
    if let Some((item, group)) = group {
        let base = match &mut base {
            Base::Formats(formats) => Some(formats),
            Base::Auto(_) => None,
        };
        let pairs = base.into_iter().chain(named.iter_mut().map(|(_, each)| &mut each.formats));
        if !give_group(pairs.flat_map(|pair| [&mut pair.k, &mut pair.v]), group) {
            return Err(item.fault(Problem::GroupUnused));
        }
    }
    let overrides: Vec<Override> = named.iter().map(|(_, each)| *each).collect();
    let dial = Dial::new(base, &overrides).map_err(|(index, problem)| named[index].0.fault(problem))?;
    Ok(Side { dial, first, recent })
}

fn set<T>(slot: &mut Option<T>, item: Piece<'_>, name: &'static str, value: T) -> Result<(), PolicyError> {
    if slot.replace(value).is_some() {
        return Err(item.fault(Problem::Twice { name }));
    }
    Ok(())
}

/// The first item: the formats of all layers that no other item names, and the scheme of bits that stand alone.
fn base(item: Piece<'_>) -> Result<(Base, Scheme), PolicyError> {
    let text = item.text();
    let auto = item.split_once(':').map_or((item, None), |(word, budget)| (word, Some(budget)));
    if auto.0.is("auto") {
        let given = auto.1.filter(|budget| !budget.is_empty());
        let budget = given.ok_or_else(|| item.fault(Problem::NotBudget { found: item.quoted() }))?;
        return Ok((Base::Auto(numbers::budget(budget)?), Scheme::Affine));
    }
    let is_layers = |text: &str| text.chars().all(|letter| letter.is_ascii_digit() || letter == '-' || letter == ' ');
    let has_layers = item.split_once(':').is_some_and(|(named, _)| is_layers(named.text()));
    if text.contains('=') || has_layers {
        return Err(item.fault(Problem::NoBase { found: item.quoted() }));
    }
    if item.is_empty() {
        return Err(item.fault(Problem::Empty("the first item")));
    }
    let (formats, scheme) = pair(item, Scheme::Affine)?;
    Ok((Base::Formats(formats), scheme))
}

/// A later item: `LAYERS:FORMATS`.
fn override_of(item: Piece<'_>, scheme: Scheme) -> Result<Override, PolicyError> {
    let Some((named, formats)) = item.split_once(':') else {
        return Err(item.fault(match pair(item, scheme) {
            Ok(_) => Problem::SecondBase { found: item.quoted() },
            Err(_) => Problem::NotLayers { found: item.quoted() },
        }));
    };
    // `rotated:4` has its colon behind a scheme.
    if Scheme::named(named).is_ok() {
        return Err(item.fault(Problem::SecondBase { found: item.quoted() }));
    }
    let layers = layers(named)?;
    if formats.is_empty() {
        return Err(item.fault(Problem::NoFormats { layers }));
    }
    let (formats, _) = pair(formats, scheme)?;
    Ok(Override { layers, formats })
}

/// Reads one settled format, as a profile names it.
pub(super) fn format(text: &str) -> Result<Format, PolicyError> {
    let piece = Piece::whole(text);
    let spec = single(piece, Scheme::Affine)?;
    spec.try_map_group(|group| group.ok_or_else(|| piece.fault(Problem::NoGroup { found: piece.quoted() })))
}
