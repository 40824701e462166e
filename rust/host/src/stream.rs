//! The stream of one request's events, from the engine's thread to whoever polls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_core::Stream;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::Error;
use crate::events::Event;
use crate::host::Host;
use crate::request::GenerateRequest;
use crate::session::Session;

type Item = Result<Event, Error>;

/// Events of one request; the last is [`Event::Done`] or an error. Dropped earlier, it cancels the request.
///
/// The engine never waits for a slow reader: at most the request's own events, `max_tokens` of them, are kept for it.
#[derive(Debug)]
pub struct EventStream {
    host: Host,
    session: Arc<Session>,
    request_id: String,
    events: UnboundedReceiver<Item>,
    finished: bool,
}

impl EventStream {
    pub(crate) fn submit(host: &Host, session: &Arc<Session>, mut request: GenerateRequest) -> Self {
        let (sender, events) = unbounded_channel();
        // Known before the engine has seen the request, so that it can be cancelled from the first moment.
        let request_id = request.request_id.get_or_insert_with(next_request_id).clone();
        if session.is_closed() {
            let _ = sender.send(Err(Error::closed()));
        } else {
            match serde_json::to_string(&request) {
                Ok(text) => hand_over(host, session, text, sender),
                Err(error) => drop(sender.send(Err(Error::request(error.to_string())))),
            }
        }
        Self { host: host.clone(), session: Arc::clone(session), request_id, events, finished: false }
    }

    /// Id of the request, which its events carry.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Asks the engine to end the request. The stream goes on to its [`Event::Done`], whose finish reason is `cancelled`
    /// unless the request had ended before.
    pub fn cancel(&self) {
        let (session, request_id) = (Arc::clone(&self.session), self.request_id.clone());
        self.host.calls().send(move |py| {
            if let Err(error) = session.object().call_method1(py, "cancel", (request_id.as_str(),)) {
                // A closed engine has cancelled it already.
                tracing::debug!(request_id, %error, "not cancelled");
            }
        });
    }

    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Item> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let item = match self.events.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(item)) => item,
            Poll::Ready(None) => Err(Error::engine("the engine dropped the request without a last event")),
        };
        self.finished = matches!(item, Err(_) | Ok(Event::Done(_)));
        Poll::Ready(Some(item))
    }
}

impl Stream for EventStream {
    type Item = Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        self.get_mut().poll_event(context)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.finished {
            self.cancel();
        }
    }
}

fn hand_over(host: &Host, session: &Arc<Session>, request: String, sender: UnboundedSender<Item>) {
    let (host_there, session) = (host.clone(), Arc::clone(session));
    host.calls().send(move |py| {
        let refusals = sender.clone();
        let submitted = Bound::new(py, Sink { sender })
            .and_then(|sink| host_there.module().call_method1(py, "submit", (session.object(), request, sink)));
        if let Err(error) = submitted {
            let _ = refusals.send(Err(Error::from_python(py, &error)));
        }
    });
}

fn next_request_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("host-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The `deliver` of a request: called on the engine's thread with each event. Never waits.
#[pyclass(frozen)]
struct Sink {
    sender: UnboundedSender<Item>,
}

#[pymethods]
impl Sink {
    #[pyo3(name = "__call__")]
    fn deliver(&self, py: Python<'_>, event: &Bound<'_, PyAny>) {
        let item = if event.is_instance_of::<PyBaseException>() {
            Err(Error::from_python(py, &PyErr::from_value(event.clone())))
        } else {
            match Event::read(event) {
                Ok(Some(event)) => Ok(event),
                Ok(None) => return,
                Err(error) => Err(Error::from_python(py, &error)),
            }
        };
        // The reader may be gone; then the request is being cancelled.
        let _ = self.sender.send(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an event carries over, without an engine.
    #[test]
    fn a_token_crosses_whole() {
        let host = Host::builder().start().expect("an environment with the package");
        let (sender, mut events) = unbounded_channel();
        let delivered = host.calls().call(move |py| {
            let sink = Bound::new(py, Sink { sender })?;
            let token = py.import("hwledger_omlx.engine.events")?.getattr("TokenEvent")?;
            sink.call1((token.call1(("request", " word\u{e9}", (7, 8)))?,))?;
            Ok(())
        });
        let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let event = tokio.block_on(async {
            delivered.wait().await.expect("delivered");
            events.recv().await
        });
        let Some(Ok(Event::Token(token))) = event else { panic!("{event:?}") };
        assert_eq!((token.request_id.as_str(), token.text.as_str()), ("request", " word\u{e9}"));
        assert_eq!(token.token_ids, [7, 8]);
    }
}
