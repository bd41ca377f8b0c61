//! Neighbour solicitations for virtual addresses (RFC 4861): answered here while the lease is valid, swallowed otherwise, as
//! ARP requests are. Their checksum is not verified: hardware may still have to complete it, and nothing of them but the
//! sender's addresses goes into the answer.

use lb_common::{addr::Addr, reason::Reason};

use crate::{
    packet::{Arrival, Packet},
    parse::L4_V6,
    plan::Plan,
    tables::Tables,
    virtual_mac,
};

/// Decides about a solicitation. One that is sent to a virtual address and asks for another is none that anybody sends.
#[inline(never)]
pub fn decide<P: Packet, T: Tables>(p: &P, t: &T, at: &Arrival, plan: &mut Plan) {
    *plan = match p.load::<Addr>(L4_V6 + 8) {
        Some(target) => solicitation(&target, t, at),
        None => Plan::drop(Reason::Malformed),
    };
}

#[inline(always)]
fn solicitation<T: Tables>(target: &Addr, t: &T, at: &Arrival) -> Plan {
    let Some(vip) = t.virtual_address(target) else { return Plan::pass(Reason::NotVirtual) };
    if !t.owns(vip.router, at.now) {
        return Plan::drop(Reason::NotOwner);
    }
    match virtual_mac::of(vip, t, at) {
        Some(mac) => Plan::advertisement(mac),
        None => Plan::pass(Reason::NoService),
    }
}
