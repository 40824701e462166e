//! JSON-RPC over file descriptors as Python sees it. Parameters arrive as objects; what is sent leaves as JSON text.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hwledger_omlx_core::rpc as core;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyBrokenPipeError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use serde_json::Value;

/// One client: its requests, and the queue of what is sent to it.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct RpcConnection(core::Connection);

#[pymethods]
impl RpcConnection {
    #[new]
    #[pyo3(signature = (input_fd, output_fd, *, message_bytes, queue_bytes))]
    fn new(input_fd: RawFd, output_fd: RawFd, message_bytes: usize, queue_bytes: usize) -> PyResult<Self> {
        let limits = core::Limits { message_bytes, queue_bytes };
        Ok(Self(core::Connection::open(copy_of(input_fd)?, copy_of(output_fd)?, limits)?))
    }

    /// The next requests; none after so long, or when woken; None when there will be none.
    fn receive(&self, py: Python<'_>, at_most_s: f64) -> PyResult<Option<Vec<RpcRequest>>> {
        let at_most = duration(at_most_s)?;
        match py.detach(|| self.0.receive(at_most)) {
            Ok(core::Received::Requests(requests)) => {
                requests.into_iter().map(|request| RpcRequest::new(py, request)).collect::<PyResult<_>>().map(Some)
            }
            Ok(core::Received::Nothing) => Ok(Some(Vec::new())),
            Ok(core::Received::Ended) => Ok(None),
            Err(broken) => Err(PyBrokenPipeError::new_err(broken.to_string())),
        }
    }

    /// Ends a wait in `receive`, or the next one.
    fn wake(&self) {
        self.0.wake();
    }

    /// Sends a notification.
    fn notify(&self, method: &str, params_json: &str) {
        self.0.output().notify(method, params_json);
    }

    /// A stream of notifications with an id and a text.
    fn stream(&self, method: &str, request_id: &str) -> RpcTextStream {
        RpcTextStream(self.0.output().stream(method, request_id))
    }

    /// Waits until less than the bound waits to be written, or for so long. Whether it does.
    fn wait_for_room(&self, py: Python<'_>, at_most_s: f64) -> PyResult<bool> {
        let at_most = duration(at_most_s)?;
        Ok(py.detach(|| self.0.output().wait_for_room(at_most)))
    }

    /// Waits until all is written, or for so long. Whether it is.
    fn flush(&self, py: Python<'_>, at_most_s: f64) -> PyResult<bool> {
        let at_most = duration(at_most_s)?;
        Ok(py.detach(|| self.0.output().flush(at_most)))
    }

    /// Bytes that wait to be written.
    #[getter]
    fn waiting_bytes(&self) -> usize {
        self.0.output().waiting_bytes()
    }

    /// Why nothing can be written any more; None where it can.
    #[getter]
    fn broken(&self) -> Option<String> {
        self.0.output().broken().map(|broken| broken.to_string())
    }

    /// Takes nothing more to send; what waits is still written.
    fn close(&self) {
        self.0.output().close();
    }
}

/// A request that waits for its answer.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct RpcRequest {
    /// What is called.
    #[pyo3(get)]
    method: String,
    /// A dict, a list, or None where there are none.
    #[pyo3(get)]
    params: Option<Py<PyAny>>,
    /// Whether nobody waits for an answer.
    #[pyo3(get)]
    is_notification: bool,
    answer: Mutex<Option<core::Answer>>,
}

#[pymethods]
impl RpcRequest {
    /// Answers with a result, JSON text.
    fn result(&self, result_json: &str) -> PyResult<()> {
        self.take()?.result(one_line(result_json)?);
        Ok(())
    }

    /// Answers with an error; its data are JSON text.
    #[pyo3(signature = (code, message, data_json=None))]
    fn error(&self, code: i32, message: &str, data_json: Option<&str>) -> PyResult<()> {
        let code = core::Code::from_number(code)
            .ok_or_else(|| PyValueError::new_err(format!("{code} is no code of the protocol's")))?;
        self.take()?.error(code, message, data_json.map(one_line).transpose()?);
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("RpcRequest({:?})", self.method)
    }
}

impl RpcRequest {
    fn new(py: Python<'_>, request: core::Request) -> PyResult<Self> {
        Ok(Self {
            method: request.method,
            params: request.params.map(|params| object(py, params)).transpose()?,
            is_notification: request.answer.is_to_notification(),
            answer: Mutex::new(Some(request.answer)),
        })
    }

    fn take(&self) -> PyResult<core::Answer> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.ok_or_else(|| PyRuntimeError::new_err(format!("{} was answered before", self.method)))
    }
}

/// The text of one request as it comes.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct RpcTextStream(core::TextStream);

#[pymethods]
impl RpcTextStream {
    /// Sends a piece. Never waits.
    fn send(&self, text: &str) {
        self.0.send(text);
    }
}

/// A descriptor of our own for the same file.
#[expect(unsafe_code, reason = "a number from Python")]
fn copy_of(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(PyValueError::new_err(format!("{fd} is no file descriptor")));
    }
    // SAFETY: it is borrowed for the one call that copies it, and that says so where it is not open.
    let copied = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
    copied.map_err(|error| PyOSError::new_err(format!("file descriptor {fd} cannot be used: {error}")))
}

fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(format!("at_most_s: {error}")))
}

/// A line feed would end the message in its middle.
fn one_line(json: &str) -> PyResult<&str> {
    if json.contains('\n') {
        return Err(PyValueError::new_err("a message is one line"));
    }
    Ok(json)
}

fn object(py: Python<'_>, value: Value) -> PyResult<Py<PyAny>> {
    match value {
        Value::Null => Ok(py.None()),
        Value::Bool(truth) => truth.into_py_any(py),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into_py_any(py),
            (None, Some(number)) => number.into_py_any(py),
            (None, None) => number.as_f64().into_py_any(py),
        },
        Value::String(text) => text.into_py_any(py),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| object(py, item)).collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, items)?.into_py_any(py)
        }
        Value::Object(fields) => {
            let made = PyDict::new(py);
            for (name, value) in fields {
                made.set_item(name, object(py, value)?)?;
            }
            made.into_py_any(py)
        }
    }
}
