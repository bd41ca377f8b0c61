//! Packets into a tunnel to their backend: IP in IP of either family in either (RFC 2003, RFC 2473, RFC 4213).
//!
//! `detour` calls it, of packets that fit. The inner packet loses a hop and is otherwise left as it is; offloaded frames stay
//! whole and are cut behind the tunnel's header. The outer packet is never fragmented: it goes with DF set, and with no
//! identification then (RFC 6864). Its traffic class is the inner one's, ECN included (RFC 6040), its flow label a hash of the
//! flow (RFC 6438).

use lb_common::{
    addr::Addr,
    checksum::{fold, sum_addr, sum2, sum4},
    flow::Flow,
    hash,
};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    answer::TTL,
    apply::one_hop_less,
    packet::{Packet, Room},
    parse::{Ip, L3},
    tables::Tables,
};

/// IPv4 in IP.
const PROTO_IPIP: u8 = 4;
/// IPv6 in IP.
const PROTO_IPV6: u8 = 41;

/// Bytes that the outer header takes.
#[inline(always)]
pub const fn overhead(f: &Flow) -> u32 {
    if f.backend.is_v4() { Ipv4Hdr::LEN as u32 } else { Ipv6Hdr::LEN as u32 }
}

/// Packs the packet; gives the interface that it leaves by.
#[inline(never)]
pub fn encapsulate<P: Packet, T: Tables>(p: &mut P, t: &T, slot: u32, ip: &Ip) -> Option<u32> {
    one_hop_less(p, ip.v6)?;
    let [a, b] = p.read::<[u8; 2]>(L3)?;
    let class = if ip.v6 { a << 4 | b >> 4 } else { b };
    let proto = if ip.v6 { PROTO_IPV6 } else { PROTO_IPIP };
    let f = t.flow(slot)?;
    if f.backend.is_v4() {
        outer_v4(p, f, class, proto, ip.length)?;
    } else {
        outer_v6(p, f, class, proto, ip.length)?;
    }
    Some(f.backend_if)
}

#[inline(never)]
fn outer_v4<P: Packet>(p: &mut P, f: &Flow, class: u8, proto: u8, inner: u32) -> Option<()> {
    const DONT_FRAGMENT: u8 = 0x40;
    p.make_room(Room::Tunnel4)?;
    p.write(L3 - 2, &(EtherType::Ipv4 as u16).to_ne_bytes())?;
    let length = total(Ipv4Hdr::LEN as u32 + inner);
    let addrs = [f.snat.v4_word().to_ne_bytes(), f.backend.v4_word().to_ne_bytes()];
    let sum = sum2([0x45, class]) + sum2(length) + sum2([DONT_FRAGMENT, 0]) + sum2([TTL, proto]);
    let [high, low] = (!fold(sum + sum4(addrs[0]) + sum4(addrs[1]))).to_be_bytes();
    p.write(L3, &[0x45, class, length[0], length[1], 0, 0, DONT_FRAGMENT, 0, TTL, proto, high, low])?;
    p.write(L3 + 12, &addrs)
}

#[inline(never)]
fn outer_v6<P: Packet>(p: &mut P, f: &Flow, class: u8, proto: u8, inner: u32) -> Option<()> {
    p.make_room(Room::Tunnel6)?;
    p.write(L3 - 2, &(EtherType::Ipv6 as u16).to_ne_bytes())?;
    let [_, label, mid, last] = hash::flow(&f.forward_key()).to_be_bytes();
    let [high, low] = total(inner);
    let first = [0x60 | class >> 4, class << 4 | label & 0xf, mid, last, high, low, proto, TTL];
    let addrs: [Addr; 2] = [f.snat, f.backend];
    let sum = sum4([first[0], first[1], first[2], first[3]]) + sum4([high, low, proto, TTL]);
    p.amend_frame_sum(fold(sum + sum_addr(&addrs[0]) + sum_addr(&addrs[1])));
    p.write(L3, &first)?;
    p.store(L3 + 8, &addrs)
}

/// A length as a header says it. Of an offloaded frame that the header's field does not hold, zero, as the kernel has it; each
/// packet that it is cut into gets its own.
#[inline(always)]
pub(crate) fn total(length: u32) -> [u8; 2] {
    if length > 0xffff { [0; 2] } else { (length as u16).to_be_bytes() }
}
