//! The command line: what can be asked, and how every command starts and ends.

mod command;
mod doctor;
mod generate;
mod log;
mod signals;
mod token_times;

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hwledger_omlx_host::{Error, Host};

/// Exit code of an error.
const FAILED: i32 = 2;

/// Runs oMLX's engine inside this process.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate text and stream it to standard output.
    Generate(Box<generate::Arguments>),
    /// Serve models over HTTP, to the clients that people have, with /health, /metrics and an admin page.
    #[command(disable_help_flag = true)]
    Serve(command::Arguments),
    /// Speak JSON-RPC 2.0 on standard input and output, a message a line.
    #[command(disable_help_flag = true)]
    Rpc(command::Arguments),
    /// Examine interpreter, environment, fork, patches and device.
    Doctor(doctor::Arguments),
    /// Print when each token of a request came, for `hwledger-omlx bench host`.
    #[command(hide = true)]
    TokenTimes(token_times::Arguments),
}

impl Command {
    fn kind(&self) -> signals::Kind {
        match self {
            Self::Serve(_) | Self::Rpc(_) => signals::Kind::Service,
            Self::Generate(_) | Self::Doctor(_) | Self::TokenTimes(_) => signals::Kind::Task,
        }
    }
}

/// Where Python and the fork are.
#[derive(Debug, Args)]
struct Environment {
    /// Virtual environment with hwledger-omlx in it [default: `$HWLEDGER_OMLX_VENV`, `$VIRTUAL_ENV`, or the nearest .venv
    /// upwards].
    #[arg(long, value_name = "FOLDER")]
    venv: Option<PathBuf>,
    /// Checkout of an oMLX fork [default: `$HWLEDGER_OMLX_FORK`, or the installed one].
    #[arg(long, value_name = "FOLDER")]
    fork: Option<PathBuf>,
}

/// Why a command ended early.
#[derive(Debug)]
enum Stop {
    /// An error to tell.
    Failed(Error),
    /// Bad input, or a file that cannot be read.
    Refused(String),
    /// Nobody reads standard output any more.
    Unread,
    /// SIGINT or SIGTERM came.
    Signal(i32),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the command of this process's arguments and returns its exit code.
pub(crate) fn run() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return refused(&usage_line(&error.to_string())),
        Err(help) => {
            let _ = help.print();
            return 0;
        }
    };
    // Before Python starts: it leaves handlers that are there alone, and Rust's events have their way out already.
    log::to_stderr();
    if let Command::Serve(arguments) = &cli.command {
        match command::supervision(arguments) {
            Ok(None) => {}
            Ok(Some(supervision)) => return ended(command::supervised(&supervision)),
            Err(stop) => return ended(Err(stop)),
        }
    }
    let mut signals = match signals::Signals::watch(cli.command.kind()) {
        Ok(signals) => signals,
        Err(error) => return refused(&format!("signals cannot be handled: {error}")),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => return refused(&format!("no runtime could be started: {error}")),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Generate(arguments) => generate::run(*arguments, &mut signals).await,
            Command::Serve(arguments) => command::run(command::Name::Serve, arguments, &mut signals).await,
            Command::Rpc(arguments) => command::run(command::Name::Rpc, arguments, &mut signals).await,
            Command::Doctor(arguments) => doctor::run(arguments, &mut signals).await,
            Command::TokenTimes(arguments) => token_times::run(arguments, &mut signals).await,
        }
    });
    // Its blocking threads may be deep in Python; the process ends without them.
    std::mem::forget(runtime);
    ended(outcome)
}

/// The exit code of an outcome, whose error is told.
fn ended(outcome: Result<i32, Stop>) -> i32 {
    match outcome {
        Ok(code) => code,
        Err(Stop::Failed(error)) => {
            if let Some(raised) = error.raised() {
                tracing::debug!(traceback = raised.traceback, "{}", raised.type_name);
            }
            refused(&error)
        }
        Err(Stop::Refused(problem)) => refused(&problem),
        Err(Stop::Unread) => 128 + libc::SIGPIPE,
        Err(Stop::Signal(signal)) => 128 + signal,
    }
}

/// Starts Python. Not cut short by a signal; [`signals`] ends the process if it takes too long then.
async fn start_host(environment: &Environment, stdout_to_stderr: bool) -> Result<Host, Error> {
    let mut builder = Host::builder().stdout_to_stderr(stdout_to_stderr);
    if let Some(venv) = &environment.venv {
        builder = builder.venv(venv);
    }
    tokio::task::spawn_blocking(move || builder.start())
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn refused(problem: &dyn Display) -> i32 {
    eprintln!("error: {}", one_line(&problem.to_string()));
    FAILED
}

/// The error with what led to it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The text without line breaks, runs of white space made one space.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What clap says, without its usage lines.
fn usage_line(message: &str) -> String {
    let problem = message.split("\n\nUsage:").next().unwrap_or(message);
    let problem = problem.split("\n\nFor more information").next().unwrap_or(problem);
    format!("{}; see --help", problem.trim().trim_start_matches("error: "))
}
