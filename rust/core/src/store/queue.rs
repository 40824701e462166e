//! What was accepted and is not durable yet, in the order of acceptance.
//!
//! A record takes a ticket when it is accepted; its bytes may come later. The writer takes tickets strictly in order, so no
//! record is ever durable before the one that it continues. While a save waits for room, all later ones wait behind it,
//! so the room that the first ticket waits for is always held by tickets before it: nothing can wait in a circle.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::memory::Resident;
use super::transfer::{Compacted, SnapshotArray, Source};
use super::types::{Layout, RecordId};

/// A record to copy, and its place in the queue.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// The ticket.
    pub(crate) ticket: u64,
    pub(crate) id: RecordId,
    /// First token of a block; `None` for a snapshot.
    pub(crate) block: Option<(usize, usize)>,
    /// Payload bytes, at most.
    pub(crate) bytes: u64,
    /// Bytes of RAM, at most.
    pub(crate) footprint: u64,
}

/// Where the records of a save are copied from.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) layout: Arc<Layout>,
    pub(crate) parts: Vec<Source>,
    pub(crate) arrays: Vec<SnapshotArray>,
}

/// A save: records to copy, and where from.
pub(crate) struct Job {
    /// Which index the records are of.
    pub(crate) generation: u64,
    pub(crate) records: Vec<Planned>,
    pub(crate) from: Sources,
    /// What keeps the sources alive. Only to be dropped where no lock is held.
    pub(crate) keep: Box<dyn Send>,
}

/// A record ready to be written.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Which index the record is of.
    pub(crate) generation: u64,
    pub(crate) id: RecordId,
    pub(crate) resident: Arc<Resident>,
    pub(crate) accepted: Instant,
}

#[derive(Debug)]
enum Filling {
    Waiting,
    Ready(Arc<Resident>),
    Dropped,
}

#[derive(Debug)]
struct Ticket {
    generation: u64,
    id: RecordId,
    filling: Filling,
    /// RAM reserved.
    reserved: u64,
    accepted: Instant,
}

/// What the writer is asked to do besides writing.
pub(crate) enum Command {
    /// Compact every segment with less than half live bytes.
    Compact(std::sync::mpsc::Sender<Compacted>),
    /// Drop segments without live records, and write the index if asked to; the answer is whether it was written.
    Sweep { renew_index: bool, answer: std::sync::mpsc::Sender<bool> },
    /// Make the journal short, and room for it to grow.
    Settle(std::sync::mpsc::Sender<()>),
    /// Make what is stored fit other limits.
    Fit(std::sync::mpsc::Sender<()>),
}

/// What the writer is to do next.
pub(crate) enum Next {
    /// Commit these; then say [`Queue::finished`].
    Batch(Vec<Ready>),
    /// Do this.
    Command(Command),
    /// Look after what is due.
    Tick,
    /// Nothing waits to be done.
    Idle,
    /// End.
    Stop,
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are not states of one thing: two threads and what they are told"
)]
struct State {
    tickets: VecDeque<Ticket>,
    /// Number of the first ticket not finished.
    first: u64,
    /// Tickets at the front that the writer has.
    writing: usize,
    ram_bytes: u64,
    jobs: VecDeque<Job>,
    backlog_bytes: u64,
    /// Whether the copier has a job.
    copying: bool,
    commands: VecDeque<Command>,
    stopping: bool,
    copier_gone: bool,
    writer_gone: bool,
    /// Counts releases of what was in use, for a writer that waits for room on disk.
    releases: u64,
    /// Matches that hold something.
    holders: usize,
}

/// Where to put a save.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placement {
    /// Its room is reserved; copy now.
    Inline,
    /// Hand it to the copier.
    Deferred,
}

/// The queue.
pub(crate) struct Queue {
    ram_limit: u64,
    backlog_limit: u64,
    state: Mutex<State>,
    for_writer: Condvar,
    for_copier: Condvar,
    for_flush: Condvar,
}

/// Adds records to the queue while the catalog is locked, so that tickets are in the order of the index.
pub(crate) struct Accepting<'q> {
    queue: &'q Queue,
    state: MutexGuard<'q, State>,
    placement: Placement,
    generation: u64,
}

