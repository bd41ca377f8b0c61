//! Packets that go no further, and whose senders are told why: "fragmentation needed", "packet too big", "time exceeded".
//!
//! A program of its own in the kernel, which others leave packets to. The error comes from the virtual address (RFC 5508 section
//! 4.2 has why) and quotes the packet as it came, as much as RFC 1812 and RFC 4443 ask for. It is said whether DF is set or not:
//! nothing here fragments, and senders heed it. Not told are those whom no router may answer (RFC 1122 section 3.2.2), or more
//! often than [`PACE_NS`] allows; nor anybody without the lease.

use lb_common::{
    addr::{Addr, PROTO_ICMP, PROTO_ICMPV6, PROTO_UDP},
    checksum::{fold, sum_addr, sum2, sum4},
    flow::Stage,
    maps::Tail,
    reason::Reason,
};
use network_types::{icmp::Icmpv4Hdr, ip::Ipv4Hdr};

use crate::{
    answer::{TTL, turn_round},
    apply::{TCP_CHECK, UDP_CHECK},
    capture,
    ownership::{self, Right},
    packet::{Arrival, Packet, Room},
    parse::{self, Ip, L3, L4, L4_V6, Payload},
    plan::{Action, Verdict},
    tables::Tables,
};

/// Between two errors of one processor, ns.
pub const PACE_NS: u64 = 1_000_000;
/// Errors that may come at once.
pub const BURST: u64 = 50;
/// Bytes quoted at most, so that an error has 576 (RFC 1812 section 4.3.2.3), or 1280 (RFC 4443 section 3.1).
const QUOTED: u32 = 548;
const QUOTED_V6: u32 = 1232;
/// Pieces in which a quotation is added up, bytes: few steps for the verifier to follow.
const LARGE: u32 = size_of::<[Addr; 4]>() as u32;
const SMALL: u32 = 4;
/// No IPv6 link takes less, and no sender believes it.
const LEAST_MTU_V6: u32 = 1280;

/// Leaves a packet whose TTL is used up to this program.
#[inline(always)]
pub fn expired<P: Packet>(p: &mut P) -> Tail {
    p.hand_on([0; 2]);
    Tail::Report
}

/// Leaves a packet that is longer than `mtu` bytes to this program.
#[inline(always)]
pub fn too_big<P: Packet>(p: &mut P, mtu: u32) -> Tail {
    p.hand_on([mtu, 0]);
    Tail::Report
}

/// Tells the sender and counts the packet.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Verdict {
    let mut ip = Ip::default();
    parse::parse(p, &mut ip);
    let [mtu, _] = p.handed();
    let reason = if mtu == 0 { Reason::TtlExpired } else { Reason::TooBig };
    capture::offer(p, t, reason, at, false);
    t.count(reason);
    let mut from = Addr::default();
    let action = match spokesman(&ip, p, t, at, &mut from) {
        Right::Owner => Action::Send(at.ifindex),
        Right::Delegate => Action::Route(at.ifindex),
        Right::Relay | Right::Nothing => Action::Drop,
    };
    if action == Action::Drop || write(p, &ip, &from, mtu).is_none() {
        return Verdict { reason, action: Action::Drop };
    }
    Verdict { reason, action }
}

/// By what right this node may answer the packet, and in whose name.
#[inline(always)]
fn spokesman<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival, from: &mut Addr) -> Right {
    let flow = t.flow_ref(&ip.key).and_then(|r| t.flow(r.slot)).filter(|f| f.stage() != Stage::Free);
    let router = match flow {
        // Of a backend's packet to a client of the other family the destination is this node's own address.
        Some(f) => {
            *from = if f.vip.is_v4() == ip.v6 { ip.key.dst } else { f.vip };
            f.router
        }
        None => {
            *from = ip.key.dst;
            let Some(vip) = t.vip(&ip.key.dst) else { return Right::Nothing };
            vip.router
        }
    };
    let right = ownership::right(p, t, router, at.now);
    if matches!(right, Right::Owner | Right::Delegate) && may_be_told(p, ip) && is_due(t, at.now) {
        right
    } else {
        Right::Nothing
    }
}

/// Whether the packet is one that a router may answer: from one host, and not a fragment but the first.
#[inline(never)]
fn may_be_told<P: Packet>(p: &P, ip: &Ip) -> bool {
    const FRAGMENT_OFFSET: usize = 0x1fff;
    let first_of_all = match ip.payload {
        Payload::Tcp | Payload::Udp => true,
        Payload::Fragment => {
            let [field, mask] = if ip.v6 { [L4_V6 + 2, 0xfff8] } else { [L3 + 6, FRAGMENT_OFFSET] };
            p.load::<[u8; 2]>(field).is_some_and(|b| usize::from(u16::from_be_bytes(b)) & mask == 0)
        }
        _ => false,
    };
    if !first_of_all {
        return false;
    }
    let [high, low] = ip.key.src.words();
    let first = if ip.v6 { high as u8 } else { ip.key.src.v4_word() as u8 };
    if ip.v6 { first != 0xff && high | low != 0 } else { (1..224).contains(&first) }
}

/// Whether an error may be sent now. (The word is when the next one would be due at the steady pace: the generic cell rate
/// algorithm, which needs no other.)
#[inline(always)]
fn is_due<T: Tables>(t: &T, now: u64) -> bool {
    let Some(next) = t.reported() else { return false };
    let due = if *next > now { *next } else { now };
    if due - now > (BURST - 1) * PACE_NS {
        return false;
    }
    *next = due + PACE_NS;
    true
}

