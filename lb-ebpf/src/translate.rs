//! Packets into the other address family (RFC 7915), of flows whose backend is of another one than their client.
//!
//! `detour` calls it. A mapped IPv4 address sums as its last four bytes do, and both families' pseudo-headers hold the same
//! numbers, so the flow's checksum deltas hold across families. Fragments and extension headers are not translated: what knows
//! of such flows drops them.

use lb_common::{
    addr::{Addr, PROTO_UDP},
    checksum::{fold, sum_addr, sum2, sum4},
};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    apply::{self, TCP_CHECK, UDP_CHECK},
    packet::{Checksum, Packet},
    parse::{Ip, L3},
    plan::Plan,
    tables::Tables,
    tunnel::total,
};

/// Gives the packet its new addresses and ports, and the header that goes with them; gives the interface that it leaves by.
#[inline(never)]
pub fn packet<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan, ip: &Ip) -> Option<u32> {
    let f = t.flow(plan.slot)?;
    let new = apply::rewrite(f, plan.direction);
    let udp = f.proto == PROTO_UDP;
    let check = if udp { UDP_CHECK } else { TCP_CHECK };
    let field = Checksum { offset: ip.l4() + check, optional: udp };
    p.update_l4_checksum(field, new.addr_delta, new.port_delta)?;
    p.store(ip.l4(), &[new.sport.0, new.dport.0])?;
    if ip.v6 {
        to_v4(p, ip, new.src, new.dst)?;
    } else {
        to_v6(p, ip, new.src, new.dst)?;
    }
    Some(new.ifindex)
}

/// The flow label is zero (RFC 7915 section 4.1).
#[inline(never)]
pub(crate) fn to_v6<P: Packet>(p: &mut P, ip: &Ip, src: &Addr, dst: &Addr) -> Option<()> {
    let [_, class] = p.load::<[u8; 2]>(L3)?;
    p.change_family(true)?;
    p.store(L3 - 2, &(EtherType::Ipv6 as u16).to_ne_bytes())?;
    let [high, low] = total(ip.length - Ipv4Hdr::LEN as u32);
    let first = [0x60 | class >> 4, class << 4, 0, 0, high, low, ip.key.proto, ip.ttl.wrapping_sub(1)];
    let sum = sum4([first[0], first[1], 0, 0]) + sum4([high, low, first[6], first[7]]);
    // An IPv4 header's sum is zero, so all of the new one counts.
    p.amend_frame_sum(fold(sum + sum_addr(src) + sum_addr(dst)));
    p.store(L3, &first)?;
    p.store(L3 + 8, &[*src, *dst])
}

/// Always with DF set, and so without identification: what is too long on the other side is said to the sender, as in IPv6.
#[inline(never)]
pub(crate) fn to_v4<P: Packet>(p: &mut P, ip: &Ip, src: &Addr, dst: &Addr) -> Option<()> {
    const DONT_FRAGMENT: u8 = 0x40;
    let [a, b] = p.load::<[u8; 2]>(L3)?;
    let class = a << 4 | b >> 4;
    p.change_family(false)?;
    p.store(L3 - 2, &(EtherType::Ipv4 as u16).to_ne_bytes())?;
    // What is left of the old header, which the kernel has not taken off the sum.
    let [low_src, old_dst @ ..] = p.load::<[[u8; 4]; 5]>(L3)?;
    let old = old_dst.iter().fold(sum4(low_src), |sum, word| sum + sum4(*word));
    p.amend_frame_sum(!fold(old));
    let length = total(ip.length - (Ipv6Hdr::LEN - Ipv4Hdr::LEN) as u32);
    let (proto, ttl) = (ip.key.proto, ip.ttl.wrapping_sub(1));
    let addrs = [src.v4_word().to_ne_bytes(), dst.v4_word().to_ne_bytes()];
    let sum = sum2([0x45, class]) + sum2(length) + sum2([DONT_FRAGMENT, 0]) + sum2([ttl, proto]);
    let [high, low] = (!fold(sum + sum4(addrs[0]) + sum4(addrs[1]))).to_be_bytes();
    p.store(L3, &[0x45, class, length[0], length[1], 0, 0, DONT_FRAGMENT, 0, ttl, proto, high, low])?;
    p.store(L3 + 12, &addrs)
}
