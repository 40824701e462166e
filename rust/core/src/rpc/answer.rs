//! The one answer that a request gets: a message of its own, or a part of its batch's.

use std::sync::{Arc, Mutex, PoisonError};

use super::message::{Code, Id, Rejected, error_text, result_text};
use super::output::Output;

/// Where the answer goes.
#[derive(Debug)]
enum To {
    One(Output),
    Batch(Arc<Batch>),
}

/// The answers of a batch so far.
#[derive(Debug)]
pub(super) struct Batch {
    output: Output,
    state: Mutex<Collected>,
}

#[derive(Debug, Default)]
struct Collected {
    missing: usize,
    /// Joined, in the order in which they came.
    answers: String,
}

impl Batch {
    /// Of so many calls.
    pub(super) fn new(output: Output, calls: usize) -> Arc<Self> {
        Arc::new(Self { output, state: Mutex::new(Collected { missing: calls, answers: String::new() }) })
    }

    /// One call has ended, with an answer unless it was a notification.
    fn ended(&self, answer: Option<&str>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answer {
            let before = if state.answers.is_empty() { '[' } else { ',' };
            state.answers.push(before);
            state.answers.push_str(answer);
        }
        state.missing -= 1;
        // The specification's section 6: nothing at all is sent where all were notifications.
        if state.missing == 0 && !state.answers.is_empty() {
            state.answers.push(']');
            self.output.send(std::mem::take(&mut state.answers));
        }
    }
}

/// To be given once. Dropped without, it is an internal error: whoever asked must not wait for ever.
#[derive(Debug)]
pub struct Answer {
    id: Option<Id>,
    to: To,
    given: bool,
}

impl Answer {
    pub(super) fn new(id: Option<Id>, output: Output) -> Self {
        Self { id, to: To::One(output), given: false }
    }

    pub(super) fn in_batch(id: Option<Id>, batch: Arc<Batch>) -> Self {
        Self { id, to: To::Batch(batch), given: false }
    }

    /// Whether nobody waits for it.
    #[must_use]
    pub fn is_to_notification(&self) -> bool {
        self.id.is_none()
    }

    /// The result, JSON without line feeds.
    pub fn result(mut self, result: &str) {
        let text = self.id.as_ref().map(|id| result_text(id, result));
        self.give(text);
    }

    /// An error; its data are JSON without line feeds.
    pub fn error(mut self, code: Code, why: &str, data: Option<&str>) {
        let text = self.id.as_ref().map(|id| error_text(id, code, why, data));
        self.give(text);
    }

    pub(super) fn reject(rejected: &Rejected, mut answer: Self) {
        answer.give(Some(error_text(&rejected.id, rejected.code, &rejected.why, None)));
    }

    fn give(&mut self, text: Option<String>) {
        self.given = true;
        match &self.to {
            To::One(output) => text.into_iter().for_each(|text| output.send(text)),
            To::Batch(batch) => batch.ended(text.as_deref()),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.given {
            let why = "the request was left without an answer";
            let text = self.id.as_ref().map(|id| error_text(id, Code::Internal, why, None));
            self.give(text);
        }
    }
}
