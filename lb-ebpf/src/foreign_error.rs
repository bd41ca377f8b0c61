//! ICMP errors into the other family (RFC 7915 sections 4.2 and 5.2), about packets of flows between families.
//!
//! A program of its own in the kernel, which `icmp_error` leaves them to once it knows the flow. The error is written anew: its receiver goes by the quoted header and the eight
//! bytes behind it, and more is not quoted. Kinds without a counterpart are `untranslatable`.

use lb_common::{
    addr::{PROTO_ICMP, PROTO_ICMPV6, PROTO_UDP},
    checksum::{fold, sum_addr, sum2, sum4, update},
    maps::Tail,
    mode::Mode,
    reason::Reason,
};
use network_types::{
    eth::EtherType,
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    apply::{self, Rewrite},
    capture,
    packet::{Arrival, Packet},
    parse::{self, Ip, L3, L4, L4_V6},
    plan::{Action, Plan, Verdict},
    tables::Tables,
};

const INNER: usize = L4 + Icmpv4Hdr::LEN;
const INNER_V6: usize = L4_V6 + 8;
/// What is quoted behind the network header.
const HEAD: usize = 8;
const DONT_FRAGMENT: u8 = 0x40;
/// No IPv6 link takes less; none takes as little as IPv4's least.
const LEAST_MTU_V6: u32 = 1280;
const LEAST_MTU: u32 = 68;
/// What an IPv6 header is longer by.
const FAMILIES_DIFFER_BY: u32 = 20;

/// What an error says, in the family that it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Said {
    /// Type and code.
    what: [u8; 2],
    /// The MTU that it tells, or 0.
    mtu: [u8; 2],
    /// Length of the quoted packet behind its network header.
    payload: u16,
    /// Its TTL.
    ttl: u8,
    /// What follows in it.
    proto: u8,
}

/// Leaves an error about a packet of the flow in `slot`, which travels in `direction`, to this program.
#[inline(always)]
pub fn leave<P: Packet>(p: &mut P, slot: u32, direction: u8) -> Tail {
    p.hand_on([slot, direction.into()]);
    Tail::ForeignErrors
}

/// Writes the error anew and counts what became of it.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Verdict {
    let mut ip = Ip::default();
    parse::network(p, &mut ip);
    let mut said = Said::default();
    let known = read(p, &ip, &mut said).is_some();
    let reason = if known { Reason::ErrorForwarded } else { Reason::Untranslatable };
    capture::offer(p, t, reason, at, false);
    let verdict = if known {
        let [slot, direction] = p.handed();
        let plan = Plan::to_backend(reason, slot, direction as u8, Mode::Nat);
        apply::verdict(&plan, rewrite(p, t, &plan, &ip, &said).map(Action::Route))
    } else {
        Verdict { reason, action: Action::Drop }
    };
    t.count(verdict.reason);
    verdict
}

/// Gives the interface that the error leaves by.
#[inline(always)]
fn rewrite<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan, ip: &Ip, said: &Said) -> Option<u32> {
    let quoted = if ip.v6 { INNER_V6 + Ipv6Hdr::LEN } else { INNER + Ipv4Hdr::LEN };
    let head = p.load::<[u8; HEAD]>(quoted)?;
    let new = apply::rewrite(t.flow(plan.slot)?, plan.direction);
    let head = sent_as(said, &head, &new);
    if ip.v6 {
        write_v4(p, ip, said, head, &new)?
    } else {
        write_v6(p, ip, said, head, &new)?
    }
    Some(new.ifindex)
}

/// Reads what an error says; `None` if the other family cannot say it.
#[inline(never)]
fn read<P: Packet>(p: &P, ip: &Ip, said: &mut Said) -> Option<()> {
    let [kind, code, _, _, _, _, high, low] = p.load::<[u8; 8]>(ip.l4())?;
    let mtu = u32::from(u16::from_be_bytes([high, low]));
    if ip.v6 {
        let quoted = p.load::<[u8; 8]>(INNER_V6)?;
        said.what = to_v4(kind, code)?;
        said.payload = u16::from_be_bytes([quoted[4], quoted[5]]);
        (said.proto, said.ttl) = (quoted[6], quoted[7]);
    } else {
        let quoted = p.load::<[u8; 10]>(INNER)?;
        said.what = to_v6(kind, code)?;
        said.payload = u16::from_be_bytes([quoted[2], quoted[3]]).wrapping_sub(Ipv4Hdr::LEN as u16);
        (said.ttl, said.proto) = (quoted[8], quoted[9]);
    }
    let told = match said.what {
        [3, 4] if ip.v6 => mtu.saturating_sub(FAMILIES_DIFFER_BY).max(LEAST_MTU),
        // Routers of old did not say it.
        [2, 0] if !ip.v6 => (mtu + FAMILIES_DIFFER_BY).max(LEAST_MTU_V6),
        _ => 0,
    };
    said.mtu = (told.min(0xffff) as u16).to_be_bytes();
    Some(())
}

#[inline(always)]
const fn to_v4(kind: u8, code: u8) -> Option<[u8; 2]> {
    match [kind, code] {
        // No route, beyond scope, unreachable: host unreachable.
        [1, 0 | 2 | 3] => Some([3, 1]),
        // Prohibited.
        [1, 1] => Some([3, 10]),
        [1, 4] => Some([3, 3]),
        [2, _] => Some([3, 4]),
        [3, code] => Some([11, code]),
        // The protocol is unknown there.
        [4, 1] => Some([3, 2]),
        _ => None,
    }
}

