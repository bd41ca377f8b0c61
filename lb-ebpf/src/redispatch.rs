//! Connections that a backend does not take, by silence, by RST or by an ICMP error: the SYN that the client repeats goes to
//! another one.
//!
//! The flow that was opened is ended, and the repeated SYN opens one anew, with word of the backend that is to be avoided
//! ([`hand_on`], [`handed`]: between programs). A refusal of the first SYN is kept from the client, which repeats the SYN then; what
//! another backend says to that it hears, so that nobody waits twice. All of it only if the service's current backends have
//! another with room; else the client's packets go on to the same backend, and its refusal to the client.
//!
//! Only where this node sees the backend's answers: not in modes `dsr`, `tunnel` and `local`. Either is counted of the backend
//! in any case, once a flow.

use lb_common::flow::{Flow, MISSED, RETRIED, Stage};

use crate::{
    packet::{Arrival, Packet},
    parse::{Tcp, flag},
    plan::Plan,
    schedule::{By, Ring},
    service,
    tables::Tables,
};

/// A SYN that comes again sooner after the last one than this is one that the network has doubled, ns. Clients wait a second
/// (RFC 6298 section 2.1), Linux no less.
pub const REPEATED_NS: u64 = 200_000_000;

/// Leaves word of the backend that the plan's flow was left by, for the program that opens it anew.
#[inline(always)]
pub fn hand_on<P: Packet>(p: &mut P, plan: &Plan) {
    p.hand_on([0, plan.slot]);
}

/// In what [`hand_on`] leaves: the backend has no source port left for this node's connections, and was not asked at all.
pub const UNREACHED: u32 = 1 << 31;

/// What [`hand_on`] has left: one more than the backend's number, perhaps with [`UNREACHED`], or 0.
#[inline(always)]
pub fn handed<P: Packet>(p: &P) -> u32 {
    let [_, left] = p.handed();
    left
}

/// Whether that tells of a backend that did not take the connection.
#[inline(always)]
pub const fn was_left(handed: u32) -> bool {
    handed != 0 && handed & UNREACHED == 0
}

/// Whether the SYN that opened a flow has come again because its backend is silent, and another one is there.
#[inline(always)]
pub fn is_left<T: Tables>(f: &Flow, slot: u32, at: &Arrival, t: &T) -> bool {
    f.stage() == Stage::SynSent
        && !f.mode().is_one_way()
        && at.now.saturating_sub(f.seen) >= REPEATED_NS
        && t.missed(slot, false)
}

/// What a SYN that opens a flow anew hands on: the backend that did not take the very same connection.
#[inline(always)]
pub fn left_by(f: &Flow, tcp: &Tcp) -> u32 {
    let same = f.place != 0 && tcp.seq.wrapping_add(tcp.span) == f.client_next;
    if same && f.flags & MISSED != 0 { f.backend_id.wrapping_add(1) } else { 0 }
}

/// Whether a segment from the backend refuses the connection: a RST that acknowledges the SYN (RFC 9293 section 3.10.7.3).
#[inline(always)]
pub fn is_refusal(f: &Flow, tcp: &Tcp) -> bool {
    f.stage() == Stage::SynSent && tcp.has(flag::RST | flag::ACK) && tcp.ack == f.client_next
}

/// Counts that the backend of a half-open flow did not take it; whether another one is to. A refused flow has ended then. To be
/// called as [`Tables::missed`].
#[inline(always)]
pub fn missed<T: Tables>(slot: u32, refused: bool, t: &T) -> bool {
    let Some(f) = t.flow(slot) else { return false };
    if f.flags & MISSED == 0 {
        f.flags |= MISSED;
        if let Some(b) = t.backend_stats(f.backend_id) {
            if refused {
                b.refusing += 1;
            } else {
                b.unanswered += 1;
            }
        }
    }
    if refused && f.flags & RETRIED != 0 || !has_another(slot, t) {
        return false;
    }
    if refused {
        let Some(f) = t.flow(slot) else { return false };
        f.stage = Stage::Closed as u8;
        t.release(slot);
    }
    true
}

/// Whether a flow's service now has another backend with room.
#[inline(always)]
fn has_another<T: Tables>(slot: u32, t: &T) -> bool {
    let Some(f) = t.flow(slot) else { return false };
    if t.limits(f.service).is_none_or(|l| l.redispatch == 0) {
        return false;
    }
    let backend = f.backend_id;
    let Some(service) = service::named(&f.vip, f.proto, f.vip_port, t) else { return false };
    let ring = Ring { avoid: backend.wrapping_add(1), ..Ring::of(service) };
    if ring.members == 0 {
        // More than are compared.
        return ring.len > 1;
    }
    let other = t.least(ring.first_member(), ring.members, By::ORDER, 0, ring.passed_over());
    other.is_some_and(|other| other != backend)
}
