//! Clients that others wrote, against the running host: `async-openai`, with the shipped model, and those in Python.

#[path = "../support/mod.rs"]
mod support;

use std::future::poll_fn;
use std::path::Path;
use std::process::Command;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequest, CreateChatCompletionRequestArgs, FinishReason,
};
use async_openai::types::embeddings::CreateEmbeddingRequestArgs;
use support::{Running, host, venv};

const QUESTION: &str = "My locker number is 6094. What is my locker number?";
const KEY: &str = "secret";

struct Server {
    _process: Running,
    /// Of its own, for the fork keeps the key in its settings.
    _home: tempfile::TempDir,
    client: Client<OpenAIConfig>,
}

impl Server {
    fn start() -> Self {
        let notes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/hwledger_omlx/models/notes");
        let home = tempfile::tempdir().expect("a folder");
        let mut command = host(&["serve", "--port", "0", "--no-cache", "--api-key", KEY]);
        let mut process = Running::start(command.arg(notes).env("HWLEDGER_OMLX_HOME", home.path()));
        let line = process.wait_for_output(" serves ");
        let (url, models) = line.split_once(" serves ").expect("where it serves, and what");
        assert_eq!(models, "notes");
        let config = OpenAIConfig::new().with_api_base(format!("{url}/v1")).with_api_key(KEY);
        Self { _process: process, _home: home, client: Client::with_config(config) }
    }
}

fn asked(model: &str) -> CreateChatCompletionRequest {
    let message = ChatCompletionRequestUserMessageArgs::default().content(QUESTION).build().expect("a message");
    CreateChatCompletionRequestArgs::default()
        .model(model)
        .messages([message.into()])
        .temperature(0.0)
        .max_completion_tokens(20_u32)
        .build()
        .expect("a request")
}

/// Status and message of an error that the server told.
fn told(error: OpenAIError) -> (u16, String) {
    match error {
        OpenAIError::ApiError(error) => (error.status_code.as_u16(), error.api_error.message),
        other => panic!("no error of the server's: {other}"),
    }
}

#[tokio::test]
async fn async_openai_chats_streams_lists_and_is_told_of_errors() {
    let server = Server::start();
    let client = &server.client;

    let whole = client.chat().create(asked("notes")).await.expect("an answer");
    assert_eq!(whole.choices[0].message.content.as_deref(), Some("6094."));
    assert_eq!(whole.choices[0].finish_reason, Some(FinishReason::Stop));

    let mut stream = client.chat().create_stream(asked("notes")).await.expect("a stream");
    let (mut text, mut reasons) = (String::new(), Vec::new());
    while let Some(chunk) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
        for choice in chunk.expect("a chunk").choices {
            text.extend(choice.delta.content);
            reasons.extend(choice.finish_reason);
        }
    }
    assert_eq!((text.as_str(), reasons), ("6094.", vec![FinishReason::Stop]));

    let listed = client.models().list().await.expect("a list");
    assert_eq!(listed.data.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["notes"]);
    assert_eq!(client.models().retrieve("notes").await.expect("a model").id, "notes");

    let (status, said) = told(client.chat().create(asked("nope")).await.expect_err("no such model"));
    assert_eq!(status, 404);
    assert!(said.contains("'nope' not found"), "{said}");
    let embedding = CreateEmbeddingRequestArgs::default().model("notes").input("x").build().expect("a request");
    let (status, said) = told(client.embeddings().create(embedding).await.expect_err("it writes"));
    assert_eq!(status, 400);
    assert!(said.contains("not an embedding model"), "{said}");
    let stranger = Client::with_config(client.config().clone().with_api_key("wrong"));
    assert_eq!(told(stranger.models().list().await.expect_err("not its key")).0, 401);
}

/// `openai`, `anthropic`, `llm`, `LangChain` and `jsonrpcclient`: the tests of the wheel's commands, on the host's.
#[test]
fn clients_in_python_find_the_host_as_they_find_the_wheel() {
    let output = Command::new(venv().executable())
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(["tests/python/test_serve_clients.py", "tests/python/test_rpc.py"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("HWLEDGER_OMLX_TEST_HOST", env!("CARGO_BIN_EXE_hwledger-omlx-host"))
        .output()
        .expect("an interpreter");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
