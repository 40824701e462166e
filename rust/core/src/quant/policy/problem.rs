//! What can be wrong with the text of a policy, said with what would be right.

use super::layers::LayerRange;

/// Most characters of a text that an error repeats.
const QUOTED_AT_MOST: usize = 80;

/// What is wrong with a piece of a policy's text, and what would be right.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Problem {
    /// The text, a side of the `/` or an item between commas has nothing in it.
    #[error("{0} is empty: write the bits, such as `8`, `k8v4` or `16/lossless`")]
    Empty(&'static str),
    /// More than one `/`.
    #[error("a second `/`: the formats of the running cache come before the only one, those at rest after it")]
    SecondSlash,
    /// No scheme has that name.
    #[error(
        "there is no scheme `{name}`{}: the schemes are affine, rotated, channel, lossless and auto; a number alone is \
         affine, and 16 is as the model has it",
        meant(*.nearest)
    )]
    UnknownScheme {
        /// The name as written.
        name: String,
        /// The scheme whose name is most like it.
        nearest: Option<&'static str>,
    },
    /// No setting has that name.
    #[error("there is no setting `{name}`{}: the settings are group=, first= and recent=", meant(*.nearest))]
    UnknownSetting {
        /// The name as written.
        name: String,
        /// The setting whose name is most like it.
        nearest: Option<&'static str>,
    },
    /// A scheme stands without bits.
    #[error("{scheme} needs its bits: write `{scheme}-4` or `{scheme}-k8v4`")]
    NoBits {
        /// The scheme.
        scheme: &'static str,
    },
    /// Something stands where bits should.
    #[error("`{found}` is no number of bits: write `4`, `3.5` or `k8v4`")]
    NotBits {
        /// What stands there.
        found: String,
    },
    /// The scheme has no format of so many bits.
    #[error("{scheme} has {}, not {bits}", bits_of(.scheme, .bits))]
    Bits {
        /// The scheme.
        scheme: &'static str,
        /// The bits as written.
        bits: String,
    },
    /// Lossless was given bits.
    #[error("lossless has no bits to choose: write `lossless` alone")]
    LosslessBits,
    /// Only the keys, or only the values, have bits.
    #[error("K and V are given together: write `k8v16` to leave V in 16 bit")]
    HalfOfPair,
    /// `+` stands more than once in a pair.
    #[error("keys and values are two formats: write `K+V`, such as `affine:8:64+rotated:4`")]
    NotPair,
    /// A group that no format has.
    #[error("a group is 32, 64 or 128, not `{found}`")]
    Group {
        /// As written.
        found: String,
    },
    /// A format that must name its group and does not.
    #[error("the group is not said: write `{found}:64`")]
    NoGroup {
        /// As written.
        found: String,
    },
    /// A group for a scheme that has none.
    #[error("{scheme} formats have no groups: leave the group out")]
    GroupNotTaken {
        /// The scheme.
        scheme: &'static str,
    },
    /// A group is set and no format on its side of the `/` has one.
    #[error("no format on this side of the `/` has groups: affine and channel formats do")]
    GroupUnused,
    /// A layer before the first.
    #[error("layers are counted from 0, and there is none before it: write `0-1:16` for the first two")]
    NegativeLayer,
    /// Something stands where layers should.
    #[error("`{found}` names no layers: write a layer such as `3:16`, or the first and the last such as `0-1:16`")]
    NotLayers {
        /// What stands there.
        found: String,
    },
    /// A range with its ends the wrong way round.
    #[error("the range runs backwards: write `{last}-{first}`")]
    RangeReversed {
        /// The end that was written first.
        first: u32,
        /// The end that was written last.
        last: u32,
    },
    /// Two overrides for one layer.
    #[error("layers of `{other}` are given formats already: let each layer stand in one range only")]
    Overlap {
        /// The range that came first.
        other: LayerRange,
    },
    /// An override has no formats.
    #[error("no formats for the layers: write `{layers}:16` or `{layers}:k8v4`")]
    NoFormats {
        /// The layers.
        layers: LayerRange,
    },
    /// A side begins with something else than the formats of all layers.
    #[error("the formats of all other layers come first: write for example `4,{found}`")]
    NoBase {
        /// What stands in their place.
        found: String,
    },
    /// Formats for all layers a second time.
    #[error(
        "formats of all layers a second time: write `LAYER:{found}` for a layer, `k8v4` for keys and values apart, \
         `16/8` for the running cache and at rest apart"
    )]
    SecondBase {
        /// What stands there.
        found: String,
    },
    /// A setting is given twice.
    #[error("`{name}=` is given twice")]
    Twice {
        /// The setting.
        name: &'static str,
    },
    /// A setting of the running cache stands after the `/`.
    #[error("`{name}=` is about the running cache: write it before the `/`")]
    LiveOnly {
        /// The setting.
        name: &'static str,
    },
    /// Something stands where a number should.
    #[error("`{found}` is no whole number of {what}")]
    NotNumber {
        /// What it should count.
        what: &'static str,
        /// What stands there.
        found: String,
    },
    /// A number that nothing can be.
    #[error("more than {most} {what} cannot be")]
    TooLarge {
        /// What it counts.
        what: &'static str,
        /// The most.
        most: u64,
    },
    /// `auto` stands without a budget, or with one that is none.
    #[error(
        "`{found}` is no budget: write a share such as `auto:0.35`, or bytes at a context such as `auto:12GiB@128k`"
    )]
    NotBudget {
        /// What stands there.
        found: String,
    },
    /// A share that is none.
    #[error("a share of the 16-bit bytes is above 0 and at most 1, not {found}: write 0.35 for 35%")]
    Share {
        /// As written.
        found: String,
    },
    /// Bytes without a context.
    #[error("bytes need a context to hold: write `{found}@128k`")]
    NoContext {
        /// The bytes as written.
        found: String,
    },
    /// A number of bytes without a unit or with an unknown one.
    #[error(
        "`{found}` is no number of bytes: write `12GiB`, `500MB` or another of KiB, MiB, GiB, TiB, kB, MB, GB, TB, B"
    )]
    NotBytes {
        /// What stands there.
        found: String,
    },
    /// A budget of nothing.
    #[error("a budget of 0 {what} holds nothing")]
    Zero {
        /// `bytes` or `tokens`.
        what: &'static str,
    },
}

/// The question after a name that is almost right.
fn meant(nearest: Option<&'static str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// The bits that a scheme has.
fn bits_of(scheme: &str, bits: &str) -> &'static str {
    match scheme {
        "rotated" => "1 to 8 bits in steps of a half, or 16 for as the model has it",
        // Whoever wants a fraction is told where there is one.
        _ if bits.contains('.') => "8, 6, 5, 4, 3 or 2 bits, or 16 (only rotated has halves: `rotated-3.5`)",
        _ => "8, 6, 5, 4, 3 or 2 bits, or 16 for as the model has it",
    }
}

/// The one of `names` that `written` was probably meant to be.
pub(super) fn nearest(written: &str, names: &[&'static str]) -> Option<&'static str> {
    const ALIKE: f64 = 0.75;
    let written = written.to_lowercase();
    let likeness = |name: &&'static str| strsim::jaro_winkler(&written, name);
    names
        .iter()
        .copied()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .filter(|name| likeness(name) >= ALIKE)
}

/// The beginning of a text that someone wrote.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_AT_MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
