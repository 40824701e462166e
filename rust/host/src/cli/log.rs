//! Rust's events to standard error, at the level that `HWLEDGER_OMLX_LOG` sets for both languages.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;

/// Names as in `hwledger_omlx.logs`, which sets the same level for Python and tells of a name that is none.
fn level(name: &str) -> LevelFilter {
    match name.trim().to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "error" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => LevelFilter::WARN,
    }
}

/// Installs the subscriber. While one is there, `tracing` sends nothing to Python's `logging`, so nothing is told twice.
pub(super) fn to_stderr() {
    let _ = tracing_subscriber::fmt()
        .with_max_level(level(&std::env::var("HWLEDGER_OMLX_LOG").unwrap_or_default()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
