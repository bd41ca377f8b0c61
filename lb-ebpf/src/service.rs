//! Packets of no known flow: is it for a virtual address, may this node act for it, and what does it want?

use lb_common::{
    addr::{Addr, Port},
    flow::FORWARD,
    maps::{FORMER, FORMER_OPENS},
    mode::Mode,
    reach::{NO_ROUTER, RangeKey},
    reason::{Kind, Reason},
    service::{Service, ServiceKey, Vip},
};

use crate::{
    adopt, balance,
    ownership::{self, Right},
    packet::{Arrival, Packet},
    parse::{Ip, Payload, flag},
    plan::{Plan, Reset},
    redispatch,
    tables::Tables,
};

/// Decides about an IP packet that belongs to no known flow.
#[inline(always)]
pub fn decide<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival) -> Plan {
    let Some(vip) = t.vip(&ip.key.dst) else {
        // What a backend sends to an address of the node's own may be of a flow that is still to be brought over.
        p.leave_to(FORMER);
        return Plan::pass(Reason::NotVirtual);
    };
    let router = vip.router;
    let right = ownership::right_to_begin(p, t, router, at.now);
    if !matches!(right, Right::Owner | Right::Delegate) {
        return ownership::instead(right, ip, router, t, at);
    }
    let plan = owned(ip, vip, p, t, at);
    if right == Right::Owner { plan } else { ownership::delegated(plan) }
}

/// The plan for a packet that concerns no service: `plan` if it is for a virtual address and this node may act for that.
#[inline(always)]
pub fn unserved<P: Packet, T: Tables>(ip: &Ip, plan: Plan, p: &P, t: &T, at: &Arrival) -> Plan {
    let Some(vip) = t.virtual_address(&ip.key.dst) else { return Plan::pass(Reason::NotVirtual) };
    let router = vip.router;
    match ownership::right(p, t, router, at.now) {
        Right::Owner => plan,
        Right::Delegate => ownership::delegated(plan),
        right => ownership::instead(right, ip, router, t, at),
    }
}

#[inline(always)]
fn owned<P: Packet, T: Tables>(ip: &Ip, vip: &Vip, p: &P, t: &T, at: &Arrival) -> Plan {
    match ip.payload {
        Payload::Tcp | Payload::Udp => connection(ip, vip, p, t, at),
        // Of the node's own address a service takes its port's connections, and the stack everything else.
        _ if vip.is_own() => Plan::pass(Reason::NoService),
        Payload::EchoRequest => Plan::echo(),
        Payload::Fragment => Plan::drop(Reason::Fragment),
        Payload::Malformed => Plan::drop(Reason::Malformed),
        Payload::Options => Plan::pass(Reason::IpOptions),
        Payload::Error | Payload::Solicitation | Payload::Other => Plan::pass(Reason::NoService),
    }
}

/// Decides about a segment or a datagram.
#[inline(always)]
fn connection<P: Packet, T: Tables>(ip: &Ip, vip: &Vip, p: &P, t: &T, at: &Arrival) -> Plan {
    let service = named(&ip.key.dst, ip.key.proto, ip.key.dport, t);
    // What opens no flow may be of one that is still to be brought over from the program before.
    if service.is_none() || ip.payload == Payload::Tcp && !ip.tcp.opens() && t.flow_ref(&ip.key).is_none() {
        p.leave_to(FORMER);
    }
    // One place for all that is refused: each would take its part of the stack.
    let reason = match service {
        Some(service) => match served(ip, service, p, t, at) {
            Ok(plan) => return plan,
            Err(reason) => reason,
        },
        None if !vip.is_own() && is_left_over(ip, p, t) => Reason::UnknownFlow,
        None => return Plan::pass(Reason::NoService),
    };
    refuse(service, ip, reason, t)
}

