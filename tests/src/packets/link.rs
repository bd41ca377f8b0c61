//! Frames of the link: ARP, neighbour discovery, peer probes.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Icmpv6Type, PacketHeaders, TransportHeader};
use lb_common::{addr::Addr, probe};

use super::{CLIENT_MAC, Datagram, Family, builder, network};

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

/// A neighbour solicitation for `target` from `sender`, to the target's solicited-node group. With the sender's hardware
/// address unless the sender is the unspecified address (RFC 4861 section 4.3).
pub fn solicitation(sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let (target, group) = (octets6(target), solicited_node(target));
    let mut body = target.to_vec();
    if sender != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        body.extend([1, 1]);
        body.extend(CLIENT_MAC);
    }
    let mut frame = Vec::new();
    let b = builder(sender, group.into(), 255).icmpv6_raw(135, 0, [0; 4]);
    b.write(&mut frame, &body).expect("a frame in memory");
    frame[..2].copy_from_slice(&[0x33, 0x33]);
    frame[2..6].copy_from_slice(&group.octets()[12..]);
    frame
}

/// Likewise to the target itself, as a neighbour is asked whether it is still there.
pub fn unicast_solicitation(sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    let b = builder(sender, target, 255).icmpv6_raw(135, 0, [0; 4]);
    b.write(&mut frame, &octets6(target)).expect("a frame in memory");
    frame
}

/// A neighbour advertisement of this node's own stack from `sender` about `target`.
pub fn advertisement(sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let b = builder(sender, all_nodes.into(), 255).icmpv6_raw(136, 0, [0x20, 0, 0, 0]);
    b.write(&mut frame, &octets6(target)).expect("a frame in memory");
    frame
}

/// A neighbour advertisement as an independent parser sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Ethernet destination and source.
    pub link: ([u8; 6], [u8; 6]),
    /// Source and destination.
    pub addrs: (IpAddr, IpAddr),
    /// Router, solicited, override.
    pub flags: [bool; 3],
    /// What it is about.
    pub target: IpAddr,
    /// The option with the target's hardware address.
    pub mac: [u8; 6],
}

impl Advertisement {
    /// Parses a frame and verifies lengths, hop limit and checksum.
    ///
    /// # Panics
    ///
    /// On anything but a valid advertisement with one option that fills the frame.
    pub fn seen(frame: &[u8]) -> Self {
        let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
        let Some(TransportHeader::Icmpv6(icmp)) = &headers.transport else {
            panic!("not ICMPv6: {frame:02x?}")
        };
        let (src, dst, hops) = network(&headers, frame.len());
        assert_eq!(hops, 255, "or it is refused (RFC 4861 section 7.1.2)");
        let payload = headers.payload.slice();
        let sum = icmp.icmp_type.calc_checksum(octets6(src), octets6(dst), payload).expect("short");
        assert_eq!(icmp.checksum, sum, "ICMPv6 checksum");
        let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type else { panic!("{:?}", icmp.icmp_type) };
        let (target, option) = payload.split_first_chunk::<16>().expect("a target");
        assert_eq!(option[..2], [2, 1], "one target link-layer address");
        Self {
            link: (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap()),
            addrs: (src, dst),
            flags: [flags.router, flags.solicited, flags.r#override],
            target: Ipv6Addr::from(*target).into(),
            mac: option[2..].try_into().expect("a hardware address and nothing else"),
        }
    }
}

/// Bytes of an IPv6 address.
///
/// # Panics
///
/// On an IPv4 address.
pub fn octets6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(a) => a.octets(),
        IpAddr::V4(a) => panic!("{a} is not IPv6"),
    }
}

/// ff02::1:ff00:0/104 with the last 24 bits of the address (RFC 4291 section 2.7.1).
fn solicited_node(addr: IpAddr) -> Ipv6Addr {
    let a = octets6(addr);
    let low = [0xff00 | u16::from(a[13]), u16::from_be_bytes([a[14], a[15]])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, low[0], low[1])
}
