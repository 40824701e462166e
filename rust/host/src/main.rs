//! `hwledger-omlx-host`: streams text from the engine, serves it over HTTP and JSON-RPC, and examines its environment.
//!
//! Exit codes: 0, also of a service that was told to end and did so in time; 1 if `doctor` found something wrong; 2 for an
//! error, told in one line on standard error; 130 and 143 after SIGINT and SIGTERM that ended a task, or a service before
//! it served or later than its deadline; 141 if the reader of standard output went away.

mod cli;

fn main() {
    hwledger_omlx_host::exit(cli::run());
}