/// The plan for a segment or datagram to a service, or why it is refused.
#[inline(always)]
fn served<P: Packet, T: Tables>(
    ip: &Ip,
    service: &Service,
    p: &P,
    t: &T,
    at: &Arrival,
) -> Result<Plan, Reason> {
    if ip.payload == Payload::Tcp {
        // A known flow comes here when it was to be established and the table is full.
        let unknown = !ip.tcp.opens() && t.flow_ref(&ip.key).is_none();
        if unknown && is_stacks(ip, service) {
            return Ok(Plan::pass(Reason::NoService));
        }
        if ip.tcp.has(flag::RST) {
            return Ok(Plan::drop(Reason::StrayReset));
        }
        if !(ip.tcp.opens() || unknown && adopt::may(ip, service, t, at.now)) {
            return Err(if unknown { Reason::UnknownFlow } else { Reason::FlowTableFull });
        }
    }
    if ip.ttl <= 1 {
        return Ok(Plan::drop(Reason::TtlExpired));
    }
    p.leave_to(FORMER_OPENS);
    let mut unreached = 0;
    match open(ip, service, &mut unreached, p, t, at) {
        Ok(slot) => {
            // Asked again: of an answer that is kept the verifier would follow everything in between twice.
            let opened = if ip.payload == Payload::Tcp && !ip.tcp.opens() {
                adopt::mark(slot, ip, t);
                Reason::Adopted
            } else {
                Reason::NewFlow
            };
            let mode = t.flow(slot).map_or(Mode::Nat, |f| f.mode());
            let redispatched = opened == Reason::NewFlow && redispatch::was_left(redispatch::handed(p));
            let reason = if redispatched { Reason::Redispatched } else { opened };
            Ok(Plan::to_backend(reason, slot, FORWARD, mode))
        }
        // The program begins anew and passes that backend by.
        Err(Reason::SnatPortsExhausted) if unreached != 0 => {
            Ok(Plan { slot: unreached, ..Plan::undecided() })
        }
        Err(reason) if matches!(reason.kind(), Kind::Dropped) => {
            if reason == Reason::AccessDenied
                && let Some(s) = t.service_stats(service.id)
            {
                s.denied += 1;
            }
            Ok(Plan::drop(reason))
        }
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
fn open<P: Packet, T: Tables>(
    ip: &Ip,
    service: &Service,
    unreached: &mut u32,
    p: &P,
    t: &T,
    at: &Arrival,
) -> Result<u32, Reason> {
    if is_own(service) && t.alive_until() <= at.now {
        return Err(Reason::DaemonGone);
    }
    let handed = redispatch::handed(p);
    // What is opened anew was admitted when it first came, and is no second connection of its client's.
    if handed == 0 {
        t.admit(service.id, &ip.key.src, at.now)?;
    }
    balance::open(ip, service, handed, unreached, t, at)
}

/// Whether a segment is a backend's answer to a SYN of a flow that is no more: thrown out by a flood, or gone on to another backend.
/// The backend waits for the rest of that handshake, for a minute by default, and takes a new SYN from the same source port for a
/// wrong one of the old connection (RFC 9293 section 3.10.7.4). So it is told to forget that. The node's own stack would say the same if the
/// address is on an interface and no filter keeps it from it; and it may have a socket there that waits for this very answer.
#[inline(always)]
fn is_left_over<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T) -> bool {
    ip.payload == Payload::Tcp
        && ip.tcp.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN | flag::ACK
        && t.settings().is_some_and(|s| s.snat_ports.contains(ip.key.dport.number()))
        && !p.has_socket(&ip.key)
}

/// Whether the service is on an address of the node's own. Read anew each time: from an answer that is kept, the verifier would
/// follow everything behind it twice.
#[inline(always)]
fn is_own(service: &Service) -> bool {
    // SAFETY: a field of a live service.
    let router = unsafe { (&raw const service.router).read_volatile() };
    router == NO_ROUTER
}

/// Whether a segment of no known flow may belong to a connection of the node's own stack: one to its own address, where its
/// sockets may have the service's port as well (and had it before viplb came); or one from the address itself, as replies to a
/// client on this node are.
#[inline(always)]
fn is_stacks(ip: &Ip, service: &Service) -> bool {
    ip.key.src == ip.key.dst || is_own(service)
}

/// The service on a packet's very port, else on a range that it belongs to.
#[inline(never)]
pub(crate) fn named<'a, T: Tables>(addr: &Addr, proto: u8, port: Port, t: &'a T) -> Option<&'a Service> {
    if let Some(service) = t.service(&ServiceKey::port(*addr, proto, port)) {
        return Some(service);
    }
    let first = t.range(&RangeKey::new(addr, proto, port))?;
    t.service(&ServiceKey::range(*addr, proto, first))
}

/// Refuses a segment with a reset that its sender must accept (RFC 9293 section 3.10.7.1): from the acknowledged
/// number if there is one, else acknowledging all of the segment. A datagram is dropped: its sender expects no answer.
#[inline(always)]
fn refuse<T: Tables>(service: Option<&Service>, ip: &Ip, reason: Reason, t: &T) -> Plan {
    if let Some(s) = service.and_then(|service| t.service_stats(service.id)) {
        s.refused += 1;
        match reason {
            Reason::SnatPortsExhausted => s.ports_exhausted += 1,
            Reason::FlowTableFull => s.table_full += 1,
            Reason::AccessRefused => s.denied += 1,
            Reason::ClientRate | Reason::ClientFull => s.limited += 1,
            _ => {}
        }
    }
    let tcp = &ip.tcp;
    if ip.payload != Payload::Tcp {
        Plan::drop(reason)
    } else if tcp.has(flag::ACK) {
        Plan::reset(reason, Reset { seq: tcp.ack, ack: 0, flags: flag::RST })
    } else {
        let ack = tcp.seq.wrapping_add(tcp.span);
        Plan::reset(reason, Reset { seq: 0, ack, flags: flag::RST | flag::ACK })
    }
}
