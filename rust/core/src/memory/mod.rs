//! Memory of models and requests: measured, predicted, reconciled.

pub mod ledger;
