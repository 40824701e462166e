//! The schema in the repository is that of the types. `HWLEDGER_OMLX_UPDATE=1 cargo test … schema` writes it anew.

use super::super::Config;
use super::repository;

const SCHEMA: &str = "hwledger.toml.v1";

#[test]
fn the_schema_that_is_kept_is_that_of_the_types() {
    let mut schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    schema["$id"] = SCHEMA.into();
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = repository(&format!("schema/{SCHEMA}.json"));
    if std::env::var_os("HWLEDGER_OMLX_UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(kept == text, "{} is not up to date: run this test with HWLEDGER_OMLX_UPDATE=1", path.display());
}
