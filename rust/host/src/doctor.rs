//! What an examination of the environment finds. Knows nothing of how it is printed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::ForkReport;
use crate::error::Error;
use crate::venv::{FoundBy, Venv, linked_python};

/// The environment of a host. A part that could not be examined is `None`, and a problem says why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DoctorReport {
    /// Version of this host.
    pub host: String,
    /// `major.minor` of the libpython linked in.
    pub linked_python: String,
    /// The virtual environment.
    pub venv: Option<PathBuf>,
    /// How it was come by.
    pub venv_found_by: Option<FoundBy>,
    /// `sys.executable`.
    pub interpreter: Option<PathBuf>,
    /// Full version of the running Python.
    pub python: Option<String>,
    /// The package `hwledger-omlx` in the environment.
    pub package: Option<Distribution>,
    /// Where `hwledger_omlx._native` came from; `built-in` is right.
    pub native: Option<String>,
    /// The fork, and the state of each hook.
    pub fork: Option<ForkReport>,
    /// MLX and what it runs on.
    pub device: Option<Device>,
    /// What is wrong, one line each; empty where all is well.
    pub problems: Vec<String>,
}

/// An installed Python package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Its version.
    pub version: String,
    /// Folder of its code.
    pub path: PathBuf,
}

/// What computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Version of MLX.
    pub mlx: String,
    /// MLX's default device.
    pub name: String,
}

impl DoctorReport {
    /// What can be said without Python, where it could not be started.
    #[must_use]
    pub fn of_failed_start(venv: Option<&Venv>, error: &Error) -> Self {
        Self {
            host: env!("CARGO_PKG_VERSION").to_owned(),
            linked_python: linked_python(),
            venv: venv.map(|venv| venv.path().to_owned()),
            venv_found_by: venv.map(Venv::found_by),
            problems: vec![error.to_string()],
            ..Self::default()
        }
    }

    pub(crate) fn with_host(mut self, venv: &Venv) -> Self {
        env!("CARGO_PKG_VERSION").clone_into(&mut self.host);
        self.linked_python = linked_python();
        self.venv = Some(venv.path().to_owned());
        self.venv_found_by = Some(venv.found_by());
        self
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.problems.is_empty()
    }
}
