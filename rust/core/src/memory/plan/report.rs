//! The plan: every term with its source, what fits a memory, and why.

use serde::{Deserialize, Serialize};

use super::activations::{self, Activations, Device, Load};
use super::kv::{self, Held, Holder, LayerBytes};
use super::search::{Found, searched};
use crate::memory::ingest::{Attention, Model};
use crate::quant::policy::{KvPolicy, PolicyError, Profile, Resolved};

/// Of the memory, in percent: more than this is `tight`.
const TIGHT_PERCENT: u64 = 90;
/// Far above what anybody asks for: so that nothing overflows.
const TOKENS_AT_MOST: u64 = 1 << 48;
/// Tokens of an answer where nobody says, and what part of a context they are at most.
const ANSWER_TOKENS: u64 = 1024;

/// What is to be planned.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Tokens of each request, prompt and answer.
    pub context_tokens: u64,
    /// Of these, at most, the answer's (`max_tokens`): the engine keeps room for them. `None` for 1,024, or half of them.
    pub answer_tokens: Option<u64>,
    /// Requests at the same time.
    pub concurrency: u64,
    /// Tokens of a prompt that are computed at once.
    pub chunk_tokens: u64,
    /// What MLX computes on.
    pub device: Device,
    /// What there is.
    pub memory: Option<Amount>,
    /// What this machine was seen to take beyond the other terms.
    pub runtime: Option<Amount>,
    /// Whether to look for the longest context, the most requests and policies that fit.
    pub search: bool,
}

impl Request {
    /// The same with numbers that can be.
    fn bounded(&self) -> Self {
        let bounded = |number: u64| number.clamp(1, TOKENS_AT_MOST);
        let device = Device {
            commit_operations: bounded(self.device.commit_operations),
            commit_numbers: bounded(self.device.commit_numbers),
            ..self.device
        };
        Self {
            context_tokens: bounded(self.context_tokens),
            concurrency: bounded(self.concurrency),
            chunk_tokens: bounded(self.chunk_tokens),
            device,
            ..self.clone()
        }
    }
}

/// Bytes, and where the number comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Amount {
    /// How many.
    pub bytes: u64,
    /// Where that comes from.
    pub source: String,
}

/// How well it fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// With a tenth of the memory to spare.
    Fit,
    /// With less.
    Tight,
    /// Not.
    Fail,
}

/// One layer's share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LayerShare {
    /// Its number; absent for what is beside the layers.
    pub layer: Option<u32>,
    /// Its place in the engine's list of caches.
    pub cache: Option<u32>,
    /// How it attends.
    pub attention: Attention,
    /// Whether its MLP is a mixture of experts.
    pub experts: bool,
    /// Whether its attention has sinks.
    pub sinks: bool,
    /// Formats of its keys and values.
    pub k: Option<String>,
    /// Of its values.
    pub v: Option<String>,
    /// Bytes, of all requests.
    #[serde(flatten)]
    pub bytes: LayerBytes,
    /// Where they come from.
    pub source: String,
}

/// The plan.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// `model_type` of config.json.
    pub model_type: String,
    /// Whether all layers are known; else keys and values are at most what is said.
    pub is_known: bool,
    /// The policy's text.
    pub policy: String,
    /// Tokens of each request.
    pub context_tokens: u64,
    /// Of these, the answer's.
    pub answer_tokens: u64,
    /// Requests.
    pub concurrency: u64,
    /// Tokens of a chunk of a prompt.
    pub chunk_tokens: u64,
    /// The weights.
    pub weights: Amount,
    /// Keys and values of all requests, with the room that caches keep.
    pub kv: Amount,
    /// Of `kv`, what is known to be taken at least.
    pub kv_at_least_bytes: u64,
    /// Of `kv`, the tokens that are there.
    pub kv_used_bytes: u64,
    /// What each further token of one request takes.
    pub kv_token_bytes: u64,
    /// Recurrent state of all requests.
    pub state: Amount,
    /// The most of what is computed at once.
    pub activations: Amount,
    /// That, moment by moment.
    pub moments: Activations,
    /// What this machine takes beyond these.
    pub runtime: Amount,
    /// All five: the most that MLX has at once.
    pub peak_bytes: u64,
    /// Layer by layer.
    pub layers: Vec<LayerShare>,
    /// What there is.
    pub memory: Option<Amount>,
    /// How well it fits.
    pub verdict: Option<Verdict>,
    /// What searching found.
    pub found: Option<Found>,
}

