//! The supervisor's decisions: when a child is ended and started again, and what the supervisor ends with.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::child::{Child, exit_code};
use super::signals::{Watched, ends};
use super::{Beat, SuperviseError};

/// What is supervised, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervision {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// How long its first beat is waited for.
    pub start: Duration,
    /// How long it may be silent from then on before it counts as stuck.
    pub silence: Duration,
    /// How long to wait before it is started again; twice as long each time, while it does not last.
    pub first_delay: Duration,
    /// The longest such wait.
    pub longest_delay: Duration,
    /// How long it must last to be taken for well again.
    pub lasting: Duration,
    /// How often in a row it may fail at once after a new start, before its status is taken for the last word.
    pub attempts: u32,
}

impl Supervision {
    /// A supervision with the usual patience: a minute for the first beat and of silence, a second before a new start, a minute at most.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            start: Duration::from_secs(60),
            silence: Duration::from_secs(60),
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(60),
            lasting: Duration::from_secs(60),
            attempts: 5,
        }
    }

    /// With patience for a server that may be stuck for so long. Silence, which is worse, is borne for as long; but no shorter
    /// than it takes a server in good health to write a beat, or one that gives up to flush its cache.
    #[must_use]
    pub fn restart_after(mut self, stuck: Duration) -> Self {
        const LEAST: Duration = Duration::from_secs(15);
        self.silence = stuck.max(LEAST);
        self
    }

    pub(super) fn delay(&self, times: u32) -> Duration {
        self.first_delay.saturating_mul(2_u32.saturating_pow(times)).min(self.longest_delay)
    }
}

/// What a supervisor hears of. The numbers say of which child.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happening {
    Signal(i32),
    Beat(u32, Beat),
    Exited(u32),
}

/// How it came to an end with a child.
enum End {
    Exited(ExitStatus),
    /// It has to go; why.
    Stuck(String),
    /// A second signal to end came.
    AtOnce,
}

/// Runs the program under supervision until it ends by itself or is told to, and returns the exit code of that: its own,
/// or 128 and the number of the signal.
///
/// Takes SIGTERM, SIGINT and SIGHUP over for good; a process does this once, and ends when it returns.
///
/// # Errors
/// [`SuperviseError`], where the program cannot be started, or the system lacks what it takes.
pub fn supervise(wanted: &Supervision) -> Result<i32, SuperviseError> {
    let (told, happenings) = channel();
    let teller = told.clone();
    let _signals = Watched::begin(move |signal| {
        let _ = teller.send(Happening::Signal(signal));
    })
    .map_err(|source| SuperviseError::System { what: "handler of signals", source })?;
    let mut supervisor = Supervisor { wanted, happenings, asked: None };
    let mut short_lives = 0;
    for which in 0.. {
        let mut child = Child::start(wanted, which, &told)?;
        let began = Instant::now();
        let system = |source: io::Error| SuperviseError::System { what: "status of the process", source };
        let end = supervisor.watch(&mut child, which).map_err(system)?;
        short_lives = if began.elapsed() < wanted.lasting { short_lives + 1 } else { 0 };
        match end {
            End::Exited(status) => {
                let retry = which > 0 && supervisor.asked.is_none() && !status.success();
                if !retry || short_lives == 0 || short_lives > wanted.attempts {
                    return Ok(exit_code(status));
                }
                tracing::warn!(pid = child.id(), %status, "it failed after a new start");
            }
            End::Stuck(why) => {
                tracing::warn!(pid = child.id(), "{why}; it is ended");
                child.kill().map_err(system)?;
            }
            End::AtOnce => {
                child.kill().map_err(system)?;
            }
        }
        let delay = wanted.delay(short_lives.saturating_sub(1));
        if let Some(signal) = supervisor.asked.or_else(|| supervisor.asked_within(delay)) {
            return Ok(128 + signal);
        }
        tracing::warn!("it is started again");
    }
    unreachable!("numbers do not end")
}

struct Supervisor<'a> {
    wanted: &'a Supervision,
    happenings: Receiver<Happening>,
    /// The last signal that asked for the end.
    asked: Option<i32>,
}

impl Supervisor<'_> {
    /// Follows one child.
    fn watch(&mut self, child: &mut Child, which: u32) -> io::Result<End> {
        let mut patience = self.wanted.start;
        let mut deadline = Some(Instant::now() + patience);
        loop {
            match self.next(deadline) {
                None => {
                    return Ok(End::Stuck(format!("no heartbeat for {} s", patience.as_secs_f64())));
                }
                Some(Happening::Exited(of)) if of == which => return child.wait().map(End::Exited),
                Some(Happening::Beat(of, beat)) if of == which => match beat {
                    Beat::Well => {
                        patience = self.wanted.silence;
                        deadline = deadline.map(|_| Instant::now() + patience);
                    }
                    Beat::Ending => deadline = None,
                    Beat::Stuck => return Ok(End::Stuck("it says that it is stuck".to_owned())),
                },
                Some(Happening::Signal(signal)) => {
                    if ends(signal) && self.asked.replace(signal).is_some() {
                        return Ok(End::AtOnce);
                    }
                    child.signal(signal);
                }
                // Of a child that is gone.
                Some(Happening::Exited(_) | Happening::Beat(..)) => {}
            }
        }
    }

    /// The signal that asks for the end, if one comes in time.
    fn asked_within(&mut self, delay: Duration) -> Option<i32> {
        let deadline = Instant::now() + delay;
        while let Some(happening) = self.next(Some(deadline)) {
            if let Happening::Signal(signal) = happening
                && ends(signal)
            {
                return Some(signal);
            }
        }
        None
    }

    /// What happens next; `None` where nothing does until `deadline`.
    fn next(&self, deadline: Option<Instant>) -> Option<Happening> {
        let Some(deadline) = deadline else {
            return self.happenings.recv().ok();
        };
        self.happenings.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}
