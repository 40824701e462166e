//! Threads that are attached to the interpreter, each working off a queue of jobs. Knows nothing of what they do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use pyo3::prelude::*;
use tokio::sync::oneshot;

use crate::error::Error;

/// Bytes of stack of a thread that runs Python: what `CPython` gives its own where the system's default is small.
pub(crate) const STACK_BYTES: usize = 16 << 20;

type Job = Box<dyn FnOnce(Python<'_>) + Send>;

/// The sending end of one such thread. Jobs run in the order in which they were sent.
#[derive(Debug, Clone)]
pub(crate) struct Lane(mpsc::Sender<Job>);

/// The working end.
pub(crate) struct Queue(mpsc::Receiver<Job>);

impl Lane {
    /// A lane and its queue, which some thread must [`Queue::work_off`].
    pub(crate) fn new() -> (Self, Queue) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), Queue(receiver))
    }

    /// A lane on a thread of its own. The interpreter must be running.
    pub(crate) fn spawn(name: &str) -> std::io::Result<Self> {
        let (lane, queue) = Self::new();
        std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(move || queue.work_off())?;
        Ok(lane)
    }

    /// Sends a job and does not wait for it.
    pub(crate) fn send(&self, job: impl FnOnce(Python<'_>) + Send + 'static) {
        // The thread lives as long as a sender; it can only be gone if the process is going.
        let _ = self.0.send(Box::new(job));
    }

    /// Sends a job whose result is wanted.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(Python<'_>) -> PyResult<R> + Send + 'static,
    ) -> Reply<R> {
        let (sender, receiver) = oneshot::channel();
        self.send(move |py| drop(sender.send(job(py).map_err(|error| Error::from_python(py, &error)))));
        Reply(Ok(receiver))
    }
}

/// What a job will give. Dropping it does not stop the job.
pub(crate) struct Reply<R>(Result<oneshot::Receiver<Result<R, Error>>, Error>);

impl<R> Reply<R> {
    /// The result, when it is there.
    pub(crate) async fn wait(self) -> Result<R, Error> {
        self.0?.await.unwrap_or_else(|_| Err(Error::engine("a thread of the host that runs Python failed")))
    }
}

impl Queue {
    /// Runs jobs until every sender is gone. Stays attached to one thread state, and holds it only while a job runs.
    pub(crate) fn work_off(mut self) {
        Python::attach(|py| {
            loop {
                // Exclusively borrowed, for a shared receiver may not leave the attached thread.
                let receiver = &mut self.0;
                let Ok(job) = py.detach(move || receiver.recv()) else { break };
                // The panic hook has told of it; the job's caller learns from its dropped channel.
                let _ = catch_unwind(AssertUnwindSafe(|| job(py)));
            }
        });
    }
}

/// Runs one job that may take long on a thread made for it, so that it holds up no lane.
pub(crate) fn aside<R: Send + 'static>(
    name: &str,
    job: impl FnOnce(Python<'_>) -> PyResult<R> + Send + 'static,
) -> Reply<R> {
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let result = Python::attach(|py| job(py).map_err(|error| Error::from_python(py, &error)));
        let _ = sender.send(result);
    });
    Reply(match spawned {
        Ok(_) => Ok(receiver),
        Err(error) => Err(Error::engine(format!("no thread could be started: {error}"))),
    })
}
