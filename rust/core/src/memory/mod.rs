//! Where a model's memory goes: measured while it runs, planned before it is loaded, and one held against the other.

pub mod ledger;
pub mod live;
