//! `hwledger-omlx-host`: streams text from the engine, and examines its environment.
//!
//! Exit codes: 0; 1 if `doctor` found something wrong; 2 for an error, told in one line on standard error; 130 and 143
//! after SIGINT and SIGTERM; 141 if the reader of standard output went away.

mod cli;

fn main() {
    hwledger_omlx_host::exit(cli::run());
}
