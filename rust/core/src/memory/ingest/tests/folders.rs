//! Model folders: whole ones, and what can be wrong with their files.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::super::{IngestError, Model};
use crate::quant::Element;

fn config() -> Value {
    json!({
        "model_type": "qwen3_moe", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": true,
    })
}

/// A safetensors file of these tensors of 16-bit numbers, each with that many.
fn file(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    let mut end = 0;
    for (name, numbers) in tensors {
        let (begin, next) = (end, end + 2 * numbers);
        end = next;
        entries
            .insert((*name).to_owned(), json!({"dtype": "F16", "shape": [1, numbers], "data_offsets": [begin, next]}));
    }
    let header = Value::Object(entries).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    bytes
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
    let first =
        file(&[("model.embed_tokens.weight", 100), ("lm_head.weight", 100), ("model.layers.0.mlp.up_proj.weight", 7)]);
    fs::write(folder.path().join("model-00001-of-00002.safetensors"), first).unwrap();
    let second = file(&[
        ("model.layers.1.mlp.switch_mlp.up_proj.weight", 20),
        ("model.layers.2.mtp_block.weight", 5),
        ("mtp.fc.weight", 9),
    ]);
    fs::write(folder.path().join("model-00002-of-00002.safetensors"), second).unwrap();
    // Not loaded by mlx-lm, so not counted.
    fs::write(folder.path().join("adapters.safetensors"), "none").unwrap();
    let index = json!({"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "mtp.fc.weight": "model-00002-of-00002.safetensors"}});
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder
}

fn refused(folder: &Path) -> String {
    let error = Model::read(folder).unwrap_err();
    assert!(!matches!(error, IngestError::Geometry(_)));
    error.to_string()
}

#[test]
fn weights_are_counted_by_their_headers() {
    let folder = folder();
    let model = Model::read(folder.path()).unwrap();
    let weights = model.weights.unwrap();
    // Without the unembedding, which is tied, the layer behind the last one and what predicts further tokens.
    assert_eq!((weights.bytes, weights.tensors, weights.files), (2 * 127, 3, 2));
    assert_eq!(weights.file_bytes, 2 * 241);
    assert_eq!(model.element, Element::Float16);
    assert!(model.element_source.contains("embed_tokens"));
    assert_eq!(model.layers.iter().map(|layer| layer.experts).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn every_broken_file_is_named() {
    let with = |name: &str, contents: &[u8]| {
        let folder = folder();
        fs::write(folder.path().join(name), contents).unwrap();
        refused(folder.path())
    };
    let without = |name: &str| {
        let folder = folder();
        fs::remove_file(folder.path().join(name)).unwrap();
        refused(folder.path())
    };
    assert!(without("config.json").contains("config.json"));
    assert!(with("config.json", b"{").contains("config.json is no JSON"));
    assert!(with("config.json", b"[]").contains("no JSON object"));
    assert!(with("config.json", b"{}").contains("model_type"));
    assert!(with("config.json", br#"{"model_type": "llama"}"#).contains("num_hidden_layers"));
    let heads = br#"{"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 0, "hidden_size": 8}"#;
    assert!(with("config.json", heads).contains("divided by 0"));
    let nothing = br#"{"model_type": "llama", "num_hidden_layers": 2}"#;
    assert!(with("config.json", nothing).contains("says none of"));
    let second = "model-00002-of-00002.safetensors";
    assert!(without(second).contains(second));
    assert!(with(second, b"short").contains("no safetensors file"));
    assert!(with(second, &[0xff; 64]).contains("cut off within its header"));
    let whole = file(&[("a", 10)]);
    assert!(with(second, &whole[..whole.len() - 1]).contains("is cut off: its header promises"));
    let mut broken = whole.clone();
    broken[8] = b'?';
    assert!(with(second, &broken).contains("broken header"));
    assert!(with("model.safetensors.index.json", b"{}").contains("no index"));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
    assert!(refused(folder.path()).contains("no model*.safetensors"));
}

#[test]
fn eight_bit_floats_are_sixteen_once_loaded() {
    let folder = folder();
    let entries = json!({
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [1, 4], "data_offsets": [0, 8]},
        "w.weight": {"dtype": "F8_E4M3", "shape": [10], "data_offsets": [8, 18]},
        "w.weight_scale_inv": {"dtype": "F32", "shape": [1], "data_offsets": [18, 22]},
    });
    let header = entries.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + 22, 0);
    for name in ["model-00002-of-00002.safetensors", "model.safetensors.index.json"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("model-00001-of-00002.safetensors"), bytes).unwrap();
    let weights = Model::read(folder.path()).unwrap().weights.unwrap();
    assert_eq!((weights.bytes, weights.file_bytes), (8 + 20, 22));
    assert!(weights.source.contains("widened"));
}
