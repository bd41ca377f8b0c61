//! A backend's end of a tunnel where the kernel has no device for it: a program at TC ingress that takes the outer header off.
//!
//! Packets of other protocols pass as they are. Offloaded frames stay whole. The program is written instruction by instruction,
//! so that no object has to be built and found; it needs Linux 6.3, where a frame may change family on the way out of a tunnel.

use std::io;

use crate::foreign::{self, Foreign};

const R0: u64 = 0;
const R1: u64 = 1;
const R2: u64 = 2;
const R3: u64 = 3;
const R4: u64 = 4;
const R5: u64 = 5;
const R6: u64 = 6;
const R7: u64 = 7;
const R8: u64 = 8;
const R9: u64 = 9;
const R10: u64 = 10;
/// Where `out` and `drop` begin.
const OUT: i64 = 34;
const DROP: i64 = 36;

/// One instruction: operation, destination, source, offset, immediate value.
const fn i(op: u64, dst: u64, src: u64, off: i64, imm: i64) -> u64 {
    op | dst << 8 | src << 12 | (off as u64 & 0xffff) << 16 | (imm as u64 & 0xffff_ffff) << 32
}

/// A jump from instruction `at` to `to`.
const fn jump(op: u64, at: i64, to: i64, dst: u64, src: u64, imm: i64) -> u64 {
    i(op, dst, src, to - at - 1, imm)
}

const MOVE: u64 = 0xbf;
const SET: u64 = 0xb7;
const ADD: u64 = 0x07;
const BYTE: u64 = 0x71;
const HALF: u64 = 0x69;
const WORD: u64 = 0x61;
const STORE_HALF: u64 = 0x6b;
const IF_GREATER: u64 = 0x2d;
const IF_EQUAL: u64 = 0x15;
const IF_OTHER: u64 = 0x55;
const GOTO: u64 = 0x05;
const CALL: u64 = 0x85;
const EXIT: u64 = 0x95;
/// `skb_store_bytes`, `skb_adjust_room`.
const STORE_BYTES: i64 = 9;
const ADJUST_ROOM: i64 = 50;
/// EtherTypes as they lie in memory, on either side.
const IPV4: i64 = u16::from_be(0x0800) as i64;
const IPV6: i64 = u16::from_be(0x86dd) as i64;
/// `BPF_F_ADJ_ROOM_FIXED_GSO` with `…_DECAP_L3_IPV4`, `…_DECAP_L3_IPV6`.
const TO_IPV4: i64 = 1 | 1 << 7;
const TO_IPV6: i64 = 1 | 1 << 8;

const CODE: [u64; 38] = [
    i(MOVE, R6, R1, 0, 0),
    i(WORD, R7, R1, 76, 0),
    i(WORD, R8, R1, 80, 0),
    i(MOVE, R2, R7, 0, 0),
    i(ADD, R2, 0, 0, 54),
    jump(IF_GREATER, 5, OUT, R2, R8, 0),
    i(HALF, R3, R7, 12, 0),
    jump(IF_EQUAL, 7, 12, R3, 0, IPV4),
    jump(IF_OTHER, 8, OUT, R3, 0, IPV6),
    i(BYTE, R4, R7, 20, 0),
    i(SET, R2, 0, 0, -40),
    jump(GOTO, 11, 14, 0, 0, 0),
    i(BYTE, R4, R7, 23, 0),
    i(SET, R2, 0, 0, -20),
    // 14: the protocol is in r4, the length to take off in r2.
    i(SET, R9, 0, 0, IPV4),
    i(SET, R5, 0, 0, TO_IPV4),
    jump(IF_EQUAL, 16, 20, R4, 0, 4),
    i(SET, R9, 0, 0, IPV6),
    i(SET, R5, 0, 0, TO_IPV6),
    jump(IF_OTHER, 19, OUT, R4, 0, 41),
    i(STORE_HALF, R10, R9, -2, 0),
    i(MOVE, R1, R6, 0, 0),
    i(SET, R3, 0, 0, 1),
    i(MOVE, R4, R5, 0, 0),
    i(CALL, 0, 0, 0, ADJUST_ROOM),
    jump(IF_OTHER, 25, DROP, R0, 0, 0),
    i(MOVE, R1, R6, 0, 0),
    i(SET, R2, 0, 0, 12),
    i(MOVE, R3, R10, 0, 0),
    i(ADD, R3, 0, 0, -2),
    i(SET, R4, 0, 0, 2),
    i(SET, R5, 0, 0, 0),
    i(CALL, 0, 0, 0, STORE_BYTES),
    jump(IF_OTHER, 33, DROP, R0, 0, 0),
    i(SET, R0, 0, 0, -1),
    i(EXIT, 0, 0, 0, 0),
    i(SET, R0, 0, 0, 2),
    i(EXIT, 0, 0, 0, 0),
];

/// Attaches it to an interface of the calling thread's namespace.
pub fn attach(ifindex: u32) -> io::Result<Foreign> {
    Foreign::with_code(ifindex, foreign::Hook::TcxFirst, &CODE)
}
