//! ICMP and ICMPv6 errors about packets of known flows, brought to the end that sent them: without "fragmentation needed" and
//! "packet too big" a connection over a narrower link stalls for ever.
//!
//! What an error quotes is a packet as it was sent on from here. So the quoted addresses and ports, turned round, are the key
//! of the flow's other direction, and the error travels in that direction. The quotation is turned back into what its sender
//! had sent. The error's own source becomes what that side takes for its peer, the virtual address (or the source that the
//! backend sees), whoever sent the error: addresses of the other side need not be routable on this one (RFC 5508 section 4.2).
//!
//! `rest` leaves these packets to a program of its own in the kernel. Must never act on a quotation that its flow cannot have
//! sent: errors are easily forged (RFC 5927).

use lb_common::{
    addr::{Addr, PROTO_TCP, PROTO_UDP, Port},
    checksum::{delta, fold, sum_addr, sum2, update},
    flow::{FORWARD, Flow, FlowKey, REVERSE, Stage},
    maps::{FORMER, Tail},
    mode::Mode,
    reason::Reason,
};
use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    apply::{self, Rewrite, TCP_CHECK, UDP_CHECK, addresses_v4, addresses_v6},
    capture, detour, foreign_error,
    ownership::{self, Right},
    packet::{Arrival, Checksum, Packet},
    parse::{self, Ip, L3, L4, L4_V6},
    plan::{Action, Plan, Step, Verdict},
    service,
    tables::Tables,
};

/// Offset of the quoted packet in IPv4.
const INNER: usize = L4 + Icmpv4Hdr::LEN;
/// Offset of the quoted packet in IPv6.
const INNER_V6: usize = L4_V6 + 8;
/// How far a quoted segment may lie behind the newest one, in bytes: no connection has more in flight.
const WINDOW: u32 = 64 << 20;

/// What is known of the quoted packet.
#[derive(Default)]
struct Quoted {
    /// Key of the packets that answer it.
    key: FlowKey,
    /// Offset of its transport header.
    l4: usize,
    /// The first eight bytes of that: ports, and a sequence number in TCP.
    head: [u8; 8],
}

/// Decides about an ICMP error, rewrites it, and counts what became of it; or the program that it is left to.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    let mut ip = Ip::default();
    parse::network(p, &mut ip);
    let mut quoted = Quoted::default();
    let quotes = quotation(p, &ip, &mut quoted);
    let mut plan = if quotes.is_ok() { about_flow(&ip, &quoted, p, t, at) } else { Plan::undecided() };
    if plan.step == Step::Undecided {
        p.leave_to(FORMER);
        // One place for all: each would take its part of the stack.
        let plain = match quotes {
            Err(Reason::Malformed) => Plan::drop(Reason::Malformed),
            Err(reason) => Plan::pass(reason),
            Ok(()) => Plan::pass(Reason::ErrorUnknownFlow),
        };
        plan = service::unserved(&ip, plain, p, t, at);
    }
    if plan.reason == Reason::ErrorForwarded {
        match elsewhere(t, plan.slot) {
            Step::Detour => return Err(detour::leave(p, plan.slot, Reason::ErrorForwarded)),
            Step::Foreign => return Err(foreign_error::leave(p, plan.slot, plan.direction)),
            _ => {}
        }
    }
    plan.v6 = ip.v6;
    capture::offer(p, t, plan.reason, at, false);
    let verdict = if plan.step == Step::Nat {
        apply::verdict(&plan, rewrite(p, t, &plan, &ip, &quoted).map(Action::Route))
    } else {
        apply::apply_known(p, t, &plan, at.ifindex, Some(ip.segment()))
    };
    t.count(verdict.reason);
    Ok(verdict)
}

/// Where an error about a packet of the flow in a slot is left to, if not here.
#[inline(never)]
fn elsewhere<T: Tables>(t: &T, slot: u32) -> Step {
    match t.flow(slot) {
        Some(f) if f.mode() == Mode::Tunnel => Step::Detour,
        Some(f) if f.is_mixed() => Step::Foreign,
        _ => Step::Nat,
    }
}

