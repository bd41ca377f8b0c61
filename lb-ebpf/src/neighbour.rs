//! Neighbour solicitations for virtual addresses (RFC 4861): answered here while the lease is valid, swallowed otherwise, as
//! ARP requests are. Their checksum is not verified: hardware may still have to complete it, and nothing of them but the
//! sender's addresses goes into the answer.

use lb_common::{addr::Addr, reason::Reason};

use crate::{
    packet::{Arrival, Packet},
    parse::L4_V6,
    plan::Plan,
    tables::Tables,
};

/// Decides about a solicitation; undecided if it is not for a virtual address.
#[inline(never)]
pub fn decide<P: Packet, T: Tables>(p: &P, t: &T, at: &Arrival) -> Plan {
    let Some(target) = p.load::<Addr>(L4_V6 + 8) else { return Plan::undecided() };
    let Some(vip) = t.vip(&target) else { return Plan::undecided() };
    if !t.owns(vip.router, at.now) {
        return Plan::drop(Reason::NotOwner);
    }
    match t.interface(at.ifindex) {
        Some(i) => Plan::advertisement(i.mac),
        None => Plan::pass(Reason::NoService),
    }
}
