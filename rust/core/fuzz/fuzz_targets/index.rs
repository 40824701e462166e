//! An index's header and rows.

#![no_main]

use hwledger_omlx_core::store::disk::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::index(bytes));
