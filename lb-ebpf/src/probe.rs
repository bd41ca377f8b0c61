//! Peer probes: a peer asks for the state of this node's lease and is answered here, so that the answer tells of the data
//! plane even while the daemon is frozen. All else on the port is the daemon's.
//!
//! An answer that the lease is over is a promise to the peer: the term is fenced before it leaves (`lb_common::lease`).

use lb_common::{
    addr::{Addr, PROTO_UDP},
    lease::Standing,
    probe::{self, Kind, MAGIC, State, VERSION},
};
use network_types::udp::UdpHdr;

use crate::{
    packet::{Arrival, Packet},
    parse::{Ip, L3, Payload},
    plan::Plan,
    tables::Tables,
};

/// A datagram that may be a probe: to the port, of the right length, and from this link.
#[inline(always)]
pub fn may_be(ip: &Ip) -> bool {
    ip.payload == Payload::Udp
        && ip.key.proto == PROTO_UDP
        && ip.key.dport.number() == probe::PORT
        && ip.ttl == probe::TTL
        && ip.length as usize == ip.l4() - L3 + UdpHdr::LEN + probe::LEN
}

/// The answer to a probe; undecided about anything else. A virtual address is asked about, but never asked itself: what is
/// sent to one goes to its owner.
#[inline(always)]
pub fn decide<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival) -> Plan {
    let message = ip.l4() + UdpHdr::LEN;
    let [a, b, c, d] = MAGIC;
    let is_probe = p.read::<[u8; 6]>(message) == Some([a, b, c, d, VERSION, Kind::Probe as u8]);
    if !is_probe || t.vip(&ip.key.dst).is_some() {
        return Plan::undecided();
    }
    let Some(interface) = t.interface(at.ifindex) else { return Plan::undecided() };
    let mac = interface.mac;
    let Some(address) = p.load::<Addr>(message + 16) else { return Plan::undecided() };
    let router = t.vip(&address).map(|vip| vip.router);
    let Some(lease) = router.and_then(|router| t.lease(router)) else {
        return Plan::probe_answer(mac, State::Unknown, 0);
    };
    match lease.tell(at.now) {
        Standing::Valid(rest) => Plan::probe_answer(mac, State::Valid, rest),
        Standing::Expired => Plan::probe_answer(mac, State::Expired, 0),
        Standing::Released => Plan::probe_answer(mac, State::Released, 0),
    }
}
