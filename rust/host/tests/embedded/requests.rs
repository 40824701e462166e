//! What a request can be asked for beside its text, and what else an engine does meanwhile.

use std::time::Duration;

use hwledger_omlx_host::{
    Audio, BenchRequest, EngineConfig, Error, Event, FinishReason, GenerateRequest, Prompt, RequestLedger,
};

use super::engine::{collect, first_token, greedy};
use super::{config, host, support};

pub(crate) async fn a_deadline_ends_a_request_with_what_there_is() {
    let engine = host().engine(EngineConfig { max_concurrent_requests: 1, ..config() }).await.expect("an engine");
    let mut endless = engine.generate(greedy("a", 1 << 18).deadline(Duration::from_secs(2)));
    first_token(&mut endless).await;
    // Its deadline passes while it waits for its turn.
    let (_, waited) =
        collect(engine.generate(greedy("b", 4).deadline(Duration::from_millis(1)))).await.expect("an end");
    assert_eq!((waited.finish_reason, waited.token_ids.len()), (FinishReason::Deadline, 0));
    let (_, cut) = collect(endless).await.expect("an end");
    assert_eq!(cut.finish_reason, FinishReason::Deadline);
    assert!(!cut.token_ids.is_empty());
    let (_, whole) = collect(engine.generate(greedy("a", 4).deadline(Duration::from_secs(600)))).await.expect("an end");
    assert_eq!(whole.finish_reason, FinishReason::Length);
    engine.close().await.expect("closed");
}

pub(crate) async fn memory_comes_between_the_tokens() {
    let engine = host().engine(config()).await.expect("an engine");
    let mut events = engine.generate(greedy(&"the quick brown fox ".repeat(40), 40).with_memory());
    let (mut samples, mut tokens_before, mut tokens) = (Vec::new(), Vec::new(), 0);
    while let Some(event) = events.next().await {
        match event.expect("an event") {
            Event::Memory(sample) => {
                samples.push(sample);
                tokens_before.push(tokens);
            }
            Event::Token(token) => tokens += token.token_ids.len(),
            _ => {}
        }
    }
    assert!(samples.len() >= 2 && samples.is_sorted_by(|a, b| a.number < b.number), "{samples:?}");
    let held = samples.iter().find(|sample| sample.kv_allocated_bytes > Some(0)).expect("it held something");
    assert!(held.layer_bytes.iter().all(|bytes| *bytes > 0), "{held:?}");
    assert_eq!(tokens, 40);
    assert!(
        tokens_before.iter().any(|before| (1..40).contains(before)),
        "none while it was decoded: {tokens_before:?}"
    );
    // Nobody asked.
    let mut plain = engine.generate(greedy("a", 40));
    while let Some(event) = plain.next().await {
        assert!(!matches!(event.expect("an event"), Event::Memory(_)));
    }
    engine.close().await.expect("closed");
}

pub(crate) async fn a_slow_reader_gets_it_all() {
    let engine = host().engine(EngineConfig { max_concurrent_requests: 1, ..config() }).await.expect("an engine");
    let (_, whole) = collect(engine.generate(greedy("a", 60))).await.expect("a generation");
    let mut slow = engine.generate(greedy("a", 60).buffered_events(2));
    // There is room for one request: when this one ends, the other has, and nobody has read of it.
    collect(engine.generate(greedy("b", 4))).await.expect("a generation");
    let (mut events, mut ids) = (0, Vec::new());
    while let Some(event) = slow.next().await {
        events += 1;
        if let Event::Token(token) = event.expect("an event") {
            ids.extend(token.token_ids);
        }
    }
    assert_eq!(ids, whole.token_ids);
    assert!(events <= 5, "{events} events waited");
    engine.close().await.expect("closed");
}

