//! Both directions of one client.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{self, Errno};
use serde_json::Value;

use super::answer::{Answer, Batch};
use super::lines::{Line, Lines};
use super::message::{Call, Code, Id, Incoming, Rejected, parse};
use super::output::{Broken, Output};
use super::wake::Wake;

const READ_BYTES: usize = 64 * 1024;
/// Requests that are given at once, so that a flood of them does not hold up what the caller does between.
const MOST_AT_ONCE: usize = 64;

/// Bounds of what a connection holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest line that is read.
    pub message_bytes: usize,
    /// While more than so many bytes wait to be written, nothing is read.
    pub queue_bytes: usize,
}

/// A call that is to be worked off.
#[derive(Debug)]
pub struct Request {
    /// What is called.
    pub method: String,
    /// An object or an array, where there are any.
    pub params: Option<Value>,
    /// Where its answer goes.
    pub answer: Answer,
}

/// What [`Connection::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// Requests, in the order in which they came.
    Requests(Vec<Request>),
    /// None for so long, or it was woken, or a signal came.
    Nothing,
    /// The other end sends no more.
    Ended,
}

/// One client. Receiving is for one thread at a time; all else is for any.
#[derive(Debug)]
pub struct Connection {
    input: Mutex<Input>,
    output: Output,
    wake: Arc<Wake>,
}

#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    lines: Lines,
    chunk: Vec<u8>,
    /// Of a batch that was larger than what is given at once.
    left: VecDeque<Request>,
    limit_bytes: usize,
    ended: bool,
}

impl Connection {
    /// Reads from one descriptor and writes to the other.
    ///
    /// # Errors
    /// The system gives no pipe or no thread.
    pub fn open(input: OwnedFd, output: OwnedFd, limits: Limits) -> std::io::Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let output = Output::start(output, Arc::clone(&wake), limits.queue_bytes)?;
        let input = Input {
            fd: input,
            lines: Lines::new(limits.message_bytes),
            chunk: vec![0; READ_BYTES],
            left: VecDeque::new(),
            limit_bytes: limits.message_bytes,
            ended: false,
        };
        Ok(Self { input: Mutex::new(input), output, wake })
    }

    /// What is sent.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Ends a wait in [`Self::receive`], or the next one. A signal handler may call it.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// The next requests; waits for so long at most. What is no request has been answered.
    ///
    /// # Errors
    /// The other end does not read any more.
    pub fn receive(&self, at_most: Duration) -> Result<Received, Broken> {
        if let Some(broken) = self.output.broken() {
            return Err(broken);
        }
        if !self.output.wait_for_room(at_most) {
            return self.output.broken().map_or(Ok(Received::Nothing), Err);
        }
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = input.requests(&self.output);
        if !requests.is_empty() {
            return Ok(Received::Requests(requests));
        }
        if input.ended {
            return Ok(Received::Ended);
        }
        if self.wait(&input, at_most)? {
            input.read();
        }
        let requests = input.requests(&self.output);
        Ok(if requests.is_empty() { Received::Nothing } else { Received::Requests(requests) })
    }

    /// Waits for something to read. Whether there is.
    fn wait(&self, input: &Input, at_most: Duration) -> Result<bool, Broken> {
        let output = self.output.fd();
        let mut polled = [
            PollFd::new(&input.fd, PollFlags::IN),
            PollFd::from_borrowed_fd(self.wake.fd(), PollFlags::IN),
            // Nothing is asked of it: that its reader is gone is told unasked.
            PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty()),
        ];
        let timeout = Timespec::try_from(at_most).ok();
        if poll(&mut polled, timeout.as_ref()).is_err() {
            return Ok(false); // a signal, which the caller looks after
        }
        let [readable, woken, closed] = polled.map(|each| each.revents());
        if closed.intersects(PollFlags::ERR | PollFlags::HUP) {
            self.output.fail("its reader is gone");
        }
        if !woken.is_empty() {
            self.wake.clear();
        }
        self.output.broken().map_or(Ok(!readable.is_empty()), Err)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.output.close();
    }
}

impl Input {
    fn read(&mut self) {
        match io::read(&self.fd, &mut self.chunk) {
            Ok(0) => self.ended = true,
            Ok(bytes) => self.lines.feed(&self.chunk[..bytes]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // As of a terminal that is gone: nothing more comes.
            Err(_) => self.ended = true,
        }
    }

    /// The requests of the lines that are there, some of them.
    fn requests(&mut self, output: &Output) -> Vec<Request> {
        let mut found = Vec::new();
        loop {
            found.extend(self.left.drain(..self.left.len().min(MOST_AT_ONCE - found.len())));
            if found.len() == MOST_AT_ONCE {
                return found;
            }
            let line = match self.lines.next_line() {
                None if self.ended => self.lines.end(),
                line => line,
            };
            match line {
                None => return found,
                Some(Line::Whole(line)) => self.left.extend(requests_of(parse(line), output)),
                Some(Line::TooLong) => {
                    let why = format!("a message has at most {} bytes, and this one has more", self.limit_bytes);
                    let rejected = Rejected { id: Id::Null, code: Code::Parse, why };
                    Answer::reject(&rejected, Answer::new(None, output.clone()));
                }
            }
        }
    }
}

/// The requests among what a line holds; the rest is answered.
fn requests_of(incoming: Incoming, output: &Output) -> Vec<Request> {
    let one = |parsed: Result<Call, Rejected>, answer: &dyn Fn(Option<Id>) -> Answer| match parsed {
        Ok(Call { id, method, params }) => Some(Request { method, params, answer: answer(id) }),
        Err(rejected) => {
            Answer::reject(&rejected, answer(None));
            None
        }
    };
    match incoming {
        Incoming::One(parsed) => one(parsed, &|id| Answer::new(id, output.clone())).into_iter().collect(),
        Incoming::Batch(calls) => {
            let batch = Batch::new(output.clone(), calls.len());
            let answer = |id| Answer::in_batch(id, Arc::clone(&batch));
            calls.into_iter().filter_map(|parsed| one(parsed, &answer)).collect()
        }
    }
}
