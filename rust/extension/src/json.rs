//! Reports of the core as JSON, whose fields Python types by itself.

use serde::Serialize;

/// JSON text of a report.
pub(crate) fn text(report: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(report)
}

/// The name of a plain variant of an enum, as its JSON has it.
pub(crate) fn word(variant: &impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(word)) => word,
        // No plain variant; its JSON says more than nothing.
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}
