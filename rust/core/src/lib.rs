//! What hwledger-omlx does with bytes and manifests. Knows nothing of Python: `cargo test -p hwledger-omlx-core` needs no
//! interpreter.
//!
//! Built with `cfg(fuzzing)` it is the parsers that `fuzz/` throws bytes at, and what they stand on.

#[cfg(not(fuzzing))]
pub mod config;
#[cfg(not(fuzzing))]
pub mod memory;
pub mod quant;
pub mod rpc;
#[cfg(not(fuzzing))]
pub mod series;
pub mod store;
#[cfg(all(unix, not(fuzzing)))]
pub mod supervise;
