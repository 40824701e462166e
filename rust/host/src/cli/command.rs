//! `serve` and `rpc`: commands of the Python package, on an engine in this process, with the host's handling of signals.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hwledger_omlx_core::config::{Flags, Loaded, Sources, find};
use hwledger_omlx_core::supervise::{HEARTBEAT_VARIABLE, Supervision, supervise};

use super::signals::Signals;
use super::{Environment, Stop, start_host};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Arguments {
    /// Options of the package's command of the same name, see --help; and --venv, as with the other commands.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    rest: Vec<OsString>,
}

/// Which command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Serve,
    Rpc,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Rpc => "rpc",
        }
    }
}

/// What of the arguments is the host's own, and what goes to the package.
#[derive(Debug, Default)]
struct Split {
    venv: Option<PathBuf>,
    passed: Vec<String>,
}

impl Split {
    fn of(arguments: Vec<OsString>) -> Result<Self, String> {
        let mut split = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let text = argument.into_string().map_err(|raw| format!("{} is no UTF-8", raw.display()))?;
            if text == "--venv" {
                split.venv = Some(arguments.next().ok_or("--venv takes a folder")?.into());
                continue;
            }
            if let Some(folder) = text.strip_prefix("--venv=") {
                split.venv = Some(folder.into());
                continue;
            }
            split.passed.push(text);
        }
        Ok(split)
    }
}

pub(super) async fn run(name: Name, arguments: Arguments, signals: &mut Signals) -> Result<i32, Stop> {
    let split = Split::of(arguments.rest).map_err(Stop::Refused)?;
    let environment = Environment { venv: split.venv, fork: None };
    let host = tokio::select! {
        signal = signals.arrived() => return Err(Stop::Signal(signal)),
        // Standard output of `rpc` is the protocol's; `serve` says there where it serves.
        host = start_host(&environment, name == Name::Rpc) => host?,
    };
    let mut line = vec![name.text().to_owned()];
    line.extend(split.passed);
    let command = host.run_command(line);
    tokio::pin!(command);
    loop {
        let signal = tokio::select! {
            code = &mut command => return Ok(code?),
            signal = signals.next() => signal,
        };
        if signal == libc::SIGHUP {
            host.reload_command().await?;
        } else {
            // Before the command has anything to end, this ends the process.
            host.end_command(signal).await?;
            signals.answered();
        }
    }
}

/// How `serve` is to be supervised in a child of this process, if the configuration wants that.
///
/// # Errors
/// [`Stop::Refused`]: the configuration says what cannot be.
pub(super) fn supervision(arguments: &Arguments) -> Result<Option<Supervision>, Stop> {
    if std::env::var_os(HEARTBEAT_VARIABLE).is_some() {
        return Ok(None);
    }
    let split = Split::of(arguments.rest.clone()).map_err(Stop::Refused)?;
    if split.passed.iter().any(|argument| argument == "--help") {
        return Ok(None);
    }
    let Flags { config, settings } = Flags::of(&split.passed);
    let variables: Vec<_> = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .collect();
    let file = find(config.as_deref(), &variables);
    let loaded = Loaded::load(&Sources { file: file.as_deref(), variables: &variables, flags: &settings })
        .map_err(|error| Stop::Refused(error.to_string()))?;
    let server = loaded.config.server;
    if !server.restart_stuck {
        return Ok(None);
    }
    let program = std::env::current_exe().map_err(|error| Stop::Refused(format!("this program is gone: {error}")))?;
    let stuck = Duration::from_secs_f64(server.restart_after_seconds.get());
    Ok(Some(Supervision::new(program, std::env::args_os().skip(1)).restart_after(stuck)))
}

/// Runs the supervisor until it ends.
pub(super) fn supervised(wanted: &Supervision) -> Result<i32, Stop> {
    supervise(wanted).map_err(|error| Stop::Refused(super::with_causes(&error)))
}
