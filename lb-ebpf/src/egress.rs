//! The fence on the way out: what this node's own stack sends in the name of a virtual address needs the lease too.
//!
//! A frozen owner's kernel still holds the address: it would answer ARP and its IPv6 counterpart, probe neighbours and retransmit in
//! its name. Packets that the packet path forwards carry an ingress interface and were judged when they came in.

use lb_common::{
    addr::{Addr, PROTO_ICMPV6},
    reason::Reason,
};
use network_types::{
    arp::ArpHdr,
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
};

use crate::{
    capture,
    packet::{Arrival, Packet},
    parse::{L3, L4_V6},
    plan::{Action, Verdict},
    tables::Tables,
};

/// Decides about a frame that this node's own stack sends.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &P, t: &T, at: &Arrival) -> Verdict {
    let [source, target] = speaks_for(p);
    let now = at.now;
    let fenced = is_fenced(&source, t, now) || target != Addr::default() && is_fenced(&target, t, now);
    let (reason, action) =
        if fenced { (Reason::EgressFenced, Action::Drop) } else { (Reason::EgressPassed, Action::Pass) };
    if fenced {
        capture::offer(p, t, reason, at, true);
    }
    t.count(reason);
    Verdict { reason, action }
}

#[inline(always)]
fn is_fenced<T: Tables>(addr: &Addr, t: &T, now: u64) -> bool {
    t.virtual_address(addr).is_some_and(|vip| !t.owns(vip.router, now))
}

/// In whose names the frame speaks: its source, and the address that a neighbour advertisement is about. The unspecified
/// address where there is none.
#[inline(always)]
fn speaks_for<P: Packet>(p: &P) -> [Addr; 2] {
    const NONE: Addr = Addr::new([0; 16]);
    let ether_type = p.read::<EthHdr>(0).map_or(0, |eth| eth.ether_type);
    if ether_type == EtherType::Ipv4 as u16 {
        [p.read::<Ipv4Hdr>(L3).map_or(NONE, |ip| Addr::v4(ip.src_addr)), NONE]
    } else if ether_type == EtherType::Ipv6 as u16 {
        [p.load(L3 + 8).unwrap_or(NONE), advertised(p).unwrap_or(NONE)]
    } else if ether_type == EtherType::Arp as u16 {
        [p.read::<ArpHdr>(L3).map_or(NONE, |arp| Addr::v4(arp.spa)), NONE]
    } else {
        [NONE; 2]
    }
}

/// The target of a neighbour advertisement (RFC 4861 section 4.4).
#[inline(always)]
fn advertised<P: Packet>(p: &P) -> Option<Addr> {
    const ADVERTISEMENT: u8 = 136;
    let [next] = p.read::<[u8; 1]>(L3 + 6)?;
    let [kind] = p.read::<[u8; 1]>(L4_V6)?;
    if next == PROTO_ICMPV6 && kind == ADVERTISEMENT { p.load(L4_V6 + 8) } else { None }
}
