//! `serve` as a program: whom it serves, and how it ends in every phase.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use libc::{SIGHUP, SIGINT, SIGKILL, SIGTERM};
use serde_json::json;

use crate::support::{Running, finish, generate, home, host, model, post, python, send, serve, venv};

/// A server that takes requests, and where.
fn started(arguments: &[&str]) -> (Running, String) {
    let mut child = Running::start(&mut serve(arguments));
    let line = child.wait_for_output(" serves ");
    let (url, models) = line.split_once(" serves ").expect("a URL and models");
    assert_eq!(models, model().file_name().and_then(|name| name.to_str()).expect("UTF-8"));
    (child, url.to_owned())
}

/// The stream of a completion, at its first token.
fn streaming(url: &str, max_tokens: u32) -> BufReader<TcpStream> {
    let asked = json!({
        "model": "model", "prompt": "hello ".repeat(60), "max_tokens": max_tokens, "temperature": 0, "stream": true,
    });
    let mut stream = BufReader::new(send(url, "/v1/completions", &asked));
    let mut line = String::new();
    while !line.starts_with("data: {") {
        line.clear();
        assert!(stream.read_line(&mut line).expect("an answer") > 0, "no token came");
    }
    stream
}

/// Tokens in a store that nobody has open.
fn stored_tokens(folder: &Path) -> u64 {
    let script = "import json, sys, pathlib, hwledger_omlx as hw\n\
        store = hw.PagedCache().open(pathlib.Path(sys.argv[1]))\n\
        print(json.loads(store.stats())['tokens']); store.close()\n";
    python(script, &[folder.to_str().expect("UTF-8")]).trim().parse().expect("a number")
}

#[test]
fn told_to_end_it_lets_a_stream_end_and_keeps_what_it_cached() {
    let folder = tempfile::tempdir().expect("a folder");
    let kv = folder.path().join("kv");
    // The host's own option may stand anywhere.
    let venv = venv();
    let venv = venv.path().to_str().expect("UTF-8");
    let (mut child, url) = started(&["--cache-dir", kv.to_str().expect("UTF-8"), "--venv", venv]);
    let chat = json!({"model": "model", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3});
    assert_eq!(post(&url, "/v1/chat/completions", &chat)["usage"]["completion_tokens"], 3);
    let mut stream = streaming(&url, 40);
    child.signal(SIGTERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the rest");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(child.wait().0.code(), Some(0));
    assert!(stored_tokens(&kv) > 60);
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_store_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    let kv = folder.path().join("kv");
    let (mut child, url) = started(&["--cache-dir", kv.to_str().expect("UTF-8"), "--shutdown-seconds", "3600"]);
    let _stream = streaming(&url, 1 << 18);
    child.signal(SIGTERM);
    child.signal(SIGINT);
    // Which of two pending signals is handled first is the system's choice.
    assert!(matches!(child.wait().0.code(), Some(130 | 143)));
    stored_tokens(&kv);
}

#[test]
fn an_answer_that_takes_too_long_is_cut_off() {
    let (mut child, url) = started(&["--no-cache", "--shutdown-seconds", "1"]);
    let mut stream = streaming(&url, 1 << 18);
    child.signal(SIGINT);
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(child.wait().0.code(), Some(0));
}

#[test]
fn told_to_end_before_it_serves_it_does_at_once() {
    for phase in ["Python starts", "Loading model"] {
        let mut child = Running::start(serve(&[]).env("HWLEDGER_OMLX_LOG", "info"));
        child.wait_for_log(phase);
        child.signal(SIGTERM);
        assert_eq!(child.wait().0.code(), Some(128 + SIGTERM), "{phase}");
    }
}

#[test]
fn two_on_one_folder_both_serve_and_one_has_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let kv = folder.path().join("kv");
    let named = kv.to_str().expect("UTF-8");
    let (mut first, url) = started(&["--cache-dir", named]);
    let other =
        finish(&mut generate(&["--prompt", "hello ".repeat(60).trim(), "--max-tokens", "4", "--cache-dir", named]));
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    assert!(other.stderr.contains(named), "{}", other.stderr);
    let asked = json!({"model": "model", "prompt": "hello ".repeat(60), "max_tokens": 4, "temperature": 0});
    let again = || post(&url, "/v1/completions", &asked)["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
    again();
    assert!(again().as_u64() > Some(60), "the first one's cache is well");
    first.signal(SIGTERM);
    assert_eq!(first.wait().0.code(), Some(0));
    assert!(stored_tokens(&kv) > 60);
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
