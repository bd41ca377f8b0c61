//! What both SYNs of a connection say, noted for the case that it has to be moved to another server (`lb_common::opening`).
//!
//! `detour` calls for flows of backends whose connections may be moved, `moved` for the answer of the server that one is moved to.
//! Such flows are on the detour until they are established, so that nothing is asked of packets of other flows.

use lb_common::{
    flow::FORWARD,
    opening::{ECN, OTHER, Opening, Options, SACK, SCALE, State, TIMES},
};
use network_types::tcp::TcpHdr;

use crate::{
    packet::Packet,
    parse::{Ip, flag},
    tables::Tables,
};

/// Kinds of TCP options.
pub mod kind {
    /// End of the list.
    pub const END: u8 = 0;
    /// Padding.
    pub const NOTHING: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Shift of windows (RFC 7323).
    pub const SCALE: u8 = 3;
    /// Selective acknowledgements are understood (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgements.
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323).
    pub const TIMES: u8 = 8;
    /// A cookie of TCP Fast Open (RFC 7413): for another connection.
    pub const FAST_OPEN: u8 = 34;
}

/// Options of a SYN looked at; Linux sends five, padding counted.
const MOST: u32 = 12;

/// Notes the SYN or SYN-ACK of the flow in `slot`. `mss` is what a limit has made of the segment size that it asks for, 0: nothing.
#[inline(never)]
pub fn note<P: Packet, T: Tables>(p: &P, t: &T, slot: u32, ip: &Ip, direction: u8, mss: u16) {
    let Some(generation) = t.flow(slot).map(|f| f.generation) else { return };
    let options = options(p, t, ip.l4());
    let Some(o) = t.opening(slot) else { return };
    let size = match options.mss() {
        asked if mss != 0 && asked > mss => mss,
        asked => asked,
    };
    if direction == FORWARD {
        let again = o.generation == generation && o.client_isn == ip.tcp.seq && o.state() != State::Unknown;
        if again && o.state() != State::Offered || !ip.tcp.opens() {
            return;
        }
        // A SYN with data in it has said something already.
        let state = if ip.tcp.span == 1 { State::Offered } else { State::Unknown };
        *o = Opening {
            generation,
            state: state as u8,
            agreed: options.kinds() & !OTHER,
            client_mss: size,
            client_scale: options.scale(),
            client_isn: ip.tcp.seq,
            client_ts: options.ts(),
            client_window: window(p, ip.l4()),
            ..Opening::default()
        };
    } else if o.generation == generation && matches!(o.state(), State::Offered | State::Agreed) {
        let known = o.agreed | options.kinds() == o.agreed;
        o.agreed &= options.kinds();
        o.server_mss = size;
        o.server_scale = options.scale();
        o.server_isn = ip.tcp.seq;
        o.server_ts = options.ts();
        // What was not offered, or is not known here, another server cannot be asked for.
        o.state = if known { State::Agreed } else { State::Unknown } as u8;
    }
}

/// Notes the SYN-ACK of the server that a held flow is moved to, and what its numbers differ by.
#[inline(never)]
pub fn note_answer<P: Packet, T: Tables>(p: &P, t: &T, slot: u32, ip: &Ip) {
    let options = options(p, t, ip.l4());
    let Some(o) = t.opening(slot) else { return };
    o.answered = options.kinds();
    o.answer_mss = options.mss();
    o.answer_scale = options.scale();
    o.seq_delta = o.server_isn.wrapping_sub(ip.tcp.seq);
    o.ts_delta = o.server_ts.wrapping_sub(options.ts());
    // The daemon looks at the rest of it some time after it has seen this.
    o.state = State::Answered as u8;
}

/// The window of a segment.
#[inline(always)]
fn window<P: Packet>(p: &P, l4: usize) -> u16 {
    p.load::<[u8; 2]>(l4 + 14).map_or(0, u16::from_be_bytes)
}

/// The options of a segment, copied out, and its flags.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// The options; of others than the first `length` bytes nothing is known.
    pub bytes: [u8; ROOM],
    /// Bytes of options, forty at most.
    pub length: u32,
    /// Offset and flags: the header's 13th and 14th byte.
    pub flags: [u8; 2],
    /// Zero, of which the verifier does not know: loops begin there, so that it finds their later rounds to be like the first.
    pub zero: [u8; 2],
}

/// More than options take, so that an index is one after a mask.
pub const ROOM: usize = 64;
/// Words of options that a header may have.
const WORDS: usize = 10;

impl Block {
    /// Nothing.
    #[inline(always)]
    pub const fn empty() -> Self {
        Self { bytes: [0; ROOM], length: 0, flags: [0; 2], zero: [0; 2] }
    }
}

/// Copies out what there is of options, and the flags.
#[inline(always)]
pub fn load<P: Packet>(p: &P, l4: usize, block: &mut Block) -> Option<()> {
    block.flags = p.load(l4 + 12)?;
    let words = usize::from(block.flags[0] >> 4).wrapping_sub(TcpHdr::LEN / 4);
    let mut i = 0;
    while i < WORDS && i < words {
        let word = p.load::<[u8; 4]>(l4 + TcpHdr::LEN + i * 4)?;
        block.bytes[i * 4..i * 4 + 4].copy_from_slice(&word);
        i += 1;
    }
    // Read once more, lest the verifier know how often it went round, and follow what comes for each length.
    let [offset] = p.load::<[u8; 1]>(l4 + 12)?;
    block.length = (u32::from(offset >> 4) * 4).wrapping_sub(TcpHdr::LEN as u32);
    Some(())
}

