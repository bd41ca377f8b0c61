//! Packets of known flows: one look-up by key, one array read for the record, one for the lease.

use lb_common::{
    flow::{FIN_BACKEND, FIN_CLIENT, FORWARD, Flow, FlowKey, REVERSE, Stage},
    reason::Reason,
};

use crate::{
    ownership::{self, Right},
    packet::{Arrival, Packet},
    parse::{Ip, Payload, Tcp, flag},
    plan::Plan,
    tables::Tables,
};

/// The plan for a packet of a known flow; undecided if there is no such flow, or if the packet opens a new connection
/// where an old one has ended.
#[inline(always)]
pub fn known<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival) -> Plan {
    known_if(ip, p, t, at, |_, _| true)
}

/// Likewise, but undecided as well if the packet would be sent on and `ready` says no, of the flow and the direction; nothing
/// has changed then.
#[inline(always)]
pub fn known_if<P: Packet, T: Tables>(
    ip: &Ip,
    p: &P,
    t: &T,
    at: &Arrival,
    ready: impl FnOnce(&Flow, u8) -> bool,
) -> Plan {
    if !matches!(ip.payload, Payload::Tcp | Payload::Udp) {
        return Plan::undecided();
    }
    let tcp = &ip.tcp;
    let Some(r) = t.flow_ref(&ip.key) else { return Plan::undecided() };
    let Some(f) = t.flow(r.slot) else { return Plan::undecided() };
    if f.generation != r.generation || f.stage() == Stage::Free {
        // The collector frees keys before records: this one was left by a daemon that died in between.
        t.remove_key(&ip.key);
        return Plan::undecided();
    }
    let right = ownership::right(p, t, f.router, at.now);
    if !matches!(right, Right::Owner | Right::Delegate) {
        return ownership::instead(right, ip, f.router, t, at);
    }
    if tcp.opens() && r.direction == FORWARD && matches!(f.stage(), Stage::Closing | Stage::Closed) {
        retire(f, &ip.key, t);
        return Plan::undecided();
    }
    if ip.ttl <= 1 {
        return Plan::drop(Reason::TtlExpired);
    }
    if !ready(f, r.direction) {
        return Plan::undecided();
    }
    if ip.payload == Payload::Tcp {
        advance(f, tcp, r.direction);
    } else if r.direction == REVERSE {
        f.stage = Stage::TwoWay as u8;
    }
    f.seen = at.now;
    count(f, r.direction, ip.length, t);
    let reason = if r.direction == FORWARD { Reason::Forwarded } else { Reason::Returned };
    Plan::nat(reason, r.slot, r.direction)
}

/// Takes the keys from a flow that has ended, for a new connection of the same client port. Only the collector frees
/// records: two who push one slot would give it to two flows.
#[inline(never)]
fn retire<T: Tables>(f: &mut Flow, forward: &FlowKey, t: &T) {
    t.remove_key(forward);
    t.remove_key(&f.reverse_key());
    f.stage = Stage::Closed as u8;
}

/// Moves the stage as the segment's flags tell, and keeps the sequence numbers that a reset would need.
#[inline(always)]
fn advance(f: &mut Flow, tcp: &Tcp, direction: u8) {
    let end = tcp.seq.wrapping_add(tcp.span);
    let next = if direction == FORWARD { &mut f.client_next } else { &mut f.backend_next };
    // Only forward, modulo 2^32: a retransmission does not move it back. SYN sets it.
    if tcp.has(flag::SYN) || end.wrapping_sub(*next) < 1 << 31 {
        *next = end;
    }
    if tcp.has(flag::FIN) {
        f.flags |= if direction == FORWARD { FIN_CLIENT } else { FIN_BACKEND };
    }
    let stage = match f.stage() {
        _ if tcp.has(flag::RST) => Stage::Closed,
        Stage::SynSent if direction == REVERSE && tcp.has(flag::SYN | flag::ACK) => Stage::SynReceived,
        Stage::SynReceived if direction == FORWARD && tcp.has(flag::ACK) && !tcp.has(flag::SYN) => {
            Stage::Established
        }
        Stage::Established if f.flags & (FIN_CLIENT | FIN_BACKEND) == FIN_CLIENT | FIN_BACKEND => {
            Stage::Closing
        }
        s => s,
    };
    f.stage = stage as u8;
}

#[inline(always)]
fn count<T: Tables>(f: &Flow, direction: u8, length: u32, t: &T) {
    if let Some(s) = t.service_stats(f.service) {
        let side = if direction == FORWARD { &mut s.forward } else { &mut s.reverse };
        side.count(u64::from(length));
    }
    if let Some(b) = t.backend_stats(f.backend_id) {
        let side = if direction == FORWARD { &mut b.forward } else { &mut b.reverse };
        side.count(u64::from(length));
    }
}
