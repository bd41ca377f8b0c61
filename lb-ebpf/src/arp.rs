//! ARP for virtual addresses: answered here while the lease is valid, swallowed otherwise, so that a frozen owner whose
//! kernel still has the address on an interface does not go on answering.

use lb_common::{addr::Addr, reason::Reason};
use network_types::arp::ArpHdr;

use crate::{
    packet::{Arrival, Packet},
    parse::L3,
    plan::Plan,
    tables::Tables,
    virtual_mac,
};

const REQUEST: [u8; 2] = [0, 1];

/// Decides about an ARP message.
#[inline(never)]
pub fn decide<P: Packet, T: Tables>(p: &P, t: &T, at: &Arrival, plan: &mut Plan) {
    *plan = match p.load::<ArpHdr>(L3) {
        Some(arp) if is_ethernet_ipv4(&arp) => message(&arp, t, at),
        _ => Plan::pass(Reason::OtherProtocol),
    };
}

#[inline(always)]
fn message<T: Tables>(arp: &ArpHdr, t: &T, at: &Arrival) -> Plan {
    let Some(vip) = t.virtual_address(&Addr::v4(arp.tpa)) else { return Plan::pass(Reason::NotVirtual) };
    // An announcement (sender = target) is news for the node's own neighbour table; should the kernel want to defend an
    // address that it holds without a lease, the egress fence stops it.
    if arp.oper != REQUEST || arp.spa == arp.tpa {
        return Plan::pass(Reason::NoService);
    }
    if !t.owns(vip.router, at.now) {
        return Plan::drop(Reason::NotOwner);
    }
    match virtual_mac::of(vip, t, at) {
        Some(mac) => Plan::arp_reply(mac),
        None => Plan::pass(Reason::NoService),
    }
}

#[inline(always)]
fn is_ethernet_ipv4(arp: &ArpHdr) -> bool {
    arp.htype == [0, 1] && arp.ptype == [8, 0] && arp.hlen == 6 && arp.plen == 4
}
