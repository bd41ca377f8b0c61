//! Worlds with tunnels and mixed families, and an outer packet as an independent parser sees it.

use std::net::IpAddr;

use etherparse::{NetHeaders, PacketHeaders};
use lb_common::{addr::PROTO_UDP, mode::Mode, service::Path};
use lb_userspace::datapath::tables::Desired;

use super::{Family, LO, network};

/// Every pair of families: the client's, and the backend's.
pub const COMBINATIONS: [(Family, Family); 4] =
    [(Family::V4, Family::V4), (Family::V6, Family::V4), (Family::V4, Family::V6), (Family::V6, Family::V6)];

/// The two pairs of different families.
pub const MIXED: [(Family, Family); 2] = [(Family::V4, Family::V6), (Family::V6, Family::V4)];

/// Tables with one TCP service of one family and a backend of the other or the same in `mode`, by links of `mtu` bytes.
pub fn world_between(client: Family, backend: Family, mode: Mode, mtu: u16) -> Desired {
    let mut world = client.world(1);
    world.backends[0].addr = backend.backend(0).into();
    world.backends[0].mode = mode as u8;
    world.paths = vec![Path { source: backend.backend(7).into(), mtu, least: mtu, ..Path::default() }];
    for (ifindex, interface) in &mut world.interfaces {
        assert_eq!(*ifindex, LO);
        interface.mtu = mtu;
    }
    world
}

/// Likewise with a UDP service.
pub fn udp_world_between(client: Family, backend: Family, mode: Mode, mtu: u16) -> Desired {
    let mut world = world_between(client, backend, mode, mtu);
    world.services[0].proto = PROTO_UDP;
    world
}

/// A tunnel's packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outer {
    /// Source and destination.
    pub addrs: (IpAddr, IpAddr),
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    /// Flow label, 0 in IPv4.
    pub label: u32,
    /// DF, always so in IPv6.
    pub whole: bool,
    /// What it carries, as a frame with the outer one's link-layer addresses.
    pub inner: Vec<u8>,
}

impl Outer {
    /// Parses a frame and verifies its outer header.
    ///
    /// # Panics
    ///
    /// On anything but IP in IP that fills the frame.
    pub fn seen(frame: &[u8]) -> Self {
        let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
        let (src, dst, ttl) = network(&headers, frame.len());
        let (class, label, whole, proto, length) = match headers.net.as_ref() {
            Some(NetHeaders::Ipv4(ip, _)) => {
                (ip.dscp.value() << 2 | ip.ecn.value(), 0, ip.dont_fragment, ip.protocol.0, 20)
            }
            Some(NetHeaders::Ipv6(ip, _)) => {
                (ip.traffic_class, ip.flow_label.value(), true, ip.next_header.0, 40)
            }
            other => panic!("not IP: {other:?}"),
        };
        let ether_type = match proto {
            4 => [8, 0],
            41 => [0x86, 0xdd],
            other => panic!("protocol {other} is no tunnel"),
        };
        let inner = [&frame[..12], &ether_type, &frame[14 + length..]].concat();
        Self { addrs: (src, dst), ttl, class, label, whole, inner }
    }
}
