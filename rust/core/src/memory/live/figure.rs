//! A number with where it comes from. What is not known has no number, and says why.

use serde::{Deserialize, Serialize};

/// Where a figure comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Source {
    /// Read where the memory is kept account of.
    Measured,
    /// Worked out of figures that were measured.
    Computed,
    /// Not known here.
    Unavailable,
}

/// A number, in the unit that the name of its field says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Figure<T> {
    /// The number; `None` where it is not known.
    pub value: Option<T>,
    /// Where it comes from.
    pub source: Source,
    /// What was read, how it was worked out, or why it is not known.
    pub how: String,
}

impl<T> Figure<T> {
    /// What was read.
    pub fn measured(value: T, how: impl Into<String>) -> Self {
        Self { value: Some(value), source: Source::Measured, how: how.into() }
    }

    /// What was worked out.
    pub fn computed(value: T, how: impl Into<String>) -> Self {
        Self { value: Some(value), source: Source::Computed, how: how.into() }
    }

    /// What is not known, and why.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self { value: None, source: Source::Unavailable, how: why.into() }
    }

    /// What was read, or why it could not be.
    pub fn of(read: Result<T, String>, how: &str) -> Self {
        match read {
            Ok(value) => Self::measured(value, how),
            Err(why) => Self::unavailable(why),
        }
    }
}

impl Figure<u64> {
    /// The sum of all, where every one is known; otherwise the reason of the first that is not. Of none it is 0.
    ///
    /// It is as good as its worst part: measured where all are.
    #[must_use]
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Self>, how: &str) -> Self {
        let mut total = Self::measured(0, how);
        for part in parts {
            let (Some(sum), Some(value)) = (total.value, part.value) else {
                return Self::unavailable(part.how.clone());
            };
            total.value = Some(sum.saturating_add(value));
            if part.source == Source::Computed {
                total.source = Source::Computed;
            }
        }
        total
    }
}
