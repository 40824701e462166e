//! The binary as users run it.

#[path = "../support/mod.rs"]
mod support;

mod examining;
mod generating;
mod phases;
mod reloading;
mod servers;
mod serving;
mod signals;
mod supervised;
