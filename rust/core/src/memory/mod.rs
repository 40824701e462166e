//! Where a model's memory goes: planned before it is loaded, measured while it runs, and one held against the other.

pub mod ingest;
pub mod ledger;
pub mod live;
pub mod plan;