pub(crate) async fn models_that_fail_to_load_disturb_no_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken");
    let named = broken.to_str().expect("UTF-8");
    support::python(
        "import sys, pathlib; from hwledger_omlx.fork import probe_model\n\
         folder = probe_model.write(pathlib.Path(sys.argv[1]), seed=3)\n\
         (folder / 'model.safetensors').write_bytes(b'no weights')",
        &[named],
    );
    let engine = host().engine(config()).await.expect("an engine");
    let (_, undisturbed) = collect(engine.generate(greedy("one", 64))).await.expect("a generation");
    let mut stream = engine.generate(greedy("one", 64));
    first_token(&mut stream).await;
    for model in [named, "/nonexistent/model", "no/such-model-anywhere"] {
        let error = engine.load(model).await.expect_err("it is broken");
        assert!(matches!(error, Error::Model(_) | Error::ModelNotFound(_)), "{error:?}");
        let error = collect(engine.generate(greedy("a", 4).model(model))).await.expect_err("it is not loaded");
        assert!(matches!(error, Error::Request(_)), "{error:?}");
    }
    let (_, result) = collect(stream).await.expect("a generation");
    assert_eq!(result.token_ids, undisturbed.token_ids);
    engine.close().await.expect("closed");
}

pub(crate) async fn a_benchmark_is_the_same_for_the_same_seed() {
    let engine = host().engine(config()).await.expect("an engine");
    let request = BenchRequest {
        prompt_tokens: 40,
        max_tokens: 20,
        requests: 2,
        seed: 5,
        temperature: 1.0,
        ..Default::default()
    };
    let first = engine.bench(request.clone()).await.expect("a report");
    let again = engine.bench(request.clone()).await.expect("a report");
    let ids = |report: &hwledger_omlx_host::BenchReport| -> Vec<Vec<u32>> {
        report.answers.iter().map(|answer| answer.token_ids.clone()).collect()
    };
    assert_eq!(ids(&first), ids(&again));
    assert_ne!(ids(&first)[0], ids(&first)[1]);
    assert!(first.answers.iter().chain(&again.answers).all(|answer| answer.usage.cached_tokens == 0));
    assert!(first.tokens_per_s > 0.0 && first.memory_samples > 0);
    assert!(!first.layer_bytes.is_empty() && first.layer_bytes.iter().all(|bytes| *bytes > 0), "{first:?}");
    assert_eq!(first.kv_allocated_bytes, Some(first.layer_bytes.iter().sum()));
    let other = engine.bench(BenchRequest { seed: 6, ..request.clone() }).await.expect("a report");
    assert_ne!(ids(&first), ids(&other));
    for wrong in [
        BenchRequest { requests: 0, ..request.clone() },
        BenchRequest { model: Some("no-such-model".to_owned()), ..request },
    ] {
        assert!(matches!(engine.bench(wrong).await, Err(Error::Request(_))));
    }
    engine.close().await.expect("closed");
}

pub(crate) async fn the_cache_is_flushed_pinned_and_purged() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = host().engine(config().cache_dir(folder.path().join("kv"))).await.expect("an engine");
    let text = "the quick brown fox ".repeat(40);
    let (_, first) = collect(engine.generate(greedy(&text, 4))).await.expect("a generation");
    engine.flush_cache().await.expect("flushed");
    let prompt = Prompt::Text(text.clone());
    let pinned = engine.pin(&prompt, None, "").await.expect("pinned");
    assert!(pinned > 0 && pinned <= first.usage.prompt_tokens, "{pinned}");
    assert_eq!(engine.pin(&prompt, None, "somebody else").await.expect("nothing of theirs"), 0);
    assert_eq!(engine.unpin(&prompt, None, "").await.expect("unpinned"), pinned);
    assert!(engine.purge_cache(None).await.expect("purged").bytes > 0);
    let (_, computed) = collect(engine.generate(greedy(&text, 4))).await.expect("a generation");
    assert_eq!(computed.usage.cached_tokens, 0);
    let nothing = Prompt::Text(String::new());
    assert!(matches!(engine.pin(&nothing, None, "").await, Err(Error::Request(_))));
    engine.close().await.expect("closed");
    assert!(matches!(engine.flush_cache().await, Err(Error::EngineClosed(_))));
    let without = host().engine(EngineConfig { cache: None, ..config() }).await.expect("an engine");
    without.flush_cache().await.expect("nothing to do");
    assert!(matches!(without.purge_cache(None).await, Err(Error::Store(_))));
    without.close().await.expect("closed");
}

