//! The weights of a model folder, from the headers of its safetensors files. No tensor is read.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};

use super::error::IngestError;
use super::files::read_at_most;
use crate::quant::Element;

/// The limit that the safetensors library itself sets.
const LARGEST_HEADER_BYTES: u64 = 100_000_000;
const LARGEST_INDEX_BYTES: u64 = 256 << 20;
const INDEX: &str = "model.safetensors.index.json";
/// Of `mlx_lm/models/*.py`: parts of names of tensors that are in files and that no model keeps.
const DROPPED: [&str; 3] = ["rotary_emb.inv_freq", ".mtp.", "rotary_pos_emb.inv_freq"];
const DROPPED_AT_FRONT: &str = "mtp.";

/// One tensor of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Tensor {
    dtype: Dtype,
    rank: usize,
    bytes: u64,
}

/// The tensors of all files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tensors(BTreeMap<String, Tensor>);

/// What the weights take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Weights {
    /// Once loaded.
    pub bytes: u64,
    /// In the files, without their headers.
    pub file_bytes: u64,
    /// How many files.
    pub files: usize,
    /// How many tensors are loaded.
    pub tensors: usize,
    /// Where `bytes` come from.
    pub source: String,
}

impl Tensors {
    /// Those of a folder's `model*.safetensors`, which mlx-lm loads, and how many files they are.
    pub(super) fn of_folder(folder: &Path) -> Result<(Self, usize), IngestError> {
        let files = files_of(folder)?;
        let mut tensors = Self::default();
        for path in &files {
            tensors.0.extend(of_file(path)?.0);
        }
        Ok((tensors, files.len()))
    }

    /// What is loaded of them.
    ///
    /// `layers` is how many layers the model has, where it is known: tensors of layers behind them (those that predict
    /// more tokens than the next) are left out, and so is the unembedding where it is `tied` to the embedding.
    pub(super) fn weights(&self, files: usize, layers: Option<u32>, tied: bool) -> Weights {
        let mut weights = Weights { bytes: 0, file_bytes: 0, files, tensors: 0, source: String::new() };
        let mut widened = false;
        for (name, tensor) in &self.0 {
            weights.file_bytes += tensor.bytes;
            if is_dropped(name, layers, tied) {
                continue;
            }
            weights.tensors += 1;
            // Eight-bit floats with a scale a block are loaded as 16-bit ones.
            let is_widened =
                matches!(tensor.dtype, Dtype::F8_E4M3) && self.0.contains_key(&format!("{name}_scale_inv"));
            widened |= is_widened;
            if !name.ends_with(".weight_scale_inv") {
                weights.bytes += tensor.bytes * if is_widened { 2 } else { 1 };
            }
        }
        let widened = if widened { ", 8-bit floats widened to 16 bit" } else { "" };
        let dropped = if weights.bytes < weights.file_bytes { ", without tensors that are not loaded" } else { "" };
        weights.source =
            format!("headers of {files} safetensors file(s): {} tensors{dropped}{widened}", weights.tensors);
        weights
    }

    /// The type of the numbers that flow through the model, which is that of the embedding; and the tensor that says so.
    pub(super) fn element(&self) -> Option<(Element, String)> {
        let embeddings = self.0.iter().filter(|(name, tensor)| is_embedding(name) && tensor.rank == 2);
        let mut found = embeddings.filter_map(|(name, tensor)| {
            if let Some(element) = element_of(tensor.dtype) {
                return Some((element, name.clone()));
            }
            let scales = name.replace(".weight", ".scales");
            Some((element_of(self.0.get(&scales)?.dtype)?, scales))
        });
        found.next()
    }

    /// Whether what recurrent states decay with is in 32 bit.
    pub(super) fn decay_in_32_bit(&self) -> bool {
        let is_decay = |name: &str| [".A_log", ".recurrent_param"].iter().any(|end| name.ends_with(end));
        self.0.iter().any(|(name, tensor)| is_decay(name) && tensor.dtype == Dtype::F32)
    }

    /// The layers that have experts, by the names of their tensors.
    pub(super) fn layers_with_experts(&self) -> BTreeSet<u32> {
        let with_experts = self.0.keys().filter(|name| name.contains("experts.") || name.contains("switch_mlp."));
        with_experts.filter_map(|name| layer_of(name)).collect()
    }
}

