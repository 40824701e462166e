//! What MLX has in memory beside weights and caches: the arrays of the layers that are under way while a chunk of a prompt
//! is computed, those of a step of decoding, and what is there twice while caches are joined or grow.
//!
//! MLX allocates an operation's output when it hands the operation to the device, and frees it when the last operation
//! that reads it is done (`mlx/transforms.cpp`: `eval_impl`). It runs ahead of the device by ten commits
//! (`MAX_ACTIVE_TASKS`); on a GPU a commit is made of so many operations, or of inputs with so many numbers
//! (`get_graph_limits` of `mlx/backend/cuda/device.cpp`, `Device` of `mlx/backend/metal/device.cpp`). So a GPU has the
//! arrays of many layers at once, and a CPU those of about one. On CUDA the engine keeps it to two stretches of layers at
//! a time (`hooks/layer_caches/transients.py`).
//!
//! A chunk's logits are no part of it: the engine evaluates the caches only, and lazily computes no logits but those of a
//! prompt's last token.

use serde::{Deserialize, Serialize};

use crate::memory::ingest::{Attention, LayerShape, Model};
use crate::quant::Element;
use crate::quant::policy::{Cache, Layer};

/// Commits that MLX hands to a device before it waits, and the one that it is filling.
const COMMITS_UNDER_WAY: u64 = 11;
/// Operations of a layer that a device runs: norms 2, products 7, rotations 2, updates of the cache 2, attention, MLP 1,
/// sums 2, and two norms of queries and keys in some.
const OPERATIONS_OF_A_LAYER: u64 = 19;
/// Numbers of a layer of no attention that is not known in detail, in hidden sizes: projections, gates, convolution.
const RECURRENT_WIDTHS: u64 = 8;
const DECODED_AT_MOST: u64 = 512 << 20;
/// Tokens times layers of a stretch, and bytes of keys and values that are attended to in one, in `transients.py`.
const STRETCH_TOKENS: u64 = 4096;
const STRETCH_BYTES: u64 = 256 << 20;
/// On a CPU norms and rotations are made of plain operations in 32 bit, whose outputs are about as many numbers again
/// (measured: 7,370 numbers a token of the shipped model, whose layer puts out 3,330).
const CPU_TIMES: u64 = 2;
/// Head widths that the fused kernel of Metal has, and the widest of cuDNN's.
const METAL_FUSED: [u64; 3] = [64, 80, 128];
const CUDNN_WIDEST: u64 = 128;

/// What MLX computes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Of which kind.
    pub kind: DeviceKind,
    /// Operations of one commit, at most.
    pub commit_operations: u64,
    /// Numbers of the inputs of one commit, at most.
    pub commit_numbers: u64,
}

/// A kind of device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A GPU of Apple's.
    Metal,
    /// A GPU of NVIDIA's.
    Cuda,
}

/// Bytes of activations at the moments when they are most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Activations {
    /// While a chunk of a prompt is computed.
    pub prefill_bytes: u64,
    /// While a token of each request is computed.
    pub decode_bytes: u64,
    /// While a request joins the batch: its caches and the batch's are copied into larger ones.
    pub join_bytes: u64,
    /// While a request leaves the batch: the caches of those that stay are copied, and it still has the old ones.
    pub leave_bytes: u64,
    /// While caches grow in a step of decoding: what one was is there beside what it becomes.
    pub growth_bytes: u64,
}

impl Activations {
    /// At the worst moment.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        let Self { prefill_bytes, decode_bytes, join_bytes, leave_bytes, growth_bytes } = *self;
        prefill_bytes.max(decode_bytes).max(join_bytes).max(leave_bytes).max(growth_bytes)
    }
}

/// What is being computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) device: Device,
    pub(super) context_tokens: u64,
    pub(super) prompt_tokens: u64,
    pub(super) chunk_tokens: u64,
    pub(super) requests: u64,
}

/// Of a chunk of a prompt, at the end of the context.
pub(super) fn prefill(model: &Model, load: Load) -> u64 {
    let tokens = load.chunk_tokens.min(load.context_tokens);
    under_way(model, load, tokens, 1)
}

