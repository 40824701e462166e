//! Where a model's memory goes: what it will take ([`plan`]), told from its files alone ([`ingest`]).

pub mod ingest;
pub mod plan;
