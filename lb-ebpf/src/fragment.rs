//! Fragments, and packets with IPv6 extension headers: what has no transport header, or not at the usual place.
//!
//! A datagram's first fragment is treated as a whole packet would be, and leaves word (`FRAGMENTS`) of its flow for those that
//! follow, which get new addresses only. One that comes before the first is dropped: senders send in order, and holding it would
//! mean memory that anybody may fill. IPv6 extension headers are walked to a bound; hop-by-hop options, destination options and
//! routing headers that have been used up lead on, all others (and more) are left to the node's stack.
//!
//! `rest` leaves these packets to programs of their own in the kernel, one for what is known and one for what opens flows. Offsets
//! vary here, so packet bytes are read and written by helper only.

use lb_common::{
    addr::{PROTO_TCP, PROTO_UDP, Port},
    flow::{FORWARD, FlowRef, Stage},
    fragment::{FragmentKey, FragmentRef, TIMEOUT_NS},
    maps::{FORMER, Tail},
    mode::Mode,
    reason::Reason,
};
use network_types::{tcp::TcpHdr, udp::UdpHdr};

use crate::{
    apply::{self, TCP_CHECK, UDP_CHECK, addresses_v4, addresses_v6},
    capture, conntrack, detour,
    ownership::{self, Right},
    packet::{Arrival, Checksum, Packet},
    parse::{self, Ip, L3, L4, L4_V6, Payload, flag},
    plan::{Action, Plan, Step, Verdict},
    redispatch, report, service,
    tables::Tables,
};

/// Extension headers walked; two or three occur.
const MAX_HEADERS: u32 = 6;
/// No interface.
const UNTRANSLATABLE: u32 = 0;
/// The fragment header of IPv6.
const FRAGMENT: u8 = 44;

/// What is between network and transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Chain {
    /// Offset of the transport header.
    l4: u32,
    /// Where this fragment belongs in its datagram, in units of eight bytes; 0 without a fragment header.
    offset: u16,
    /// More fragments follow.
    more: bool,
    /// Identification, as in [`FragmentKey`].
    id: [u8; 4],
}

/// In the first word that one program leaves to the other, beside the transport header's offset: what is in the chain's other fields,
/// and in the packet's.
const L4_BITS: u32 = 17;
const PROTO_BITS: u32 = 8;
const MORE: u32 = 1 << (L4_BITS + PROTO_BITS);
const FIRST: u32 = MORE << 1;
const MALFORMED: u32 = FIRST << 1;

/// Decides about such a packet, rewrites it, and counts what became of it; but not about one that may open a flow, which is left
/// to [`open`] (`Err`).
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    let (mut ip, mut chain) = (Ip::default(), Chain::default());
    let first = read(p, &mut ip, &mut chain);
    let mut moved = false;
    let mut plan = if chain.offset != 0 {
        following(&ip, &chain, p, t, at)
    } else {
        conntrack::known_if(&ip, p, t, at, |f, _| {
            moved = f.is_moved();
            !moved
        })
    };
    if moved {
        plan = Plan::drop(Reason::Untranslatable);
    }
    if plan.step == Step::Undecided {
        redispatch::hand_on(p, &plan);
        p.note(words(&chain, &ip, first));
        return Err(Tail::OpeningFragments);
    }
    if let Some(tail) = prepare(&mut plan, first, &ip, &chain, p, t, at) {
        return Err(tail);
    }
    let verdict = if plan.step == Step::Nat {
        translated(&plan, nat(p, t, &plan, &chain))
    } else {
        apply::apply_known(p, t, &plan, at.ifindex, None)
    };
    t.count(verdict.reason);
    Ok(verdict)
}

/// Likewise for a packet that belongs to no known flow and has a transport header, or none that matters here. In the kernel a
/// program of its own, so that the verifier follows neither half for each way through the other; and it is told what is between
/// the headers, or the verifier would follow all that comes after for each way through them.
#[inline(always)]
pub fn open<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    let mut ip = Ip::default();
    read_noted(p, &mut ip);
    let mut plan = service::decide(&ip, p, t, at);
    if plan.step == Step::Undecided {
        redispatch::hand_on(p, &plan);
        return Err(Tail::OpeningFragments);
    }
    let (chain, first) = noted(p);
    if let Some(tail) = prepare(&mut plan, first, &ip, &chain, p, t, at) {
        return Err(tail);
    }
    let verdict = apply(p, t, &plan, &ip, &chain, at.ifindex);
    t.count(verdict.reason);
    Ok(verdict)
}

/// Reads the headers; whether there is a transport header.
#[inline(always)]
fn read<P: Packet>(p: &P, ip: &mut Ip, chain: &mut Chain) -> bool {
    parse::network(p, ip);
    chain.l4 = L4 as u32;
    ip.payload = if L3 as u32 + ip.length > p.length() {
        Payload::Malformed
    } else if ip.v6 {
        walk(p, ip, chain)
    } else {
        ipv4(p, chain)
    };
    let first = ip.payload == Payload::Other && chain.offset == 0;
    if first {
        ip.payload = transport(p, ip, chain.l4, chain.more);
    }
    first
}

