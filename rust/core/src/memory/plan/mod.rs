//! What a model takes before it is loaded: weights, keys and values, recurrent state, activations.

mod activations;
mod allocation;
mod kv;
mod report;
mod search;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

pub use activations::{Activations, Device, DeviceKind};
pub use allocation::{History, reserve_tokens};
pub use kv::{Holder, LayerBytes};
pub use report::{Amount, LayerShare, Plan, Request, Verdict, plan};
pub use search::{Found, LongestContext, PolicyFit};

use crate::memory::ingest::Model;
use crate::quant::policy::{KvPolicy, PolicyError, Profile};
use kv::Held;

/// Bytes of each layer of one request whose tokens came like that, in caches with room for `reserve_tokens` from the
/// beginning (0: no word of what will come).
///
/// # Errors
/// [`PolicyError`], where the model cannot take the policy.
pub fn cache_bytes(
    model: &Model,
    policy: &KvPolicy,
    profile: Option<&Profile>,
    holder: Holder,
    history: History,
    reserve_tokens: u64,
) -> Result<Vec<LayerBytes>, PolicyError> {
    let resolved = policy.resolve(&model.geometry, profile)?;
    let held = Held { resolved: &resolved, holder, history, reserve_tokens };
    Ok(model.layers.iter().map(|shape| kv::layer_bytes(shape, &model.geometry, held)).collect())
}