/// Reads the quotation; why an error quotes nothing of a flow.
#[inline(always)]
fn quotation<P: Packet>(p: &P, ip: &Ip, quoted: &mut Quoted) -> Result<(), Reason> {
    let found = if ip.v6 { quoted_v6(p, quoted) } else { quoted_v4(p, quoted) };
    match found {
        Some(true) if matches!(quoted.key.proto, PROTO_TCP | PROTO_UDP) => {}
        Some(_) => return Err(Reason::NoService),
        None => return Err(Reason::Malformed),
    }
    // Eight bytes of the transport header at least (RFC 792), within what the error's own length covers.
    if quoted.l4 - L3 + 8 > ip.length as usize {
        return Err(Reason::Malformed);
    }
    let head: [u8; 8] = p.load(quoted.l4).ok_or(Reason::Malformed)?;
    quoted.head = head;
    quoted.key.dport = Port([head[0], head[1]]);
    quoted.key.sport = Port([head[2], head[3]]);
    Ok(())
}

/// Whether the quoted header is one that was sent on from here, its transport header with it; `None` if it is cut short.
#[inline(never)]
fn quoted_v4<P: Packet>(p: &P, quoted: &mut Quoted) -> Option<bool> {
    let h: [u8; Ipv4Hdr::LEN] = p.load(INNER)?;
    // What came with options was left to the node's stack.
    let first = u16::from_be_bytes([h[6], h[7]]) & 0x1fff == 0;
    quoted.key.dst = Addr::v4([h[12], h[13], h[14], h[15]]);
    quoted.key.src = Addr::v4([h[16], h[17], h[18], h[19]]);
    quoted.key.proto = h[9];
    quoted.l4 = INNER + Ipv4Hdr::LEN;
    Some(h[0] == 0x45 && first)
}

#[inline(never)]
fn quoted_v6<P: Packet>(p: &P, quoted: &mut Quoted) -> Option<bool> {
    let [vcf, _, _, _, _, _, next, _] = p.load::<[u8; 8]>(INNER_V6)?;
    let [src, dst] = p.load::<[Addr; 2]>(INNER_V6 + 8)?;
    (quoted.key.dst, quoted.key.src, quoted.key.proto) = (src, dst, next);
    quoted.l4 = INNER_V6 + Ipv6Hdr::LEN;
    Some(vcf >> 4 == 6)
}

/// The plan for an error about a packet of a known flow; undecided if there is no such flow.
#[inline(always)]
fn about_flow<P: Packet, T: Tables>(ip: &Ip, quoted: &Quoted, p: &P, t: &T, at: &Arrival) -> Plan {
    // An error goes to the source of what it is about.
    if ip.key.dst != quoted.key.dst {
        return Plan::undecided();
    }
    let Some(r) = t.flow_ref(&quoted.key) else { return Plan::undecided() };
    let Some(f) = t.flow(r.slot) else { return Plan::undecided() };
    if f.generation != r.generation || f.stage() == Stage::Free {
        return Plan::undecided();
    }
    let right = ownership::right(p, t, f.router, at.now);
    if !matches!(right, Right::Owner | Right::Delegate) {
        return ownership::instead(right, ip, f.router, t, at);
    }
    if f.proto == PROTO_TCP && !may_have_sent(f, r.direction, &quoted.head) {
        return Plan::drop(Reason::ErrorOutsideWindow);
    }
    if ip.ttl <= 1 {
        return Plan::drop(Reason::TtlExpired);
    }
    if r.direction == REVERSE && refuses(ip, r.slot, p, t) {
        return Plan::drop(Reason::RefusalWithheld);
    }
    Plan::to_backend(Reason::ErrorForwarded, r.slot, r.direction, f.mode())
}