/// Puts options back.
#[inline(always)]
pub fn store<P: Packet>(p: &mut P, l4: usize, block: &Block) -> Option<()> {
    let mut i = 0;
    while i < WORDS && i * 4 < block.length as usize {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| block.bytes[i * 4 + byte]);
        p.store(l4 + TcpHdr::LEN + i * 4, &[a, b, c, d])?;
        i += 1;
    }
    Some(())
}

/// Reads the options of a SYN or SYN-ACK.
#[inline(always)]
fn options<P: Packet, T: Tables>(p: &P, t: &T, l4: usize) -> Options {
    let mut block = Block::empty();
    match load(p, l4, &mut block) {
        Some(()) => t.options(&block),
        None => Options(u64::from(OTHER)),
    }
}

/// What they say. Whatever is not known here, or stands behind too many others, is [`OTHER`]. To be called as `Tables::options`.
#[inline(always)]
pub fn read(block: &Block) -> Options {
    /// Of the header's 13th byte: accurate notification of congestion (RFC 9768).
    const ACCURATE: u8 = 1;
    const ECE: u8 = 0x40;
    const CWR: u8 = 0x80;
    const LAST: usize = ROOM - 1;
    let [offset, flags] = block.flags;
    // A request has both bits, an answer one.
    let asks = if flags & flag::ACK == 0 { ECE | CWR } else { ECE };
    let mut kinds = match flags & (ECE | CWR) {
        0 if offset & ACCURATE == 0 => 0,
        bits if bits == asks && offset & ACCURATE == 0 => ECN,
        _ => OTHER,
    };
    let (mut scale, mut mss, mut ts) = (0u8, 0u16, 0u32);
    let end = block.length as usize;
    let byte = |at: usize| block.bytes[at & LAST];
    let mut at = usize::from(block.zero[0]);
    let mut looked = 0;
    while looked < MOST && at < end {
        looked += 1;
        // It is less anyhow.
        at &= LAST;
        let what = byte(at);
        if what == kind::END {
            at = end;
            break;
        }
        if what == kind::NOTHING {
            at += 1;
            continue;
        }
        let length = byte(at + 1);
        if length < 2 {
            kinds |= OTHER;
            break;
        }
        match (what, length) {
            (kind::MSS, 4) => mss = u16::from_be_bytes([byte(at + 2), byte(at + 3)]),
            (kind::SCALE, 3) => {
                kinds |= SCALE;
                scale = byte(at + 2);
            }
            (kind::SACK_PERMITTED, 2) => kinds |= SACK,
            (kind::TIMES, 10) => {
                kinds |= TIMES;
                ts = u32::from_be_bytes([byte(at + 2), byte(at + 3), byte(at + 4), byte(at + 5)]);
            }
            (kind::FAST_OPEN, _) => {}
            _ => kinds |= OTHER,
        }
        at += usize::from(length);
    }
    if at < end {
        kinds |= OTHER;
    }
    Options(u64::from(ts) << 32 | u64::from(mss) << 16 | u64::from(scale) << 8 | u64::from(kinds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(options: &[u8], flags: [u8; 2]) -> (u8, u8, u16, u32) {
        let mut block = Block { bytes: [0; ROOM], length: options.len() as u32, flags, zero: [0; 2] };
        block.bytes[..options.len()].copy_from_slice(options);
        let read = read(&block);
        (read.kinds(), read.scale(), read.mss(), read.ts())
    }

    const SYN: [u8; 2] = [0xa0, flag::SYN];
    const SYN_ACK: [u8; 2] = [0xa0, flag::SYN | flag::ACK];

    #[test]
    fn options_are_read_as_linux_sends_them() {
        let linux = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(said(&linux, SYN), (SACK | TIMES | SCALE, 7, 1460, 256));
        assert_eq!(said(&[], SYN), (0, 0, 0, 0));
        assert_eq!(said(&[2, 4, 5, 180, 0, 9, 9, 9], SYN), (0, 0, 1460, 0));
    }

    #[test]
    fn congestion_is_notified_of_when_both_say_so_in_the_old_way() {
        assert_eq!(said(&[], [0x50, flag::SYN | 0xc0]).0, ECN);
        assert_eq!(said(&[], [0x50, flag::SYN | flag::ACK | 0x40]).0, ECN);
        assert_eq!(said(&[], [0x50, flag::SYN | flag::ACK | 0xc0]).0, OTHER);
        assert_eq!(said(&[], [0x51, flag::SYN | 0xc0]).0, OTHER);
    }

    #[test]
    fn what_is_not_known_or_broken_is_something_else() {
        for options in [&[30, 4, 0, 0][..], &[2, 0, 1, 1], &[2, 3, 5, 1], &[8, 11, 0, 0], &[1; 40]] {
            assert_eq!(said(options, SYN_ACK).0 & OTHER, OTHER, "{options:?}");
        }
        assert_eq!(said(&[34, 4, 7, 7], SYN_ACK).0, 0, "a cookie is for another connection");
    }
}
