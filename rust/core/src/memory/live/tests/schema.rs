//! The schema in the repository is that of the types. `HWLEDGER_OMLX_UPDATE=1 cargo test … schema` writes it anew.

use std::path::PathBuf;

use crate::memory::live::{MemoryReport, SCHEMA, report};

use super::{around, ledger};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../schema/{SCHEMA}.json"))
}

#[test]
fn the_schema_that_is_kept_is_that_of_the_types() {
    let mut schema = serde_json::to_value(schemars::schema_for!(MemoryReport)).expect("JSON");
    schema["$id"] = SCHEMA.into();
    let text = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
    if std::env::var_os("HWLEDGER_OMLX_UPDATE").is_some() {
        std::fs::write(path(), &text).expect("a writable checkout");
    }
    let kept = std::fs::read_to_string(path()).expect("the schema's file");
    assert!(kept == text, "{} is not up to date: run this test with HWLEDGER_OMLX_UPDATE=1", path().display());
}

#[test]
fn a_report_comes_back_from_its_json() {
    let ledger = ledger();
    let told = report(&[&ledger], around());
    let back: MemoryReport = serde_json::from_str(&serde_json::to_string(&told).expect("JSON")).expect("the same type");
    assert_eq!(back, told);
}
