//! Engines, requests and models.

use hwledger_omlx_host::memory::{SCHEMA, SamplingState, Source};
use hwledger_omlx_host::{
    EngineConfig, Error, Event, EventStream, FinishReason, GenerateRequest, Generation, StoreState,
};
use serde_json::json;

use super::{config, host, support};

pub(crate) fn greedy(prompt: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest::text(prompt).temperature(0.0).max_tokens(max_tokens)
}

/// The result of a stream, and the text that was streamed before it.
pub(crate) async fn collect(mut stream: EventStream) -> Result<(String, Generation), Error> {
    let mut text = String::new();
    while let Some(event) = stream.next().await {
        match event? {
            Event::Token(token) => text.push_str(&token.text),
            Event::Done(done) => {
                assert!(stream.next().await.is_none(), "an event after the last");
                return Ok((text, done.result));
            }
            _ => {}
        }
    }
    panic!("no last event")
}

pub(crate) async fn first_token(stream: &mut EventStream) {
    while let Some(event) = stream.next().await {
        if matches!(event.expect("an event"), Event::Token(_)) {
            return;
        }
    }
    panic!("no token")
}

pub(crate) async fn events_tell_the_whole_generation() {
    let engine = host().engine(config()).await.expect("an engine");
    assert!(!engine.fork().version.is_empty() && !engine.fork().hooks.is_empty());
    let request = GenerateRequest::chat().message("system", "Be brief.").message("user", "Hello").temperature(0.0);
    let stream = engine.generate(request.max_tokens(7));
    let id = stream.request_id().to_owned();
    let (text, result) = collect(stream).await.expect("a generation");
    assert_eq!((result.request_id.as_str(), text.as_str()), (id.as_str(), result.text.as_str()));
    assert_eq!((result.token_ids.len(), result.usage.completion_tokens), (7, 7));
    assert_eq!(result.finish_reason, FinishReason::Length);
    assert!(
        result.usage.prompt_tokens > 5
            && result.timings.ttft_s > 0.0
            && result.timings.total_s >= result.timings.ttft_s
    );
    assert_eq!(Some(result.model.as_str()), support::model().file_name().and_then(|name| name.to_str()));
    engine.close().await.expect("closed");
}

pub(crate) async fn requests_of_one_engine_run_together() {
    let engine = host().engine(config()).await.expect("an engine");
    let alone = collect(engine.generate(greedy("one", 16))).await.expect("a generation");
    let (one, two, three) = tokio::join!(
        collect(engine.generate(greedy("one", 16))),
        collect(engine.generate(greedy("two", 16))),
        collect(engine.generate(greedy("three", 16))),
    );
    assert_eq!(one.expect("a generation").1.token_ids, alone.1.token_ids);
    assert_ne!(two.expect("a generation").1.request_id, three.expect("a generation").1.request_id);
    // Handles and streams gone, it closes by itself; `shutdown` at the end would hang or fail otherwise.
    drop(engine);
}

pub(crate) async fn dropping_a_stream_cancels_its_request() {
    let engine = host().engine(EngineConfig { max_concurrent_requests: 1, ..config() }).await.expect("an engine");
    let mut endless = engine.generate(greedy("a", 1 << 18));
    first_token(&mut endless).await;
    let waiting = engine.generate(greedy("b", 4));
    drop(endless);
    // There is room for one request: this one ends only if the other was cancelled.
    let (_, result) = collect(waiting).await.expect("a generation");
    assert_ne!(result.finish_reason, FinishReason::Cancelled);
    // Dropped before the engine has so much as seen it.
    drop(engine.generate(greedy("c", 1 << 18)));
    let (_, result) = collect(engine.generate(greedy("d", 4))).await.expect("a generation");
    assert!(!result.token_ids.is_empty());
    engine.close().await.expect("closed");
}

pub(crate) async fn a_cancelled_stream_ends_with_what_there_is() {
    let engine = host().engine(config()).await.expect("an engine");
    let mut stream = engine.generate(greedy("a", 1 << 18));
    first_token(&mut stream).await;
    stream.cancel();
    let (_, result) = collect(stream).await.expect("a generation");
    assert_eq!(result.finish_reason, FinishReason::Cancelled);
    assert!(!result.token_ids.is_empty());
    engine.close().await.expect("closed");
}

pub(crate) async fn bad_requests_leave_the_engine_well() {
    let engine = host().engine(config()).await.expect("an engine");
    let mut unknown = greedy("a", 4);
    unknown.extra.insert("temprature".to_owned(), json!(1));
    let mut elsewhere = greedy("a", 4);
    elsewhere.model = Some("no-such-model".to_owned());
    for (request, word) in [
        (greedy("", 4), "empty"),
        (GenerateRequest::chat(), "empty"),
        (greedy("a", 0), "max_tokens"),
        (greedy("a", 4).temperature(-1.0), "temperature"),
        (GenerateRequest::chat().message("wizard", "a"), "wizard"),
        (unknown, "temperature"),
        (elsewhere, "no-such-model"),
    ] {
        let error = collect(engine.generate(request)).await.expect_err(word);
        assert!(matches!(error, Error::Request(_)) && error.to_string().contains(word), "{error:?}");
    }
    assert_eq!(collect(engine.generate(greedy("a", 4))).await.expect("a generation").1.token_ids.len(), 4);
    engine.close().await.expect("closed");
}

