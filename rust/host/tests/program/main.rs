//! The binary as users run it.

#[path = "../support/mod.rs"]
mod support;

mod examining;
mod generating;
mod serving;
mod signals;
