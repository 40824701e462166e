//! SIGINT and SIGTERM: the first asks for an orderly end and bounds how long it takes, the second ends at once.
//!
//! The bound is kept by a thread that needs neither the interpreter nor tokio, for the engine may be deep in C++ and the
//! main thread in a write that nobody reads.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Arrivals;
use signal_hook::{flag, low_level};
use tokio::sync::watch;

/// How long an orderly end may take.
const GRACE: Duration = Duration::from_millis(1300);

/// Signals of this process, from the moment of [`Signals::watch`].
pub(super) struct Signals(watch::Receiver<i32>);

impl Signals {
    /// Installs the handlers.
    pub(super) fn watch() -> std::io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the shutdown is armed by the registration after it, that is from the second signal on.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        let mut arrivals = Arrivals::new([SIGINT, SIGTERM])?;
        let (sender, receiver) = watch::channel(0);
        std::thread::Builder::new().name("hwledger-signals".to_owned()).spawn(move || {
            if let Some(signal) = arrivals.forever().next() {
                sender.send_replace(signal);
                std::thread::sleep(GRACE);
                low_level::exit(128 + signal);
            }
        })?;
        Ok(Self(receiver))
    }

    /// The first signal, if one came.
    pub(super) fn pending(&self) -> Option<i32> {
        Some(*self.0.borrow()).filter(|signal| *signal != 0)
    }

    /// The first signal, as soon as it came.
    pub(super) async fn arrived(&mut self) -> i32 {
        match self.0.wait_for(|signal| *signal != 0).await {
            Ok(signal) => *signal,
            // The watching thread ends with the process alone.
            Err(_) => std::future::pending().await,
        }
    }
}