/// What [`read`] has found of a packet that is no later fragment, but for the transport header.
#[inline(always)]
fn words(chain: &Chain, ip: &Ip, first: bool) -> [u32; 2] {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let what =
        flag(chain.more, MORE) | flag(first, FIRST) | flag(ip.payload == Payload::Malformed, MALFORMED);
    [chain.l4 | u32::from(ip.key.proto) << L4_BITS | what, u32::from_ne_bytes(chain.id)]
}

/// What of it the chain holds, and whether there is a transport header. Asked again when the backend is chosen: kept, it would take
/// its part of the stack meanwhile.
#[inline(always)]
fn noted<P: Packet>(p: &P) -> (Chain, bool) {
    let [what, id] = p.noted();
    let l4 = what & ((1 << L4_BITS) - 1);
    (Chain { l4, offset: 0, more: what & MORE != 0, id: id.to_ne_bytes() }, what & FIRST != 0)
}

/// Reads the headers where the program before has found them.
///
/// A function of its own: what it needs of the stack the rest need not have.
#[inline(never)]
fn read_noted<P: Packet>(p: &P, ip: &mut Ip) {
    parse::network(p, ip);
    let [what, _] = p.noted();
    ip.key.proto = (what >> L4_BITS) as u8;
    ip.payload = if what & MALFORMED != 0 { Payload::Malformed } else { Payload::Options };
    let (chain, first) = noted(p);
    if first {
        ip.payload = transport(p, ip, chain.l4, chain.more);
    }
}

/// What is done before the packet is rewritten; or the program that it is left to.
#[inline(always)]
fn prepare<P: Packet, T: Tables>(
    plan: &mut Plan,
    first: bool,
    ip: &Ip,
    chain: &Chain,
    p: &mut P,
    t: &T,
    at: &Arrival,
) -> Option<Tail> {
    plan.v6 = ip.v6;
    if matches!(plan.step, Step::Nat | Step::Direct) && chain.more && first {
        leave_word(ip, chain, plan, t, at);
    }
    if plan.reason == Reason::TtlExpired {
        return Some(report::expired(p));
    }
    if plan.step == Step::Direct && t.flow(plan.slot).is_some_and(|f| f.mode() == Mode::Tunnel) {
        return Some(detour::leave(p, plan.slot, plan.reason));
    }
    capture::offer(p, t, plan.reason, at, false);
    None
}

/// The fields of an IPv4 header that tell of fragments.
#[inline(always)]
fn ipv4<P: Packet>(p: &P, chain: &mut Chain) -> Payload {
    let Some([a, b, high, low]) = p.load::<[u8; 4]>(L3 + 4) else { return Payload::Malformed };
    let frags = u16::from_be_bytes([high, low]);
    chain.id = [0, 0, a, b];
    chain.offset = frags & 0x1fff;
    chain.more = frags & 0x2000 != 0;
    Payload::Other
}

/// Walks the extension headers of an IPv6 packet. `Other`: what follows them is at `chain.l4`, of the protocol in the key.
#[inline(never)]
fn walk<P: Packet>(p: &P, ip: &mut Ip, chain: &mut Chain) -> Payload {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let end = L3 as u32 + ip.length;
    let mut next = ip.key.proto;
    let mut at = L4_V6 as u32;
    let mut walked = 0;
    while walked < MAX_HEADERS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            break;
        }
        if at + 8 > end {
            return Payload::Malformed;
        }
        let Some([following, length, a, b, id @ ..]) = p.load::<[u8; 8]>(at as usize) else {
            return Payload::Malformed;
        };
        if next == ROUTING && b != 0 {
            // Segments are left: it is on its way to somewhere else.
            return Payload::Options;
        }
        at += 8;
        if next == FRAGMENT {
            chain.offset = u16::from_be_bytes([a, b]) >> 3;
            chain.more = b & 1 != 0;
            chain.id = id;
        } else {
            at += u32::from(length) * 8;
        }
        next = following;
        walked += 1;
        if chain.offset != 0 {
            // What follows is some of the datagram, no header.
            break;
        }
    }
    ip.key.proto = next;
    chain.l4 = at;
    if at > end { Payload::Malformed } else { Payload::Other }
}

