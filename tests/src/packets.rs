//! Frames for packet cases, built by code, and an independent judgement of what comes out.
//!
//! The world of the cases: client .100, virtual address .201 with a service on 3306, backends .2–.4. Frames are built and
//! re-parsed by etherparse, which shares nothing with the packet path.

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use lb_common::{
    addr::{Addr, Mac, Port},
    service::{Backend, Interface},
    settings::{Settings, SnatPorts},
};
use lb_userspace::datapath::tables::{Desired, DesiredService};

/// The client.
pub const CLIENT: [u8; 4] = [172, 18, 0, 100];
/// The virtual address.
pub const VIP: [u8; 4] = [172, 18, 0, 201];
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
pub fn backend(i: u8) -> [u8; 4] {
    [172, 18, 0, 2 + i]
}

/// Tables with one service and `n` backends that are up.
pub fn world(n: u8) -> Desired {
    Desired {
        settings: Settings {
            schema: lb_common::maps::SCHEMA,
            snat_ports: SnatPorts::around(32768, 60999),
            ..Settings::default()
        },
        vips: vec![(Addr::v4(VIP), 0)],
        interfaces: vec![(LO, Interface { mac: REPLY_MAC, pad: [0; 2] })],
        backends: (0..n.max(1))
            .map(|i| Backend { addr: Addr::v4(backend(i)), ifindex: LO, port: Port::new(PORT), pad: [0; 2] })
            .collect(),
        services: vec![DesiredService {
            addr: Addr::v4(VIP),
            port: Port::new(PORT),
            router: 0,
            snat: Addr::v4(VIP),
            ring: (0..u32::from(n)).collect(),
        }],
    }
}

/// A TCP segment under construction.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Source address and port.
    pub src: ([u8; 4], u16),
    /// Destination address and port.
    pub dst: ([u8; 4], u16),
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
    /// Time to live.
    pub ttl: u8,
    /// Data.
    pub data: Vec<u8>,
}

impl Segment {
    /// From the client's `port` to the service.
    pub fn from_client(port: u16) -> Self {
        Self {
            src: (CLIENT, port),
            dst: (VIP, PORT),
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

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let b = PacketBuilder::ethernet2(CLIENT_MAC, HOST_MAC).ipv4(self.src.0, self.dst.0, self.ttl);
        let mut b = b.tcp(self.src.1, self.dst.1, self.seq, 64240);
        if let Some(n) = self.ack {
            b = b.ack(n);
        }
        if self.syn {
            b = b.syn().options_raw(&[2, 4, 5, 180, 4, 2, 1, 1]).expect("eight bytes of options");
        }
        if self.fin {
            b = b.fin();
        }
        if self.rst {
            b = b.rst();
        }
        let mut out = Vec::new();
        b.write(&mut out, &self.data).expect("a frame in memory");
        out
    }
}

/// A TCP segment as an independent parser sees it, all checksums verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Source address and port.
    pub src: ([u8; 4], u16),
    /// Destination address and port.
    pub dst: ([u8; 4], u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, if ACK is set.
    pub ack: Option<u32>,
    /// Whether RST is set.
    pub rst: bool,
    /// Time to live.
    pub ttl: u8,
    /// Length of the data.
    pub data: usize,
}

/// Parses a frame and verifies its IP and TCP checksums.
///
/// # Panics
///
/// On anything but a valid TCP segment over IPv4 that fills the frame.
pub fn seen(frame: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let Some(NetHeaders::Ipv4(ip, _)) = &headers.net else { panic!("not IPv4: {frame:02x?}") };
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else { panic!("not TCP: {frame:02x?}") };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
    assert_eq!(usize::from(ip.total_len) + 14, frame.len(), "IP length");
    let data = headers.payload.slice();
    assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, data).expect("short"), "TCP checksum");
    Seen {
        src: (ip.source, tcp.source_port),
        dst: (ip.destination, tcp.destination_port),
        seq: tcp.sequence_number,
        ack: tcp.ack.then_some(tcp.acknowledgment_number),
        rst: tcp.rst,
        ttl: ip.time_to_live,
        data: data.len(),
    }
}

/// An ARP request for `target` in the name of `sender`.
pub fn arp_request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(CLIENT_MAC);
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(CLIENT_MAC);
    f.extend(sender);
    f.extend([0; 6]);
    f.extend(target);
    f
}

/// An echo request with `data`.
pub fn echo_request(to: [u8; 4], ttl: u8, data: &[u8]) -> Vec<u8> {
    let b = PacketBuilder::ethernet2(CLIENT_MAC, HOST_MAC).ipv4(CLIENT, to, ttl).icmpv4_echo_request(7, 3);
    let mut out = Vec::new();
    b.write(&mut out, data).expect("a frame in memory");
    out
}

/// A UDP datagram from the client.
pub fn udp(to: [u8; 4], port: u16) -> Vec<u8> {
    let b = PacketBuilder::ethernet2(CLIENT_MAC, HOST_MAC).ipv4(CLIENT, to, 64).udp(4000, port);
    let mut out = Vec::new();
    b.write(&mut out, b"hello").expect("a frame in memory");
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
