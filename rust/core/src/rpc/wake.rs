//! A pipe that ends a wait for input from another thread, or from a signal handler.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{self, Errno, FdFlags};
use rustix::pipe::pipe;

/// Wakes whoever polls it.
#[derive(Debug)]
pub(super) struct Wake {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        for end in [&reader, &writer] {
            // Not by pipe2, which macOS lacks.
            io::fcntl_setfd(end, FdFlags::CLOEXEC)?;
            io::ioctl_fionbio(end, true)?;
        }
        Ok(Self { reader, writer })
    }

    /// Makes it readable.
    pub(super) fn wake(&self) {
        // A full pipe wakes as well as one more byte would.
        let _ = io::write(&self.writer, &[0]);
    }

    /// Makes it wait for the next one.
    pub(super) fn clear(&self) {
        let mut bytes = [0; 64];
        while matches!(io::read(&self.reader, &mut bytes), Ok(1..) | Err(Errno::INTR)) {}
    }

    /// What to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
