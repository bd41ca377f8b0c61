//! Arbitrary bytes as adverts and as what neighbours say. The property test beside the parser calls the same function.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lb_userspace::vrrp::packet::any_bytes(bytes));
