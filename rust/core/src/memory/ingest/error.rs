//! Why a model folder could not be understood.

use std::io;
use std::path::PathBuf;

/// Why a model folder could not be understood. Every message says which file or setting, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is far larger than one of its kind.
    #[error("{} has {bytes} bytes, more than the {at_most} that one of its kind may have; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        at_most: u64,
    },
    /// A file is no JSON.
    #[error("{} is no JSON: {source}; fetch the model again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// config.json is no object that names a `model_type`.
    #[error("config.json {0}; is this a model of Hugging Face's format?")]
    Config(&'static str),
    /// A setting is missing or says what cannot be.
    #[error("config.json does not give `{formula}`: {what}")]
    Setting {
        /// What was to be computed.
        formula: String,
        /// Why it cannot be.
        what: String,
    },
    /// No weights.
    #[error("{} has no model*.safetensors, so its weights cannot be counted; convert the model first (`mlx_lm.convert`)", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// A file that the index names is not there.
    #[error("{} is incomplete: {shard} of the index is missing; fetch the model again", folder.display())]
    MissingShard {
        /// The folder.
        folder: PathBuf,
        /// The file's name.
        shard: String,
    },
    /// A safetensors file or its index is malformed.
    #[error("{}: {what}; fetch the model again", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The caches that the settings come to cannot be.
    #[error("config.json: {0}")]
    Geometry(String),
}
