//! Layers that a policy names.

use std::fmt;

/// Most layers that a policy can name. No model comes near.
pub(super) const LAYERS_AT_MOST: u32 = 65_536;

/// Layers that follow each other, the first and the last included. Written as `3` or `0-1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LayerRange {
    /// The first, counted from 0.
    pub first: u32,
    /// The last, not before the first.
    pub last: u32,
}

impl LayerRange {
    /// Whether the layer is one of them.
    #[must_use]
    pub fn contains(&self, layer: u32) -> bool {
        (self.first..=self.last).contains(&layer)
    }
}

impl fmt::Display for LayerRange {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}", self.first)?;
        if self.last != self.first {
            write!(to, "-{}", self.last)?;
        }
        Ok(())
    }
}
