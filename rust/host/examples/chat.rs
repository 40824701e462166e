//! A conversation with a model in this process: a line to it, its answer as it comes.
//!
//! ```text
//! cargo run --release --example chat -- [MODEL]
//! ```
//!
//! MODEL is a folder or a Hugging Face id, without one it is the model that this repository ships. The environment is the
//! nearest `.venv` upwards, or the one that `VIRTUAL_ENV` or `HWLEDGER_OMLX_VENV` names.

use std::io::{BufRead, Write};

use hwledger_omlx_host::{EngineConfig, Error, Event, GenerateRequest, Host};

const SHIPPED_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/hwledger_omlx/models/notes");

/// The next line, asked for.
fn prompted(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Option<std::io::Result<String>> {
    print!("> ");
    let _ = std::io::stdout().flush();
    lines.next()
}

async fn chat(model: String) -> Result<(), Error> {
    let host = Host::builder().start()?;
    let engine = host.engine(EngineConfig::new(model)).await?;
    let mut conversation = GenerateRequest::chat().temperature(0.0).max_tokens(256);
    let mut lines = std::io::stdin().lock().lines();
    while let Some(Ok(line)) = prompted(&mut lines) {
        conversation = conversation.message("user", &line);
        let mut events = engine.generate(conversation.clone()); // dropped early, it cancels the request
        while let Some(event) = events.next().await {
            match event? {
                Event::Token(token) => {
                    print!("{}", token.text);
                    let _ = std::io::stdout().flush();
                }
                Event::Done(done) => {
                    let usage = done.result.usage;
                    println!("\n[{} of {} prompt tokens from the cache]", usage.cached_tokens, usage.prompt_tokens);
                    conversation = conversation.message("assistant", &done.result.text);
                }
                _ => {}
            }
        }
    }
    host.shutdown().await
}

fn main() {
    let model = std::env::args().nth(1).unwrap_or_else(|| SHIPPED_MODEL.to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let outcome = runtime.block_on(chat(model));
    if let Err(error) = &outcome {
        eprintln!("error: {error}");
    }
    // Not by returning: see `hwledger_omlx_host::exit`.
    hwledger_omlx_host::exit(if outcome.is_ok() { 0 } else { 2 });
}
