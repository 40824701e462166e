//! SIGHUP: what is changed in `hwledger.toml` counts from the next request on, and no stream notices.

use std::io::Read;
use std::path::{Path, PathBuf};

use libc::{SIGHUP, SIGTERM};
use serde_json::{Value, json};

use crate::servers::{address, complete, serving, streaming};
use crate::support::{Running, get, serve, until};

/// A file that says these, and how long answers are.
fn written(folder: &Path, max_tokens: u32, kv: &str) -> PathBuf {
    let file = folder.join("hwledger.toml");
    let text = format!("[engine]\nkv = \"{kv}\"\n[cache]\nkind = \"off\"\n[sampling]\nmax_tokens = {max_tokens}\n");
    std::fs::write(&file, text).expect("written");
    file
}

/// Tokens of an answer to one who does not say how many there should be.
fn answered(url: &str) -> Value {
    complete(url, "a", &json!({}))["usage"]["completion_tokens"].clone()
}

fn kv_policy(url: &str) -> Value {
    get(url, "/health")["models"][0]["kv_policy"].clone()
}

#[test]
fn a_changed_file_counts_at_once_and_a_stream_is_whole() {
    const TOKENS: u32 = 400;
    let folder = tempfile::tempdir().expect("a folder");
    let (mut child, url) = serving(serve(&["--config"]).arg(written(folder.path(), 5, "16")));
    assert_eq!((answered(&url), kv_policy(&url)), (json!(5), json!("16")));
    let mut stream = streaming(&url, TOKENS);
    written(folder.path(), 9, "8");
    child.signal(SIGHUP);
    until(|| kv_policy(&url), |policy| policy == "8");
    until(|| answered(&url), |tokens| *tokens == 9);
    // A file with a mistake changes nothing; the reload after it does.
    std::fs::write(folder.path().join("hwledger.toml"), "[sampling]\nmax_tokns = 2\n").expect("written");
    child.signal(SIGHUP);
    child.wait_for_log("did you mean max_tokens?");
    assert_eq!(answered(&url), 9);
    written(folder.path(), 3, "8");
    child.signal(SIGHUP);
    until(|| answered(&url), |tokens| *tokens == 3);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the rest");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(rest.contains("\"finish_reason\": \"length\""), "{rest}");
    child.signal(SIGTERM);
    assert_eq!(child.wait().0.code(), Some(0));
}

#[test]
fn one_that_comes_while_it_loads_is_remembered() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = serve(&["--config"]);
    command.arg(written(folder.path(), 5, "16")).env("HWLEDGER_OMLX_LOG", "info");
    let mut child = Running::start(&mut command);
    child.wait_for_log("Loading model");
    written(folder.path(), 7, "16");
    child.signal(SIGHUP);
    let url = address(&mut child);
    until(|| answered(&url), |tokens| *tokens == 7);
}
