//! A journal's header, entries and events.

#![no_main]

use hwledger_omlx_core::store::disk::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::journal(bytes));
