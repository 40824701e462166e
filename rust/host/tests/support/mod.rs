//! What the tests of the host share: the environment, a small model, and the binary as a child process.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hwledger_omlx_host::Venv;

/// The environment that `cargo test` runs in.
pub(crate) fn venv() -> Venv {
    Venv::locate(None).expect("VIRTUAL_ENV, or .venv in the repository")
}

/// Base folder of the package in tests, kept between runs so that the fork's self-tests run once.
pub(crate) fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("home")
}

/// A random model of the package's own making, with room for a million tokens: nothing it is asked for ends by itself.
pub(crate) fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
        let script = "import json, sys, pathlib\n\
            from hwledger_omlx.fork import probe_model\n\
            folder = probe_model.write(pathlib.Path(sys.argv[1]))\n\
            config = json.loads((folder / 'config.json').read_text())\n\
            config['max_position_embeddings'] = 1 << 20\n\
            (folder / 'config.json').write_text(json.dumps(config))\n";
        python(script, &[folder.to_str().expect("UTF-8")]);
        folder
    })
}

/// Runs a script in the environment and returns what it printed.
pub(crate) fn python(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(venv().executable())
        .args(["-c", script])
        .args(arguments)
        .env("HWLEDGER_OMLX_HOME", home())
        .output()
        .expect("an interpreter");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The same, of a script that imports from the tests in Python: models of every kind are written there.
pub(crate) fn python_of_tests(script: &str, arguments: &[&str]) -> String {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/python");
    python(&format!("import sys; sys.path.insert(0, {tests:?})\n{script}"), arguments)
}

/// An environment of the same base interpreter with nothing installed.
pub(crate) fn bare_venv(folder: &Path) -> PathBuf {
    let path = folder.join("bare");
    let status = Command::new(venv().executable())
        .args(["-m", "venv", "--without-pip"])
        .arg(&path)
        .status()
        .expect("an interpreter");
    assert!(status.success());
    path
}

/// The binary with these arguments.
pub(crate) fn host(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hwledger-omlx-host"));
    command
        .args(arguments)
        .env("HWLEDGER_OMLX_HOME", home())
        .env_remove("HWLEDGER_OMLX_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// `generate` on the model.
pub(crate) fn generate(arguments: &[&str]) -> Command {
    let mut command = host(&["generate", "--temperature", "0"]);
    command.arg("--model").arg(model()).args(arguments);
    command
}

/// `serve` on the model, at any free port.
pub(crate) fn serve(arguments: &[&str]) -> Command {
    let mut command = host(&["serve", "--port", "0"]);
    command.arg(model()).args(arguments);
    command
}

/// What a command left behind.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Finished {
    let output = command.output().expect("started");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A child that runs, killed when the test is done with it.
pub(crate) struct Running {
    child: Child,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    stderr: Option<Lines<BufReader<ChildStderr>>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("started");
        let stdout = child.stdout.take().map(|pipe| BufReader::new(pipe).lines());
        let stderr = child.stderr.take().map(|pipe| BufReader::new(pipe).lines());
        Self { child, stdout, stderr }
    }

    /// Waits for a line of standard output with `mark` in it.
    pub(crate) fn wait_for_output(&mut self, mark: &str) -> String {
        let lines = self.stdout.as_mut().expect("not closed");
        let seen = lines.by_ref().map_while(Result::ok).find(|line| line.contains(mark));
        seen.unwrap_or_else(|| panic!("standard output ended without {mark:?}: {}", self.rest_of_errors()))
    }

    /// Waits for a line of standard error with `mark` in it.
    pub(crate) fn wait_for_log(&mut self, mark: &str) {
        let lines = self.stderr.as_mut().expect("not closed");
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains(mark)), "no {mark:?} on standard error");
    }

    /// Writes a line to standard input, which is a pipe.
    pub(crate) fn send_line(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{line}").expect("written");
    }

    /// Nobody writes to standard input any more.
    pub(crate) fn close_input(&mut self) {
        self.child.stdin = None;
    }

    /// Nobody reads standard output any more.
    pub(crate) fn close_output(&mut self) {
        self.stdout = None;
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. One that ended already takes no notice.
    #[expect(unsafe_code, reason = "std sends SIGKILL alone")]
    pub(crate) fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: no preconditions; the child was not waited for, so the id is its own.
        let sent = unsafe { libc::kill(id, signal) };
        assert_eq!(sent, 0, "no such child");
    }

    /// Waits for the end, at most a minute; seconds from now to then. Output keeps being read.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let readers = [
            self.stdout.take().map(|lines| std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop))),
            self.stderr.take().map(|lines| std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop))),
        ];
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let taken = begun.elapsed();
        for reader in readers.into_iter().flatten() {
            reader.join().expect("read");
        }
        (status, taken)
    }

    fn rest_of_errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(lines) = self.stderr.take() {
            text.extend(lines.map_while(Result::ok));
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server on loopback answers to a request with JSON.
pub(crate) fn post(url: &str, path: &str, asked: &serde_json::Value) -> serde_json::Value {
    let mut answer = String::new();
    send(url, path, asked).read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// What a server on loopback answers to a question, as JSON.
pub(crate) fn get(url: &str, path: &str) -> serde_json::Value {
    let text = get_text(url, path);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The same, as it is.
pub(crate) fn get_text(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// Asks again and again until the answer is the wanted one, two minutes at most.
pub(crate) fn until<T: std::fmt::Debug>(mut ask: impl FnMut() -> T, is_wanted: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if is_wanted(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "it stays {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a request with JSON, whose answer is to be read to the end of the connection.
pub(crate) fn send(url: &str, path: &str, asked: &serde_json::Value) -> std::net::TcpStream {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    let body = asked.to_string();
    // Of the version without chunks.
    let head = format!(
        "POST {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}
