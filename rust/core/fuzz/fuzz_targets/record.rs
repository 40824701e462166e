//! A record's header, with and without a checksum that holds.

#![no_main]

use hwledger_omlx_core::store::disk::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::record(bytes));