/// Of one token of each request: the layers, and the logits with their float32 log probabilities.
pub(super) fn decode(model: &Model, load: Load) -> u64 {
    let number = model.element.bytes() as u64;
    let logits = model.sizes.vocabulary.unwrap_or(0).saturating_mul(load.requests).saturating_mul(number + 2 * 4);
    logits.saturating_add(under_way(model, load, 1, load.requests))
}

/// What is decoded for the moment, of layers that decode so many bytes each: `hooks/layer_caches/transients.py` waits where
/// more than [`DECODED_AT_MOST`] would be under way.
pub(super) fn decoded(device: DeviceKind, layers: impl Iterator<Item = u64> + Clone) -> u64 {
    let largest = layers.clone().max().unwrap_or(0);
    match device {
        DeviceKind::Cpu => largest,
        DeviceKind::Metal | DeviceKind::Cuda => layers.fold(0, u64::saturating_add).min(largest.max(DECODED_AT_MOST)),
    }
}

/// Keys and values that attention copies before it reads them, of layers that hold so many bytes each: CUDA's kernels
/// want them in one piece where there is a mask, and a batch of more than one request has one. Measured on an H200, with
/// two requests of 2,048 tokens, no more of them are there than one stretch.
pub(super) fn attended(device: DeviceKind, requests: u64, layers: impl Iterator<Item = u64> + Clone) -> u64 {
    if device != DeviceKind::Cuda || requests <= 1 {
        return 0;
    }
    let largest = layers.clone().max().unwrap_or(0);
    layers.fold(0, u64::saturating_add).min(largest.max(STRETCH_BYTES))
}

/// The outputs of the layers that are under way at once.
fn under_way(model: &Model, load: Load, tokens: u64, requests: u64) -> u64 {
    let number = model.element.bytes() as u64;
    let outputs = |shape: &LayerShape| layer_numbers(model, shape, load, tokens).saturating_mul(requests);
    let all = model.layers.iter().map(outputs).fold(0, u64::saturating_add);
    let largest = model.layers.iter().map(outputs).max().unwrap_or(0);
    let layers = (model.layers.len() as u64).max(1);
    let numbers = match load.device.kind {
        DeviceKind::Cpu => largest,
        DeviceKind::Metal | DeviceKind::Cuda => {
            let weights = model.weights.as_ref().map_or(0, |weights| weights.bytes / number);
            let read = (weights.saturating_add(all) / layers).max(1);
            // How many layers the commits under way are made of: by their operations, and by what these read.
            let times = |limit: u64, of_layer: u64| {
                let outputs = u128::from(all / layers).saturating_mul(u128::from(limit.max(1) * COMMITS_UNDER_WAY));
                u64::try_from(outputs / u128::from(of_layer)).unwrap_or(u64::MAX)
            };
            let operations = times(load.device.commit_operations, OPERATIONS_OF_A_LAYER);
            let committed = operations.min(times(load.device.commit_numbers, read));
            let paced = paced_outputs(model, load, tokens, all);
            all.min(committed.min(paced.unwrap_or(u64::MAX)).max(largest))
        }
    };
    // The hidden state between layers, and the embedding that it came from.
    let hidden = model.sizes.hidden.unwrap_or(0).saturating_mul(tokens).saturating_mul(requests).saturating_mul(2);
    numbers.saturating_add(hidden).saturating_mul(number)
}

/// Of the numbers that all layers put out for so many tokens, those that are there at once where the engine paces MLX: of
/// the stretch that is computed and the one handed over; `None` where it does not. Each stretch ends at a layer with a
/// cache of ours.
///
/// Measured on an H200, of a model of 27 layers: with stretches of 2, 3 and 5 layers 4.2, 6.2 and 10.2 layers; and half of
/// that in a prompt of one chunk, whose arrays are new to MLX: to allocate them takes about as long as to compute them.
fn paced_outputs(model: &Model, load: Load, tokens: u64, all: u64) -> Option<u64> {
    let is_paced = |layer: &Layer| layer.caches.iter().any(|cache| matches!(cache, Cache::Sequence(_)));
    let paced = model.geometry.layers.iter().filter(|layer| is_paced(layer)).count() as u128;
    if load.device.kind != DeviceKind::Cuda || tokens <= 1 || paced == 0 {
        return None;
    }
    // Tokens times layers, as if stretches were always full. They are whole layers, so that is at most a layer too many,
    // and never less for a longer prompt.
    let layers = model.layers.len() as u128;
    let stretch = (u128::from(STRETCH_TOKENS.max(tokens)) * layers).div_ceil(paced);
    let stretches = if load.prompt_tokens <= load.chunk_tokens { 1 } else { 2 };
    let of_layer = u128::from(all) / layers.max(1);
    let numbers = of_layer.saturating_mul(stretches * stretch) / u128::from(tokens);
    Some(u64::try_from(numbers).unwrap_or(u64::MAX))
}

