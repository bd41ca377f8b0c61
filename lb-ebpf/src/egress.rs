//! The fence on the way out: what this node's own stack sends in the name of a virtual address needs the lease too.
//!
//! A frozen owner's kernel still holds the address: it would answer ARP conflicts, probe neighbours and retransmit in
//! its name. Packets that the packet path forwards carry an ingress interface and were judged when they came in.

use lb_common::{addr::Addr, reason::Reason};
use network_types::{
    arp::ArpHdr,
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
};

use crate::{
    packet::Packet,
    parse::L3,
    plan::{Action, Verdict},
    tables::Tables,
};

/// Decides about a frame that this node's own stack sends.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &P, t: &T, now: u64) -> Verdict {
    let fenced = source(p).and_then(|a| t.vip(&a)).is_some_and(|vip| !t.owns(vip.router, now));
    let (reason, action) =
        if fenced { (Reason::EgressFenced, Action::Drop) } else { (Reason::EgressPassed, Action::Pass) };
    t.count(reason);
    Verdict { reason, action }
}

/// In whose name the frame speaks.
#[inline(always)]
fn source<P: Packet>(p: &P) -> Option<Addr> {
    let ether_type = p.read::<EthHdr>(0)?.ether_type;
    if ether_type == EtherType::Ipv4 as u16 {
        Some(Addr::v4(p.read::<Ipv4Hdr>(L3)?.src_addr))
    } else if ether_type == EtherType::Arp as u16 {
        Some(Addr::v4(p.read::<ArpHdr>(L3)?.spa))
    } else {
        None
    }
}
