//! Frames of the link: ARP, neighbour discovery, peer probes.

use std::net::IpAddr;

use lb_common::{addr::Addr, probe};

use super::{CLIENT_MAC, Datagram, Family};

/// Bytes of an IPv4 address.
///
/// # Panics
///
/// On an IPv6 address.
pub fn octets(addr: IpAddr) -> [u8; 4] {
    match addr {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => panic!("{a} is not IPv4"),
    }
}

/// An ARP request for `target` in the name of `sender`.
pub fn arp_request(sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(CLIENT_MAC);
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(CLIENT_MAC);
    f.extend(octets(sender));
    f.extend([0; 6]);
    f.extend(octets(target));
    f
}

/// A message from a peer at the client's address to this node's own one (that of backend 7), about `address`.
pub fn peer_message(family: Family, kind: probe::Kind, address: IpAddr) -> Datagram {
    let message = probe::Message::new(kind, 51, 101, 0x0102_0304_0506_0708, Addr::from(address));
    Datagram {
        src: (family.client(), probe::PORT),
        dst: (family.backend(7), probe::PORT),
        ttl: probe::TTL,
        data: message.bytes().to_vec(),
    }
}