/// Plans a model.
///
/// # Errors
/// [`PolicyError`], where the model cannot take the policy.
pub fn plan(
    model: &Model,
    policy: &KvPolicy,
    profile: Option<&Profile>,
    request: &Request,
) -> Result<Plan, PolicyError> {
    let resolved = policy.resolve(&model.geometry, profile)?;
    let request = request.bounded();
    let mut plan = laid_out(model, &resolved, &request);
    if let Some(memory) = request.memory.as_ref().filter(|_| request.search) {
        plan.found = Some(searched(model, &resolved, profile, &request, memory.bytes));
    }
    Ok(plan)
}

fn laid_out(model: &Model, resolved: &Resolved, request: &Request) -> Plan {
    let sums = Sums::of(model, resolved, request);
    let requests = request.concurrency;
    let shares = model.layers.iter().zip(&sums.layers).map(|(shape, bytes)| {
        let formats = shape.cache.and_then(|place| resolved.layers.get(place as usize));
        let formats = formats.and_then(|layer| layer.caches.iter().flatten().next());
        LayerShare {
            layer: shape.layer,
            cache: shape.cache,
            attention: shape.attention,
            experts: shape.experts,
            sinks: shape.sinks,
            k: formats.map(|formats| formats.live.k.to_string()),
            v: formats.map(|formats| formats.live.v.to_string()),
            bytes: *bytes,
            source: shape.source.clone(),
        }
    });
    let memory = request.memory.clone();
    let token_bytes = sums.layers.iter().map(|layer| layer.token_bytes).fold(0, u64::saturating_add);
    Plan {
        model_type: model.model_type.clone(),
        is_known: model.is_known,
        policy: resolved.policy.to_string(),
        context_tokens: request.context_tokens,
        answer_tokens: answer_tokens(request),
        concurrency: requests,
        chunk_tokens: request.chunk_tokens,
        weights: weights(model),
        kv: Amount { bytes: sums.kv, source: kv_source(model, &sums, requests) },
        kv_at_least_bytes: sums.kv - sums.unknown.min(sums.kv),
        kv_used_bytes: sums.used,
        kv_token_bytes: token_bytes,
        state: Amount { bytes: sums.state, source: state_source(sums.state, requests) },
        activations: Amount { bytes: sums.activations(), source: activations_source(sums.moments, request) },
        moments: sums.moments,
        runtime: runtime(request),
        peak_bytes: sums.peak,
        layers: shares.collect(),
        verdict: memory.as_ref().map(|memory| verdict(sums.peak, memory.bytes)),
        memory,
        found: None,
    }
}

/// The numbers of a plan, without words.
pub(super) struct Sums {
    layers: Vec<LayerBytes>,
    pub(super) kv: u64,
    used: u64,
    unknown: u64,
    state: u64,
    reserve_tokens: u64,
    moments: Activations,
    pub(super) peak: u64,
}

