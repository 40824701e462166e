//! Finds the virtual environment to run in, and checks what can be checked before Python starts.

use std::env;
use std::ffi::CStr;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::StartupError;

/// A virtual environment whose interpreter is of the version linked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Venv {
    path: PathBuf,
    found_by: FoundBy,
}

/// How a venv was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// The caller named it.
    Argument,
    /// The variable `HWLEDGER_OMLX_VENV`.
    OwnVariable,
    /// The variable `VIRTUAL_ENV`, which an activated environment sets.
    VirtualEnv,
    /// A folder `.venv` in the working directory or above it.
    WorkingDirectory,
}

impl fmt::Display for FoundBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Argument => "named by the caller",
            Self::OwnVariable => "from HWLEDGER_OMLX_VENV",
            Self::VirtualEnv => "from VIRTUAL_ENV",
            Self::WorkingDirectory => "found from the working directory upwards",
        })
    }
}

impl Venv {
    /// The venv `named`, or else that of `HWLEDGER_OMLX_VENV`, of `VIRTUAL_ENV`, or the nearest `.venv` upwards from the
    /// working directory. The first of these that is set is taken, and is an error if it is not usable.
    ///
    /// # Errors
    /// [`StartupError::VenvNotFound`], [`StartupError::NotAVenv`] or [`StartupError::PythonVersion`].
    pub fn locate(named: Option<&Path>) -> Result<Self, StartupError> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let (path, found_by) = named
            .map(|path| (path.to_owned(), FoundBy::Argument))
            .or_else(|| variable("HWLEDGER_OMLX_VENV").map(|path| (path, FoundBy::OwnVariable)))
            .or_else(|| variable("VIRTUAL_ENV").map(|path| (path, FoundBy::VirtualEnv)))
            .or_else(|| upwards(&env::current_dir().ok()?).map(|path| (path, FoundBy::WorkingDirectory)))
            .ok_or(StartupError::VenvNotFound)?;
        // Links are kept: Python looks for pyvenv.cfg beside the interpreter as it was named.
        let path = std::path::absolute(&path).unwrap_or(path);
        let found = version(&path)?;
        let linked = linked_python();
        if found != linked {
            return Err(StartupError::PythonVersion { path, found, linked });
        }
        Ok(Self { path, found_by })
    }

    /// Its folder, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it was come by.
    #[must_use]
    pub fn found_by(&self) -> FoundBy {
        self.found_by
    }

    /// Its interpreter.
    #[must_use]
    pub fn executable(&self) -> PathBuf {
        executable(&self.path)
    }
}

fn executable(venv: &Path) -> PathBuf {
    venv.join("bin").join("python")
}

fn upwards(from: &Path) -> Option<PathBuf> {
    from.ancestors().map(|folder| folder.join(".venv")).find(|folder| folder.join("pyvenv.cfg").is_file())
}

/// `major.minor` of a venv's interpreter, as pyvenv.cfg has it (PEP 405; `version` is of the venv module, `version_info` of
/// virtualenv and uv).
fn version(path: &Path) -> Result<String, StartupError> {
    let not_a_venv = |problem: &str| StartupError::NotAVenv { path: path.to_owned(), problem: problem.to_owned() };
    if !path.is_dir() {
        return Err(not_a_venv("no such folder"));
    }
    let settings = std::fs::read_to_string(path.join("pyvenv.cfg")).map_err(|_| not_a_venv("it has no pyvenv.cfg"))?;
    if !executable(path).is_file() {
        return Err(not_a_venv("bin/python is missing, or a link to an interpreter that is gone"));
    }
    settings
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| matches!(key.trim(), "version" | "version_info"))
        .and_then(|(_, value)| major_minor(value.trim()))
        .ok_or_else(|| not_a_venv("its pyvenv.cfg names no Python version"))
}

fn major_minor(version: &str) -> Option<String> {
    let mut parts = version.split(['.', ' ']);
    let (major, minor) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    Some(format!("{major}.{minor}"))
}

/// `major.minor` of the libpython linked in.
#[must_use]
pub fn linked_python() -> String {
    let version = linked_python_version();
    major_minor(&version).unwrap_or(version)
}

#[expect(unsafe_code, reason = "the only place that knows it")]
fn linked_python_version() -> String {
    // SAFETY: Py_GetVersion may be called before Python starts, and returns a static string.
    unsafe { CStr::from_ptr(pyo3::ffi::Py_GetVersion()) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_every_maker_of_venvs() {
        assert_eq!(major_minor("3.11.7").as_deref(), Some("3.11"));
        assert_eq!(major_minor("3.13.0.final.0").as_deref(), Some("3.13"));
        assert_eq!(major_minor("3.14 (main)").as_deref(), Some("3.14"));
        assert_eq!(major_minor("three"), None);
    }

    #[test]
    fn a_folder_without_pyvenv_cfg_is_no_venv() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Venv::locate(Some(folder.path())).expect_err("not a venv");
        assert!(matches!(&error, StartupError::NotAVenv { problem, .. } if problem.contains("pyvenv.cfg")), "{error}");
    }
}