/// Whether an error refuses a connection that another backend is to take: it is about the first SYN, and ends what it is about, as
/// all do at a client of Linux but those that ask for shorter packets (RFC 5461 section 4 has what others make of them). A
/// firewall's refusal, say, or a router's that does not find the backend.
#[inline(always)]
fn refuses<P: Packet, T: Tables>(ip: &Ip, slot: u32, p: &P, t: &T) -> bool {
    const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
    const PACKET_TOO_BIG: u8 = 2;
    if t.flow(slot).is_none_or(|f| f.stage() != Stage::SynSent) {
        return false;
    }
    let l4 = if ip.v6 { L4_V6 } else { L4 };
    let Some(what) = p.load::<[u8; 2]>(l4) else { return false };
    let is_final = if ip.v6 { what[0] != PACKET_TOO_BIG } else { what != FRAGMENTATION_NEEDED };
    is_final && t.missed(slot, true)
}

/// Whether the quoted segment is one that the end which the error goes to has sent of late (RFC 5927 section 4.1). An error
/// that travels to the backend is about what came from there.
#[inline(always)]
fn may_have_sent(f: &Flow, direction: u8, head: &[u8; 8]) -> bool {
    let seq = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let next = if direction == FORWARD { f.backend_next } else { f.client_next };
    next.wrapping_sub(seq) <= WINDOW
}

/// Turns the error into one about what its receiver has sent; gives the interface that it leaves by.
#[inline(always)]
fn rewrite<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan, ip: &Ip, quoted: &Quoted) -> Option<u32> {
    let f = t.flow(plan.slot)?;
    let new = apply::rewrite(f, plan.direction);
    let outer = delta(sum_addr(&ip.key.src) + sum_addr(&ip.key.dst), sum_addr(new.src) + sum_addr(new.dst));
    let inner = rewrite_quotation(p, ip, quoted, &new)?;
    if plan.v6 {
        let field = Checksum { offset: L4_V6 + 2, optional: false };
        p.update_l4_checksum(field, outer, inner)?;
        addresses_v6(p, new.src, new.dst, outer)?;
    } else {
        // ICMP has no pseudo-header.
        let field = Checksum { offset: L4 + 2, optional: false };
        p.update_l4_checksum(field, 0, inner)?;
        addresses_v4(p, new.src, new.dst, outer)?;
    }
    Some(new.ifindex)
}

/// Gives the quoted packet the addresses and ports that it was sent with; gives the delta of all that changed. The two sides'
/// sums of source and destination do not depend on which is which, so the flow's deltas hold for the quotation too.
#[inline(never)]
fn rewrite_quotation<P: Packet>(p: &mut P, ip: &Ip, quoted: &Quoted, new: &Rewrite<'_>) -> Option<u16> {
    let mut changed = u32::from(new.addr_delta) + u32::from(new.port_delta);
    changed += quoted_checksum(p, ip, quoted, new)?;
    p.store(quoted.l4, &[new.dport.0, new.sport.0])?;
    if ip.v6 {
        p.store(INNER_V6 + 8, &[*new.dst, *new.src])?;
        return Some(fold(changed));
    }
    let old: [u8; 2] = p.load(INNER + 10)?;
    let check = update(u16::from_be_bytes(old), new.addr_delta).to_be_bytes();
    p.store(INNER + 10, &check)?;
    p.store(INNER + 12, &[new.dst.v4_word().to_ne_bytes(), new.src.v4_word().to_ne_bytes()])?;
    Some(fold(changed + u32::from(delta(sum2(old), sum2(check)))))
}

/// Updates the quoted transport checksum where the quotation reaches as far; gives its delta.
#[inline(always)]
fn quoted_checksum<P: Packet>(p: &mut P, ip: &Ip, quoted: &Quoted, new: &Rewrite<'_>) -> Option<u32> {
    let udp = quoted.key.proto == PROTO_UDP;
    let at = quoted.l4 + if udp { UDP_CHECK } else { TCP_CHECK };
    if at + 2 - L3 > ip.length as usize {
        return Some(0);
    }
    let old: [u8; 2] = p.load(at)?;
    if udp && old == [0; 2] {
        return Some(0);
    }
    let new = match update(update(u16::from_be_bytes(old), new.addr_delta), new.port_delta).to_be_bytes() {
        [0, 0] if udp => [0xff; 2],
        check => check,
    };
    p.store(at, &new)?;
    Some(u32::from(delta(sum2(old), sum2(new))))
}
