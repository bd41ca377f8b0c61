//! Packets of known flows: one look-up by key, one array read for the record, one for the lease.

use lb_common::{
    flow::{ADOPTED, FIN_BACKEND, FIN_CLIENT, FORWARD, Flow, REPLICATED, REVERSE, Stage},
    reason::Reason,
};

use crate::{
    flow_event,
    half_open::{self, Promotion},
    latency,
    ownership::{self, Right},
    packet::{Arrival, Packet},
    parse::{Ip, Payload, Tcp, flag},
    plan::Plan,
    redispatch,
    tables::Tables,
};

/// The plan for a packet of a known flow; undecided if there is no such flow, if the packet opens a new connection where an old
/// one has ended, or if it is to open the same one with another backend (`redispatch`); and if the packet would be sent on and `ready`
/// says no, of the flow and the direction: nothing has changed then.
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
    if tcp.opens() && r.direction == FORWARD && (begins_anew(f, tcp) || redispatch::is_left(f, r.slot, at, t))
    {
        let left = redispatch::left_by(f, tcp);
        if f.place != 0 {
            half_open::abandon(f, r.slot, t);
        } else {
            retire(f, r.slot, t);
            flow_event::tell(r.slot, f.generation, t);
        }
        return Plan { slot: left, ..Plan::undecided() };
    }
    if ip.ttl <= 1 {
        return Plan::drop(Reason::TtlExpired);
    }
    if !ready(f, r.direction) {
        return Plan::undecided();
    }
    if r.direction == REVERSE && redispatch::is_refusal(f, tcp) && t.missed(r.slot, true) {
        return Plan::drop(Reason::RefusalWithheld);
    }
    let before = flow_event::mark(f);
    if f.place != 0
        && is_answered(f, ip, r.direction)
        && let Some(plan) = establish(f, r.slot, ip, t)
    {
        return plan;
    }
    latency::seen(f, ip, r.direction, at.now, t);
    if f.flags & REPLICATED != 0 {
        flow_event::learn(f, ip, r.direction, at.ifindex);
    }
    let mode = f.mode();
    let ended = if mode.is_one_way() {
        advance_one_way(f, tcp, ip.payload)
    } else {
        ip.payload == Payload::Tcp && advance(f, tcp, r.direction)
    };
    if ended {
        t.release(r.slot);
    }
    if f.place == 0 && flow_event::mark(f) != before {
        flow_event::tell(r.slot, f.generation, t);
    }
    count(f, r.direction, ip.length, t);
    let reason = if r.direction == FORWARD { Reason::Forwarded } else { Reason::Returned };
    Plan::to_backend(reason, r.slot, r.direction, mode)
}

/// Takes a flow that is answered out of its place; the plan for the packet if there is no room for it.
#[inline(always)]
fn establish<T: Tables>(f: &mut Flow, slot: u32, ip: &Ip, t: &T) -> Option<Plan> {
    match half_open::promote(f, slot, t) {
        Promotion::Done if ip.payload == Payload::Tcp => f.stage = Stage::Established as u8,
        Promotion::Done => f.stage = Stage::TwoWay as u8,
        Promotion::Lost => {}
        // A segment is refused with RST, by `service`.
        Promotion::Full if ip.payload == Payload::Tcp => return Some(Plan::undecided()),
        Promotion::Full => return Some(Plan::drop(Reason::FlowTableFull)),
    }
    None
}

/// Whether a SYN of the client opens a new connection: the old one has ended, or it is half-open and the SYN is not the one
/// that opened it. (Of an established flow a SYN goes to the backend, whose challenge ACK tells a client that has forgotten
/// the connection to reset it, RFC 9293 section 3.10.7.4.)
#[inline(always)]
fn begins_anew(f: &Flow, tcp: &Tcp) -> bool {
    match f.stage() {
        Stage::Closing | Stage::Closed => true,
        Stage::SynSent | Stage::SynReceived => tcp.seq.wrapping_add(tcp.span) != f.client_next,
        _ => false,
    }
}

/// Whether the packet shows that both sides want the flow: the client acknowledges the backend's SYN by its number, which
/// who makes up addresses does not know; or the backend answers a datagram. Where nobody here sees the backend's replies,
/// the client's second packet has to do.
#[inline(always)]
fn is_answered(f: &Flow, ip: &Ip, direction: u8) -> bool {
    let acknowledges = ip.tcp.flags & (flag::ACK | flag::SYN | flag::RST) == flag::ACK;
    match f.stage() {
        Stage::SynReceived => direction == FORWARD && acknowledges && ip.tcp.ack == f.backend_next,
        Stage::SynSent if f.mode().is_one_way() => acknowledges,
        // The backend knows the connection: it would have reset another.
        Stage::SynSent => f.flags & ADOPTED != 0 && direction == REVERSE && acknowledges,
        Stage::OneWay => direction == REVERSE || f.mode().is_one_way(),
        _ => false,
    }
}

/// Takes the keys from a flow that has ended, for a new connection of the same client port. Only the collector frees
/// records: two who push one slot would give it to two flows.
#[inline(never)]
fn retire<T: Tables>(f: &mut Flow, slot: u32, t: &T) {
    t.end_flow(f, slot);
    f.stage = Stage::Closed as u8;
}

