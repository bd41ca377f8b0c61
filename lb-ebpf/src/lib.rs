//! The packet path: `handle → forward | rest → parse → decide → apply`, the same code in the kernel and in tests on the host.
//!
//! This library calls no kernel helper and knows no map: [`Packet`] is access to one frame (bytes and the checksum
//! operation of its front end), [`Tables`] is access to state. `main.rs` supplies both for the kernel, `testing` for
//! the host. `decide` turns headers and tables into a [`Plan`]; it reads the packet, but only `apply` writes it.

#![cfg_attr(target_arch = "bpf", no_std)]

pub mod access_list;
pub mod adopt;
pub mod answer;
pub mod apply;
#[cfg(any(test, feature = "testing"))]
pub mod arbitrary;
pub mod arp;
pub mod balance;
pub mod capture;
pub mod clamp;
pub mod conntrack;
pub mod detour;
pub mod egress;
pub mod ending;
pub mod fast;
pub mod flow_event;
pub mod foreign_error;
pub mod fragment;
pub mod half_open;
pub mod handshake;
pub mod icmp_error;
pub mod latency;
pub mod moved;
pub mod neighbour;
pub mod occupancy;
pub mod ownership;
pub mod packet;
pub mod parse;
pub mod persistence;
pub mod plan;
pub mod ports;
pub mod probe;
#[cfg(test)]
mod properties;
pub mod redispatch;
pub mod report;
pub mod schedule;
pub mod service;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod translate;
pub mod tunnel;
pub mod virtual_mac;

pub use packet::{Arrival, Delivery, Packet};
pub use plan::{Action, Plan, Step, Verdict};
pub use tables::Tables;

use lb_common::{maps::Tail, reason::Reason};
use parse::{Frame, Ip, Payload};

/// Decides about one received frame, rewrites it, and counts what became of it: [`forward`], then [`rest`].
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Verdict {
    let mut decided = forward(p, t, at);
    loop {
        match decided {
            Ok(verdict) => return verdict,
            Err(tail) => decided = go_on(tail, p, t, at),
        }
    }
}

/// Goes on where a packet was left to: in the kernel a program each, reached by a tail call.
fn go_on<P: Packet, T: Tables>(tail: Tail, p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    match tail {
        Tail::Rest => rest(p, t, at),
        Tail::OpeningFragments => fragment::open(p, t, at),
        Tail::Errors => icmp_error::handle(p, t, at),
        Tail::Fragments => fragment::handle(p, t, at),
        Tail::Detour => detour::handle(p, t, at),
        Tail::Moved => moved::handle(p, t, at),
        Tail::Renumber => Ok(moved::renumber(p, t, at)),
        Tail::Report => Ok(report::handle(p, t, at)),
        Tail::ForeignErrors => Ok(foreign_error::handle(p, t, at)),
    }
}

/// Packets of known flows that are simply sent on; the program for all others.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    let mut ip = Ip::default();
    let frame = parse::parse(p, &mut ip);
    if p.tagged() {
        return Err(Tail::Rest);
    }
    if p.delivery() == Delivery::Other && virtual_mac::is_for(p, t, frame, &ip.key.dst) {
        p.take_in();
    }
    if frame != Frame::Ip || p.delivery() != Delivery::Host {
        return Err(Tail::Rest);
    }
    let mut tail = Tail::Rest;
    let mut plan = conntrack::known_if(&ip, p, t, at, |f, _| {
        let simple = f.takes(ip.length) || f.takes(detour::longest(p, &ip));
        if !simple {
            tail = if f.is_moved() { Tail::Moved } else { Tail::Detour };
        }
        simple
    });
    if plan.step == Step::Undecided {
        redispatch::hand_on(p, &plan);
        return Err(tail);
    }
    if plan.step == Step::Drop {
        if plan.reason == Reason::TtlExpired {
            return Err(report::expired(p));
        }
        capture::offer(p, t, plan.reason, at, false);
    }
    plan.v6 = ip.v6;
    let verdict = apply::apply_known(p, t, &plan, at.ifindex, Some(ip.segment()));
    t.count(verdict.reason);
    Ok(verdict)
}

/// All that is not of a known flow, but for what is rare and bulky: that is left to another program (`Err`). In the kernel a
/// program of its own, reached by a tail call: it starts with a stack of its own, and what it grows by costs the packets of known
/// flows nothing.
#[inline(always)]
pub fn rest<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    let mut ip = Ip::default();
    let frame = parse::parse(p, &mut ip);
    if frame == Frame::Ip
        && !p.tagged()
        && p.delivery() == Delivery::Host
        && let Some(tail) = tail(&ip)
    {
        return Err(tail);
    }
    let mut plan = Plan::undecided();
    decide(frame, &ip, p, t, at, &mut plan);
    if plan.step == Step::Undecided {
        redispatch::hand_on(p, &plan);
        return Err(Tail::Rest);
    }
    // What opens a flow with data in it may be too long for the way.
    let opened = matches!(plan.reason, Reason::NewFlow | Reason::Redispatched);
    if plan.reason == Reason::Adopted || opened && detour::is_for(plan.slot, t) {
        return Err(detour::leave(p, plan.slot, plan.reason));
    }
    if plan.reason == Reason::TtlExpired {
        return Err(report::expired(p));
    }
    capture::offer(p, t, plan.reason, at, false);
    plan.v6 = ip.v6;
    let verdict = apply::apply(p, t, &plan, at.ifindex);
    t.count(verdict.reason);
    Ok(verdict)
}

/// The program that a packet is left to.
#[inline(always)]
fn tail(ip: &Ip) -> Option<Tail> {
    match ip.payload {
        Payload::Error => Some(Tail::Errors),
        Payload::Fragment => Some(Tail::Fragments),
        // IPv4's are left to the node's stack.
        Payload::Options if ip.v6 => Some(Tail::Fragments),
        _ => None,
    }
}

/// Fills in the plan. (Plans that functions of their own decide about are filled in rather than returned: in the kernel each
/// returned one would take its own part of the stack.)
#[inline(always)]
fn decide<P: Packet, T: Tables>(frame: Frame, ip: &Ip, p: &P, t: &T, at: &Arrival, plan: &mut Plan) {
    match (frame, p.delivery()) {
        _ if p.tagged() => *plan = Plan::pass(Reason::VlanTagged),
        (Frame::Other, _) => *plan = Plan::pass(Reason::OtherProtocol),
        (_, Delivery::Other) => *plan = Plan::pass(Reason::OtherHost),
        (Frame::Arp, _) => arp::decide(p, t, at, plan),
        (Frame::Ip, _) if ip.payload == Payload::Solicitation => neighbour::decide(p, t, at, plan),
        (Frame::Ip, Delivery::Host) => unicast(ip, p, t, at, plan),
        (Frame::Ip, Delivery::Group) => *plan = Plan::pass(Reason::OtherHost),
    }
}

#[inline(always)]
fn unicast<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival, plan: &mut Plan) {
    if probe::may_be(ip) {
        probe::decide(ip, p, t, at, plan);
    }
    if plan.step == Step::Undecided {
        *plan = service::decide(ip, p, t, at);
    }
}
