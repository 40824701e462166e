//! What is sent: a queue that never makes a sender wait, and the thread that writes it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{self, Errno};

use super::message::{notification_text, quoted};
use super::wake::Wake;

/// Most bytes that are handed to the system at once.
const WRITE_BYTES: usize = 64 * 1024;

/// The other end reads no more; what had not been written by then is lost.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the output is closed: {0}")]
pub struct Broken(String);

/// The queue. A clone is the same queue.
#[derive(Clone, Debug)]
pub struct Output(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    wake: Arc<Wake>,
    /// Above so many bytes there is no room.
    bound_bytes: usize,
    state: Mutex<State>,
    /// Something to write, or the end.
    work: Condvar,
    /// Something was written, or never will be.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// How many entries came before the first of these.
    taken: u64,
    /// For each stream, which entry is its last one, counted from the first ever.
    last_of: HashMap<u64, u64>,
    streams: u64,
    /// Of the entries, and of what is being written.
    bytes: usize,
    broken: Option<Broken>,
    closed: bool,
}

#[derive(Debug)]
enum Entry {
    Message(String),
    Text { stream: u64, head: Arc<str>, text: String },
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.len(),
            Self::Text { head, text, .. } => head.len() + text.len(),
        }
    }

    fn write_to(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Message(message) => buffer.extend_from_slice(message.as_bytes()),
            Self::Text { head, text, .. } => {
                buffer.extend_from_slice(head.as_bytes());
                buffer.extend_from_slice(quoted(text).as_bytes());
                buffer.extend_from_slice(b"}}");
            }
        }
        buffer.push(b'\n');
    }
}

/// The text of one request as it comes, as notifications.
///
/// While there is no room in the queue, what comes is joined to the stream's piece that waits there.
#[derive(Clone, Debug)]
pub struct TextStream {
    output: Output,
    stream: u64,
    head: Arc<str>,
}

impl TextStream {
    /// Sends a piece. Never waits.
    pub fn send(&self, text: &str) {
        let mut state = self.output.state();
        if state.broken.is_some() || state.closed {
            return;
        }
        if state.bytes > self.output.0.bound_bytes {
            let place = state.last_of.get(&self.stream).and_then(|last| last.checked_sub(state.taken));
            let waiting = place.and_then(|place| usize::try_from(place).ok());
            if let Some(Entry::Text { text: earlier, .. }) = waiting.and_then(|place| state.entries.get_mut(place)) {
                earlier.push_str(text);
                state.bytes += text.len();
                return;
            }
        }
        let entry = Entry::Text { stream: self.stream, head: Arc::clone(&self.head), text: text.to_owned() };
        let number = state.taken + state.entries.len() as u64;
        state.last_of.insert(self.stream, number);
        self.output.push(&mut state, entry);
    }
}

