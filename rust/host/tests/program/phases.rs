//! Signals in every phase of `serve` and `rpc`, one and two of them: how the process ends, and that its store opens.
//!
//! One signal ends it at once while there is nothing to end yet; from then on answers under way are given, and what the
//! cache has accepted is kept. Of two signals, the second always ends it at once.

use std::io::{BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use libc::{SIGINT, SIGTERM};
use serde_json::json;
use tempfile::TempDir;

use crate::servers::{address, complete, stored_in, streaming};
use crate::support::{Running, bare_venv, get, host, model, python, send, until};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Start,
    Load,
    Prefill,
    Decode,
    Flush,
}

const PHASES: [Phase; 5] = [Phase::Start, Phase::Load, Phase::Prefill, Phase::Decode, Phase::Flush];

/// Tokens of an answer that takes seconds, and of one that nobody waits for.
const FINITE: u32 = 200;
const ENDLESS: u32 = 1 << 18;

/// An environment in which the cache's flush waits at the end of the process, for as long as `hold` is there.
struct SlowFlush {
    folder: TempDir,
    hold: PathBuf,
}

impl SlowFlush {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let packages =
            bare_venv(folder.path()).join(format!("lib/python{}/site-packages", hwledger_omlx_host::linked_python()));
        std::fs::write(packages.join("a.pth"), python("import sys; print(*sys.path, sep='\\n')", &[]))
            .expect("written");
        std::fs::write(packages.join("b.pth"), "import slow_flush\n").expect("written");
        let hold = folder.path().join("hold");
        std::fs::write(&hold, "").expect("written");
        let module = format!(
            "import pathlib, sys, time, wrapt\n\
             @wrapt.when_imported('hwledger_omlx.engine.kv_cache')\n\
             def slow(module):\n\
             \x20   close = module.KvCache.close\n\
             \x20   def waits(cache):\n\
             \x20       print('the flush waits', file=sys.stderr, flush=True)\n\
             \x20       while pathlib.Path('{}').exists():\n\
             \x20           time.sleep(0.01)\n\
             \x20       close(cache)\n\
             \x20   module.KvCache.close = waits\n",
            hold.display()
        );
        std::fs::write(packages.join("slow_flush.py"), module).expect("written");
        Self { folder, hold }
    }

    fn venv(&self) -> PathBuf {
        self.folder.path().join("bare")
    }

    fn release(&self) {
        std::fs::remove_file(&self.hold).expect("removed");
    }
}

/// A command in one of its phases.
struct Life {
    child: Running,
    /// A request under way over HTTP.
    stream: Option<BufReader<TcpStream>>,
    slow: Option<SlowFlush>,
}

impl Life {
    /// Waits until the phase has begun. That of the flush begins with a signal.
    fn at(command: &str, phase: Phase, kv: &Path, tokens: u32, shutdown_s: &str) -> Self {
        let mut program = host(&[command]);
        program.arg("--cache-dir").arg(kv).args(["--shutdown-seconds", shutdown_s]).env("HWLEDGER_OMLX_LOG", "info");
        program.env("HWLEDGER_OMLX_MAX_CONTEXT_WINDOW", "1000000");
        program.arg(model()).stdin(Stdio::piped());
        if command == "serve" {
            program.args(["--port", "0"]);
        }
        let slow = (phase == Phase::Flush).then(SlowFlush::new);
        if let Some(slow) = &slow {
            program.arg("--venv").arg(slow.venv());
        }
        let mut life = Self { child: Running::start(&mut program), stream: None, slow };
        match phase {
            Phase::Start => life.child.wait_for_log("Python starts"),
            Phase::Load => life.child.wait_for_log("Loading model"),
            _ if command == "serve" => life.ask_over_http(phase, tokens),
            _ => life.ask_over_rpc(phase, tokens),
        }
        life
    }

