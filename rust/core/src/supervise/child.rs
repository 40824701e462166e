//! One supervised process, from its start to the moment when the system has forgotten it.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::Sender;

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::supervisor::{Happening, Supervision};
use super::{Beat, HEARTBEAT_VARIABLE, SuperviseError};

/// A child that runs, or has ended and was not waited for. Killed with its group when dropped before its end.
pub(super) struct Child {
    process: std::process::Child,
    pid: Pid,
    waited_for: bool,
}

impl Child {
    /// Starts one; what becomes of it is told as happenings of the number `which`.
    pub(super) fn start(wanted: &Supervision, which: u32, told: &Sender<Happening>) -> Result<Self, SuperviseError> {
        let system = |what| move |source| SuperviseError::System { what, source };
        let (mut beats, heart) = io::pipe().map_err(system("pipe"))?;
        // Made so that no child inherits it; this one child shall.
        rustix::io::fcntl_setfd(&heart, FdFlags::empty())
            .map_err(|error| SuperviseError::System { what: "pipe", source: error.into() })?;
        let process = Command::new(&wanted.program)
            .args(&wanted.arguments)
            .env(HEARTBEAT_VARIABLE, heart.as_raw_fd().to_string())
            .process_group(0)
            .spawn()
            .map_err(|source| SuperviseError::Start { program: wanted.program.clone(), source })?;
        drop(heart);
        let pid = Pid::from_child(&process);
        let child = Self { process, pid, waited_for: false };

        let teller = told.clone();
        std::thread::Builder::new()
            .name("hwledger-beats".to_owned())
            .spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(count @ 1..) = beats.read(&mut bytes) {
                    for byte in &bytes[..count] {
                        let _ = teller.send(Happening::Beat(which, Beat::of(*byte)));
                    }
                }
            })
            .map_err(system("thread"))?;
        let teller = told.clone();
        std::thread::Builder::new()
            .name("hwledger-child".to_owned())
            .spawn(move || {
                // Left for `wait` to collect, so that its number stays its own while it may be sent signals.
                while waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).is_err_and(is_interrupt) {
                }
                let _ = teller.send(Happening::Exited(which));
            })
            .map_err(system("thread"))?;
        Ok(child)
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal to the child alone.
    pub(super) fn signal(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            // Gone already, which its status will tell.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Ends it, with all that it started and that stayed in its group.
    pub(super) fn kill(&mut self) -> io::Result<ExitStatus> {
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.wait()
    }

    /// Its status, once it has ended.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.process.wait();
        self.waited_for = true;
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited_for {
            let _ = self.kill();
        }
    }
}

fn is_interrupt(error: rustix::io::Errno) -> bool {
    error == rustix::io::Errno::INTR
}

/// The status as a shell has it.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
