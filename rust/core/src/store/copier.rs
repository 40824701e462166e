//! The thread that copies deferred saves, one record at a time, as the queue has room for it.

use std::sync::Arc;

use super::copy::{abandon, copy_all};
use super::engine::Engine;
use super::queue::Job;

/// RAM made ready before the first save, so that it need not wait for the system's fresh memory.
const WARM_BYTES: u64 = 256 << 20;

/// The thread's work, until the queue is stopped and no job is left.
pub(crate) fn run(engine: &Arc<Engine>) {
    let warm = usize::try_from(engine.config.queue_bytes.min(WARM_BYTES)).unwrap_or(0);
    engine.pool.warm(warm, || engine.queue.has_jobs_or_stops());
    let gone = Gone(engine);
    while let Some(job) = engine.queue.next_job() {
        copy(engine, job);
    }
    drop(gone);
}

fn copy(engine: &Arc<Engine>, job: Job) {
    let mut left = Left { engine, job: &job, next: 0 };
    for record in &job.records {
        left.next += 1;
        let trouble = engine.health().trouble.is_some();
        if trouble {
            engine.queue.forgo(record.footprint);
            abandon(
                engine,
                job.generation,
                std::slice::from_ref(record),
                "the folder could not be written while it was waiting",
            );
            continue;
        }
        engine.queue.reserve(record.ticket, record.footprint);
        // SAFETY: the job's `keep` is alive, and `Store::save`'s contract holds as long as it is.
        #[expect(unsafe_code, reason = "follows the caller's sources")]
        let _ = unsafe { copy_all(engine, job.generation, std::slice::from_ref(record), &job.from, false) };
    }
    drop(left);
    // May run code of the caller's; no lock is held here.
    drop(job.keep);
}

/// The records of a job that were not begun: abandoned if the copy of one before them panics.
struct Left<'j> {
    engine: &'j Engine,
    job: &'j Job,
    next: usize,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let records = &self.job.records[self.next..];
        if records.is_empty() {
            return;
        }
        for record in records {
            self.engine.queue.forgo(record.footprint);
        }
        abandon(self.engine, self.job.generation, records, "the copy of a record before it panicked");
    }
}

/// Says that the copier has ended, also if it panicked: nobody may wait for it.
struct Gone<'e>(&'e Arc<Engine>);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        for job in self.0.queue.copier_gone() {
            abandon(self.0, job.generation, &job.records, "the copier thread has ended");
        }
    }
}
