//! `generate`: one request, streamed to standard output.

use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;

use clap::Args;
use hwledger_omlx_host::{Engine, EngineConfig, Event, EventStream, GenerateRequest, Host};

use super::signals::Signals;
use super::{Environment, Stop, start_host};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    environment: Environment,
    /// Model folder, or a Hugging Face id where online.
    #[arg(long)]
    model: String,
    /// Text to continue, as it is; with --chat or --system, the user's message.
    #[arg(long, conflicts_with = "prompt_file", required_unless_present = "prompt_file")]
    prompt: Option<String>,
    /// File with the prompt; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Send the prompt through the model's chat template.
    #[arg(long)]
    chat: bool,
    /// System message; implies --chat.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens to generate.
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<u32>,
    /// Sampling temperature; 0 takes the likeliest token each time.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Share of probability that is sampled from, 0 to 1.
    #[arg(long)]
    top_p: Option<f64>,
    /// Seed of the sampling; the same seed gives the same text.
    #[arg(long)]
    seed: Option<u64>,
    /// Text that ends the answer; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// The policy at which keys and values are held, such as 8, k8v4 or auto:0.35; 16 bit without.
    #[arg(long, value_name = "POLICY")]
    kv: Option<String>,
    /// Folder of the KV cache.
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
    /// Print every event as a line of JSON instead of the text.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn config(&self) -> EngineConfig {
        let mut config = EngineConfig::new(&self.model);
        config.cache_dir.clone_from(&self.cache_dir);
        config.kv.clone_from(&self.kv);
        config.fork.clone_from(&self.environment.fork);
        config
    }

    fn request(&mut self) -> Result<GenerateRequest, Stop> {
        let prompt = match (self.prompt.take(), &self.prompt_file) {
            (Some(prompt), _) => prompt,
            (None, Some(file)) => read_prompt(file)?,
            (None, None) => String::new(),
        };
        let mut request = if self.chat || self.system.is_some() {
            let system = self.system.take();
            let start = GenerateRequest::chat();
            system.iter().fold(start, |request, text| request.message("system", text)).message("user", &prompt)
        } else {
            GenerateRequest::text(prompt)
        };
        request.max_tokens = self.max_tokens;
        request.temperature = Some(self.temperature);
        request.top_p = self.top_p;
        request.seed = self.seed;
        request.stop = std::mem::take(&mut self.stop);
        Ok(request)
    }
}

fn read_prompt(file: &PathBuf) -> Result<String, Stop> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|content| text = content)
    }
    .map_err(|error| Stop::Refused(format!("the prompt cannot be read from {}: {error}", file.display())))?;
    Ok(text)
}

pub(super) async fn run(mut arguments: Arguments, signals: &mut Signals) -> Result<i32, Stop> {
    let request = arguments.request()?;
    let (host, engine) = tokio::select! {
        // Nothing is held yet that would be lost: the process may end in the middle of a load.
        signal = signals.arrived() => return Err(Stop::Signal(signal)),
        started = start(&arguments) => started?,
    };
    let mut events = engine.generate(request);
    let outcome = print_events(&mut events, arguments.json, signals).await;
    drop(events);
    // From a signal on, this may take as long as the grace; a second one ends the process without asking.
    let closed = host.shutdown().await;
    if let Some(signal) = signals.pending() {
        return Err(Stop::Signal(signal));
    }
    let code = outcome?;
    closed?;
    Ok(code)
}

async fn start(arguments: &Arguments) -> Result<(Host, Engine), Stop> {
    let host = start_host(&arguments.environment, true).await?;
    let engine = host.engine(arguments.config()).await?;
    Ok((host, engine))
}

async fn print_events(events: &mut EventStream, json: bool, signals: &mut Signals) -> Result<i32, Stop> {
    loop {
        let event = tokio::select! {
            biased;
            signal = signals.arrived() => return Err(Stop::Signal(signal)),
            event = events.next() => event,
        };
        let Some(event) = event else { return Ok(0) };
        let event = event?;
        match &event {
            _ if json => print(&format!("{}\n", serde_json::to_string(&event).expect("events are plain data")))?,
            Event::Token(token) => print(&token.text)?,
            Event::Done(_) => print("\n")?,
            _ => {}
        }
    }
}

/// Writes and flushes: each token is seen when it is there, in a pipe too.
fn print(text: &str) -> Result<(), Stop> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Stop::Unread,
        _ => Stop::Refused(format!("standard output cannot be written: {error}")),
    })
}
