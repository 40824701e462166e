//! The stream of one request's events, from the engine's thread to whoever polls.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use hwledger_omlx_core::memory::live::LayerMemory;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use crate::buffer::{Item, Reader, Writer, buffer};
use crate::error::Error;
use crate::events::Event;
use crate::host::Host;
use crate::request::GenerateRequest;
use crate::session::Session;

/// Events of one request; the last is [`Event::Done`] or an error. Dropped earlier, it cancels the request.
///
/// The engine never waits for a slow reader, and no queue grows for it: at most
/// [`GenerateRequest::buffered_events`] wait, and further tokens join the last of them.
#[derive(Debug)]
pub struct EventStream {
    host: Host,
    session: Arc<Session>,
    request_id: String,
    events: Reader,
    finished: bool,
}

impl EventStream {
    pub(crate) fn submit(host: &Host, session: &Arc<Session>, mut request: GenerateRequest) -> Self {
        let (writer, events) = buffer(request.buffered_events);
        // Known before the engine has seen the request, so that it can be cancelled from the first moment.
        let request_id = request.request_id.get_or_insert_with(next_request_id).clone();
        if session.is_closed() {
            writer.push(Err(Error::closed()));
        } else {
            match serde_json::to_string(&request) {
                Ok(text) => {
                    hand_over(host, session, text, request.memory.then(|| request.model.unwrap_or_default()), writer);
                }
                Err(error) => writer.push(Err(Error::request(error.to_string()))),
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
        let item = match self.events.poll_next(context) {
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

/// Submits a request, whose events go to `writer`; `memory_of` names the model whose samples go there too,
/// the first one where it is empty.
fn hand_over(host: &Host, session: &Arc<Session>, request: String, memory_of: Option<String>, writer: Writer) {
    let (host_there, session) = (host.clone(), Arc::clone(session));
    host.calls().send(move |py| {
        let refusals = writer.clone();
        let submitted = (|| {
            let module = host_there.module();
            let ledger = match memory_of {
                Some(model) => module.call_method1(py, "memory_ledger", (session.object(), model))?.extract(py)?,
                None => None,
            };
            let sink = Bound::new(py, Sink { writer, samples: ledger.map(|ledger| Samples::from_now_on(&ledger)) })?;
            module.call_method1(py, "submit", (session.object(), request, sink))
        })();
        if let Err(error) = submitted {
            refusals.push(Err(Error::from_python(py, &error)));
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
    writer: Writer,
    samples: Option<Samples>,
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
        if let Some(samples) = &self.samples {
            samples.pass_on(&self.writer);
        }
        self.writer.push(item);
    }
}

/// A place in a model's samples of memory.
struct Samples {
    ledger: Arc<LayerMemory>,
    next: Mutex<u64>,
}

impl Samples {
    fn from_now_on(ledger: &Py<hwledger_omlx_extension::LayerMemory>) -> Self {
        let ledger = ledger.get().shared();
        let next = Mutex::new(ledger.samples());
        Self { ledger, next }
    }

    /// Passes on what was sampled since the last time, as far as there is room; the rest stays in the ledger's ring.
    fn pass_on(&self, writer: &Writer) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while *next < self.ledger.samples() && writer.has_room() {
            let Some(sample) = self.ledger.event(*next) else { return };
            *next = sample.number + 1;
            writer.push(Ok(Event::Memory(Box::new(sample))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an event carries over, without an engine.
    #[test]
    fn a_token_crosses_whole() {
        let host = Host::builder().start().expect("an environment with the package");
        let (writer, mut events) = buffer(8);
        let delivered = host.calls().call(move |py| {
            let sink = Bound::new(py, Sink { writer, samples: None })?;
            let token = py.import("hwledger_omlx.engine.events")?.getattr("TokenEvent")?;
            sink.call1((token.call1(("request", " word\u{e9}", (7, 8)))?,))?;
            Ok(())
        });
        let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let event = tokio.block_on(async {
            delivered.wait().await.expect("delivered");
            std::future::poll_fn(|context| events.poll_next(context)).await
        });
        let Some(Ok(Event::Token(token))) = event else { panic!("{event:?}") };
        assert_eq!((token.request_id.as_str(), token.text.as_str()), ("request", " word\u{e9}"));
        assert_eq!(token.token_ids, [7, 8]);
    }
}
