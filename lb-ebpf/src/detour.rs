//! Packets of flows that need more than new addresses: into a tunnel (`tunnel`), into the other family (`translate`), with another
//! segment size (`clamp`), or none of it because they are too long for the way (`report`); and both SYNs of connections that may have
//! to be moved to another server (`handshake`).
//!
//! `forward` leaves them to a program of its own in the kernel, before anything has changed, by one comparison:
//! [`Flow::takes`]. Flows whose every packet comes here have an MTU of [`DETOUR`]. Packets that open such a flow, fragments and
//! ICMP errors are handed on by the programs that have decided about them.

use lb_common::{
    addr::{PROTO_TCP, PROTO_UDP},
    flow::{DETOUR, FORWARD, Flow, REVERSE},
    held::Held,
    maps::Tail,
    mode::Mode,
    reason::Reason,
    sample::HEAD,
    service::{Backend, NO_CLAMP, Path},
};
use network_types::udp::UdpHdr;

use crate::{
    apply::{self, UDP_CHECK},
    capture, clamp, conntrack, handshake,
    packet::{Arrival, Packet},
    parse::{self, Ip, L3, L4, Payload, flag},
    plan::{Action, Plan, Step, Verdict},
    redispatch, report,
    tables::Tables,
    translate, tunnel,
};

/// What an IPv6 header is longer than an IPv4 header by, in bytes.
const FAMILIES_DIFFER_BY: u32 = 20;
/// An obstacle that is no length: the packet has no counterpart in the other family.
const UNTRANSLATABLE: u32 = u32::MAX;

/// Makes a filled record that of a flow by tunnel, between families, of a limited segment size, or of one whose handshake is noted.
#[inline(always)]
pub fn prepare(f: &mut Flow, backend: &Backend, path: Option<&Path>) -> Result<(), Reason> {
    f.mtu = path.map_or(0, |p| p.least);
    if f.mode() == Mode::Local {
        // Goes no further than here.
        f.mtu = 0;
    } else if f.mode() == Mode::Tunnel || f.is_mixed() {
        f.snat = path.map(|p| p.source).unwrap_or_default();
        if f.snat.is_v4() != backend.addr.is_v4() {
            return Err(Reason::BackendMissing);
        }
        f.mtu = DETOUR;
    } else if f.proto == PROTO_TCP
        && path.is_some_and(|p| p.moves != 0 || p.strict != 0 || !matches!(p.mss, 0 | NO_CLAMP))
    {
        // Until both have said how much they take, and that they are there.
        f.mtu = DETOUR;
    }
    Ok(())
}

/// Whether the packet that opened the flow in a slot comes here.
#[inline(always)]
pub fn is_for<T: Tables>(slot: u32, t: &T) -> bool {
    t.flow(slot).is_some_and(|f| f.mtu == DETOUR)
}

/// Leaves a packet of the flow in `slot`, about which is decided, to this program.
#[inline(always)]
pub fn leave<P: Packet>(p: &mut P, slot: u32, reason: Reason) -> Tail {
    p.hand_on([slot + 1, reason as u32]);
    Tail::Detour
}

/// Bytes of the longest IP packet that a frame leaves as: of an offloaded one its largest segment.
#[inline(never)]
pub fn longest<P: Packet>(p: &P, ip: &Ip) -> u32 {
    let data = p.segment_size();
    if data == 0 {
        return ip.length;
    }
    let headers = if ip.payload == Payload::Tcp {
        let counted = u32::from(ip.tcp.has(flag::SYN)) + u32::from(ip.tcp.has(flag::FIN));
        ip.length + counted - ip.tcp.span
    } else {
        (ip.l4() - L3 + UdpHdr::LEN) as u32
    };
    headers + data
}

/// Decides about a packet of such a flow, rewrites it, and counts what became of it; or the program that it is left to.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    let mut ip = Ip::default();
    parse::parse(p, &mut ip);
    let (mut obstacle, mut moved) = (0, false);
    let handed = p.handed();
    let mut plan = if handed[0] == 0 {
        conntrack::known_if(&ip, p, t, at, |f, direction| {
            // Since `forward` looked.
            moved = f.is_moved();
            obstacle = stands_in_the_way(p, t, &ip, f, direction);
            obstacle == 0 && !moved
        })
    } else {
        let plan = decided(handed, t);
        if let Some(f) = t.flow(plan.slot) {
            obstacle = stands_in_the_way(p, t, &ip, f, FORWARD);
        }
        plan
    };
    if moved {
        return Err(Tail::Moved);
    }
    if obstacle == UNTRANSLATABLE {
        plan = Plan::drop(Reason::Untranslatable);
    } else if obstacle != 0 {
        return Err(report::too_big(p, obstacle));
    }
    if plan.step == Step::Undecided {
        redispatch::hand_on(p, &plan);
        return Err(Tail::Rest);
    }
    if plan.reason == Reason::TtlExpired {
        return Err(report::expired(p));
    }
    if plan.step == Step::Drop || matches!(plan.reason, Reason::NewFlow | Reason::Redispatched) {
        capture::offer(p, t, plan.reason, at, false);
    }
    plan.v6 = ip.v6;
    let mut verdict = send(p, t, &plan, &ip, at.ifindex);
    if ip.tcp.has(flag::SYN | flag::ACK)
        && plan.direction == REVERSE
        && matches!(verdict.action, Action::Route(_))
        && hold(p, t, plan.slot, at)
    {
        verdict = Verdict { reason: Reason::Held, action: Action::Drop };
    }
    t.count(verdict.reason);
    Ok(verdict)
}

