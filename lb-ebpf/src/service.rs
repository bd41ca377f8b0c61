//! Packets of no known flow: is it for a virtual address, may this node act for it, and what does it want?

use lb_common::{
    addr::PROTO_TCP,
    flow::FORWARD,
    reason::{Kind, Reason},
    service::{Service, ServiceKey},
};

use crate::{
    balance, conntrack,
    packet::Arrival,
    parse::{Ipv4, Payload, Tcp, flag},
    plan::{Plan, Reset},
    tables::Tables,
};

/// Decides about an IPv4 packet that belongs to no known flow.
#[inline(always)]
pub fn decide<T: Tables>(ip: &Ipv4, t: &T, at: &Arrival) -> Plan {
    let Some(vip) = t.vip(&ip.key.dst) else { return Plan::pass(Reason::NotVirtual) };
    if !t.owns(vip.router, at.now) {
        return Plan::drop(Reason::NotOwner);
    }
    match ip.payload {
        Payload::Tcp => segment(ip, t, at),
        Payload::EchoRequest => Plan::echo(),
        Payload::Fragment => Plan::drop(Reason::Fragment),
        Payload::Malformed => Plan::drop(Reason::Malformed),
        Payload::Options => Plan::pass(Reason::IpOptions),
        Payload::Other => Plan::pass(Reason::NoService),
    }
}

#[inline(always)]
fn segment<T: Tables>(ip: &Ipv4, t: &T, at: &Arrival) -> Plan {
    let tcp = &ip.tcp;
    let key = ServiceKey { addr: ip.key.dst, port: ip.key.dport, proto: PROTO_TCP, pad: [0; 5] };
    let Some(service) = t.service(&key) else { return Plan::pass(Reason::NoService) };
    if tcp.has(flag::RST) {
        return Plan::drop(Reason::StrayReset);
    }
    if !tcp.opens() {
        return refuse(service, tcp, Reason::UnknownFlow, t);
    }
    if ip.ttl <= 1 {
        return Plan::drop(Reason::TtlExpired);
    }
    match balance::open(ip, service, t, at) {
        Ok(slot) => match t.flow(slot) {
            Some(f) => Plan::nat(Reason::NewFlow, conntrack::rewrite(f, FORWARD)),
            None => Plan::drop(Reason::BackendMissing),
        },
        Err(reason) if matches!(reason.kind(), Kind::Dropped) => Plan::drop(reason),
        Err(reason) => refuse(service, tcp, reason, t),
    }
}

/// Refuses a segment with a reset that its sender must accept (RFC 9293 section 3.10.7.1): from the acknowledged
/// number if there is one, else acknowledging all of the segment.
#[inline(always)]
fn refuse<T: Tables>(service: &Service, tcp: &Tcp, reason: Reason, t: &T) -> Plan {
    if let Some(s) = t.service_stats(service.id) {
        s.refused += 1;
    }
    let reset = if tcp.has(flag::ACK) {
        Reset { seq: tcp.ack, ack: 0, flags: flag::RST }
    } else {
        Reset { seq: 0, ack: tcp.seq.wrapping_add(tcp.span), flags: flag::RST | flag::ACK }
    };
    Plan::reset(reason, reset)
}
