//! A process that watches over another one: starts it, listens to its heartbeat, and ends it and starts it again where
//! that says it is stuck, or falls silent. Knows nothing of what the other process does.
//!
//! - The heartbeat is a pipe; its writing end is the child's, by the number in [`HEARTBEAT_VARIABLE`]. Each byte is a
//!   [`Beat`]. A child whose writing fails has lost its supervisor, and is expected to end.
//! - The child leads a process group of its own: a terminal's Ctrl-C reaches it once, through the supervisor, and what it
//!   started ends with it.
//! - SIGTERM, SIGINT and SIGHUP are handed on. At a second SIGTERM or SIGINT the child is killed.
//! - A child that ends by itself ends its supervisor, with its status.

mod child;
mod signals;
mod supervisor;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use supervisor::{Supervision, supervise};

/// The environment variable with the number of the file descriptor that a supervised process writes its heartbeat to.
pub const HEARTBEAT_VARIABLE: &str = "HWLEDGER_OMLX_HEARTBEAT_FD";

/// What a supervised process says of itself, one byte each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It gets on.
    Well,
    /// It is stuck, and wants to be ended and started again.
    Stuck,
    /// It was told to end, and keeps to a deadline of its own: nothing more is to be expected of it.
    Ending,
}

impl Beat {
    /// The beat on the pipe.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Well => b'+',
            Self::Stuck => b'!',
            Self::Ending => b'-',
        }
    }

    /// The beat of a byte. One that a later version may send means that it lives.
    #[must_use]
    pub const fn of(byte: u8) -> Self {
        match byte {
            b'!' => Self::Stuck,
            b'-' => Self::Ending,
            _ => Self::Well,
        }
    }
}

/// Why a process cannot be supervised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperviseError {
    /// The process does not start.
    #[error("{} cannot be started", program.display())]
    Start {
        /// What should run.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No pipe, thread or handler of signals could be had.
    #[error("the system gives no {what} to supervise a process with")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
