//! What hwledger-omlx does with bytes and manifests. Knows nothing of Python: `cargo test -p hwledger-omlx-core` needs no
//! interpreter.

pub mod config;
pub mod memory;
pub mod quant;
pub mod series;
pub mod store;
#[cfg(unix)]
pub mod supervise;
