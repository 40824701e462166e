//! What fits a memory: the longest context, the most requests, and policies of the dial.

use serde::Serialize;

use super::report::{Request, Sums, Verdict, verdict};
use crate::memory::ingest::Model;
use crate::quant::policy::{KvPolicy, Profile, Resolved};

/// Contexts that no model has, and more requests than anybody serves at once: where searches end.
const CONTEXT_AT_MOST: u64 = 1 << 24;
const REQUESTS_AT_MOST: u64 = 1 << 16;
/// Of the dial, from the most precise: those that a plan tries.
const DIAL: [&str; 7] = ["16", "8", "6", "k8v4", "channel-4", "channel-3", "channel-2"];

/// A policy of the dial, and what it comes to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PolicyFit {
    /// Its text.
    pub policy: String,
    /// Keys and values of all requests; absent where the model cannot take it.
    pub kv_bytes: Option<u64>,
    /// All there is at the worst moment.
    pub peak_bytes: Option<u64>,
    /// How that fits.
    pub verdict: Option<Verdict>,
    /// Why the model cannot take it.
    pub refused: Option<String>,
}

/// The longest context that fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LongestContext {
    /// Tokens of each request.
    pub tokens: u64,
    /// Whether it is the model that ends there, and not the memory.
    pub is_models_limit: bool,
}

/// What searching found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Found {
    /// At the plan's policy and concurrency; absent where not even one token fits.
    pub longest_context: Option<LongestContext>,
    /// At the plan's policy and context.
    pub most_requests: u64,
    /// Policies of the dial, at the plan's context and concurrency.
    pub policies: Vec<PolicyFit>,
    /// The most precise of them that fits; one that is tight where none does.
    pub policy: Option<String>,
}

/// Looks for what fits.
pub(super) fn searched(
    model: &Model,
    resolved: &Resolved,
    profile: Option<&Profile>,
    request: &Request,
    memory: u64,
) -> Found {
    let peak = |resolved: &Resolved, context_tokens: u64, concurrency: u64| {
        Sums::of(model, resolved, &Request { context_tokens, concurrency, ..request.clone() }).peak
    };
    let models = model.sizes.context_tokens.filter(|tokens| *tokens > 0);
    let limit = models.unwrap_or(CONTEXT_AT_MOST).min(CONTEXT_AT_MOST);
    let tokens = most(limit, |tokens| peak(resolved, tokens, request.concurrency) <= memory);
    let most_requests = most(REQUESTS_AT_MOST, |requests| peak(resolved, request.context_tokens, requests) <= memory);
    let policies: Vec<PolicyFit> = DIAL
        .iter()
        .map(|text| match text.parse::<KvPolicy>().and_then(|policy| policy.resolve(&model.geometry, profile)) {
            Ok(resolved) => {
                let sums = Sums::of(model, &resolved, request);
                PolicyFit {
                    policy: (*text).to_owned(),
                    kv_bytes: Some(sums.kv),
                    peak_bytes: Some(sums.peak),
                    verdict: Some(verdict(sums.peak, memory)),
                    refused: None,
                }
            }
            Err(error) => PolicyFit {
                policy: (*text).to_owned(),
                kv_bytes: None,
                peak_bytes: None,
                verdict: None,
                refused: Some(error.to_string()),
            },
        })
        .collect();
    let first = |wanted: Verdict| policies.iter().find(|fit| fit.verdict == Some(wanted)).map(|fit| fit.policy.clone());
    let policy = first(Verdict::Fit).or_else(|| first(Verdict::Tight));
    let is_models_limit = models.is_some_and(|models| tokens == models);
    let longest_context = (tokens > 0).then_some(LongestContext { tokens, is_models_limit });
    Found { longest_context, most_requests, policies, policy }
}

/// The largest number up to `limit` that fits, where all below it do; 0 if 1 does not.
fn most(limit: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, limit);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}
