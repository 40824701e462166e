//! A server inside the program: one engine for its clients and for Rust.

use hwledger_omlx_host::{EngineConfig, Error, ServeConfig};

use super::engine::{collect, greedy};
use super::{host, support};

pub(crate) async fn http_and_rust_share_one_engine() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = support::model().to_str().expect("UTF-8");
    let settings = EngineConfig::default().cache_dir(folder.path().join("kv"));
    let server = host().serve(ServeConfig::new([model]).engine(settings)).await.expect("a server");
    assert!(server.url().starts_with("http://127.0.0.1:"));
    let id = support::model().file_name().and_then(|name| name.to_str()).expect("UTF-8");
    assert_eq!(server.model_ids().await.expect("ids"), [id]);

    let prompt = "the quick brown fox ".repeat(20);
    let (text, ours) = collect(server.engine().generate(greedy(&prompt, 8))).await.expect("a generation");
    let asked = serde_json::json!({"model": id, "prompt": prompt, "max_tokens": 8, "temperature": 0});
    let answer = support::post(server.url(), "/v1/completions", &asked);
    assert_eq!(answer["choices"][0]["text"], text.as_str(), "{answer}");
    let stats = server.engine().cache_stats().await.expect("statistics").expect("our cache");
    // The client was given from the cache what Rust had asked for.
    assert_eq!((stats.counts.lookups, stats.counts.hits), (2, 1));
    assert_eq!(stats.counts.tokens_restored_hot, ours.usage.prompt_tokens - 1);

    let health = server.health().await.expect("health");
    assert_eq!((&health["status"], &health["models"][0]["id"]), (&"ok".into(), &id.into()), "{health}");
    let error = host().serve(ServeConfig::new([model])).await.expect_err("the fork has one application");
    assert!(matches!(&error, Error::Engine(_)), "{error:?}");
    let mut open = ServeConfig::new([model]);
    "0.0.0.0".clone_into(&mut open.host);
    assert!(host().serve(open).await.is_err(), "without a key");

    server.stop().await.expect("stopped");
    server.wait().await.expect("it has ended");
    assert!(matches!(collect(server.engine().generate(greedy("a", 4))).await, Err(Error::EngineClosed(_))));
    // The process may serve again.
    let again = host().serve(ServeConfig::new([model])).await.expect("a server");
    drop(again);
}