/// Numbers that a layer's operations put out, each array once: what an operation can put in the place of its input
/// (sums, the MLP's activation, rotations) is no new one.
fn layer_numbers(model: &Model, shape: &LayerShape, load: Load, tokens: u64) -> u64 {
    let sizes = model.sizes;
    // Far above any model, so that no product overflows before it is multiplied by tokens.
    let of = |size: Option<u64>| size.unwrap_or(0).min(1 << 20);
    let hidden = of(sizes.hidden);
    let (heads, kv_heads) = (of(shape.heads.or(sizes.heads)), of(sizes.kv_heads));
    let width = of(sizes.head_dim) + of(sizes.value_dim);
    let projected = (heads + kv_heads) * width;
    let mixed = match shape.attention {
        Attention::None => 0,
        Attention::Linear | Attention::GatedDelta | Attention::Ssm | Attention::Convolution => {
            RECURRENT_WIDTHS * hidden
        }
        Attention::Hybrid => RECURRENT_WIDTHS * hidden + projected + 2 * hidden,
        _ => projected + 2 * hidden,
    };
    let mlp = match of(sizes.experts_per_token.filter(|_| shape.experts)) {
        0 => 2 * of(sizes.mlp) + 2 * hidden,
        experts => experts * (2 * of(sizes.expert_mlp) + 2 * hidden) + 2 * hidden,
    };
    let seen = match shape.attention {
        Attention::SlidingWindow | Attention::Chunked => load.context_tokens.min(load.chunk_tokens.saturating_mul(2)),
        _ => load.context_tokens,
    };
    let scores = (score_matrices(model, shape, load.device.kind, tokens) * heads).saturating_mul(seen);
    let is_cpu = load.device.kind == DeviceKind::Cpu;
    let for_attention = match shape.attention {
        Attention::Mla if tokens > 1 => heads * width,
        // Keys and values are cut out of a cache that is larger, and a product on a CPU wants them in one piece.
        _ if is_cpu && scores > 0 => kv_heads * width,
        _ => 0,
    };
    let per_token = (mixed + mlp) * if is_cpu { CPU_TIMES } else { 1 };
    tokens.saturating_mul(per_token.saturating_add(scores)).saturating_add(for_attention.saturating_mul(seen))
}

/// How many matrices of queries by keys attention makes for each head.
fn score_matrices(model: &Model, shape: &LayerShape, device: DeviceKind, tokens: u64) -> u64 {
    let has_scores = matches!(
        shape.attention,
        Attention::Mha
            | Attention::Gqa
            | Attention::Mqa
            | Attention::Mla
            | Attention::SlidingWindow
            | Attention::Chunked
            | Attention::Hybrid
            | Attention::SharedKv
            | Attention::Unknown
    );
    if !has_scores {
        return 0;
    }
    // Latent attention gives the rotary part's scores to the kernel as a mask.
    let mask = u64::from(shape.attention == Attention::Mla);
    let (keys, values) = (model.sizes.head_dim.unwrap_or(0), model.sizes.value_dim.unwrap_or(0));
    let is_fused = match device {
        DeviceKind::Cpu => false,
        DeviceKind::Metal => tokens == 1 || (keys == values && METAL_FUSED.contains(&keys)),
        DeviceKind::Cuda => {
            let fits = |width: u64| width.is_multiple_of(8) && width <= CUDNN_WIDEST;
            tokens == 1 || (model.element != Element::Float32 && fits(keys) && fits(values))
        }
    };
    // Without a fused kernel the products are there, and their softmax in their place.
    mask + u64::from(!is_fused)
}