/// Leaves a SYN-ACK, as it would go out, to the daemon, which sends it on once a peer has the flow (`sync = "strict"`): what the client
/// does not know of it cannot lose. Whether it is left there.
#[inline(never)]
fn hold<P: Packet, T: Tables>(p: &P, t: &T, slot: u32, at: &Arrival) -> bool {
    if t.settings().is_none_or(|s| s.sync == 0) {
        return false;
    }
    let Some(f) = t.flow(slot) else { return false };
    let (generation, backend, half_open) = (f.generation, f.backend_id, f.place != 0);
    if !half_open || t.path(backend).is_none_or(|path| path.strict == 0) {
        return false;
    }
    let mut held = Held { at: at.now, slot, generation, length: 0, frame: [0; HEAD] };
    held.length = p.head(&mut held.frame);
    u32::from(held.length) == p.length() && t.hold(&held)
}

/// The plan of a packet that was handed on: from the client, of a flow in a tunnel or one that it has just opened.
#[inline(always)]
fn decided<T: Tables>([slot, reason]: [u32; 2], t: &T) -> Plan {
    const NEW: u32 = Reason::NewFlow as u32;
    const AGAIN: u32 = Reason::Redispatched as u32;
    const ADOPTED: u32 = Reason::Adopted as u32;
    const ERROR: u32 = Reason::ErrorForwarded as u32;
    let reason = match reason {
        NEW => Reason::NewFlow,
        AGAIN => Reason::Redispatched,
        ADOPTED => Reason::Adopted,
        ERROR => Reason::ErrorForwarded,
        _ => Reason::Forwarded,
    };
    let mode = t.flow(slot - 1).map_or(Mode::Nat, |f| f.mode());
    Plan::to_backend(reason, slot - 1, FORWARD, mode)
}

/// What keeps a packet from its way: 0 nothing, else the longest IP packet that its sender may send, or [`UNTRANSLATABLE`].
#[inline(never)]
pub(crate) fn stands_in_the_way<P: Packet, T: Tables>(p: &P, t: &T, ip: &Ip, f: &Flow, direction: u8) -> u32 {
    let translated_to_v6 = f.is_mixed() && !ip.v6;
    if translated_to_v6
        && ip.key.proto == PROTO_UDP
        && p.load::<[u8; 2]>(L4 + UDP_CHECK).is_none_or(|check| check == [0; 2])
    {
        // IPv6 has no datagrams without checksum, and to make one takes all of the data.
        return UNTRANSLATABLE;
    }
    let limit = limit(t, ip.v6, f, direction);
    if limit != 0 && longest(p, ip) > limit { limit } else { 0 }
}

/// The longest IP packet that may come for this way, in bytes; 0: any.
#[inline(always)]
fn limit<T: Tables>(t: &T, v6: bool, f: &Flow, direction: u8) -> u32 {
    let way = if direction == FORWARD {
        t.path(f.backend_id).map_or(0, |path| path.mtu)
    } else {
        t.interface(f.client_if).map_or(0, |interface| interface.mtu)
    };
    let way = u32::from(way);
    if way == 0 {
        0
    } else if f.mode() == Mode::Tunnel {
        way.saturating_sub(tunnel::overhead(f)).max(1)
    } else if !f.is_mixed() {
        way
    } else if v6 {
        way + FAMILIES_DIFFER_BY
    } else {
        way.saturating_sub(FAMILIES_DIFFER_BY).max(1)
    }
}

#[inline(always)]
fn send<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan, ip: &Ip, ifindex: u32) -> Verdict {
    if !matches!(plan.step, Step::Nat | Step::Direct) {
        return apply::apply_known(p, t, plan, ifindex, None);
    }
    let Some(f) = t.flow(plan.slot) else { return apply::verdict(plan, None) };
    let (in_tunnel, mixed) = (f.mode() == Mode::Tunnel, f.is_mixed());
    let mss = segments(t, ip, f, plan.direction);
    if ip.tcp.has(flag::SYN)
        && !in_tunnel
        && !mixed
        && t.path(f.backend_id).is_some_and(|path| path.moves != 0)
    {
        handshake::note(p, t, plan.slot, ip, plan.direction, mss);
    }
    if !in_tunnel && !mixed && f.place == 0 && f.mtu == DETOUR {
        // Established: what is left to do any other flow's way does.
        f.mtu = t.path(f.backend_id).map_or(0, |path| path.least);
    }
    if mss != 0 && clamp::clamp(p, ip.l4(), mss).is_none() {
        return apply::verdict(plan, None);
    }
    if in_tunnel {
        apply::verdict(plan, tunnel::encapsulate(p, t, plan.slot, ip).map(Action::Route))
    } else if mixed {
        apply::verdict(plan, translate::packet(p, t, plan, ip).map(Action::Route))
    } else {
        apply::apply_known(p, t, plan, ifindex, None)
    }
}

/// The largest segment that a SYN of this flow may ask for; 0: any, or it is no SYN.
#[inline(always)]
fn segments<T: Tables>(t: &T, ip: &Ip, f: &Flow, direction: u8) -> u16 {
    /// Of IPv6 and of TCP, without options.
    const HEADERS_V6: u32 = 60;
    const HEADERS: u32 = 40;
    if ip.payload != Payload::Tcp || !ip.tcp.has(flag::SYN) {
        return 0;
    }
    match t.path(f.backend_id).map_or(0, |path| path.mss) {
        0 if f.mode() == Mode::Tunnel => {
            let headers = if ip.v6 { HEADERS_V6 } else { HEADERS };
            limit(t, ip.v6, f, direction).saturating_sub(headers) as u16
        }
        NO_CLAMP => 0,
        mss => mss,
    }
}
