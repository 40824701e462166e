//! `token-times`: when a Rust program has each token of a request, by the way that it comes. The consumer of `bench host`.
//!
//! Prints one JSON object: `consumed` is a list of `[tokens, characters, nanoseconds]`, what there was of the answer and
//! the monotonic clock; `engine` the same as the engine stamped it, where that is this process.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use clap::Args;
use hwledger_omlx_host::{EngineConfig, Event, GenerateRequest};
use serde_json::{Value, json};

use super::signals::Signals;
use super::{Environment, Stop, start_host};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    environment: Environment,
    /// Model folder; with --http, the id of a model there.
    #[arg(long)]
    model: String,
    /// Text to continue.
    #[arg(long)]
    prompt: String,
    /// Tokens to generate.
    #[arg(long)]
    max_tokens: u32,
    /// Read the tokens from the server at this address, HOST:PORT, and not from an engine of this process.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "rpc")]
    http: Option<String>,
    /// Read the tokens from this process that speaks JSON-RPC, started with the arguments after it.
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    rpc: Vec<String>,
}

/// Tokens, characters, nanoseconds.
type Times = Vec<(usize, usize, u64)>;

pub(super) async fn run(arguments: Arguments, signals: &mut Signals) -> Result<i32, Stop> {
    let told = match &arguments.http {
        _ if !arguments.rpc.is_empty() => json!({"consumed": over_rpc(&arguments).map_err(Stop::Refused)?}),
        Some(address) => json!({"consumed": over_http(address, &arguments).map_err(Stop::Refused)?}),
        None => tokio::select! {
            signal = signals.arrived() => return Err(Stop::Signal(signal)),
            told = in_process(&arguments) => told?,
        },
    };
    writeln!(std::io::stdout(), "{told}").map_err(|_| Stop::Unread)?;
    Ok(0)
}

async fn in_process(arguments: &Arguments) -> Result<Value, Stop> {
    let host = start_host(&arguments.environment, true).await?;
    let config =
        EngineConfig { cache: None, fork: arguments.environment.fork.clone(), ..EngineConfig::new(&arguments.model) };
    let engine = host.engine(config).await?;
    host.stamp_tokens().await?;
    let request = GenerateRequest::text(&arguments.prompt).temperature(0.0).max_tokens(arguments.max_tokens);
    let mut consumed = Times::new();
    let (mut tokens, mut characters) = (0, 0);
    let mut events = engine.generate(request);
    while let Some(event) = events.next().await {
        if let Event::Token(token) = event? {
            let now = monotonic_ns();
            tokens += token.token_ids.len();
            characters += token.text.chars().count();
            consumed.push((tokens, characters, now));
        }
    }
    let stamps = host.token_stamps().await?;
    host.shutdown().await?;
    Ok(json!({"consumed": consumed, "engine": stamps}))
}

/// By `/v1/completions`, as a stream, with no more between the socket and the text than it takes.
fn over_http(address: &str, arguments: &Arguments) -> Result<Times, String> {
    let body = json!({
        "model": arguments.model, "prompt": arguments.prompt, "max_tokens": arguments.max_tokens, "temperature": 0,
        "stream": true,
    })
    .to_string();
    let failed = |error: std::io::Error| format!("the stream of {address} cannot be read: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(failed)?;
    let mut consumed = Times::new();
    let mut characters = 0;
    // Each event is a chunk of its own, so that lines with the chunks' sizes stand between, and are no data.
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(failed)?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Ok(consumed);
        }
        let event: Value = serde_json::from_str(data).map_err(|error| format!("{address} sent no JSON: {error}"))?;
        let now = monotonic_ns();
        match event["choices"][0]["text"].as_str() {
            Some(text) if !text.is_empty() => {
                characters += text.chars().count();
                consumed.push((0, characters, now));
            }
            _ => {}
        }
    }
    Err(format!("the stream of {address} ended too early"))
}

/// By `generate` of a process of its own, as notifications.
fn over_rpc(arguments: &Arguments) -> Result<Times, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", arguments.rpc[0]);
    let mut process = Command::new(&arguments.rpc[0])
        .args(&arguments.rpc[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(mut input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
        return Err("the process has no pipes".to_owned());
    };
    let params = json!({
        "prompt": arguments.prompt, "model": arguments.model, "max_tokens": arguments.max_tokens, "temperature": 0,
        "stream": true, "request_id": "times",
    });
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "generate", "params": params});
    input.write_all(format!("{call}\n").as_bytes()).map_err(failed)?;
    let mut consumed = Times::new();
    let mut characters = 0;
    for line in BufReader::new(output).lines() {
        let line = line.map_err(failed)?;
        let message: Value = serde_json::from_str(&line).map_err(|error| format!("it sent no JSON: {error}"))?;
        let now = monotonic_ns();
        if message["method"] == "token" {
            characters += message["params"]["text"].as_str().map_or(0, |text| text.chars().count());
            consumed.push((0, characters, now));
        } else if message["id"] == 1 {
            drop(input);
            process.wait().map_err(failed)?;
            let problem = &message["error"];
            return if problem.is_null() { Ok(consumed) } else { Err(format!("it refused: {problem}")) };
        }
    }
    Err("it ended too early".to_owned())
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}
