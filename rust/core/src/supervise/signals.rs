//! The signals that a supervisor hands on.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// Tells of every signal until it is dropped. From then on they do nothing: the process is expected to end.
pub(super) struct Watched {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    pub(super) fn begin(told: impl Fn(i32) + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new()
            .name("hwledger-signals".to_owned())
            .spawn(move || signals.forever().for_each(told))?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether a signal asks for the end.
pub(super) fn ends(signal: i32) -> bool {
    signal != SIGHUP
}
