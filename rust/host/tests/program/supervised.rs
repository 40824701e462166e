//! The supervisor of `serve`, and several processes on one cache.

use std::net::TcpStream;

use libc::{SIGKILL, SIGTERM};
use serde_json::json;

use crate::servers::{address, cached, complete, serving, started, stored_tokens};
use crate::support::{finish, get, get_text, host, model, serve, until};

#[test]
fn what_is_supervised_ends_with_its_supervisor() {
    let supervised = ["--no-cache", "--restart-stuck", "--stuck-after-seconds", "1"];
    let (mut supervisor, url) = started(&supervised);
    let answers = || TcpStream::connect(url.strip_prefix("http://").expect("a URL")).is_ok();
    assert!(answers());
    supervisor.signal(SIGKILL);
    // Its output is the server's too, and ends when both are gone.
    assert_eq!(supervisor.wait().0.code(), None);
    assert!(!answers());

    let (mut supervisor, _) = started(&supervised);
    supervisor.signal(SIGTERM);
    assert_eq!(supervisor.wait().0.code(), Some(0));
}

/// The process that a process has started.
#[cfg(target_os = "linux")]
fn child_of(parent: u32) -> i32 {
    let is_child = |id: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // After the name, which may have anything in it: the state and the parent.
        let parent_of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parent_of == Some(parent)
    };
    let processes = std::fs::read_dir("/proc").expect("processes");
    let mut ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.find(is_child).expect("a child")
}

#[cfg(target_os = "linux")]
#[test]
#[expect(unsafe_code, reason = "std sends SIGKILL alone")]
fn one_that_falls_silent_is_started_again_with_its_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let kv = folder.path().join("kv");
    let config = folder.path().join("hwledger.toml");
    let text = "[server]\nrestart_stuck = true\nrestart_after_seconds = 1\n[cache]\ndir = \"kv\"\n";
    std::fs::write(&config, text).expect("written");
    let (mut supervisor, url) = serving(serve(&["--config"]).arg(&config));
    let four = json!({"max_tokens": 4});
    complete(&url, "hello ", &four);
    assert!(cached(&complete(&url, "hello ", &four)) > 300);
    until(|| get_text(&url, "/metrics"), |said| durable_bytes(said) > 0.0);
    let child = child_of(supervisor.id());
    // SAFETY: no preconditions; the supervisor waits for the child, so the id is its own.
    assert_eq!(unsafe { libc::kill(child, libc::SIGSTOP) }, 0);
    let again = address(&mut supervisor);
    assert_ne!(child_of(supervisor.id()), child);
    assert!(cached(&complete(&again, "hello ", &four)) >= 256, "the first block at least");
    supervisor.signal(SIGTERM);
    assert_eq!(supervisor.wait().0.code(), Some(0));
    assert!(stored_tokens(&kv) > 300);
}

/// What of the cache is on the disk and still in RAM.
#[cfg(target_os = "linux")]
fn durable_bytes(metrics: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix("hwledger_cache_hot_bytes "));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{metrics}"))
}

#[test]
fn a_configuration_that_cannot_be_is_said_in_one_line_before_a_child_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hwledger.toml");
    let cases = [
        ("[server]\nrestart_stuk = true\n", &[][..], &[][..], "hwledger.toml:2: server.restart_stuk: no such setting"),
        ("", &["--restart-after-seconds", "-1"], &[], "--restart-after-seconds"),
        ("", &["--restart-stuck", "--restart-after-seconds", "soon"], &[], "--restart-after-seconds"),
        ("", &[], &[("HWLEDGER_OMLX_RESTART_STUCK", "maybe")], "HWLEDGER_OMLX_RESTART_STUCK"),
        (
            "[server]\nrestart_stuck = 3\n",
            &["--restart-stuck"],
            &[("HWLEDGER_OMLX_RESTART_AFTER_SECONDS", "0")],
            "above 0",
        ),
    ];
    for (text, arguments, variables, word) in cases {
        std::fs::write(&file, text).expect("written");
        let mut command = host(&["serve", "--config"]);
        command.arg(&file).arg(model()).args(arguments).envs(variables.iter().copied());
        let outcome = finish(&mut command);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{word}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{word}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
}

#[test]
fn two_on_one_folder_both_serve_and_one_has_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let kv = folder.path().join("kv");
    let named = kv.to_str().expect("UTF-8");
    let (mut first, url) = started(&["--cache-dir", named]);
    let (mut second, other) = started(&["--cache-dir", named]);
    second.wait_for_log(named);
    let health = get(&other, "/health");
    let state = health["cache"]["state"].as_str().unwrap_or_default();
    assert!(health["status"] == "ok" && state.starts_with("off: ") && state.contains("in use"), "{health}");
    assert_eq!(get(&url, "/health")["cache"]["state"], "running");
    let four = json!({"max_tokens": 4});
    for round in 0..3 {
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| complete(&url, "hello ", &four));
            let two = scope.spawn(|| complete(&other, "hello ", &four));
            (one.join().expect("an answer"), two.join().expect("an answer"))
        });
        assert_eq!(one["choices"][0]["text"], two["choices"][0]["text"]);
        assert_eq!((cached(&one) > 300, cached(&two)), (round > 0, 0), "round {round}: {one} {two}");
    }
    first.signal(SIGKILL);
    assert_eq!(first.wait().0.code(), None);
    assert_eq!(complete(&other, "hello ", &four)["usage"]["completion_tokens"], 4);
    stored_tokens(&kv);
    second.signal(SIGTERM);
    assert_eq!(second.wait().0.code(), Some(0));
}
