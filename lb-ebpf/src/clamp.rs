//! The maximum segment size that a SYN or SYN-ACK asks for, made smaller where the way takes less (RFC 9293 section 3.7.1).
//!
//! `detour` calls it. Never makes it larger, and adds no option: who names no size gets 536 bytes (IPv6: 1220), which fit.

use lb_common::checksum::{delta, sum2};
use network_types::tcp::TcpHdr;

use crate::{
    apply::TCP_CHECK,
    packet::{Checksum, Packet},
};

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
/// Options looked at: the size stands first, or behind a few that are padded.
const MOST: u32 = 12;

/// Has the segment whose TCP header is at `l4` ask for no more than `mss` bytes.
#[inline(never)]
pub fn clamp<P: Packet>(p: &mut P, l4: usize, mss: u16) -> Option<()> {
    let [offset, _] = p.load::<[u8; 2]>(l4 + 12)?;
    let end = l4 + usize::from(offset >> 4) * 4;
    let mut at = l4 + TcpHdr::LEN;
    let mut looked = 0;
    while looked < MOST && at + 4 <= end {
        let [kind, length, high, low] = p.load::<[u8; 4]>(at)?;
        match kind {
            END => break,
            NOTHING => at += 1,
            MSS if length == 4 => return lower(p, l4, at + 2, [high, low], mss),
            _ if length < 2 => break,
            _ => at += usize::from(length),
        }
        looked += 1;
    }
    Some(())
}

#[inline(always)]
fn lower<P: Packet>(p: &mut P, l4: usize, at: usize, asked: [u8; 2], mss: u16) -> Option<()> {
    if u16::from_be_bytes(asked) <= mss {
        return Some(());
    }
    let new = mss.to_be_bytes();
    let changed = delta(sum2(asked), sum2(new));
    // At an odd place its bytes count in the other order (RFC 1071 section 2).
    let changed = if (at - l4) & 1 == 1 { changed.swap_bytes() } else { changed };
    p.update_l4_checksum(Checksum { offset: l4 + TCP_CHECK, optional: false }, 0, changed)?;
    p.store(at, &new)
}
