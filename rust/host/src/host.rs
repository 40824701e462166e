//! The running interpreter with the package in it, and the way to engines.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pyo3::prelude::*;

use crate::config::EngineConfig;
use crate::doctor::DoctorReport;
use crate::embed;
use crate::engine::Engine;
use crate::error::{Error, StartupError};
use crate::lane::{Lane, Queue, STACK_BYTES};
use crate::server::{ServeConfig, Server};
use crate::session::Session;
use crate::venv::Venv;

/// Python, running in this process with the package imported. Cheap to clone; all clones are the same interpreter.
#[derive(Debug, Clone)]
pub struct Host(Arc<Running>);

#[derive(Debug)]
struct Running {
    venv: Venv,
    /// `hwledger_omlx.host`.
    module: Py<PyModule>,
    /// Python's main thread: loads engines and models, one after the other.
    loading: Lane,
    /// A second thread for what must not wait behind a load: submit and cancel.
    calls: Lane,
    sessions: Mutex<Vec<Weak<Session>>>,
}

/// How to start the interpreter.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HostBuilder {
    venv: Option<PathBuf>,
    stdout_to_stderr: bool,
}

impl HostBuilder {
    /// Runs in this virtual environment. Without it, see [`Venv::locate`].
    pub fn venv(mut self, path: impl Into<PathBuf>) -> Self {
        self.venv = Some(path.into());
        self
    }

    /// What Python code prints goes to standard error, so that standard output is the program's alone.
    pub fn stdout_to_stderr(mut self, yes: bool) -> Self {
        self.stdout_to_stderr = yes;
        self
    }

    /// Starts Python and imports the package; blocks for a moment. Where the process hosts it already, this is a further
    /// handle to it. A program that wants signals handled installs its handlers before.
    ///
    /// # Errors
    /// [`Error::Startup`] says what is missing. After a failure past the checks of the venv, Python cannot be started
    /// again in this process, and the same error comes again.
    pub fn start(self) -> Result<Host, Error> {
        static STARTED: Mutex<Option<Result<Host, StartupError>>> = Mutex::new(None);
        let venv = Venv::locate(self.venv.as_deref())?;
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*started {
            None => {
                let outcome = Host::launch(venv, self.stdout_to_stderr);
                *started = Some(outcome.clone());
                outcome.map_err(Error::from)
            }
            Some(Ok(host)) if host.venv().path() != venv.path() => {
                Err(StartupError::AlreadyStarted { running: host.venv().path().to_owned() }.into())
            }
            Some(outcome) => outcome.clone().map_err(Error::from),
        }
    }
}

