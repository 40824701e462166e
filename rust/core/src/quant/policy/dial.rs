//! The formats of all layers on one side of the `/`: one for all, and others for ranges of layers.

use super::budget::Budget;
use super::format::{FormatSpec, KeyValue};
use super::layers::LayerRange;
use super::problem::Problem;

/// The formats of all layers, either live or at rest.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Dial {
    base: Base,
    /// In the order of the layers, each layer in one range at most.
    overrides: Vec<Override>,
}

/// What the layers have that no range names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Base {
    /// These formats.
    Formats(KeyValue<FormatSpec>),
    /// The best that the solver finds under a budget.
    Auto(Budget),
}

/// What a range of layers has instead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Override {
    /// The layers.
    pub layers: LayerRange,
    /// Their formats.
    pub formats: KeyValue<FormatSpec>,
}

impl Dial {
    /// The same for all layers.
    pub(super) fn uniform(base: Base) -> Self {
        Self { base, overrides: Vec::new() }
    }

    /// Ranges that follow each other with the same formats become one, so that equal dials are written alike.
    ///
    /// # Errors
    /// The index of an override whose layers another one before it names, and what is wrong with it.
    pub(super) fn new(base: Base, overrides: &[Override]) -> Result<Self, (usize, Problem)> {
        let mut order: Vec<usize> = (0..overrides.len()).collect();
        order.sort_by_key(|&index| overrides[index].layers.first);
        let mut merged: Vec<Override> = Vec::new();
        let mut before: Option<usize> = None;
        for index in order {
            let next = overrides[index];
            if let Some(before) = before
                && overrides[before].layers.last >= next.layers.first
            {
                // The one that was written later is the one that is told of.
                let other = overrides[before.min(index)].layers;
                return Err((before.max(index), Problem::Overlap { other }));
            }
            before = Some(index);
            match merged.last_mut() {
                Some(last) if last.layers.last + 1 == next.layers.first && last.formats == next.formats => {
                    last.layers.last = next.layers.last;
                }
                _ => merged.push(next),
            }
        }
        Ok(Self { base, overrides: merged })
    }

    /// What the layers have that no range names.
    #[must_use]
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// What ranges of layers have instead, in the order of the layers.
    #[must_use]
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }

    /// What is said of a layer by a range that names it.
    #[must_use]
    pub fn override_of(&self, layer: u32) -> Option<&Override> {
        let after = self.overrides.partition_point(|each| each.layers.last < layer);
        self.overrides.get(after).filter(|each| each.layers.contains(layer))
    }

    /// Every pair of formats that is written out.
    pub(super) fn written(&self) -> impl Iterator<Item = &KeyValue<FormatSpec>> {
        let base = match &self.base {
            Base::Formats(formats) => Some(formats),
            Base::Auto(_) => None,
        };
        base.into_iter().chain(self.overrides.iter().map(|each| &each.formats))
    }
}
