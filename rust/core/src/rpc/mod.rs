//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>) over two file descriptors: a message a line, in both directions at
//! once.
//!
//! [`Connection::receive`] reads, checks and answers what is no request, and gives what is one as a [`Request`] with its
//! [`Answer`]. What is sent goes through [`Output`], a queue that a thread of its own writes, so that nobody who sends ever
//! waits. It knows no method and nothing of what runs behind one.
//!
//! The queue has a bound that needs no sender to wait: above [`Limits::queue_bytes`] nothing more is read, so no new work
//! comes in, and the pieces of a [`TextStream`] that wait are joined, so that what is under way adds its own text and no
//! more. A reader that is slow loses nothing.

mod answer;
mod connection;
#[doc(hidden)]
pub mod fuzzing;
mod lines;
mod message;
mod output;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod wake;

pub use answer::Answer;
pub use connection::{Connection, Limits, Received, Request};
pub use lines::{Line, Lines};
pub use message::{Call, Code, Id, Incoming, MAX_BATCH, Rejected, parse};
pub use output::{Broken, Output, TextStream};