fn is_embedding(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["embed_tokens.", "embeddings.", "wte.", "embed_in.", "word_embeddings.", "tok_embeddings."];
    name.ends_with(".weight")
        && !name.contains("vision")
        && !name.contains("position")
        && (NAMES.iter().any(|each| name.contains(each))
            || name.ends_with("embedding.weight")
            || name.ends_with("embd.weight"))
}

fn element_of(dtype: Dtype) -> Option<Element> {
    match dtype {
        Dtype::BF16 => Some(Element::Bfloat16),
        Dtype::F16 => Some(Element::Float16),
        Dtype::F32 => Some(Element::Float32),
        _ => None,
    }
}

fn is_dropped(name: &str, layers: Option<u32>, tied: bool) -> bool {
    let behind = |prefix: &str| {
        let layer = name.strip_prefix(prefix).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        layer.zip(layers).is_some_and(|(layer, layers)| layer >= layers)
    };
    DROPPED.iter().any(|part| name.contains(part))
        || name.starts_with(DROPPED_AT_FRONT)
        || (tied && (name.starts_with("lm_head.") || name.contains(".lm_head.")))
        || ["model.layers.", "language_model.model.layers."].into_iter().any(behind)
}

/// The first number in a name of dots: `3` of `model.layers.3.mlp.experts.0.up_proj.weight`.
fn layer_of(name: &str) -> Option<u32> {
    name.split('.').find_map(|part| part.parse().ok())
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, IngestError> {
    let failed = |source| IngestError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("model") && name.ends_with(".safetensors")) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(IngestError::NoWeights { folder: folder.to_owned() });
    }
    files.sort();
    check_index(folder, &files)?;
    Ok(files)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether every file that the index names is there.
fn check_index(folder: &Path, files: &[PathBuf]) -> Result<(), IngestError> {
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok(());
    }
    let read = serde_json::from_slice(&read_at_most(&path, LARGEST_INDEX_BYTES)?);
    let index: Index = read.map_err(|error| IngestError::Weights { path, what: format!("is no index: {error}") })?;
    let is_missing = |shard: &&String| !files.iter().any(|file| file.ends_with(shard));
    match index.weight_map.values().find(is_missing) {
        Some(shard) => Err(IngestError::MissingShard { folder: folder.to_owned(), shard: shard.clone() }),
        None => Ok(()),
    }
}

fn of_file(path: &Path) -> Result<Tensors, IngestError> {
    let failed = |source| IngestError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut start = Vec::new();
    file.by_ref().take(8).read_to_end(&mut start).map_err(failed)?;
    let header_bytes = header_bytes(&start, size);
    let header_bytes = header_bytes.map_err(|what| IngestError::Weights { path: path.to_owned(), what })?;
    file.take(header_bytes).read_to_end(&mut start).map_err(failed)?;
    of_header(&start, size).map_err(|what| IngestError::Weights { path: path.to_owned(), what })
}

fn header_bytes(start: &[u8], size: u64) -> Result<u64, String> {
    let length = start.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    match length {
        Some(length) if length <= LARGEST_HEADER_BYTES && length.checked_add(8).is_some_and(|end| end <= size) => {
            Ok(length)
        }
        Some(_) | None => Err("is no safetensors file, or is cut off within its header".to_owned()),
    }
}

/// Those of the first bytes of a file, its header's end among them.
pub(super) fn of_header(start: &[u8], size: u64) -> Result<Tensors, String> {
    let header_bytes = header_bytes(start, size)?;
    let end = usize::try_from(8 + header_bytes).ok();
    let header = end.and_then(|end| start.get(8..end)).ok_or("is cut off within its header")?;
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("has a broken header ({error})"))?;
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (name, info) in metadata.tensors() {
        let (begin, stop) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        end = end.max(stop);
        let tensor = Tensor { dtype: info.dtype, rank: info.shape.len(), bytes: stop.saturating_sub(begin) };
        tensors.insert(name, tensor);
    }
    let promised = end.saturating_add(8 + header_bytes);
    if size < promised {
        return Err(format!("is cut off: its header promises {promised} bytes and it has {size}"));
    }
    Ok(Tensors(tensors))
}
