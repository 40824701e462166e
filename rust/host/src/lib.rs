//! Hosts the Python engine of hwledger-omlx inside a Rust program and streams from it.
//!
//! ```no_run
//! use hwledger_omlx_host::{EngineConfig, Event, GenerateRequest, Host};
//!
//! # async fn run() -> Result<(), hwledger_omlx_host::Error> {
//! let host = Host::builder().venv(".venv").start()?;
//! let engine = host.engine(EngineConfig::new("path/to/model")).await?;
//! let mut events = engine.generate(GenerateRequest::text("Once upon a time").max_tokens(64));
//! while let Some(event) = events.next().await {
//!     if let Event::Token(token) = event? {
//!         print!("{}", token.text);
//!     }
//! }
//! engine.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Python runs on threads of its own: no future of this crate attaches to the interpreter, so they may be polled on any
//! executor. The interpreter is never finalized; a program that used an engine ends with [`exit`]. Signals are left to
//! the program: the interpreter installs no handlers.

#[cfg(not(unix))]
compile_error!("the host runs on Linux and macOS, where MLX does");

mod bench;
mod buffer;
mod cache;
mod config;
mod doctor;
mod embed;
mod engine;
mod error;
mod events;
mod exit;
mod host;
mod lane;
mod one_shot;
mod request;
mod server;
mod session;
mod stream;
mod venv;

pub use bench::{BenchAnswer, BenchReport, BenchRequest};
pub use cache::Purged;
pub use config::{CacheKind, EngineConfig, RequestLedger};
pub use doctor::{Device, Distribution, DoctorReport};
pub use engine::{Engine, ForkReport, HookReport};
pub use error::{Error, Raised, StartupError};
pub use events::{DoneEvent, Event, FinishReason, Generation, ProgressEvent, Timings, TokenEvent, ToolCall, Usage};
pub use exit::exit;
pub use host::{Host, HostBuilder};
/// Where the memory of an engine goes: every layer of every request, with where each figure comes from.
pub use hwledger_omlx_core::memory::live as memory;
pub use hwledger_omlx_core::memory::live::MemoryReport;
/// What a KV cache says of itself. Sizes are bytes, times microseconds.
pub use hwledger_omlx_core::store::{StoreState, StoreStats as CacheStats};
pub use one_shot::{Audio, Embeddings, RankedDocument, Ranking, Speech, Transcription};
pub use request::{GenerateRequest, Prompt};
pub use server::{ServeConfig, Server};
pub use stream::EventStream;
pub use venv::{FoundBy, Venv, linked_python};
