//! Lines of JSON-RPC, however they come.

#![no_main]

use hwledger_omlx_core::rpc::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::messages(bytes));
