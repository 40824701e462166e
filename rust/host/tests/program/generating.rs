//! `generate` as a program: what it prints, and how it ends by itself.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Running, finish, generate, home, host, model, python};
use hwledger_omlx_host::{Event, FinishReason};

fn events(stdout: &str) -> Vec<Event> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

#[test]
fn output_in_a_pipe_is_whole_and_the_text_is_the_engines() {
    let prompt = "The quick brown fox";
    let json = finish(&mut generate(&["--prompt", prompt, "--max-tokens", "24", "--json"]));
    assert_eq!(json.code, Some(0), "{}", json.stderr);
    let events = events(&json.stdout);
    let Some(Event::Done(done)) = events.last() else { panic!("no last event: {}", json.stdout) };
    assert_eq!(done.result.finish_reason, FinishReason::Length);
    assert_eq!(done.result.usage.completion_tokens, 24);
    let streamed: Vec<u32> = events
        .iter()
        .filter_map(|event| if let Event::Token(token) = event { Some(token.token_ids.clone()) } else { None })
        .flatten()
        .collect();
    assert_eq!(streamed, done.result.token_ids);

    let text = finish(&mut generate(&["--prompt", prompt, "--max-tokens", "24"]));
    assert_eq!((text.code, text.stdout), (Some(0), format!("{}\n", done.result.text)));

    let script = "import sys, hwledger_omlx as hw\n\
        with hw.Engine(sys.argv[1]) as engine:\n\
        \x20   out = engine.generate(sys.argv[2], max_tokens=24, temperature=0.0)\n\
        \x20   print(*out.token_ids)\n";
    let ids = python(script, &[model().to_str().expect("UTF-8"), prompt]);
    let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().expect("an id")).collect();
    assert_eq!(ids, done.result.token_ids);
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let mut child = Running::start(&mut generate(&["--prompt", "a", "--max-tokens", "100000", "--json"]));
    child.wait_for_output("\"token\"");
    child.close_output();
    let (status, _) = child.wait();
    assert_eq!(status.code(), Some(128 + libc::SIGPIPE));
}

/// The last line of standard error is the error; nothing of a traceback is there.
fn assert_refused(arguments: &[&str], words: &[&str]) {
    let outcome = finish(host(&["generate"]).args(arguments));
    let lines: Vec<_> = outcome.stderr.lines().filter(|line| !line.contains(" WARNING ")).collect();
    assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
    assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{arguments:?}: {}", outcome.stderr);
    assert!(words.iter().all(|word| lines[0].contains(word)), "{arguments:?}: {}", lines[0]);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn errors_are_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().to_str().expect("UTF-8");
    let model = model().to_str().expect("UTF-8");
    assert_refused(&["--prompt", "a"], &["--model"]);
    assert_refused(&["--model", model], &["--prompt"]);
    assert_refused(&["--model", model, "--prompt", "a", "--max-tokens", "-3"], &["-3"]);
    assert_refused(&["--model", model, "--prompt-file", "/nonexistent/prompt"], &["/nonexistent/prompt"]);
    assert_refused(&["--model", "/nonexistent/model", "--prompt", "a"], &["/nonexistent/model"]);
    assert_refused(&["--model", empty, "--prompt", "a"], &[empty]);
    assert_refused(&["--model", model, "--prompt", "a", "--venv", empty], &[empty, "pyvenv.cfg"]);
    assert_refused(&["--model", model, "--prompt", "a", "--fork", "/nonexistent/fork"], &["/nonexistent/fork"]);
    assert_refused(&["--model", model, "--prompt", ""], &["empty"]);
    assert_refused(&["--model", model, "--prompt", "a", "--max-tokens", "0"], &["max_tokens"]);
}

#[test]
fn the_example_answers_a_line() {
    let example = Path::new(env!("CARGO_BIN_EXE_hwledger-omlx-host")).with_file_name("examples/chat");
    assert!(
        example.is_file(),
        "{} is missing: cargo test builds it, unless it is told which targets",
        example.display()
    );
    let mut command = Command::new(example);
    command.env("HWLEDGER_OMLX_HOME", home()).env_remove("HWLEDGER_OMLX_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Running::start(&mut command);
    child.send_line("My locker number is 6094. What is my locker number?");
    child.wait_for_output("6094.");
    child.wait_for_output("prompt tokens from the cache]");
    child.close_input();
    assert_eq!(child.wait().0.code(), Some(0));
}

#[test]
fn times_of_tokens_are_the_consumers_and_the_engines() {
    let mut command = host(&["token-times", "--prompt", "a", "--max-tokens", "12", "--model"]);
    let outcome = finish(command.arg(model()));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let told: Value = serde_json::from_str(&outcome.stdout).expect("one JSON object");
    let times = |of: &str| -> Vec<(u64, u64, u64)> { serde_json::from_value(told[of].clone()).expect("times") };
    let (consumed, engine) = (times("consumed"), times("engine"));
    assert_eq!(consumed.last().map(|last| last.0), Some(12), "{told}");
    assert!(consumed.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1 && one.2 <= next.2), "{told}");
    // By one clock: nobody has a token before the engine has made it.
    for (tokens, _, consumed_ns) in &consumed {
        let made = engine.iter().find(|made| made.0 >= *tokens).unwrap_or_else(|| panic!("{told}"));
        assert!(made.2 <= *consumed_ns, "{told}");
    }
}
