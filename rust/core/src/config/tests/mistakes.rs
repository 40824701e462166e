//! What is said of mistakes: where, what, and what would be right.

use serde_json::json;

use super::super::{Loaded, Sources};
use super::{load, load_bytes};

#[test]
fn a_mistake_in_the_file_is_named_with_its_line() {
    for (text, said) in [
        ("[server]\nprot = 1", "hwledger.toml:2: server.prot: no such setting; did you mean port?"),
        ("[servers]\nport = 1", "hwledger.toml:1: servers: no such setting; did you mean server?"),
        ("[log]\n\nxyzzy = 1", "hwledger.toml:3: log.xyzzy: no such setting; known are level"),
        ("server.port = \"x\"", "hwledger.toml:1: server.port: must be a whole number from 0 to 65535, not \"x\""),
        ("server.port = 65536", "hwledger.toml:1: server.port: must be a whole number from 0 to 65535, not 65536"),
        ("server.port = 1.5", "hwledger.toml:1: server.port: must be a whole number from 0 to 65535, not 1.5"),
        ("server.model_dirs = \"a,b\"", "server.model_dirs: must be a list, not \""),
        ("server.models = [\n\"a\",\n3]", "hwledger.toml:3: server.models: must be a text, not 3"),
        ("server.host = true", "server.host: must be a text, not true"),
        ("server = 3", "hwledger.toml:1: server: must be a table, not 3"),
        ("server.shutdown_seconds = 0", "must be a number above 0 and below a billion, not 0"),
        ("server.sse_keepalive_mode = \"of\"", "must be one of chunk, comment, off, not \"of\""),
        ("log.level = 3", "log.level: must be one of trace, debug, info, warn, warning, error"),
        (
            "cache.quota_bytes = \"20GX\"",
            "cache.quota_bytes: must be a number of bytes, or a text such as \"64GiB\", not \"20GX\"",
        ),
        ("cache.quota_bytes = -1", "not -1"),
        ("cache.reader_threads = 0", "cache.reader_threads: must be a whole number above 0, not 0"),
        ("engine.kv = \"k9\"", "hwledger.toml:1: engine.kv: is none: KV policy `k9`: at `k9`"),
        (
            "[engine.kv]\nlive = \"8\"\nrecent_token = 3",
            "hwledger.toml:3: engine.kv.recent_token: no such setting; did you",
        ),
        ("[engine]\nkv = { rest = \"8\" }", "hwledger.toml:2: engine.kv: missing field `live`"),
        ("engine.ledger = 3", "engine.ledger: must be true, false or the path of a database, not 3"),
        ("sampling.top_p = 1.01", "sampling.top_p: must be a number from 0 to 1, not 1.01"),
        ("sampling.temperature = nan", "sampling.temperature: must be a number of at least 0, not NaN"),
        (
            "[models.a]\ntemprature = 1",
            "hwledger.toml:2: models.a.temprature: no such setting; did you mean temperature?",
        ),
        (
            "[models.\"a.b\"]\ntop_k = -1",
            "hwledger.toml:2: models.\"a.b\".top_k: must be a whole number of at least 0, not -1",
        ),
        (
            "[models.a]\nturboquant_kv_bits = 4",
            "models.a.turboquant_kv_bits: no such setting; the fork reads it nowhere: give kv in",
        ),
        ("[models.a]\nmodel_type_override = \"llms\"", "must be one of llm, vlm, embedding"),
        ("models = 3", "models: must be a table, not 3"),
        ("server.port = 99999999999999999999", "hwledger.toml:1: 99999999999999999999 is too large"),
        ("[server]\nport = 1\nport = 2", "hwledger.toml:3: duplicate key"),
        ("a = 1\nb =", "hwledger.toml:2: "),
    ] {
        let error = load(text, &[], &[]).expect_err(text).to_string();
        assert!(error.contains(said), "{text:?}: {error}");
    }
}

#[test]
fn a_mistake_elsewhere_is_named_with_its_variable_or_flag() {
    let error = load("", &[("HWLEDGER_OMLX_PORT", "80a")], &[]).unwrap_err().to_string();
    assert_eq!(error, "HWLEDGER_OMLX_PORT: server.port: must be a whole number from 0 to 65535, not \"80a\"");
    let error = load("", &[("HWLEDGER_OMLX_FORCE_SAMPLING", "maybe")], &[]).unwrap_err().to_string();
    assert_eq!(error, "HWLEDGER_OMLX_FORCE_SAMPLING: sampling.force_sampling: must be true or false, not \"maybe\"");
    let error = load("", &[], &[("--port", json!(-1))]).unwrap_err().to_string();
    assert_eq!(error, "--port: server.port: must be a whole number from 0 to 65535, not -1");
    let error = load("", &[], &[("--hot-cache-max-size", json!("much"))]).unwrap_err().to_string();
    assert!(error.starts_with("--hot-cache-max-size: cache.hot_bytes: must be a number of bytes"), "{error}");
    assert_eq!(load("", &[], &[("--prot", json!(1))]).unwrap_err().to_string(), "--prot is a flag of no setting");
}

#[test]
fn a_file_that_cannot_be_read_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    let of = |path: &std::path::Path| {
        Loaded::load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err().to_string()
    };
    let missing = of(&folder.path().join("hwledger.toml"));
    assert!(missing.contains("hwledger.toml cannot be read: No such file"), "{missing}");
    assert!(of(folder.path()).contains("cannot be read: Is a directory"), "{}", of(folder.path()));
    let error = load_bytes(b"[server]\n# caf\xe9\nport = 1", &[], &[]).unwrap_err().to_string();
    assert_eq!(error, "hwledger.toml:2: not UTF-8, as TOML must be; save the file in that encoding");
    let long = vec![b'#'; 5 << 20];
    assert!(load_bytes(&long, &[], &[]).unwrap_err().to_string().contains("is longer than 4194304 bytes"));
}