    fn ask_over_http(&mut self, phase: Phase, tokens: u32) {
        let url = address(&mut self.child);
        match phase {
            Phase::Prefill => {
                let asked = json!({"model": "model", "prompt": long_prompt(), "max_tokens": tokens, "stream": true});
                self.stream = Some(BufReader::new(send(&url, "/v1/completions", &asked)));
                until(|| get(&url, "/health"), |said| said["models"][0]["requests_running"] == 1);
            }
            Phase::Decode => self.stream = Some(streaming(&url, tokens)),
            _ => assert_eq!(complete(&url, "hello ", &json!({"max_tokens": 4}))["usage"]["completion_tokens"], 4),
        }
    }

    fn ask_over_rpc(&mut self, phase: Phase, tokens: u32) {
        let (prompt, tokens, mark) = match phase {
            Phase::Prefill => (long_prompt(), tokens, r#""phase":"prefill""#),
            Phase::Decode => ("hello ".repeat(60), tokens, r#""method":"token""#),
            _ => ("hello ".repeat(60), 4, r#""completion_tokens":4"#),
        };
        self.child.send_line(r#"{"jsonrpc": "2.0", "method": "memory.subscribe"}"#);
        let params = json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0});
        self.child.send_line(&json!({"jsonrpc": "2.0", "id": 1, "method": "generate", "params": params}).to_string());
        self.child.wait_for_output(mark);
    }

    /// Whoever asked has been given the whole answer.
    fn assert_answered(&mut self) {
        match &mut self.stream {
            Some(stream) => {
                let mut rest = String::new();
                stream.read_to_string(&mut rest).expect("the rest");
                assert!(rest.contains("data: [DONE]"), "{rest}");
            }
            None => drop(self.child.wait_for_output(&format!("\"completion_tokens\":{FINITE}"))),
        }
    }
}

/// 300,000 tokens: minutes of prefill.
fn long_prompt() -> String {
    "abcdefghi ".repeat(30_000)
}

/// Exit codes after one signal, by phase.
fn after_one_signal(command: &str, codes: [i32; 5]) {
    let folder = tempfile::tempdir().expect("a folder");
    let kvs = PHASES.map(|phase| folder.path().join(format!("{phase:?}")));
    for ((phase, kv), code) in PHASES.into_iter().zip(&kvs).zip(codes) {
        let shutdown_s = if phase == Phase::Prefill { "1" } else { "60" };
        let mut life = Life::at(command, phase, kv, FINITE, shutdown_s);
        life.child.signal(SIGTERM);
        if phase == Phase::Decode {
            life.assert_answered();
        }
        if let Some(slow) = &life.slow {
            life.child.wait_for_log("the flush waits");
            slow.release();
        }
        assert_eq!(life.child.wait().0.code(), Some(code), "{command} in {phase:?}");
    }
    let stored = stored_in(&kvs.each_ref().map(PathBuf::as_path));
    assert_eq!(stored[..2], [0, 0]);
    assert!(stored[3] > 360 && stored[4] > 300, "what was answered is kept: {stored:?}");
}

fn after_two_signals(command: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let kvs = PHASES.map(|phase| folder.path().join(format!("{phase:?}")));
    for (phase, kv) in PHASES.into_iter().zip(&kvs) {
        let mut life = Life::at(command, phase, kv, ENDLESS, "3600");
        life.child.signal(SIGTERM);
        if phase == Phase::Flush {
            life.child.wait_for_log("the flush waits");
        }
        life.child.signal(SIGINT);
        // Which of two pending signals is handled first is the system's choice.
        let code = life.child.wait().0.code();
        assert!(matches!(code, Some(130 | 143)), "{command} in {phase:?}: {code:?}");
    }
    assert_eq!(stored_in(&kvs.each_ref().map(PathBuf::as_path)).len(), PHASES.len());
}

#[test]
fn one_signal_to_serve() {
    after_one_signal("serve", [143, 143, 0, 0, 0]);
}

#[test]
fn one_signal_to_rpc() {
    // It has its client from the beginning, and ends in order from the moment when Python runs.
    after_one_signal("rpc", [143, 0, 0, 0, 0]);
}

#[test]
fn two_signals_to_serve() {
    after_two_signals("serve");
}

#[test]
fn two_signals_to_rpc() {
    after_two_signals("rpc");
}
