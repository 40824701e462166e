//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once. SIGHUP: a service reads its
//! configuration again.
//!
//! How long the end may take is bounded by threads that need neither the interpreter nor tokio, for the engine may be deep
//! in C++ and the main thread in a write that nobody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Arrivals;
use signal_hook::{flag, low_level};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

/// What kind of command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One that ends by itself, and in a moment when it is told to.
    Task,
    /// One that runs until it is told to end, and has a deadline of its own for that.
    Service,
}

impl Kind {
    /// How long to wait after the first signal: for the end of a task, and for a service to say that it has heard.
    fn grace(self) -> Duration {
        match self {
            Self::Task => Duration::from_millis(1300),
            Self::Service => Duration::from_secs(10),
        }
    }
}

/// Signals of this process, from the moment of [`Signals::watch`].
pub(super) struct Signals {
    first: watch::Receiver<i32>,
    each: UnboundedReceiver<i32>,
    answered: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    pub(super) fn watch(kind: Kind) -> std::io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the shutdown is armed by the registration after it, that is from the second signal on.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        let heard: &[i32] = if kind == Kind::Service { &[SIGINT, SIGTERM, SIGHUP] } else { &[SIGINT, SIGTERM] };
        let mut arrivals = Arrivals::new(heard)?;
        let (tell_first, first) = watch::channel(0);
        let (tell_each, each) = unbounded_channel();
        let answered = Arc::new(AtomicBool::new(false));
        let is_answered = Arc::clone(&answered);
        let (start_clock, clock) = std::sync::mpsc::channel::<i32>();
        std::thread::Builder::new().name("hwledger-signals".to_owned()).spawn(move || {
            for signal in arrivals.forever() {
                let _ = tell_each.send(signal);
                if signal != SIGHUP {
                    tell_first.send_if_modified(|first| {
                        let is_first = *first == 0;
                        *first = if is_first { signal } else { *first };
                        is_first
                    });
                    let _ = start_clock.send(signal);
                }
            }
        })?;
        std::thread::Builder::new().name("hwledger-deadline".to_owned()).spawn(move || {
            let Ok(signal) = clock.recv() else { return };
            std::thread::sleep(kind.grace());
            if !is_answered.load(Ordering::Acquire) {
                low_level::exit(128 + signal);
            }
        })?;
        Ok(Self { first, each, answered })
    }

    /// The first signal that asked for the end, if one came.
    pub(super) fn pending(&self) -> Option<i32> {
        Some(*self.first.borrow()).filter(|signal| *signal != 0)
    }

    /// The first signal that asks for the end, as soon as it came.
    pub(super) async fn arrived(&mut self) -> i32 {
        match self.first.wait_for(|signal| *signal != 0).await {
            Ok(signal) => *signal,
            // The watching thread ends with the process alone.
            Err(_) => std::future::pending().await,
        }
    }

    /// The next signal of any kind.
    pub(super) async fn next(&mut self) -> i32 {
        match self.each.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// The command has heard that it is to end, and keeps to a deadline of its own.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }
}
