//! Arbitrary bytes as messages of flow replication. The property test beside the reader calls the same function.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lb_userspace::sync::wire::any_bytes(bytes));
