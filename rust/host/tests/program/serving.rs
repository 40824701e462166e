//! `serve` and `rpc` as programs: what they are told on their command line and by their pipes.

use std::io::Read;
use std::process::{Command, Stdio};

use libc::{SIGHUP, SIGINT, SIGTERM};
use serde_json::json;

use crate::servers::{started, streaming};
use crate::support::{Running, finish, home, host, model};

#[test]
fn an_answer_that_takes_too_long_is_cut_off() {
    let (mut child, url) = started(&["--no-cache", "--shutdown-seconds", "1"]);
    let mut stream = streaming(&url, 1 << 18);
    child.signal(SIGINT);
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(child.wait().0.code(), Some(0));
}

#[test]
fn rpc_answers_on_its_pipe_and_ends_when_it_is_told_to() {
    let mut child = Running::start(host(&["rpc", "--no-cache"]).arg(model()).stdin(Stdio::piped()));
    child.send_line(r#"{"jsonrpc": "2.0", "id": 1, "method": "health"}"#);
    child.wait_for_output(r#""status":"ok""#);
    let params = json!({"prompt": "a", "max_tokens": 1 << 18, "request_id": "endless", "stream": true});
    child.send_line(&json!({"jsonrpc": "2.0", "id": 2, "method": "generate", "params": params}).to_string());
    child.wait_for_output(r#""method":"token""#);
    // A reload with nothing to change disturbs nobody.
    child.signal(SIGHUP);
    child.wait_for_output(r#""method":"token""#);
    child.signal(SIGTERM);
    child.signal(SIGINT);
    assert!(matches!(child.wait().0.code(), Some(130 | 143)));
}

#[test]
fn rpc_answers_what_it_was_asked_when_its_input_ends() {
    let mut child = Running::start(host(&["rpc", "--no-cache"]).arg(model()).stdin(Stdio::piped()));
    let params = json!({"prompt": "a", "max_tokens": 20, "temperature": 0});
    child.send_line(&json!({"jsonrpc": "2.0", "id": 1, "method": "generate", "params": params}).to_string());
    child.close_input();
    child.wait_for_output(r#""completion_tokens":20"#);
    assert_eq!(child.wait().0.code(), Some(0));
}

#[test]
fn rpc_without_input_ends_and_without_output_refuses() {
    let refused = "standard output is closed or the null device";
    for (streams, code, said) in [
        ("<&-", 0, None),
        ("</dev/null", 0, None),
        (">&-", 2, Some(refused)),
        (">/dev/null", 2, Some(refused)),
        ("<&- >&-", 2, Some(refused)),
    ] {
        let host = host(&[]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec \"$0\" rpc --no-cache {streams}")).arg(host.get_program());
        shell.env("HWLEDGER_OMLX_HOME", home()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let outcome = finish(&mut shell);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{streams}: {}", outcome.stderr);
        let lines: Vec<_> = outcome.stderr.lines().collect();
        assert_eq!(lines.len(), usize::from(said.is_some()), "{streams}: {lines:?}");
        assert!(lines.iter().zip(said).all(|(line, said)| line.contains(said)), "{streams}: {lines:?}");
    }
}

#[test]
fn what_is_wrong_with_the_options_is_said_in_one_line() {
    for (arguments, word) in [
        (&["--venv"][..], "--venv"),
        (&["--port", "many"], "--port"),
        (&["--host", "0.0.0.0"], "--api-key"),
        (&["--restart-stuck", "--no-such-option"], "--no-such-option"),
    ] {
        let outcome = finish(host(&["serve"]).arg(model()).args(arguments));
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(word), "{arguments:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("Traceback"), "{}", outcome.stderr);
    }
}
