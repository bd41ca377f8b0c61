//! Frames for packet cases, built by code, and an independent judgement of what comes out.
//!
//! The world of the cases, in each family: a client, a virtual address with a service on 3306, backends. Frames are built
//! and re-parsed by etherparse, which shares nothing with the packet path.

mod fragments;
mod icmp;
mod link;
mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    NetHeaders, PacketBuilder, PacketBuilderStep, PacketHeaders, TcpOptionElement, TransportHeader,
};
use lb_common::{
    addr::{Mac, PROTO_TCP, PROTO_UDP, Port},
    service::{Backend, Interface, Path, Vip},
    settings::{Settings, SnatPorts},
};
use lb_userspace::datapath::tables::{Choice, Desired, DesiredService};

pub use fragments::*;
pub use icmp::*;
pub use link::*;
pub use tunnel::*;

/// The client.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 100));
/// The virtual address.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 201));
/// The client, in IPv6.
pub const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x100));
/// The virtual address, in IPv6.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd12, 0, 0, 0, 0xa, 0xbc, 0xdef0, 0x1234));
/// The service's port.
pub const PORT: u16 = 3306;
/// The client's hardware address.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x64];
/// The loopback interface's hardware address, which `BPF_PROG_TEST_RUN` takes for this host's.
pub const HOST_MAC: [u8; 6] = [0; 6];
/// What ARP replies carry.
pub const REPLY_MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
/// Interface index of the loopback interface.
pub const LO: u32 = 1;

/// Address of backend `i`, from 0.
pub fn backend(i: u8) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, 2 + i).into()
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// The client.
    pub fn client(self) -> IpAddr {
        if self == Self::V4 { CLIENT } else { CLIENT6 }
    }

    /// The virtual address.
    pub fn vip(self) -> IpAddr {
        if self == Self::V4 { VIP } else { VIP6 }
    }

    /// Address of backend `i`, from 0.
    pub fn backend(self, i: u8) -> IpAddr {
        match self {
            Self::V4 => backend(i),
            Self::V6 => Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 2 + u16::from(i)).into(),
        }
    }

    /// Tables with one TCP service and `n` backends that are up.
    pub fn world(self, n: u8) -> Desired {
        let port = Port::new(PORT);
        let backend = |i| Backend { addr: self.backend(i).into(), ifindex: LO, port, ..Backend::default() };
        let vip = self.vip().into();
        Desired {
            access: Vec::new(),
            settings: Settings {
                schema: lb_common::maps::SCHEMA,
                snat_ports: SnatPorts::around(32768, 60999),
                ..Settings::default()
            },
            vips: vec![(vip, Vip::default())],
            interfaces: vec![(LO, Interface { mac: REPLY_MAC, ..Interface::default() })],
            backends: (0..n.max(1)).map(backend).collect(),
            paths: vec![Path { source: self.backend(7).into(), ..Path::default() }; n.max(1).into()],
            limits: Vec::new(),
            services: vec![DesiredService {
                addr: vip,
                port,
                last: None,
                proto: PROTO_TCP,
                router: 0,
                snat: vec![vip],
                backends: (0..n.max(1).into()).collect(),
                ring: (0..u32::from(n)).collect(),
                choice: Choice::default(),
                adopts: false,
            }],
        }
    }

    /// Likewise with a UDP service.
    pub fn udp_world(self, n: u8) -> Desired {
        let mut world = self.world(n);
        world.services[0].proto = PROTO_UDP;
        world
    }
}

/// Tables with one service and `n` backends that are up.
pub fn world(n: u8) -> Desired {
    Family::V4.world(n)
}

fn builder(src: IpAddr, dst: IpAddr, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
    let b = PacketBuilder::ethernet2(CLIENT_MAC, HOST_MAC);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => b.ipv4(src.octets(), dst.octets(), ttl),
        (IpAddr::V6(src), IpAddr::V6(dst)) => b.ipv6(src.octets(), dst.octets(), ttl),
        _ => panic!("two families: {src}, {dst}"),
    }
}

/// A TCP segment under construction.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port.
    pub dst: (IpAddr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, set with ACK.
    pub ack: Option<u32>,
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Data.
    pub data: Vec<u8>,
}

impl Segment {
    /// From the client's `port` to the service.
    pub fn from_client(port: u16) -> Self {
        Self::of(Family::V4, port)
    }

    /// From a client's `port` to the service, in either family.
    pub fn of(family: Family, port: u16) -> Self {
        Self {
            src: (family.client(), port),
            dst: (family.vip(), PORT),
            seq: 1000,
            ack: None,
            syn: false,
            fin: false,
            rst: false,
            ttl: 64,
            data: Vec::new(),
        }
    }

    /// A connection request from the client.
    pub fn syn(port: u16) -> Self {
        Self { syn: true, ..Self::from_client(port) }
    }

    /// An answer to `seen`, a segment as it reached the other side.
    pub fn answer(seen: &Seen) -> Self {
        Self {
            src: seen.dst,
            dst: seen.src,
            seq: 9000,
            ack: Some(seen.seq.wrapping_add(1)),
            ..Self::from_client(0)
        }
    }

    /// The frame. A SYN asks for segments of 1460 bytes.
    pub fn frame(&self) -> Vec<u8> {
        self.frame_with_options(if self.syn { &[2, 4, 5, 180, 4, 2, 1, 1] } else { &[] })
    }

    /// Likewise with these TCP options.
    ///
    /// # Panics
    ///
    /// If they are no whole words, or too many.
    pub fn frame_with_options(&self, options: &[u8]) -> Vec<u8> {
        let mut b = builder(self.src.0, self.dst.0, self.ttl).tcp(self.src.1, self.dst.1, self.seq, 64240);
        if let Some(n) = self.ack {
            b = b.ack(n);
        }
        if self.syn {
            b = b.syn();
        }
        if self.fin {
            b = b.fin();
        }
        if self.rst {
            b = b.rst();
        }
        b = b.options_raw(options).expect("options in whole words");
        let mut out = Vec::new();
        b.write(&mut out, &self.data).expect("a frame in memory");
        out
    }
}

