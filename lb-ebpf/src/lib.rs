//! The packet path: `handle → forward | rest → parse → decide → apply`, the same code in the kernel and in tests on the host.
//!
//! This library calls no kernel helper and knows no map: [`Packet`] is access to one frame (bytes and the checksum
//! operation of its front end), [`Tables`] is access to state. `main.rs` supplies both for the kernel, `testing` for
//! the host. `decide` turns headers and tables into a [`Plan`]; it reads the packet, but only `apply` writes it.

#![cfg_attr(target_arch = "bpf", no_std)]

pub mod answer;
pub mod apply;
pub mod arp;
pub mod balance;
pub mod conntrack;
pub mod egress;
pub mod fast;
pub mod neighbour;
pub mod ownership;
pub mod packet;
pub mod parse;
pub mod plan;
pub mod probe;
#[cfg(test)]
mod properties;
pub mod service;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod virtual_mac;

pub use packet::{Arrival, Delivery, Packet};
pub use plan::{Action, Plan, Step, Verdict};
pub use tables::Tables;

use lb_common::reason::Reason;
use parse::{Frame, Ip, Payload};

/// Decides about one received frame, rewrites it, and counts what became of it: [`forward`], then [`rest`].
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Verdict {
    match forward(p, t, at) {
        Some(verdict) => verdict,
        None => rest(p, t, at),
    }
}

/// Packets of known flows; `None` for all others.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Option<Verdict> {
    let mut ip = Ip::default();
    let frame = parse::parse(p, &mut ip);
    if p.delivery() == Delivery::Other && virtual_mac::is_for(p, t, frame, &ip.key.dst) {
        p.take_in();
    }
    if frame != Frame::Ip || p.delivery() != Delivery::Host {
        return None;
    }
    let mut plan = conntrack::known(&ip, p, t, at);
    if plan.step == Step::Undecided {
        return None;
    }
    plan.v6 = ip.v6;
    let verdict = apply::apply_known(p, t, &plan, at.ifindex);
    t.count(verdict.reason);
    Some(verdict)
}

/// All that is not of a known flow. In the kernel a program of its own, reached by a tail call: it starts with a stack of its
/// own, and what it grows by costs the packets of known flows nothing.
#[inline(always)]
pub fn rest<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Verdict {
    let mut ip = Ip::default();
    let frame = parse::parse(p, &mut ip);
    let mut plan = Plan::undecided();
    decide(frame, &ip, p, t, at, &mut plan);
    plan.v6 = ip.v6;
    let verdict = apply::apply(p, t, &plan, at.ifindex);
    t.count(verdict.reason);
    verdict
}

/// Fills in the plan. (Plans that functions of their own decide about are filled in rather than returned: in the kernel each
/// returned one would take its own part of the stack.)
#[inline(always)]
fn decide<P: Packet, T: Tables>(frame: Frame, ip: &Ip, p: &P, t: &T, at: &Arrival, plan: &mut Plan) {
    match (frame, p.delivery()) {
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