#[inline(always)]
fn write<P: Packet>(p: &mut P, ip: &Ip, from: &Addr, mtu: u32) -> Option<()> {
    let most = if ip.v6 { QUOTED_V6 } else { QUOTED };
    // In whole words: what is quoted is added up.
    let quoted = ip.length.min(most) & !3;
    p.resize(L3 as u32 + quoted)?;
    p.make_room(if ip.v6 { Room::Error6 } else { Room::Error4 })?;
    turn_round(p)?;
    if ip.v6 { error_v6(p, ip, from, mtu, quoted) } else { error_v4(p, ip, from, mtu, quoted) }
}

#[inline(never)]
fn error_v4<P: Packet>(p: &mut P, ip: &Ip, from: &Addr, mtu: u32, quoted: u32) -> Option<()> {
    const HEADERS: u32 = (Ipv4Hdr::LEN + Icmpv4Hdr::LEN) as u32;
    const DONT_FRAGMENT: u8 = 0x40;
    /// Internetwork control (RFC 1812 section 4.3.2.5).
    const TOS: u8 = 0xc0;
    const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
    const TIME_EXCEEDED: [u8; 2] = [11, 0];
    let what = if mtu == 0 { TIME_EXCEEDED } else { FRAGMENTATION_NEEDED };
    let mtu = (mtu as u16).to_be_bytes();
    let quote = sum_quotation(p, ip, L4 + Icmpv4Hdr::LEN, quoted);
    let check = (!fold(sum2(what) + sum2(mtu) + quote)).to_be_bytes();
    p.store(L4, &[what[0], what[1], check[0], check[1], 0, 0, mtu[0], mtu[1]])?;
    let length = ((HEADERS + quoted) as u16).to_be_bytes();
    let addrs = [from.v4_word().to_ne_bytes(), ip.key.src.v4_word().to_ne_bytes()];
    let sum = sum2([0x45, TOS]) + sum2(length) + sum2([DONT_FRAGMENT, 0]) + sum2([TTL, PROTO_ICMP]);
    let [high, low] = (!fold(sum + sum4(addrs[0]) + sum4(addrs[1]))).to_be_bytes();
    p.store(L3, &[0x45, TOS, length[0], length[1], 0, 0, DONT_FRAGMENT, 0, TTL, PROTO_ICMP, high, low])?;
    p.amend_frame_sum(fold(sum2(what) + sum2(check) + sum2(mtu)));
    p.store(L3 + 12, &addrs)
}

#[inline(never)]
fn error_v6<P: Packet>(p: &mut P, ip: &Ip, from: &Addr, mtu: u32, quoted: u32) -> Option<()> {
    const HEADER: u32 = 8;
    const TOO_BIG: [u8; 2] = [2, 0];
    const TIME_EXCEEDED: [u8; 2] = [3, 0];
    let what = if mtu == 0 { TIME_EXCEEDED } else { TOO_BIG };
    let mtu = if mtu == 0 { 0 } else { mtu.max(LEAST_MTU_V6) };
    let mtu = (mtu as u16).to_be_bytes();
    let quote = sum_quotation(p, ip, L4_V6 + HEADER as usize, quoted);
    let length = HEADER + quoted;
    let addrs = sum_addr(from) + sum_addr(&ip.key.src);
    let pseudo = addrs + length + u32::from(PROTO_ICMPV6);
    let check = (!fold(pseudo + sum2(what) + sum2(mtu) + quote)).to_be_bytes();
    p.store(L4_V6, &[what[0], what[1], check[0], check[1], 0, 0, mtu[0], mtu[1]])?;
    let [high, low] = (length as u16).to_be_bytes();
    p.store(L3, &[0x60, 0, 0, 0, high, low, PROTO_ICMPV6, TTL])?;
    let header = 0x6000 + length + sum2([PROTO_ICMPV6, TTL]) + addrs;
    p.amend_frame_sum(fold(header + sum2(what) + sum2(check) + sum2(mtu)));
    p.store(L3 + 8, &[*from, ip.key.src])
}

/// Sum of the quoted packet as it will leave. One whose own checksum is completed on leaving (CHECKSUM_PARTIAL) sums to the
/// complement of what stands in that field, behind its network header: the checksum is chosen to make it so.
#[inline(always)]
fn sum_quotation<P: Packet>(p: &mut P, ip: &Ip, at: usize, quoted: u32) -> u32 {
    let network = (ip.l4() - L3) as u32;
    let start = at as u32;
    if matches!(ip.payload, Payload::Tcp | Payload::Udp) && p.is_unfinished(at - 6) {
        let check = if ip.key.proto == PROTO_UDP { UDP_CHECK } else { TCP_CHECK };
        let field = p.load::<[u8; 2]>(at + network as usize + check).unwrap_or_default();
        return sum(p, start, start + network) + u32::from(!u16::from_be_bytes(field));
    }
    sum(p, start, start + quoted)
}

/// Sum of the frame's words between two offsets, a multiple of four apart.
#[inline(never)]
fn sum<P: Packet>(p: &P, from: u32, to: u32) -> u32 {
    let (mut at, mut sum, mut pieces) = (from, 0, 0);
    while pieces < QUOTED_V6 / LARGE && at + LARGE <= to {
        let Some(piece) = p.load::<[Addr; 4]>(at as usize) else { return 0 };
        sum += piece.iter().map(sum_addr).sum::<u32>();
        (at, pieces) = (at + LARGE, pieces + 1);
    }
    pieces = 0;
    while pieces < LARGE / SMALL && at + SMALL <= to {
        let Some(piece) = p.load::<[u8; 4]>(at as usize) else { return 0 };
        sum += sum4(piece);
        (at, pieces) = (at + SMALL, pieces + 1);
    }
    sum
}