/// A TCP segment as an independent parser sees it, all checksums verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port.
    pub dst: (IpAddr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, if ACK is set.
    pub ack: Option<u32>,
    /// Whether RST is set.
    pub rst: bool,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Length of the data.
    pub data: usize,
}

/// Parses a frame and verifies its IP and TCP checksums.
///
/// # Panics
///
/// On anything but a valid TCP segment over IP that fills the frame.
pub fn seen(frame: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else { panic!("not TCP: {frame:02x?}") };
    let (src, dst, ttl) = network(&headers, frame.len());
    let data = headers.payload.slice();
    let sum = match headers.net.as_ref() {
        Some(NetHeaders::Ipv4(ip, _)) => tcp.calc_checksum_ipv4(ip, data),
        Some(NetHeaders::Ipv6(ip, _)) => tcp.calc_checksum_ipv6(ip, data),
        _ => panic!("not IP"),
    };
    assert_eq!(tcp.checksum, sum.expect("short"), "TCP checksum");
    Seen {
        src: (src, tcp.source_port),
        dst: (dst, tcp.destination_port),
        seq: tcp.sequence_number,
        ack: tcp.ack.then_some(tcp.acknowledgment_number),
        rst: tcp.rst,
        ttl,
        data: data.len(),
    }
}

/// The segment size that a SYN asks for.
///
/// # Panics
///
/// On anything but a TCP segment.
pub fn mss(frame: &[u8]) -> Option<u16> {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else { panic!("not TCP: {frame:02x?}") };
    tcp.options_iterator().flatten().find_map(|option| match option {
        TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
        _ => None,
    })
}

/// Addresses and TTL, with the IP header verified.
pub(crate) fn network(headers: &PacketHeaders<'_>, length: usize) -> (IpAddr, IpAddr, u8) {
    match headers.net.as_ref() {
        Some(NetHeaders::Ipv4(ip, _)) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
            assert_eq!(usize::from(ip.total_len) + 14, length, "IP length");
            (ip.source.into(), ip.destination.into(), ip.time_to_live)
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            assert_eq!(usize::from(ip.payload_length) + 54, length, "IP length");
            (ip.source.into(), ip.destination.into(), ip.hop_limit)
        }
        _ => panic!("not IP"),
    }
}

/// A UDP datagram under construction, or as an independent parser sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port.
    pub dst: (IpAddr, u16),
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Data.
    pub data: Vec<u8>,
}

impl Datagram {
    /// From the client's `port` to the service.
    pub fn of(family: Family, port: u16) -> Self {
        Self { src: (family.client(), port), dst: (family.vip(), PORT), ttl: 64, data: b"hello".to_vec() }
    }

    /// An answer to this one, as it reached the other side.
    pub fn answer(&self) -> Self {
        Self { src: self.dst, dst: self.src, ttl: 64, data: b"answer".to_vec() }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let b = builder(self.src.0, self.dst.0, self.ttl).udp(self.src.1, self.dst.1);
        let mut out = Vec::new();
        b.write(&mut out, &self.data).expect("a frame in memory");
        out
    }

    /// Parses a frame and verifies its IP and UDP checksums; IPv4 may have no UDP checksum.
    ///
    /// # Panics
    ///
    /// On anything but a valid datagram that fills the frame.
    pub fn seen(frame: &[u8]) -> Self {
        let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
        let Some(TransportHeader::Udp(udp)) = &headers.transport else { panic!("not UDP: {frame:02x?}") };
        let (src, dst, ttl) = network(&headers, frame.len());
        let data = headers.payload.slice();
        let sum = match headers.net.as_ref() {
            Some(NetHeaders::Ipv4(..)) if udp.checksum == 0 => Ok(0),
            Some(NetHeaders::Ipv4(ip, _)) => udp.calc_checksum_ipv4(ip, data),
            Some(NetHeaders::Ipv6(ip, _)) => udp.calc_checksum_ipv6(ip, data),
            _ => panic!("not IP"),
        };
        assert_eq!(udp.checksum, sum.expect("short"), "UDP checksum");
        Self { src: (src, udp.source_port), dst: (dst, udp.destination_port), ttl, data: data.to_vec() }
    }
}

/// The source of a frame's packet.
pub(crate) fn source(frame: &[u8]) -> IpAddr {
    if frame[14] >> 4 == 4 {
        Ipv4Addr::from(*frame[26..].first_chunk::<4>().expect("an address")).into()
    } else {
        Ipv6Addr::from(*frame[22..].first_chunk::<16>().expect("an address")).into()
    }
}

/// A UDP datagram from the client.
pub fn udp(to: IpAddr, port: u16) -> Vec<u8> {
    Datagram { dst: (to, port), ..Datagram::of(Family::V4, 4000) }.frame()
}

/// An echo request with `data`.
pub fn echo_request(to: IpAddr, ttl: u8, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let done = match to {
        IpAddr::V4(_) => builder(CLIENT, to, ttl).icmpv4_echo_request(7, 3).write(&mut out, data),
        IpAddr::V6(_) => builder(CLIENT6, to, ttl).icmpv6_echo_request(7, 3).write(&mut out, data),
    };
    done.expect("a frame in memory");
    out
}

/// Rewrites the IPv4 header's checksum after a test changed a field.
pub fn fix_ip_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let header = usize::from(frame[14] & 15) * 4;
    let sum: u32 = frame[14..14 + header].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