#[inline(always)]
const fn to_v6(kind: u8, code: u8) -> Option<[u8; 2]> {
    match [kind, code] {
        // Networks and hosts that cannot be reached: no route.
        [3, 0 | 1 | 5 | 6 | 7 | 8 | 11 | 12] => Some([1, 0]),
        [3, 2] => Some([4, 1]),
        [3, 3] => Some([1, 4]),
        [3, 4] => Some([2, 0]),
        // Prohibited.
        [3, 9 | 10 | 13 | 15] => Some([1, 1]),
        [11, code] => Some([3, code]),
        _ => None,
    }
}

/// The quoted packet's first bytes as its sender had sent them.
#[inline(never)]
fn sent_as(said: &Said, head: &[u8; 8], new: &Rewrite<'_>) -> u64 {
    let [_, _, _, _, e, f, high, low] = *head;
    let mut check = [high, low];
    if said.proto == PROTO_UDP && check != [0; 2] {
        check = match update(update(u16::from_be_bytes(check), new.addr_delta), new.port_delta).to_be_bytes()
        {
            [0, 0] => [0xff; 2],
            check => check,
        };
    }
    let ([a, b], [c, d]) = (new.dport.0, new.sport.0);
    u64::from_ne_bytes([a, b, c, d, e, f, check[0], check[1]])
}

#[inline(always)]
fn sum8(word: u64) -> u32 {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    sum4([a, b, c, d]) + sum4([e, f, g, h])
}

#[inline(never)]
fn write_v4<P: Packet>(p: &mut P, ip: &Ip, said: &Said, head: u64, new: &Rewrite<'_>) -> Option<()> {
    const LENGTH: u16 = (INNER - L3 + Ipv4Hdr::LEN + HEAD) as u16;
    p.change_family(false)?;
    p.resize(L3 as u32 + u32::from(LENGTH))?;
    p.store(L3 - 2, &(EtherType::Ipv4 as u16).to_ne_bytes())?;
    let (src, dst) = (new.src.v4_word().to_ne_bytes(), new.dst.v4_word().to_ne_bytes());
    let addrs = sum4(src) + sum4(dst);
    header_v4(p, L3, LENGTH, [ip.ttl.wrapping_sub(1), PROTO_ICMP], addrs)?;
    p.store(L3 + 12, &[src, dst])?;
    let length = said.payload.wrapping_add(Ipv4Hdr::LEN as u16);
    header_v4(p, INNER, length, [said.ttl, said.proto], addrs)?;
    p.store(INNER + 12, &[dst, src])?;
    p.store(INNER + Ipv4Hdr::LEN, &head.to_ne_bytes())?;
    p.store(L4, &[said.what[0], said.what[1], 0, 0, 0, 0, said.mtu[0], said.mtu[1]])?;
    // The quoted header's sum is zero.
    let body = sum2(said.what) + sum2(said.mtu) + sum8(head);
    p.set_l4_checksum(L4 + 2, 0, fold(body))
}

/// The first twelve bytes of an IPv4 header, whose addresses sum to `addrs`.
#[inline(always)]
fn header_v4<P: Packet>(p: &mut P, at: usize, length: u16, [ttl, proto]: [u8; 2], addrs: u32) -> Option<()> {
    let sum = 0x4500 + u32::from(length) + sum2([DONT_FRAGMENT, 0]) + sum2([ttl, proto]) + addrs;
    let ([a, b], [high, low]) = (length.to_be_bytes(), (!fold(sum)).to_be_bytes());
    p.store(at, &[0x45, 0, a, b, 0, 0, DONT_FRAGMENT, 0, ttl, proto, high, low])
}

#[inline(never)]
fn write_v6<P: Packet>(p: &mut P, ip: &Ip, said: &Said, head: u64, new: &Rewrite<'_>) -> Option<()> {
    const LENGTH: u16 = (INNER_V6 - L4_V6 + Ipv6Hdr::LEN + HEAD) as u16;
    p.change_family(true)?;
    p.resize(L4_V6 as u32 + u32::from(LENGTH))?;
    p.store(L3 - 2, &(EtherType::Ipv6 as u16).to_ne_bytes())?;
    let [a, b] = LENGTH.to_be_bytes();
    p.store(L3, &[0x60, 0, 0, 0, a, b, PROTO_ICMPV6, ip.ttl.wrapping_sub(1)])?;
    p.store(L3 + 8, &[*new.src, *new.dst])?;
    let [c, d] = said.payload.to_be_bytes();
    p.store(INNER_V6, &[0x60, 0, 0, 0, c, d, said.proto, said.ttl])?;
    p.store(INNER_V6 + 8, &[*new.dst, *new.src])?;
    p.store(INNER_V6 + Ipv6Hdr::LEN, &head.to_ne_bytes())?;
    p.store(L4_V6, &[said.what[0], said.what[1], 0, 0, 0, 0, said.mtu[0], said.mtu[1]])?;
    let addrs = sum_addr(new.src) + sum_addr(new.dst);
    let pseudo = addrs + u32::from(LENGTH) + u32::from(PROTO_ICMPV6);
    let inner = 0x6000 + sum2([c, d]) + sum2([said.proto, said.ttl]) + addrs;
    let body = sum2(said.what) + sum2(said.mtu) + inner + sum8(head);
    p.set_l4_checksum(L4_V6 + 2, fold(pseudo), fold(body))
}
