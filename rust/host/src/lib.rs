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
//! A chat that asks for a tool, with memory between the tokens and a deadline:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use hwledger_omlx_host::{Engine, Error, Event, FinishReason, GenerateRequest};
//! use serde_json::json;
//!
//! # async fn run(engine: Engine) -> Result<(), Error> {
//! let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
//! let request = GenerateRequest::chat()
//!     .message("user", "Is it raining in Oslo?")
//!     .tool("weather", "The weather of a city now.", &city)
//!     .deadline(Duration::from_secs(30))
//!     .with_memory();
//! let mut events = engine.generate(request);
//! while let Some(event) = events.next().await {
//!     match event? {
//!         Event::Memory(sample) => println!("{:?} bytes of keys and values", sample.kv_allocated_bytes),
//!         Event::Done(done) if done.result.finish_reason == FinishReason::ToolCalls => {
//!             println!("it calls {}", done.result.tool_calls[0].name);
//!         }
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A server whose engine is this program's too, and models of other kinds in it:
//!
//! ```no_run
//! use hwledger_omlx_host::{Audio, Error, GenerateRequest, Host, ServeConfig};
//!
//! # async fn run(host: Host) -> Result<(), Error> {
//! let server = host.serve(ServeConfig::new(["path/to/model"]).port(8000)).await?;
//! println!("{} serves {:?}", server.url(), server.model_ids().await?);
//! let engine = server.engine(); // one batch and one cache for the clients and for this program
//! let mut events = engine.generate(GenerateRequest::text("Once upon a time"));
//! engine.load("path/to/encoder").await?;
//! let vectors = engine.embed(["one text", "another"], None).await?.vectors;
//! let said = engine.transcribe(Audio::File("speech.wav".into()), None, Some("en")).await;
//! match said {
//!     Ok(transcript) => println!("{}", transcript.text),
//!     Err(Error::Request(raised)) => println!("{raised}"), // no model is loaded that can
//!     Err(error) => return Err(error),
//! }
//! # drop((events.next().await, vectors));
//! server.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! `cargo run --example chat` is a whole program.
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