/// How far before a sender's highest number a segment's end may lie to be taken for its own: what may be on its way (8 MiB;
/// Linux' largest receive buffer is 6 MiB by default), for a reset may have the number that the other side waits for.
const BEHIND: u32 = 1 << 23;
/// How far beyond it: what may have been sent past this node's sight, or lost before it.
const AHEAD: u32 = 1 << 20;

/// Moves the stage as the segment's flags tell, and keeps the sequence numbers that a reset would need. A RST or FIN whose
/// number cannot be its sender's changes nothing here, and is sent on all the same: its receiver knows its window exactly and
/// asks back by a challenge ACK (RFC 5961 section 3.2), which a true sender answers with a better one.
///
/// Whether the connection has ended with it.
#[inline(always)]
fn advance(f: &mut Flow, tcp: &Tcp, direction: u8) -> bool {
    let end = tcp.seq.wrapping_add(tcp.span);
    let answers = f.stage() == Stage::SynSent && direction == REVERSE && tcp.ack == f.client_next;
    // Before the backend's SYN there is no number to compare with.
    let known = f.stage() != Stage::SynSent || direction == FORWARD;
    let next = if direction == FORWARD { &mut f.client_next } else { &mut f.backend_next };
    let plausible = known && end.wrapping_sub(*next).wrapping_add(BEHIND) < BEHIND + AHEAD;
    let stage = if answers && tcp.has(flag::SYN | flag::ACK) {
        *next = end;
        Stage::SynReceived
    } else if tcp.has(flag::RST) {
        // To a SYN it has no number of its own to go by, but acknowledges it (RFC 9293 section 3.10.7.3).
        if plausible || answers && tcp.has(flag::ACK) { Stage::Closed } else { f.stage() }
    } else if plausible && !tcp.has(flag::SYN) {
        follow(f, tcp, direction, end)
    } else {
        f.stage()
    };
    move_to(f, stage)
}

/// Gives a flow another stage; whether it has ended with that. A stage that stays is not written: another processor may just have
/// seen the end.
#[inline(always)]
fn move_to(f: &mut Flow, stage: Stage) -> bool {
    if f.stage == stage as u8 {
        return false;
    }
    f.stage = stage as u8;
    f.has_ended()
}

/// Takes note of a segment that may well be its sender's next one, or one before.
#[inline(always)]
fn follow(f: &mut Flow, tcp: &Tcp, direction: u8, end: u32) -> Stage {
    let next = if direction == FORWARD { &mut f.client_next } else { &mut f.backend_next };
    // Only forward, modulo 2^32: a retransmission does not move it back.
    if end.wrapping_sub(*next) < 1 << 31 {
        *next = end;
    }
    // What one side acknowledges the other has sent, though it may have come by when this node did not see it (a node that
    // took over, a window's worth that was lost before it): else the record would stay behind, and a FIN unbelieved.
    let other = if direction == FORWARD { &mut f.backend_next } else { &mut f.client_next };
    // Not of a half-open flow: there the number is what the client has to prove that it knows.
    if f.place == 0 && tcp.has(flag::ACK) && tcp.ack.wrapping_sub(*other) < 1 << 30 {
        *other = tcp.ack;
    }
    if tcp.has(flag::FIN) {
        f.flags |= if direction == FORWARD { FIN_CLIENT } else { FIN_BACKEND };
    }
    match f.stage() {
        Stage::Established if f.flags & (FIN_CLIENT | FIN_BACKEND) == FIN_CLIENT | FIN_BACKEND => {
            Stage::Closing
        }
        s => s,
    }
}

/// Likewise, of a flow whose replies nobody here sees: what the client says alone moves it. Its acknowledgement of the
/// backend's SYN is its first segment after its own; its FIN is taken for the end, which its later acknowledgements put off. A
/// datagram after the first is taken for a sign that the backend has answered.
#[inline(never)]
fn advance_one_way(f: &mut Flow, tcp: &Tcp, payload: Payload) -> bool {
    if payload != Payload::Tcp {
        return move_to(f, Stage::TwoWay);
    }
    let end = tcp.seq.wrapping_add(tcp.span);
    if tcp.has(flag::SYN) || end.wrapping_sub(f.client_next) < 1 << 31 {
        f.client_next = end;
    }
    if tcp.has(flag::ACK) {
        f.backend_next = tcp.ack;
    }
    if tcp.has(flag::FIN) {
        f.flags |= FIN_CLIENT;
    }
    let stage = match f.stage() {
        _ if tcp.has(flag::RST) => Stage::Closed,
        Stage::SynSent | Stage::Established if f.flags & FIN_CLIENT != 0 => Stage::Closing,
        Stage::SynSent if tcp.has(flag::ACK) && !tcp.has(flag::SYN) => Stage::Established,
        s => s,
    };
    move_to(f, stage)
}

#[inline(always)]
pub(crate) fn count<T: Tables>(f: &Flow, direction: u8, length: u32, t: &T) {
    if let Some(s) = t.service_stats(f.service) {
        let side = if direction == FORWARD { &mut s.forward } else { &mut s.reverse };
        side.count(u64::from(length));
    }
    if let Some(b) = t.backend_stats(f.backend_id) {
        let side = if direction == FORWARD { &mut b.forward } else { &mut b.reverse };
        side.count(u64::from(length));
    }
}