impl Output {
    /// Begins to write to `fd`. `wake` is woken when that fails.
    pub(super) fn start(fd: OwnedFd, wake: Arc<Wake>, bound_bytes: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            fd,
            wake,
            bound_bytes,
            state: Mutex::default(),
            work: Condvar::new(),
            written: Condvar::new(),
        });
        let writing = Arc::clone(&shared);
        std::thread::Builder::new().name("hwledger-rpc-write".to_owned()).spawn(move || writing.write_all())?;
        Ok(Self(shared))
    }

    /// Sends a message, JSON without line feeds. Never waits.
    pub fn send(&self, message: String) {
        let mut state = self.state();
        if state.broken.is_none() && !state.closed {
            self.push(&mut state, Entry::Message(message));
        }
    }

    /// Sends a notification; `params` is JSON without line feeds. Never waits.
    pub fn notify(&self, method: &str, params: &str) {
        self.send(notification_text(method, params));
    }

    /// A stream of text, each piece of it a notification `method` with the request's id.
    #[must_use]
    pub fn stream(&self, method: &str, request_id: &str) -> TextStream {
        let (method, request_id) = (quoted(method), quoted(request_id));
        let head =
            format!("{{\"jsonrpc\":\"2.0\",\"method\":{method},\"params\":{{\"request_id\":{request_id},\"text\":");
        let mut state = self.state();
        state.streams += 1;
        TextStream { output: self.clone(), stream: state.streams, head: head.into() }
    }

    /// Bytes that wait to be written, and those that are being written.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.state().bytes
    }

    /// Waits until there is room, or for so long. Whether there is.
    #[must_use]
    pub fn wait_for_room(&self, at_most: Duration) -> bool {
        self.wait_for(at_most, |state| state.bytes <= self.0.bound_bytes)
    }

    /// Waits until all is written, or for so long. Whether it is.
    #[must_use]
    pub fn flush(&self, at_most: Duration) -> bool {
        self.wait_for(at_most, |state| state.bytes == 0)
    }

    /// Why nothing can be written any more, where that is so.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.state().broken.clone()
    }

    /// Nothing more is taken; what waits is still written.
    pub fn close(&self) {
        self.state().closed = true;
        self.0.work.notify_all();
    }

    pub(super) fn fd(&self) -> impl AsFd + '_ {
        self.0.fd.as_fd()
    }

    /// The other end is known to be gone.
    pub(super) fn fail(&self, why: &str) {
        self.0.fail(Broken(why.to_owned()));
    }

    fn push(&self, state: &mut State, entry: Entry) {
        state.bytes += entry.bytes();
        state.entries.push_back(entry);
        if state.entries.len() == 1 {
            self.0.work.notify_one();
        }
    }

    fn wait_for(&self, at_most: Duration, ready: impl Fn(&State) -> bool) -> bool {
        let until = Instant::now() + at_most;
        let mut state = self.state();
        loop {
            if state.broken.is_some() {
                return false;
            }
            if ready(&state) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.0.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes until it is closed and all is written, or nobody reads.
    fn write_all(&self) {
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        while let Some(entries) = self.take() {
            let bytes: usize = entries.iter().map(Entry::bytes).sum();
            for entry in &entries {
                entry.write_to(&mut buffer);
                // A joined text may be long; its buffer goes out before more is put into it.
                if buffer.len() >= WRITE_BYTES && !self.write(&mut buffer) {
                    return;
                }
            }
            if !self.write(&mut buffer) {
                return;
            }
            let mut state = self.state();
            state.bytes = state.bytes.saturating_sub(bytes); // less, where it was found broken meanwhile
            drop(state);
            self.written.notify_all();
        }
    }

    /// The next entries to be written together; `None` when there are none and will be none.
    fn take(&self) -> Option<Vec<Entry>> {
        let mut state = self.state();
        while state.entries.is_empty() {
            if state.closed || state.broken.is_some() {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        let mut taken = Vec::new();
        while bytes < WRITE_BYTES
            && let Some(entry) = state.entries.pop_front()
        {
            if let Entry::Text { stream, .. } = &entry
                && state.last_of.get(stream) == Some(&state.taken)
            {
                state.last_of.remove(stream);
            }
            state.taken += 1;
            bytes += entry.bytes();
            taken.push(entry);
        }
        Some(taken)
    }

    /// Writes the buffer and empties it. Whether that went well.
    fn write(&self, buffer: &mut Vec<u8>) -> bool {
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            match io::write(&self.fd, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Whoever gave us the descriptor has it not wait.
                    let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], None);
                }
                Err(error) => {
                    self.fail(Broken(std::io::Error::from(error).to_string()));
                    return false;
                }
            }
        }
        buffer.clear();
        true
    }

    fn fail(&self, why: Broken) {
        let mut state = self.state();
        state.broken.get_or_insert(why);
        state.entries.clear();
        state.last_of.clear();
        state.bytes = 0;
        drop(state);
        self.work.notify_all();
        self.written.notify_all();
        self.wake.wake();
    }
}
