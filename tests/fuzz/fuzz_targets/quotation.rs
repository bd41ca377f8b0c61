//! Arbitrary bytes as ICMP errors about flows that are there: the reader of what they quote.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lb_ebpf::arbitrary::any_errors(bytes));
