//! What waits between the engine's thread and the reader of a stream: a bounded number of events, and nothing lost.
//!
//! The engine decodes all requests in one batch, so a slow reader may not hold it up. Where the buffer is full, tokens join
//! the last event that waits and progress takes the place of the last; the reader gets larger pieces, not a longer queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::Error;
use crate::events::Event;

pub(crate) type Item = Result<Event, Error>;

/// Both ends share it. The writer is gone when the last [`Writer`] is dropped.
#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    waiting: VecDeque<Item>,
    capacity: usize,
    waker: Option<Waker>,
    writers: usize,
    reader_left: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Shared>);

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Shared>);

/// Both ends of a buffer of at least one event.
pub(crate) fn buffer(capacity: usize) -> (Writer, Reader) {
    let state =
        State { waiting: VecDeque::new(), capacity: capacity.max(1), waker: None, writers: 1, reader_left: false };
    let shared = Arc::new(Shared(Mutex::new(state)));
    (Writer(Arc::clone(&shared)), Reader(shared))
}

impl Writer {
    /// Adds an event. Never waits.
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.0.state();
        if state.reader_left {
            return;
        }
        state.put(item);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether there is room for an event that nobody must have.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.0.state();
        !state.reader_left && state.waiting.len() < state.capacity
    }
}

impl Clone for Writer {
    fn clone(&self) -> Self {
        self.0.state().writers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writers -= 1;
        let waker = if state.writers == 0 { state.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Reader {
    /// The next event; `None` where no further one can come.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = self.0.state();
        if let Some(item) = state.waiting.pop_front() {
            return Poll::Ready(Some(item));
        }
        if state.writers == 0 {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.reader_left = true;
        // Dropped without the lock: an event's drop may be long.
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        drop(left);
    }
}

impl State {
    fn put(&mut self, item: Item) {
        if self.waiting.len() < self.capacity {
            self.waiting.push_back(item);
            return;
        }
        match (self.waiting.back_mut(), item) {
            (Some(Ok(Event::Token(last))), Ok(Event::Token(more))) => {
                last.text.push_str(&more.text);
                last.token_ids.extend(more.token_ids);
            }
            (Some(Ok(Event::Progress(last))), Ok(Event::Progress(later))) => *last = later,
            // Tells of a past that the reader has not come to, and is made up for by what waits.
            (_, Ok(Event::Progress(_) | Event::Memory(_))) => {}
            // The first token after another kind, and the end: one more of each at most.
            (_, item) => self.waiting.push_back(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{ProgressEvent, TokenEvent};

    #[expect(clippy::unnecessary_wraps, reason = "what a writer takes")]
    fn token(number: u32) -> Item {
        let text = format!("{number} ");
        Ok(Event::Token(TokenEvent { request_id: "r".to_owned(), text, token_ids: vec![number] }))
    }

    #[expect(clippy::unnecessary_wraps, reason = "what a writer takes")]
    fn progress(done_tokens: u64) -> Item {
        Ok(Event::Progress(ProgressEvent { request_id: "r".to_owned(), done_tokens, total_tokens: 9 }))
    }

    fn drain(reader: &mut Reader) -> Vec<Item> {
        let mut context = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match reader.poll_next(&mut context) {
            Poll::Ready(item) => item,
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn a_slow_reader_gets_every_token_in_few_events() {
        let (writer, mut reader) = buffer(4);
        for done in 0..3 {
            writer.push(progress(done));
        }
        for number in 0..10_000 {
            writer.push(token(number));
        }
        writer.push(Err(Error::engine("the end")));
        let events = drain(&mut reader);
        assert!(events.len() <= 4 + 1, "{}", events.len());
        let ids: Vec<u32> = events
            .iter()
            .filter_map(|item| if let Ok(Event::Token(token)) = item { Some(token.token_ids.clone()) } else { None })
            .flatten()
            .collect();
        assert_eq!(ids, (0..10_000).collect::<Vec<_>>());
        assert!(events.last().is_some_and(Result::is_err));
    }

    #[test]
    fn progress_in_a_full_buffer_is_the_latest() {
        let (writer, mut reader) = buffer(2);
        (0..100).for_each(|done| writer.push(progress(done)));
        writer.push(token(1));
        writer.push(progress(100));
        writer.push(token(2));
        let events = drain(&mut reader);
        let last = &events[1];
        assert!(matches!(last, Ok(Event::Progress(progress)) if progress.done_tokens == 99), "{last:?}");
        assert!(matches!(&events[2], Ok(Event::Token(token)) if token.token_ids == [1, 2]));
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let (writer, reader) = buffer(4);
        writer.push(token(1));
        drop(reader);
        writer.push(token(2));
        assert!(!writer.has_room());
        assert!(writer.0.state().waiting.is_empty());
    }

    #[test]
    fn a_reader_is_woken_by_an_event_and_by_the_end() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(0.into()));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let woken = || count.0.load(std::sync::atomic::Ordering::Relaxed);
        let (writer, mut reader) = buffer(4);
        assert!(reader.poll_next(&mut context).is_pending());
        writer.push(token(1));
        writer.push(token(2));
        assert_eq!(woken(), 1);
        assert!(reader.poll_next(&mut context).is_ready() && reader.poll_next(&mut context).is_ready());
        assert!(reader.poll_next(&mut context).is_pending());
        let other = writer.clone();
        drop(writer);
        assert_eq!(woken(), 1);
        drop(other);
        assert_eq!(woken(), 2);
        assert!(matches!(reader.poll_next(&mut context), Poll::Ready(None)));
    }
}
