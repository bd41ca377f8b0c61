//! The packet path: `handle → parse → decide → apply`, the same code in the kernel and in tests on the host.
//!
//! This library calls no kernel helper and knows no map: [`Packet`] is access to one frame (bytes and the checksum
//! operation of its front end), [`Tables`] is access to state. `main.rs` supplies both for the kernel, `testing` for
//! the host. `decide` sees no packet memory; it turns headers and tables into a [`Plan`].

#![cfg_attr(target_arch = "bpf", no_std)]

pub mod answer;
pub mod apply;
pub mod arp;
pub mod balance;
pub mod conntrack;
pub mod egress;
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

pub use packet::{Arrival, Delivery, Packet};
pub use plan::{Action, Plan, Step, Verdict};
pub use tables::Tables;

use lb_common::reason::Reason;
use parse::{Ip, Parsed};

/// Decides about one received frame, rewrites it, and counts what became of it.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Verdict {
    let plan = decide(p, t, at);
    let verdict = apply::apply(p, t, &plan, at.ifindex);
    t.count(verdict.reason);
    verdict
}

#[inline(always)]
fn decide<P: Packet, T: Tables>(p: &P, t: &T, at: &Arrival) -> Plan {
    match (parse::parse(p), p.delivery()) {
        (Parsed::Arp(arp), Delivery::Host | Delivery::Group) => arp::decide(&arp, t, at),
        (Parsed::Ip(ip), Delivery::Host) => Plan { v6: ip.v6, ..unicast(&ip, p, t, at) },
        (Parsed::Other, _) => Plan::pass(Reason::OtherProtocol),
        _ => Plan::pass(Reason::OtherHost),
    }
}

#[inline(always)]
fn unicast<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival) -> Plan {
    let mut plan = conntrack::known(ip, t, at.now);
    if plan.step == Step::Undecided && probe::may_be(ip) {
        plan = probe::decide(ip, p, t, at);
    }
    if plan.step == Step::Undecided { service::decide(ip, t, at) } else { plan }
}
