//! `serve` and `rpc`: commands of the Python package, on an engine in this process, with the host's handling of signals.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
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
    restart_stuck: bool,
    /// `--restart-after-seconds`, where it is a number.
    restart_after_s: Option<f64>,
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
            split.restart_stuck |= text == "--restart-stuck";
            if split.passed.last().is_some_and(|before| before == "--restart-after-seconds") {
                split.restart_after_s = text.parse().ok();
            } else if let Some(seconds) = text.strip_prefix("--restart-after-seconds=") {
                split.restart_after_s = seconds.parse().ok();
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

/// Whether the command is to run in a child of this process, which supervises it.
pub(super) fn supervision(name: Name, arguments: &Arguments) -> Option<Supervision> {
    if name != Name::Serve || std::env::var_os(HEARTBEAT_VARIABLE).is_some() {
        return None;
    }
    // What is wrong with the arguments, the child says.
    let split = Split::of(arguments.rest.clone()).ok().filter(|split| split.restart_stuck)?;
    let mut wanted = Supervision::new(std::env::current_exe().ok()?, std::env::args_os().skip(1));
    let asked = split.restart_after_s.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
    wanted.silence = asked.map_or(wanted.silence, |asked| asked.max(wanted.silence));
    Some(wanted)
}

/// Runs the supervisor until it ends.
pub(super) fn supervised(wanted: &Supervision) -> Result<i32, Stop> {
    supervise(wanted).map_err(|error| Stop::Refused(super::with_causes(&error)))
}