/// Reads the transport header of a whole packet or of a first fragment, whose lengths tell of the whole datagram.
#[inline(always)]
fn transport<P: Packet>(p: &P, ip: &mut Ip, l4: u32, more: bool) -> Payload {
    let rest = ip.length - (l4 - L3 as u32);
    if ip.key.proto == PROTO_UDP {
        let Some([a, b, c, d, ..]) = p.load::<[u8; UdpHdr::LEN]>(l4 as usize) else {
            return Payload::Malformed;
        };
        if rest < UdpHdr::LEN as u32 {
            return Payload::Malformed;
        }
        (ip.key.sport, ip.key.dport) = (Port([a, b]), Port([c, d]));
        return Payload::Udp;
    }
    if ip.key.proto != PROTO_TCP {
        return if more { Payload::Fragment } else { Payload::Options };
    }
    let Some(h) = p.load::<[u8; TcpHdr::LEN]>(l4 as usize) else { return Payload::Malformed };
    let header = u32::from(h[12] >> 4) * 4;
    if header < TcpHdr::LEN as u32 || header > rest {
        return Payload::Malformed;
    }
    ip.key.sport = Port([h[0], h[1]]);
    ip.key.dport = Port([h[2], h[3]]);
    ip.tcp.seq = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    ip.tcp.ack = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
    ip.tcp.flags = h[13];
    ip.tcp.span = rest - header + u32::from(h[13] & flag::SYN != 0) + u32::from(h[13] & flag::FIN != 0);
    Payload::Tcp
}

/// The plan for a fragment that is not its datagram's first.
#[inline(always)]
fn following<P: Packet, T: Tables>(ip: &Ip, chain: &Chain, p: &P, t: &T, at: &Arrival) -> Plan {
    let unknown = if ip.payload == Payload::Malformed { Reason::Malformed } else { Reason::Fragment };
    let found = t.fragment(&key(ip, chain)).filter(|r| at.now.saturating_sub(r.seen) < TIMEOUT_NS);
    if let Some(r) = found
        && let Some(f) = t.flow(r.flow.slot)
        && f.generation == r.flow.generation
        && f.stage() != Stage::Free
    {
        let right = ownership::right(p, t, f.router, at.now);
        if !matches!(right, Right::Owner | Right::Delegate) {
            return ownership::instead(right, ip, f.router, t, at);
        }
        if ip.ttl <= 1 {
            return Plan::drop(Reason::TtlExpired);
        }
        conntrack::count(f, r.flow.direction, ip.length, t);
        let reason = if r.flow.direction == FORWARD { Reason::Forwarded } else { Reason::Returned };
        return Plan::to_backend(reason, r.flow.slot, r.flow.direction, f.mode());
    }
    p.leave_to(FORMER);
    service::unserved(ip, Plan::drop(unknown), p, t, at)
}

/// RFC 8200 leaves the protocol out, and other fragments than the first need not name it.
#[inline(always)]
fn key(ip: &Ip, chain: &Chain) -> FragmentKey {
    let proto = if ip.v6 { FRAGMENT } else { ip.key.proto };
    FragmentKey { src: ip.key.src, dst: ip.key.dst, id: chain.id, proto, pad: [0; 3] }
}

#[inline(never)]
fn leave_word<T: Tables>(ip: &Ip, chain: &Chain, plan: &Plan, t: &T, at: &Arrival) {
    let Some(f) = t.flow(plan.slot) else { return };
    let flow = FlowRef { slot: plan.slot, generation: f.generation, direction: plan.direction, pad: 0 };
    t.record_fragment(&key(ip, chain), &FragmentRef { flow, seen: at.now });
}

#[inline(always)]
fn apply<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    plan: &Plan,
    ip: &Ip,
    chain: &Chain,
    ifindex: u32,
) -> Verdict {
    if plan.step == Step::Nat {
        return translated(plan, nat(p, t, plan, chain));
    }
    if plan.step == Step::Reset {
        // A reset has no extension headers: the ports go where they are looked for.
        let l4 = if plan.v6 { L4_V6 } else { L4 };
        if p.store(l4, &[ip.key.sport.0, ip.key.dport.0]).is_none() {
            return apply::verdict(plan, None);
        }
    }
    apply::apply(p, t, plan, ifindex)
}

/// What becomes of a packet that [`nat`] has rewritten, or has not.
#[inline(always)]
fn translated(plan: &Plan, leaves_by: Option<u32>) -> Verdict {
    match leaves_by {
        Some(UNTRANSLATABLE) => Verdict { reason: Reason::Untranslatable, action: Action::Drop },
        ifindex => apply::verdict(plan, ifindex.map(Action::Route)),
    }
}

/// As `apply` does for packets whose transport header is where it mostly is. Gives [`UNTRANSLATABLE`] if the packet would have to
/// change family.
#[inline(never)]
fn nat<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan, chain: &Chain) -> Option<u32> {
    let f = t.flow(plan.slot)?;
    if f.is_mixed() {
        return Some(UNTRANSLATABLE);
    }
    let new = apply::rewrite(f, plan.direction);
    if chain.offset == 0 {
        let udp = f.proto == PROTO_UDP;
        let check = chain.l4 as usize + if udp { UDP_CHECK } else { TCP_CHECK };
        // Of a first fragment the checksum covers the whole datagram, so differences hold here too.
        p.update_l4_checksum(Checksum { offset: check, optional: udp }, new.addr_delta, new.port_delta)?;
        p.store(chain.l4 as usize, &[new.sport.0, new.dport.0])?;
    }
    if plan.v6 {
        addresses_v6(p, new.src, new.dst, new.addr_delta)?;
    } else {
        addresses_v4(p, new.src, new.dst, new.addr_delta)?;
    }
    Some(new.ifindex)
}
