//! What a model is, from the files of its folder alone: the caches of its layers, its sizes, its weights. Nothing is
//! loaded, and nothing is guessed: a layer of a kind that is not known is [`Attention::Unknown`], with bounds.
//!
//! Which architecture has which layers stands in `families.toml`.

mod attention;
mod config;
mod error;
mod evaluate;
mod families;
mod files;
mod formula;
mod layers;
mod model;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod weights;

pub use attention::Attention;
pub use error::IngestError;
pub use layers::{Bounds, LayerShape};
pub use model::{Model, Sizes, known_types};
pub use weights::Weights;
