//! Arbitrary frames through the whole packet path, with flows for them to meet; quotations in ICMP errors among them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lb_ebpf::arbitrary::any_frames(bytes));