pub(crate) async fn requests_are_recorded_where_it_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("requests.db");
    let engine = host().engine(config().ledger(RequestLedger::At(database.clone()))).await.expect("an engine");
    collect(engine.generate(GenerateRequest { tenant: Some("t".to_owned()), ..greedy("a", 4) })).await.expect("an end");
    engine.close().await.expect("closed");
    let written = std::fs::metadata(&database).expect("a database").len();
    assert!(written > 0);
    let engine = host().engine(config().ledger(RequestLedger::Off)).await.expect("an engine");
    collect(engine.generate(greedy("a", 4))).await.expect("a generation");
    engine.close().await.expect("closed");
    let error = host().engine(config().ledger(RequestLedger::At("".into()))).await.expect_err("no path");
    assert!(matches!(error, Error::Engine(_)), "{error:?}");
}

pub(crate) async fn models_of_every_kind_answer_in_one_piece() {
    let folder = tempfile::tempdir().expect("a folder");
    let named = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    support::python(
        "import sys, pathlib; from hwledger_omlx.fork import probe_encoder\n\
         probe_encoder.write(pathlib.Path(sys.argv[1]), 'bert')\n\
         probe_encoder.write(pathlib.Path(sys.argv[2]), 'xlm-roberta-reranker')",
        &[&named("encoder"), &named("reranker")],
    );
    let engine = host().engine(EngineConfig { cache: None, ..config() }).await.expect("an engine");
    let error = engine.embed(["a"], None).await.expect_err("none is loaded that can");
    assert!(matches!(&error, Error::Request(_)), "{error:?}");
    engine.load(named("encoder")).await.expect("loaded");
    engine.load(named("reranker")).await.expect("loaded");

    let made = engine.embed(["one", "two and more", "one"], None).await.expect("vectors");
    assert_eq!((made.model.as_str(), made.vectors.len()), ("encoder", 3));
    assert!(made.vectors[0].len() > 1 && made.vectors[0] != made.vectors[1] && made.prompt_tokens > 3);
    for vector in &made.vectors {
        let length: f32 = vector.iter().map(|each| each * each).sum();
        assert!((length - 1.0).abs() < 1e-3, "{length}");
    }
    let ranking = engine.rerank("which", ["one", "two", "three"], Some("reranker"), Some(2)).await.expect("a ranking");
    assert_eq!((ranking.model.as_str(), ranking.documents.len()), ("reranker", 2));
    assert!(ranking.documents[0].score >= ranking.documents[1].score);

    let error = engine.speak("a", Some("encoder"), None).await.expect_err("it does not speak");
    assert!(matches!(&error, Error::ModelTask(raised) if raised.message.contains("encoder")), "{error:?}");
    let sound = Audio::Bytes(b"RIFF".to_vec());
    let error = engine.transcribe(sound, Some("encoder"), Some("en")).await.expect_err("it does not listen");
    assert!(matches!(error, Error::ModelTask(_)), "{error:?}");
    let error = collect(engine.generate(greedy("a", 4).model("encoder"))).await.expect_err("it does not write");
    assert!(matches!(error, Error::ModelTask(_)), "{error:?}");
    assert!(matches!(engine.rerank("", ["a"], None, None).await, Err(Error::Request(_))));
    assert!(matches!(engine.embed([""; 0], None).await, Err(Error::Request(_))));
    engine.close().await.expect("closed");
    assert!(matches!(engine.embed(["a"], None).await, Err(Error::EngineClosed(_))));
}