impl Queue {
    pub(crate) fn new(ram_limit: u64, backlog_limit: u64) -> Self {
        Self {
            ram_limit,
            backlog_limit,
            state: Mutex::default(),
            for_writer: Condvar::new(),
            for_copier: Condvar::new(),
            for_flush: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a place for records that take `footprint` of RAM; `None` if too much is waiting or the queue has ended.
    pub(crate) fn accept(&self, generation: u64, footprint: u64) -> Option<Accepting<'_>> {
        let state = self.state();
        if state.stopping || state.writer_gone || state.copier_gone {
            return None;
        }
        let waiting = state.copying || !state.jobs.is_empty();
        let placement = if !waiting && state.ram_bytes + footprint <= self.ram_limit {
            Placement::Inline
        } else if state.backlog_bytes + footprint <= self.backlog_limit {
            Placement::Deferred
        } else {
            return None;
        };
        Some(Accepting { queue: self, state, placement, generation })
    }

    /// A ticket's bytes are there, or will never be. What they take less than was reserved is free again.
    pub(crate) fn fill(&self, ticket: u64, resident: Option<Arc<Resident>>) {
        let mut state = self.state();
        let position = ticket.checked_sub(state.first).and_then(|position| usize::try_from(position).ok());
        let mut spared = 0;
        if let Some(entry) = position.and_then(|position| state.tickets.get_mut(position)) {
            if let Some(resident) = &resident {
                spared = entry.reserved.saturating_sub(resident.footprint);
                entry.reserved -= spared;
            }
            entry.filling = resident.map_or(Filling::Dropped, Filling::Ready);
        }
        state.ram_bytes -= spared;
        drop(state);
        self.for_writer.notify_one();
        if spared > 0 {
            self.for_copier.notify_all();
        }
    }

    /// Waits until so much RAM is free and reserves it for the ticket. For the copier.
    pub(crate) fn reserve(&self, ticket: u64, footprint: u64) {
        let mut state = self.state();
        while state.ram_bytes > 0 && state.ram_bytes + footprint > self.ram_limit && !state.writer_gone {
            state = self.for_copier.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.ram_bytes += footprint;
        state.backlog_bytes -= footprint;
        let position = usize::try_from(ticket - state.first).unwrap_or(usize::MAX);
        if let Some(entry) = state.tickets.get_mut(position) {
            entry.reserved = footprint;
        }
    }

    /// A deferred record will not be copied.
    pub(crate) fn forgo(&self, footprint: u64) {
        self.state().backlog_bytes -= footprint;
    }

    /// The next deferred save; waits for one. `None`: end.
    pub(crate) fn next_job(&self) -> Option<Job> {
        let mut state = self.state();
        state.copying = false;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.copying = true;
                return Some(job);
            }
            if state.stopping {
                return None;
            }
            state = self.for_copier.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What the writer does next: waits for work until `tick`, for at most `batch_bytes` of it. Does not wait if it has
    /// something to do when `idle`.
    pub(crate) fn next(&self, tick: Instant, batch_bytes: u64, idle: bool) -> Next {
        let mut state = self.state();
        loop {
            if let Some(command) = state.commands.pop_front() {
                return Next::Command(command);
            }
            // Before the batches, or steady saving would put off what is due for ever.
            let is_due = Instant::now() >= tick;
            if is_due && !state.stopping {
                return Next::Tick;
            }
            let (batch, dropped) = state.take_batch(batch_bytes);
            if dropped > 0 {
                self.wake_waiting();
            }
            if !batch.is_empty() {
                return Next::Batch(batch);
            }
            if state.stopping && state.tickets.is_empty() {
                return Next::Stop;
            }
            if is_due {
                return Next::Tick;
            }
            if idle && state.tickets.is_empty() {
                return Next::Idle;
            }
            let wait = tick.saturating_duration_since(Instant::now());
            state = self.for_writer.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The writer is done with its batch of so many records, for better or worse.
    pub(crate) fn finished(&self, records: usize) {
        let mut state = self.state();
        state.finish(records);
        drop(state);
        self.wake_waiting();
    }

    fn wake_waiting(&self) {
        self.for_copier.notify_all();
        self.for_flush.notify_all();
    }

    /// Waits until everything accepted before is finished; false if the writer has ended before.
    pub(crate) fn wait_finished(&self) -> bool {
        let mut state = self.state();
        let last = state.first + state.tickets.len() as u64;
        self.for_writer.notify_one();
        while state.first < last && !state.writer_gone {
            state = self.for_flush.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.first >= last
    }

    /// A match holds something.
    pub(crate) fn held(&self) {
        self.state().holders += 1;
    }

    /// How often something was released, for [`Queue::wait_for_release`].
    pub(crate) fn releases(&self) -> u64 {
        self.state().releases
    }

    /// Waits until something has been released since `seen`, at most so long; false where waiting is of no use, because
    /// nobody holds anything or the queue is to end.
    pub(crate) fn wait_for_release(&self, seen: u64, at_most: Duration) -> bool {
        let mut state = self.state();
        let end = Instant::now() + at_most;
        while state.releases == seen && state.holders > 0 && !state.stopping {
            let now = Instant::now();
            if now >= end {
                return true;
            }
            state = self.for_writer.wait_timeout(state, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.releases != seen && !state.stopping
    }

    /// Something that was in use is not any more.
    pub(crate) fn released(&self) {
        let mut state = self.state();
        state.releases += 1;
        state.holders -= 1;
        drop(state);
        self.for_writer.notify_one();
    }

    /// Asks the writer; false if it has ended.
    pub(crate) fn command(&self, command: Command) -> bool {
        let mut state = self.state();
        if state.stopping || state.writer_gone {
            return false;
        }
        state.commands.push_back(command);
        drop(state);
        self.for_writer.notify_one();
        true
    }

    /// The threads end when what was accepted is finished.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.for_writer.notify_all();
        self.wake_waiting();
    }

    /// The writer has ended: nobody waits for it any more.
    pub(crate) fn writer_gone(&self) {
        let mut state = self.state();
        state.writer_gone = true;
        let commands = std::mem::take(&mut state.commands);
        drop(state);
        drop(commands);
        self.wake_waiting();
    }

    /// The copier has ended; gives the jobs that it leaves.
    pub(crate) fn copier_gone(&self) -> Vec<Job> {
        let mut state = self.state();
        state.copier_gone = true;
        state.copying = false;
        state.jobs.drain(..).collect()
    }

    /// Whether the copier has something to do.
    pub(crate) fn has_jobs_or_stops(&self) -> bool {
        let state = self.state();
        state.stopping || !state.jobs.is_empty()
    }

    /// Bytes copied, records accepted, and bytes not yet copied, of what is not durable.
    pub(crate) fn depth(&self) -> (u64, u64, u64) {
        let state = self.state();
        (state.ram_bytes, state.tickets.len() as u64, state.backlog_bytes)
    }
}

impl State {
    fn take_batch(&mut self, batch_bytes: u64) -> (Vec<Ready>, usize) {
        let mut dropped = 0;
        while self.writing == 0 && matches!(self.tickets.front(), Some(Ticket { filling: Filling::Dropped, .. })) {
            self.finish(1);
            dropped += 1;
        }
        let mut bytes = 0;
        let mut batch: Vec<Ready> = Vec::new();
        while let Some(ticket) = self.tickets.get(self.writing)
            && let Filling::Ready(resident) = &ticket.filling
        {
            let more = resident.buffer.len() as u64;
            if !batch.is_empty() && bytes + more > batch_bytes {
                break;
            }
            bytes += more;
            batch.push(Ready {
                generation: ticket.generation,
                id: ticket.id,
                resident: Arc::clone(resident),
                accepted: ticket.accepted,
            });
            self.writing += 1;
        }
        (batch, dropped)
    }

    fn finish(&mut self, records: usize) {
        for ticket in self.tickets.drain(..records.min(self.tickets.len())) {
            self.ram_bytes -= ticket.reserved;
            self.first += 1;
        }
        self.writing = self.writing.saturating_sub(records);
    }
}

impl Accepting<'_> {
    pub(crate) fn placement(&self) -> Placement {
        self.placement
    }

    /// Gives the record a ticket.
    pub(crate) fn ticket(&mut self, id: RecordId, footprint: u64) -> u64 {
        let reserved = match self.placement {
            Placement::Inline => {
                self.state.ram_bytes += footprint;
                footprint
            }
            Placement::Deferred => {
                self.state.backlog_bytes += footprint;
                0
            }
        };
        let (generation, accepted) = (self.generation, Instant::now());
        self.state.tickets.push_back(Ticket { generation, id, filling: Filling::Waiting, reserved, accepted });
        self.state.first + self.state.tickets.len() as u64 - 1
    }

    /// Leaves the save to the copier.
    pub(crate) fn defer(mut self, job: Job) {
        self.state.jobs.push_back(job);
        drop(self.state);
        self.queue.for_copier.notify_all();
    }
}
