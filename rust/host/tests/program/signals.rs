//! SIGINT and SIGTERM end the program in under two seconds, whatever it is in the middle of.

use std::io::Write;
use std::time::Duration;

use crate::support::{Running, generate};
use libc::{SIGINT, SIGTERM};

const LIMIT: Duration = Duration::from_secs(2);

fn assert_ends(child: &mut Running, signal: i32, phase: &str) {
    child.signal(signal);
    let (status, taken) = child.wait();
    println!("signal {signal} during {phase}: ended in {:.3} s", taken.as_secs_f64());
    assert_eq!(status.code(), Some(128 + signal), "{phase}: {status}");
    assert!(taken < LIMIT, "{phase}: {taken:?}");
}

#[test]
fn during_load() {
    for signal in [SIGINT, SIGTERM] {
        let mut child = Running::start(generate(&["--prompt", "a"]).env("HWLEDGER_OMLX_LOG", "info"));
        child.wait_for_log("engine starts");
        assert_ends(&mut child, signal, "load");
    }
}

/// 300,000 tokens: minutes of prefill, none of which the engine can leave at once.
fn long_prompt() -> tempfile::NamedTempFile {
    let mut prompt = tempfile::NamedTempFile::new().expect("a file");
    prompt.write_all("abcdefghi ".repeat(30_000).as_bytes()).expect("written");
    prompt
}

fn prefilling(prompt: &tempfile::NamedTempFile) -> Running {
    let file = prompt.path().to_str().expect("UTF-8");
    let mut child = Running::start(&mut generate(&["--prompt-file", file, "--json"]));
    child.wait_for_output("\"progress\"");
    child
}

#[test]
fn during_prefill() {
    let prompt = long_prompt();
    for signal in [SIGINT, SIGTERM] {
        assert_ends(&mut prefilling(&prompt), signal, "prefill");
    }
}

#[test]
fn during_decode() {
    for signal in [SIGINT, SIGTERM] {
        let mut child = Running::start(&mut generate(&["--prompt", "a", "--max-tokens", "100000", "--json"]));
        child.wait_for_output("\"token\"");
        assert_ends(&mut child, signal, "decode");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let prompt = long_prompt();
    let mut child = prefilling(&prompt);
    child.signal(SIGINT);
    child.signal(SIGTERM);
    let (status, taken) = child.wait();
    println!("second signal during prefill: ended in {:.3} s", taken.as_secs_f64());
    // Which of two pending signals is handled first is the system's choice.
    assert!(matches!(status.code(), Some(130 | 143)), "{status}");
    assert!(taken < Duration::from_millis(800), "{taken:?}");
}