impl Sums {
    pub(super) fn of(model: &Model, resolved: &Resolved, request: &Request) -> Self {
        let (requests, context) = (request.concurrency, request.context_tokens);
        let (history, reserve_tokens) = kv::engine_history(context, answer_tokens(request), request.chunk_tokens);
        let held = Held { resolved, holder: Holder::Engine, history, reserve_tokens };
        let layers: Vec<LayerBytes> =
            model.layers.iter().map(|shape| kv::layer_bytes(shape, &model.geometry, held).times(requests)).collect();
        let sum = |of: fn(&LayerBytes) -> u64| layers.iter().map(of).fold(0, u64::saturating_add);
        let (kv, state) = (sum(|layer| layer.kv_bytes), sum(|layer| layer.state_bytes));
        let load = Load {
            device: request.device,
            context_tokens: context,
            prompt_tokens: context - answer_tokens(request),
            chunk_tokens: request.chunk_tokens.max(1),
            requests,
        };
        let one_prefills = sum(|layer| layer.prefill_bytes) / requests;
        let decoded = |requests| {
            let layers = layers.iter().map(|layer| layer.decoded_bytes / request.concurrency * requests);
            activations::decoded(request.device.kind, layers)
        };
        let attended =
            activations::attended(request.device.kind, requests, layers.iter().map(|layer| layer.moved_bytes));
        let most = |of: fn(&LayerBytes) -> u64| layers.iter().map(of).max().unwrap_or(0);
        let at_once = sum(|layer| layer.joined_bytes).saturating_add(state);
        // What is padded to the batch's length is there besides what becomes of it.
        let joined = at_once.saturating_add(most(|layer| layer.moved_bytes).saturating_mul(2));
        let left = u128::from(at_once.saturating_add(sum(|layer| layer.moved_bytes))) * u128::from(requests - 1);
        let step = activations::decode(model, load);
        let decode_bytes = step.saturating_add(decoded(requests)).saturating_add(attended);
        let moments = Activations {
            prefill_bytes: activations::prefill(model, load).saturating_add(one_prefills).saturating_add(decoded(1)),
            decode_bytes,
            join_bytes: if requests > 1 { step.saturating_add(joined) } else { 0 },
            leave_bytes: u64::try_from(left / u128::from(requests)).unwrap_or(u64::MAX).saturating_add(step),
            growth_bytes: decode_bytes.saturating_add(most(|layer| layer.growth_bytes)),
        };
        let mut sums = Self {
            kv,
            used: sum(|layer| layer.kv_used_bytes),
            unknown: sum(|layer| layer.unknown_bytes),
            state,
            reserve_tokens,
            moments,
            peak: 0,
            layers,
        };
        let terms = [weights(model).bytes, kv, state, sums.activations(), runtime(request).bytes];
        sums.peak = terms.into_iter().fold(0, u64::saturating_add);
        sums
    }

    fn activations(&self) -> u64 {
        self.moments.most_bytes()
    }
}

fn answer_tokens(request: &Request) -> u64 {
    let wanted = request.answer_tokens.unwrap_or(ANSWER_TOKENS.min(request.context_tokens / 2));
    wanted.min(request.context_tokens.saturating_sub(1))
}

fn weights(model: &Model) -> Amount {
    model.weights.as_ref().map_or_else(
        || Amount { bytes: 0, source: "not looked at".to_owned() },
        |weights| Amount { bytes: weights.bytes, source: weights.source.clone() },
    )
}

fn runtime(request: &Request) -> Amount {
    request.runtime.clone().unwrap_or_else(|| Amount {
        bytes: 0,
        source: "nothing: no request was measured on this machine yet (`hwledger-omlx ledger reconcile` fits it)"
            .to_owned(),
    })
}

fn kv_source(model: &Model, sums: &Sums, requests: u64) -> String {
    let caches = model.layers.iter().filter(|shape| shape.cache.is_some()).count();
    let known = if model.is_known { "" } else { "; at most, for some layers are not known" };
    format!(
        "{caches} caches of `{}` in `families.toml`, room for {} tokens (`reserve_for`, `roomy`), times {requests}{known}",
        model.model_type, sums.reserve_tokens
    )
}

fn state_source(bytes: u64, requests: u64) -> String {
    if bytes == 0 {
        return "no layer is recurrent".to_owned();
    }
    format!("arrays of the recurrent layers in `families.toml`, the same at any context, times {requests}")
}

fn activations_source(moments: Activations, request: &Request) -> String {
    let most = moments.most_bytes();
    if moments.prefill_bytes == most {
        return format!("outputs of the layers that MLX has under way in a chunk of {} tokens", request.chunk_tokens);
    }
    let moment = if moments.decode_bytes == most {
        "a step of decoding: layers, logits and log probabilities"
    } else if moments.leave_bytes == most {
        "a request leaves the batch: the caches of those that stay are copied, and it has the old ones"
    } else if moments.join_bytes == most {
        "a request joins the batch: its caches and the batch's are copied into larger ones"
    } else {
        "caches grow past the room that was kept: an old and a new one are there at once"
    };
    moment.to_owned()
}

pub(super) fn verdict(peak: u64, memory: u64) -> Verdict {
    if peak > memory {
        Verdict::Fail
    } else if u128::from(peak) * 100 > u128::from(memory) * u128::from(TIGHT_PERCENT) {
        Verdict::Tight
    } else {
        Verdict::Fit
    }
}