pub(crate) async fn bad_models_and_forks_are_told_apart() {
    let host = host();
    let error = host.engine(EngineConfig::new("/nonexistent/model")).await.expect_err("missing");
    assert!(
        matches!(&error, Error::ModelNotFound(raised) if raised.message.contains("/nonexistent/model")),
        "{error:?}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let error = host.engine(EngineConfig::new(folder.path().to_string_lossy())).await.expect_err("no model");
    assert!(matches!(error, Error::Model(_)), "{error:?}");
    let error = host.engine(config().fork("/nonexistent/fork")).await.expect_err("no fork");
    assert!(matches!(error, Error::ForkNotFound(_)), "{error:?}");
    let error = host.engine(EngineConfig { max_concurrent_requests: 0, ..config() }).await.expect_err("no room");
    assert!(matches!(error, Error::Engine(_)), "{error:?}");
}

pub(crate) async fn the_cache_tells_of_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = EngineConfig { cache_dir: Some(folder.path().join("kv")), ..config() };
    let engine = host().engine(kept).await.expect("an engine");
    let prompt = "the quick brown fox ".repeat(20);
    let fresh = engine.cache_stats().await.expect("statistics").expect("our cache");
    assert_eq!((fresh.state, fresh.counts.lookups, fresh.tokens), (StoreState::Running, 0, 0));
    let (text, first) = collect(engine.generate(greedy(&prompt, 8))).await.expect("a generation");
    let (again, second) = collect(engine.generate(greedy(&prompt, 8))).await.expect("a generation");
    assert_eq!((again, second.usage.cached_tokens), (text, first.usage.prompt_tokens - 1));
    let stats = engine.cache_stats().await.expect("statistics").expect("our cache");
    assert_eq!((stats.counts.hits, stats.misses.no_prefix), (1, 1));
    assert_eq!(stats.counts.tokens_restored_hot, first.usage.prompt_tokens - 1);
    let error = host().engine(EngineConfig { cache_dir: Some(support::model().to_owned()), ..config() }).await;
    assert!(matches!(error, Err(Error::Store(_))), "a model's folder is no store: {error:?}");
    engine.close().await.expect("closed");
    assert!(matches!(engine.cache_stats().await, Err(Error::EngineClosed(_))));
    let without = host().engine(EngineConfig { cache: None, ..config() }).await.expect("an engine");
    assert_eq!(without.cache_stats().await.expect("nothing"), None);
    without.close().await.expect("closed");
}

pub(crate) async fn memory_is_told_layer_by_layer() {
    let engine = host().engine(config()).await.expect("an engine");
    let mut stream = engine.generate(greedy("Once upon a time", 1 << 18));
    first_token(&mut stream).await;
    let report = engine.memory().await.expect("a report");
    let model = &report.models[0];
    assert_eq!((report.schema.as_str(), model.sampling.state), (SCHEMA, SamplingState::On));
    let [request] = &model.requests[..] else { panic!("{:?}", model.requests) };
    assert_eq!(request.request_id, stream.request_id());
    let caches: u64 = request.caches.iter().filter_map(|cache| cache.allocated_bytes.value).sum();
    assert!(caches > 0 && model.kv_allocated_bytes.value == Some(caches));
    assert_eq!(model.weights_bytes.source, Source::Measured);
    assert!(report.mlx.active_bytes.value > Some(caches) && report.process.footprint_bytes.value > Some(caches));
    drop(stream);
    engine.close().await.expect("closed");
    assert!(matches!(engine.memory().await, Err(Error::EngineClosed(_))));
}

pub(crate) async fn models_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let second = folder.path().join("second");
    support::python(
        "import sys, pathlib; from hwledger_omlx.fork import probe_model; probe_model.write(pathlib.Path(sys.argv[1]), seed=1)",
        &[second.to_str().expect("UTF-8")],
    );
    let engine = host().engine(config()).await.expect("an engine");
    let error = engine.load("/nonexistent/model").await.expect_err("missing");
    assert!(matches!(error, Error::ModelNotFound(_)), "{error:?}");
    let id = engine.load(second.to_string_lossy()).await.expect("loaded");
    let mut request = greedy("a", 8);
    request.model = Some(id.clone());
    let (_, other) = collect(engine.generate(request.clone())).await.expect("a generation");
    let (_, first) = collect(engine.generate(greedy("a", 8))).await.expect("a generation");
    assert_eq!(other.model, id);
    assert_ne!(other.token_ids, first.token_ids);
    engine.unload(id.as_str()).await.expect("unloaded");
    assert!(matches!(engine.unload(id.as_str()).await, Err(Error::Model(_))));
    assert!(matches!(collect(engine.generate(request)).await, Err(Error::Request(_))));
    engine.close().await.expect("closed");
}

pub(crate) async fn two_engines_and_their_end() {
    let host = host();
    let (one, two) = tokio::join!(host.engine(config()), host.engine(config()));
    let (one, two) = (one.expect("an engine"), two.expect("an engine"));
    let mut endless = one.generate(greedy("a", 1 << 18));
    first_token(&mut endless).await;
    one.close().await.expect("closed");
    // What ran is cancelled, or told that the engine is closed; it does end.
    match collect(endless).await {
        Ok((_, result)) => assert_eq!(result.finish_reason, FinishReason::Cancelled),
        Err(error) => assert!(matches!(error, Error::EngineClosed(_)), "{error:?}"),
    }
    one.close().await.expect("closed twice");
    assert!(matches!(collect(one.generate(greedy("a", 4))).await, Err(Error::EngineClosed(_))));
    assert!(matches!(one.load("anything").await, Err(Error::EngineClosed(_))));
    assert_eq!(collect(two.generate(greedy("a", 4))).await.expect("a generation").1.token_ids.len(), 4);
    host.shutdown().await.expect("shut down");
    assert!(matches!(collect(two.generate(greedy("a", 4))).await, Err(Error::EngineClosed(_))));
}
