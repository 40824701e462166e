//! KV quantization: which formats a model's keys and values are held in.

pub mod policy;
