//! Servers under test, and what is left of them.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Running, post, python, send, serve};

/// A server that takes requests, and where.
pub(crate) fn started(arguments: &[&str]) -> (Running, String) {
    serving(&mut serve(arguments))
}

/// The same, of a command of one's own.
pub(crate) fn serving(command: &mut Command) -> (Running, String) {
    let mut child = Running::start(command);
    let url = address(&mut child);
    (child, url)
}

/// Where it serves the model, as soon as it does so.
pub(crate) fn address(child: &mut Running) -> String {
    let line = child.wait_for_output(" serves ");
    let (url, models) = line.split_once(" serves ").expect("a URL and models");
    assert_eq!(models, "model");
    url.to_owned()
}

/// The answer to a prompt of 360 tokens.
pub(crate) fn complete(url: &str, prompt: &str, asked: &Value) -> Value {
    let mut body = json!({"model": "model", "prompt": prompt.repeat(60), "temperature": 0});
    body.as_object_mut().expect("one").extend(asked.as_object().expect("one").clone());
    post(url, "/v1/completions", &body)
}

/// Tokens of the prompt that an answer did not have to compute.
pub(crate) fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

/// The stream of a completion, at its first token.
pub(crate) fn streaming(url: &str, max_tokens: u32) -> BufReader<TcpStream> {
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
pub(crate) fn stored_tokens(folder: &Path) -> u64 {
    stored_in(&[folder])[0]
}

/// The same of several.
pub(crate) fn stored_in(folders: &[&Path]) -> Vec<u64> {
    let script = "import json, sys, pathlib, hwledger_omlx as hw\n\
        for folder in sys.argv[1:]:\n\
        \x20   store = hw.PagedCache().open(pathlib.Path(folder))\n\
        \x20   print(json.loads(store.stats())['tokens']); store.close()\n";
    let named: Vec<_> = folders.iter().map(|folder| folder.to_str().expect("UTF-8")).collect();
    python(script, &named).lines().map(|line| line.parse().expect("a number")).collect()
}
