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

/// Plans the answer to a probe; anything else is left undecided. A virtual address is asked about, but never asked itself: what is
/// sent to one goes to its owner.
#[inline(never)]
pub fn decide<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival, plan: &mut Plan) {
    if let Some(answer) = answer(ip, p, t, at) {
        *plan = answer;
    }
}

#[inline(always)]
fn answer<P: Packet, T: Tables>(ip: &Ip, p: &P, t: &T, at: &Arrival) -> Option<Plan> {
    let message = ip.l4() + UdpHdr::LEN;
    let [a, b, c, d] = MAGIC;
    let is_probe = p.read::<[u8; 6]>(message) == Some([a, b, c, d, VERSION, Kind::Probe as u8]);
    if !is_probe || t.virtual_address(&ip.key.dst).is_some() {
        return None;
    }
    let mac = t.interface(at.ifindex)?.mac;
    let address: Addr = p.load(message + 16)?;
    let router = t.virtual_address(&address).map(|vip| vip.router);
    let Some(lease) = router.and_then(|router| t.lease(router)) else {
        return Some(Plan::probe_answer(mac, State::Unknown, 0));
    };
    let (state, rest) = match lease.tell(t.precise(at.now)) {
        Standing::Valid(rest) => (State::Valid, rest),
        Standing::Expired => (State::Expired, 0),
        Standing::Released => (State::Released, 0),
    };
    Some(Plan::probe_answer(mac, state, rest))
}
