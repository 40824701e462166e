//! `doctor`: what the host would run in, and what is wrong with it.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::Args;
use hwledger_omlx_host::{DoctorReport, Venv};

use super::signals::Signals;
use super::{Environment, Stop, one_line, start_host};

/// Exit code where something is wrong.
const UNWELL: i32 = 1;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    environment: Environment,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, signals: &mut Signals) -> Result<i32, Stop> {
    let report = tokio::select! {
        signal = signals.arrived() => return Err(Stop::Signal(signal)),
        report = examine(&arguments.environment) => report,
    };
    let text = if arguments.json {
        format!("{}\n", serde_json::to_string_pretty(&report).expect("a report is plain data"))
    } else {
        table(&report)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|_| Stop::Unread)?;
    for problem in &report.problems {
        eprintln!("problem: {}", one_line(problem));
    }
    Ok(if report.is_well() { 0 } else { UNWELL })
}

async fn examine(environment: &Environment) -> DoctorReport {
    let outcome = match start_host(environment, true).await {
        Ok(host) => host.doctor(environment.fork.clone()).await,
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| {
        let venv = Venv::locate(environment.venv.as_deref());
        DoctorReport::of_failed_start(venv.ok().as_ref(), &error)
    })
}

fn table(report: &DoctorReport) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| writeln!(text, "{name:<13}{value}").expect("a String takes all");
    let missing = || "-".to_owned();
    row("host", &format!("{} (linked with Python {})", report.host, report.linked_python));
    let venv = report.venv.as_ref().zip(report.venv_found_by);
    row("environment", &venv.map_or_else(missing, |(path, by)| format!("{} ({by})", path.display())));
    let interpreter = report.interpreter.as_ref().zip(report.python.as_ref());
    row("interpreter", &interpreter.map_or_else(missing, |(path, version)| format!("{} ({version})", path.display())));
    let package = report.package.as_ref();
    row(
        "package",
        &package.map_or_else(missing, |package| format!("{} at {}", package.version, package.path.display())),
    );
    row("native", report.native.as_deref().unwrap_or("-"));
    let fork = report.fork.as_ref();
    row(
        "fork",
        &fork.map_or_else(missing, |fork| {
            let name = fork.distribution.as_deref().unwrap_or("checkout");
            format!("{name} {} at {}", fork.version, fork.path.display())
        }),
    );
    for hook in fork.iter().flat_map(|fork| &fork.hooks) {
        let reason = if hook.reason.is_empty() { String::new() } else { format!(" ({})", one_line(&hook.reason)) };
        row("  hook", &format!("{} {}{reason}", hook.id, hook.status));
    }
    let device = report.device.as_ref();
    row("device", &device.map_or_else(missing, |device| format!("{} (MLX {})", device.name, device.mlx)));
    row("state", if report.is_well() { "well" } else { "unwell" });
    text
}
