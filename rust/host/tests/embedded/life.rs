//! What may be changed while an engine lives, and what it leaves behind.

use hwledger_omlx_host::{EngineConfig, Error};
#[cfg(target_os = "linux")]
use pyo3::prelude::*;

use super::engine::{collect, first_token, greedy};
use super::{config, host};

pub(crate) async fn a_policy_counts_for_the_requests_that_begin_then() {
    let engine = host().engine(EngineConfig { cache: None, ..config() }).await.expect("an engine");
    assert_eq!(engine.kv_policy(None).await.expect("a policy"), "16");
    let mut before = engine.generate(greedy("a", 64));
    first_token(&mut before).await;
    engine.set_kv_policy("k8v4", None).await.expect("set");
    assert_eq!(engine.kv_policy(None).await.expect("a policy"), "k8v4");
    let (_, after) = collect(engine.generate(greedy("a", 64))).await.expect("a generation");
    assert_eq!(after.token_ids.len(), 64);
    assert_eq!(collect(before).await.expect("a generation").1.token_ids.len(), 64);

    engine.set_kv_policy("8", Some("model".to_owned())).await.expect("set");
    assert_eq!(engine.kv_policy(Some("model".to_owned())).await.expect("a policy"), "8");
    for (policy, word) in [("4,0-9:16", "layer 9"), ("no policy", "no policy")] {
        let error = engine.set_kv_policy(policy, None).await.expect_err(word);
        assert!(matches!(&error, Error::KvPolicy(raised) if raised.message.contains(word)), "{error:?}");
    }
    assert_eq!(engine.kv_policy(Some("model".to_owned())).await.expect("a policy"), "8");
    let unknown = || Some("no-such-model".to_owned());
    assert!(matches!(engine.set_kv_policy("8", unknown()).await, Err(Error::Model(_))));
    assert!(matches!(engine.kv_policy(unknown()).await, Err(Error::Model(_))));
    engine.close().await.expect("closed");
    assert!(matches!(engine.set_kv_policy("8", None).await, Err(Error::EngineClosed(_))));
    assert!(matches!(engine.kv_policy(None).await, Err(Error::EngineClosed(_))));
}

/// An engine whose streams are read to the end, dropped, cancelled, and left when it closes.
#[cfg(target_os = "linux")]
async fn live() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = host().engine(config().cache_dir(folder.path().join("kv"))).await.expect("an engine");
    let mut dropped = engine.generate(greedy("a", 1 << 18).with_memory());
    let mut cancelled = engine.generate(greedy("b", 1 << 18));
    let mut left = engine.generate(greedy("c", 1 << 18));
    for stream in [&mut dropped, &mut cancelled, &mut left] {
        first_token(stream).await;
    }
    drop(dropped);
    cancelled.cancel();
    collect(cancelled).await.expect("a generation");
    collect(engine.generate(greedy("d", 8).with_memory())).await.expect("a generation");
    engine.close().await.expect("closed");
    while left.next().await.is_some() {}
}

/// Threads of Python's, by name, and all that this process has.
#[cfg(target_os = "linux")]
fn threads() -> (Vec<String>, usize) {
    let of_python = super::sharing::with_python(|py| {
        // Those of Rust that Python has seen are dummies.
        let code = c"sorted(each.name for each in __import__('threading').enumerate() if 'Dummy' not in each.name)";
        py.eval(code, None, None).and_then(|names| names.extract()).expect("names")
    });
    (of_python, std::fs::read_dir("/proc/self/task").expect("threads").count())
}

pub(crate) async fn an_engine_leaves_no_thread_behind() {
    /// Of MLX: each of its streams keeps a thread for as long as the process lives, even one that was given back.
    #[cfg(target_os = "linux")]
    const STREAMS: usize = 2;
    #[cfg(target_os = "linux")]
    {
        // The first one starts what stays for all.
        live().await;
        let (of_python, all) = threads();
        for lives in 1..=3 {
            live().await;
            super::support::until(threads, |now| now.0 == of_python && now.1 <= all + lives * STREAMS);
        }
    }
}
