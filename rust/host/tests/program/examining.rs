//! `doctor`, and where the environment is found.

use std::path::Path;

use crate::support::{Finished, bare_venv, finish, host, venv};
use hwledger_omlx_host::{DoctorReport, FoundBy};

fn doctor(arguments: &[&str]) -> std::process::Command {
    let mut command = host(&["doctor", "--json"]);
    command.args(arguments);
    command
}

fn report(outcome: &Finished) -> DoctorReport {
    serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", outcome.stdout, outcome.stderr))
}

/// Something is wrong, and it is said in the report and on standard error.
fn assert_unwell(outcome: &Finished, words: &[&str]) {
    let report = report(outcome);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("Traceback"), "{}", outcome.stderr);
    for word in words {
        assert!(report.problems.iter().any(|problem| problem.contains(word)), "{word}: {:?}", report.problems);
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
}

#[test]
fn with_an_empty_environment_the_folder_is_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(venv().path(), folder.path().join(".venv")).expect("linked");
    let below = folder.path().join("a/b");
    std::fs::create_dir_all(&below).expect("made");
    let outcome = finish(doctor(&[]).env_clear().env("HWLEDGER_OMLX_HOME", crate::support::home()).current_dir(&below));
    let found = report(&outcome);
    assert_eq!(found.venv_found_by, Some(FoundBy::WorkingDirectory), "{}", outcome.stderr);
    assert_eq!(outcome.code, Some(0), "{:?}", found.problems);
    let real = |path: &Path| path.canonicalize().expect("it is there");
    assert_eq!(real(&found.venv.expect("a venv")), real(venv().path()));
    let package = found.package.expect("a package");
    assert!(package.path.join("host.py").is_file());
    assert!(found.fork.is_some_and(|fork| !fork.hooks.is_empty()));
    assert!(found.device.is_some());
}

#[test]
fn an_environment_that_is_named_wins_and_python_variables_lead_nowhere() {
    let name = venv().path().to_owned();
    let outcome = finish(
        doctor(&["--venv", name.to_str().expect("UTF-8")])
            .env_clear()
            .env("HWLEDGER_OMLX_HOME", crate::support::home())
            .env("HWLEDGER_OMLX_VENV", "/nonexistent/venv")
            .env("PYTHONHOME", "/nonexistent/home")
            .env("PYTHONPATH", "/nonexistent/path")
            .current_dir("/"),
    );
    let found = report(&outcome);
    assert_eq!((outcome.code, found.venv_found_by), (Some(0), Some(FoundBy::Argument)), "{}", outcome.stderr);
    assert_eq!(found.native.as_deref(), Some("built-in"));
}

#[test]
fn no_environment() {
    assert_unwell(&finish(doctor(&[]).env_clear().current_dir("/")), &["--venv"]);
    assert_unwell(&finish(&mut doctor(&["--venv", "/nonexistent/venv"])), &["/nonexistent/venv", "no such folder"]);
}

#[test]
fn an_environment_without_the_package_of_another_version_or_broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let bare = bare_venv(folder.path());
    let named = bare.to_str().expect("UTF-8");
    assert_unwell(&finish(&mut doctor(&["--venv", named])), &["not installed", named]);

    let settings = bare.join("pyvenv.cfg");
    std::fs::write(&settings, "home = /usr/bin\nversion = 3.9.1\n").expect("written");
    assert_unwell(&finish(&mut doctor(&["--venv", named])), &["Python 3.9", "PYO3_PYTHON"]);

    std::fs::write(&settings, "home = /usr/bin\n").expect("written");
    assert_unwell(&finish(&mut doctor(&["--venv", named])), &["names no Python version"]);

    std::fs::remove_file(bare.join("bin/python")).expect("removed");
    assert_unwell(&finish(&mut doctor(&["--venv", named])), &["bin/python is missing"]);
}

#[test]
fn a_package_that_is_broken_or_of_another_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let bare = bare_venv(folder.path());
    let named = bare.to_str().expect("UTF-8");
    let packages = bare.join(format!("lib/python{}/site-packages", hwledger_omlx_host::linked_python()));
    std::fs::create_dir_all(packages.join("hwledger_omlx")).expect("made");
    std::fs::write(packages.join("hwledger_omlx/__init__.py"), "").expect("written");
    assert_unwell(&finish(&mut doctor(&["--venv", named])), &["cannot be imported", "hwledger_omlx.host"]);

    let metadata = packages.join("hwledger_omlx-99.0.dist-info");
    std::fs::create_dir(&metadata).expect("made");
    std::fs::write(metadata.join("METADATA"), "Name: hwledger-omlx\nVersion: 99.0\n").expect("written");
    assert_unwell(&finish(&mut doctor(&["--venv", named])), &["hwledger-omlx 99.0", "same version"]);
}

#[test]
fn a_fork_that_is_missing_or_too_old() {
    assert_unwell(&finish(&mut doctor(&["--fork", "/nonexistent/fork"])), &["/nonexistent/fork"]);
    let folder = tempfile::tempdir().expect("a folder");
    let package = folder.path().join("omlx");
    std::fs::create_dir(&package).expect("made");
    std::fs::write(package.join("__init__.py"), "__version__ = '0.1.0'\n").expect("written");
    let named = folder.path().to_str().expect("UTF-8");
    assert_unwell(&finish(&mut doctor(&["--fork", named])), &["too old"]);
}

#[test]
fn the_table_says_it_all() {
    let outcome = finish(&mut host(&["doctor"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for word in
        ["linked with Python", "environment", "interpreter", "package", "built-in", "fork", "hook", "MLX", "well"]
    {
        assert!(outcome.stdout.contains(word), "{word}: {}", outcome.stdout);
    }
}