impl Host {
    /// A builder with the defaults.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    fn launch(venv: Venv, stdout_to_stderr: bool) -> Result<Self, StartupError> {
        let no_thread =
            |error: std::io::Error| StartupError::Interpreter { message: format!("no thread for it: {error}") };
        tracing::info!(venv = %venv.path().display(), found_by = %venv.found_by(), "Python starts");
        let (loading, queue) = Lane::new();
        let (reply, outcome) = std::sync::mpsc::channel();
        let target = venv.clone();
        std::thread::Builder::new()
            .name("hwledger-python".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || own_interpreter(&target, stdout_to_stderr, queue, &reply))
            .map_err(no_thread)?;
        let module =
            outcome.recv().map_err(|_| StartupError::Interpreter { message: "its thread failed".to_owned() })??;
        let calls = Lane::spawn("hwledger-calls").map_err(no_thread)?;
        Ok(Self(Arc::new(Running { venv, module, loading, calls, sessions: Mutex::default() })))
    }

    /// The environment it runs in.
    #[must_use]
    pub fn venv(&self) -> &Venv {
        &self.0.venv
    }

    /// Starts an engine: loads the fork, if it is the first, and the model. Takes as long as the model takes to load;
    /// engines load one after the other. If the future is dropped, the engine is closed as soon as it is there.
    ///
    /// # Errors
    /// [`Error::Fork`], [`Error::ForkNotFound`], [`Error::Series`], [`Error::Model`], [`Error::ModelNotFound`], or
    /// [`Error::Engine`] for settings that cannot be.
    pub async fn engine(&self, config: EngineConfig) -> Result<Engine, Error> {
        let text = serde_json::to_string(&config).map_err(|error| Error::engine(error.to_string()))?;
        let host = self.clone();
        let (session, report) = self
            .0
            .loading
            .call(move |py| {
                // Told from this thread, for the way of an event may lead through Python's logging.
                tracing::info!(model = config.model, "engine starts");
                let module = host.0.module.bind(py);
                let session = Arc::new(Session::new(module.call_method1("open_session", (text,))?.unbind()));
                let report = module.call_method1("report", (session.object(),))?.extract::<String>()?;
                host.sessions().push(Arc::downgrade(&session));
                tracing::info!(model = config.model, "engine is ready");
                Ok((session, report))
            })
            .wait()
            .await?;
        let report = serde_json::from_str(&report).map_err(|error| Error::engine(error.to_string()))?;
        Ok(Engine::new(self.clone(), session, report))
    }

    /// Starts a server: loads the fork and the models, and serves over HTTP when the future is ready. Its engine is this
    /// process's as much as the clients'. If the future is dropped, the server is stopped as soon as it is there.
    ///
    /// # Errors
    /// As [`Self::engine`]; [`Error::Engine`] also where the port cannot be listened on, or the process serves already;
    /// [`Error::Request`] where it would listen beyond this machine without a key.
    pub async fn serve(&self, config: ServeConfig) -> Result<Server, Error> {
        let text = serde_json::to_string(&config).map_err(|error| Error::engine(error.to_string()))?;
        let host = self.clone();
        let (session, object, url, report) = self
            .0
            .loading
            .call(move |py| {
                let module = host.0.module.bind(py);
                let server = module.call_method1("open_server", (text,))?;
                let (python_session, url) = (server.getattr("session")?, server.getattr("url")?.extract::<String>()?);
                let server = Arc::new(server.unbind());
                let session = Arc::new(Session::of_server(python_session.unbind(), Arc::clone(&server)));
                let report = module.call_method1("report", (session.object(),))?.extract::<String>()?;
                host.sessions().push(Arc::downgrade(&session));
                tracing::info!(url, "it serves");
                Ok((session, server, url, report))
            })
            .wait()
            .await?;
        let report = serde_json::from_str(&report).map_err(|error| Error::engine(error.to_string()))?;
        Ok(Server::new(Engine::new(self.clone(), session, report), object, url))
    }

    /// Examines the environment: package, fork, hooks, device. Loads the fork, and no model.
    ///
    /// # Errors
    /// [`Error::Python`] if the examination itself fails; what it finds wrong is in [`DoctorReport::problems`].
    pub async fn doctor(&self, fork: Option<PathBuf>) -> Result<DoctorReport, Error> {
        let host = self.clone();
        let text = self
            .0
            .loading
            .call(move |py| host.0.module.bind(py).call_method1("doctor", (fork,))?.extract::<String>())
            .wait()
            .await?;
        let report: DoctorReport = serde_json::from_str(&text).map_err(|error| Error::engine(error.to_string()))?;
        Ok(report.with_host(self.venv()))
    }

    /// Runs a command line of the package, such as `serve --port 8000`, on Python's main thread, and returns its exit code.
    /// Engines load when it has ended.
    ///
    /// # Errors
    /// [`Error::Python`] for what the command itself does not tell of.
    pub async fn run_command(&self, arguments: Vec<String>) -> Result<i32, Error> {
        let host = self.clone();
        self.0
            .loading
            .call(move |py| host.0.module.bind(py).call_method1("command", (arguments,))?.extract::<i32>())
            .wait()
            .await
    }

    /// Asks the running command to end, on behalf of a signal, and does not wait for it. The process ends at once where
    /// there is nothing yet to end, and where this was asked before.
    ///
    /// # Errors
    /// [`Error::Python`] if the command cannot be asked.
    pub async fn end_command(&self, signal: i32) -> Result<(), Error> {
        let host = self.clone();
        let asked = self.0.calls.call(move |py| host.0.module.bind(py).call_method1("end", (signal,)).map(drop));
        asked.wait().await
    }

    /// Asks the running command to read its configuration again, and does not wait for it.
    ///
    /// # Errors
    /// [`Error::Python`] if the command cannot be asked.
    pub async fn reload_command(&self) -> Result<(), Error> {
        let host = self.clone();
        let asked = self.0.calls.call(move |py| host.0.module.bind(py).call_method0("reload").map(drop));
        asked.wait().await
    }

    /// Has every token stamped when it leaves the engine, for measurements of what follows. Cannot be taken back.
    ///
    /// # Errors
    /// [`Error::Fork`] where the fork in use lacks what is stamped.
    pub async fn stamp_tokens(&self) -> Result<(), Error> {
        let host = self.clone();
        let asked = self.0.calls.call(move |py| host.0.module.bind(py).call_method0("stamp_tokens").map(drop));
        asked.wait().await
    }

    /// The stamps since the last time: tokens and characters that the request had by then, and nanoseconds of the
    /// monotonic clock.
    ///
    /// # Errors
    /// [`Error::Python`] if they cannot be told.
    pub async fn token_stamps(&self) -> Result<Vec<(usize, usize, u64)>, Error> {
        let host = self.clone();
        let asked = self.0.calls.call(move |py| host.0.module.bind(py).call_method0("token_stamps")?.extract());
        asked.wait().await
    }

    /// Closes every open engine: cancels what runs, flushes the caches, joins the threads. The interpreter stays, and
    /// further engines can be opened; a program that is done calls [`crate::exit`] next.
    ///
    /// # Errors
    /// The first failure to close; the others are closed all the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let open: Vec<_> = self.sessions().drain(..).filter_map(|session| session.upgrade()).collect();
        // All at once: each closes on a thread of its own from here on.
        let closing: Vec<_> = open.iter().map(|session| session.close()).collect();
        let mut outcome = Ok(());
        for close in closing {
            outcome = outcome.and(close.wait().await);
        }
        outcome
    }

    pub(crate) fn module(&self) -> &Py<PyModule> {
        &self.0.module
    }

    pub(crate) fn loading(&self) -> &Lane {
        &self.0.loading
    }

    pub(crate) fn calls(&self) -> &Lane {
        &self.0.calls
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Session>>> {
        let mut sessions = self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.strong_count() > 0);
        sessions
    }
}

/// The life of Python's main thread.
fn own_interpreter(
    venv: &Venv,
    stdout_to_stderr: bool,
    queue: Queue,
    reply: &std::sync::mpsc::Sender<Result<Py<PyModule>, StartupError>>,
) {
    let module = embed::start_interpreter(venv).and_then(|()| {
        Python::attach(|py| {
            let module = embed::import_package(py, venv)?;
            module.call_method1(py, "prepare", (stdout_to_stderr,)).map_err(|error| StartupError::Package {
                path: venv.path().to_owned(),
                raised: crate::error::Raised::read(py, &error),
            })?;
            Ok(module)
        })
    });
    let failed = module.is_err();
    let _ = reply.send(module);
    if !failed {
        queue.work_off();
    }
}
