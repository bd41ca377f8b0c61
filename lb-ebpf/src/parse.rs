//! Frame → headers, copied out. Offsets are constants (packets with IPv4 options or IPv6 extension headers go to the node's
//! stack), which is what the verifier likes best; nothing here judges a packet that may not be meant for a virtual address.

use lb_common::addr::{Addr, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Port};
use lb_common::flow::FlowKey;
use network_types::{
    eth::{EthHdr, EtherType},
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::packet::Packet;

/// Offset of the network header.
pub const L3: usize = EthHdr::LEN;
/// Offset of the transport header in IPv4.
pub const L4: usize = L3 + Ipv4Hdr::LEN;
/// Offset of the transport header in IPv6.
pub const L4_V6: usize = L3 + Ipv6Hdr::LEN;

/// TCP flag bits (byte 13 of the header).
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgement is valid.
    pub const ACK: u8 = 0x10;
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// ARP.
    Arp,
    /// IPv4 or IPv6.
    Ip,
    /// Anything else.
    Other,
}

/// An IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ip {
    /// Addresses, and ports where the payload is TCP or UDP (else 0): the key under which a flow would be known.
    pub key: FlowKey,
    /// Length of the IP packet by its header.
    pub length: u32,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IPv6.
    pub v6: bool,
    /// What follows.
    pub payload: Payload,
    /// The TCP header, if that is what follows.
    pub tcp: Tcp,
}

impl Ip {
    /// Offset of the transport header.
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        if self.v6 { L4_V6 } else { L4 }
    }

    /// Length of the packet without its network header. (Of TCP and UDP packets, whose headers are known to fit.)
    #[inline(always)]
    pub const fn segment(&self) -> u16 {
        (self.length as u16).wrapping_sub((self.l4() - L3) as u16)
    }
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Payload {
    /// A whole TCP segment (its data may lie beyond the frame's linear part).
    Tcp,
    /// A whole UDP datagram, likewise.
    Udp,
    /// ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP or ICMPv6 error: about a packet that its sender did not get through.
    Error,
    /// Neighbour solicitation (RFC 4861 section 4.3) that never crossed a router.
    Solicitation,
    /// A fragment; headers beyond IP are not looked at.
    Fragment,
    /// An IPv4 header longer than 20 bytes, or IPv6 extension headers.
    Options,
    /// Headers cut short or contradictory.
    Malformed,
    /// Another protocol.
    #[default]
    Other,
}

/// What matters of a TCP header, ports apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Sequence space used: data, plus one each for SYN and FIN.
    pub span: u32,
    /// [`flag`] bits.
    pub flags: u8,
}

impl Tcp {
    /// Whether all of `bits` are set.
    #[inline(always)]
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// A connection request: SYN without ACK or RST.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN
    }
}

/// Reads the headers of a frame; those of an IP packet into `ip`, which is as its default says.
#[inline(always)]
pub fn parse<P: Packet>(p: &P, ip: &mut Ip) -> Frame {
    let ether_type = p.read::<EthHdr>(0).map_or(0, |eth| eth.ether_type);
    if ether_type == EtherType::Ipv4 as u16 {
        ipv4(p, ip)
    } else if ether_type == EtherType::Ipv6 as u16 {
        ipv6(p, ip)
    } else if ether_type == EtherType::Arp as u16 {
        Frame::Arp
    } else {
        Frame::Other
    }
}

/// Reads the network header alone of a packet that [`parse`] has found whole: addresses, the protocol after it, length and TTL.
/// For the programs that go on where it has looked already.
#[inline(never)]
pub fn network<P: Packet>(p: &P, ip: &mut Ip) {
    let Some([vcf, _, a, b, high, low, next, hops]) = p.load::<[u8; 8]>(L3) else { return };
    ip.v6 = vcf >> 4 == 6;
    if ip.v6 {
        let Some([src, dst]) = p.load::<[Addr; 2]>(L3 + 8) else { return };
        (ip.key.src, ip.key.dst, ip.key.proto, ip.ttl) = (src, dst, next, hops);
        ip.length = Ipv6Hdr::LEN as u32 + u32::from(u16::from_be_bytes([high, low]));
    } else {
        let Some([ttl, proto, _, _]) = p.load::<[u8; 4]>(L3 + 8) else { return };
        let Some([src, dst]) = p.load::<[[u8; 4]; 2]>(L3 + 12) else { return };
        (ip.key.src, ip.key.dst, ip.key.proto, ip.ttl) = (Addr::v4(src), Addr::v4(dst), proto, ttl);
        ip.length = u32::from(u16::from_be_bytes([a, b]));
    }
}

#[inline(always)]
fn ipv4<P: Packet>(p: &P, ip: &mut Ip) -> Frame {
    let Some(h) = p.read::<Ipv4Hdr>(L3) else { return Frame::Other };
    if h.vihl >> 4 != 4 {
        return Frame::Other;
    }
    let length = u32::from(u16::from_be_bytes(h.tot_len));
    ip.key.src = Addr::v4(h.src_addr);
    ip.key.dst = Addr::v4(h.dst_addr);
    ip.key.proto = h.proto;
    ip.length = length;
    ip.ttl = h.ttl;
    // More fragments, or an offset.
    let fragment = u16::from_be_bytes(h.frags) & 0x3fff != 0;
    ip.payload = if h.vihl != 0x45 {
        Payload::Options
    } else if fragment {
        Payload::Fragment
    } else if length < Ipv4Hdr::LEN as u32 || L3 as u32 + length > p.length() {
        Payload::Malformed
    } else if h.proto == PROTO_TCP {
        tcp(p, ip, L4)
    } else if h.proto == PROTO_UDP {
        udp(p, ip, L4)
    } else if h.proto == PROTO_ICMP {
        icmp(p)
    } else {
        Payload::Other
    };
    Frame::Ip
}

/// Of extension headers only the first one's kind is looked at: none of the payloads that matter here is sent with any, but
/// for fragments. A function of its own in the kernel, for the sake of the stack.
#[inline(never)]
fn ipv6<P: Packet>(p: &P, ip: &mut Ip) -> Frame {
    const FRAGMENT: u8 = 44;
    // Version and so on, payload length, next header, hop limit.
    let Some([vcf, _, _, _, high, low, next, hops]) = p.read::<[u8; 8]>(L3) else { return Frame::Other };
    // Both addresses in one piece: byte by byte they would cost more than the call.
    let Some([src, dst]) = p.load::<[Addr; 2]>(L3 + 8) else { return Frame::Other };
    if vcf >> 4 != 6 {
        return Frame::Other;
    }
    let length = Ipv6Hdr::LEN as u32 + u32::from(u16::from_be_bytes([high, low]));
    (ip.key.src, ip.key.dst, ip.key.proto) = (src, dst, next);
    (ip.length, ip.ttl, ip.v6) = (length, hops, true);
    ip.payload = if next == FRAGMENT {
        Payload::Fragment
    } else if is_extension(next) {
        Payload::Options
    } else if L3 as u32 + length > p.length() {
        Payload::Malformed
    } else if next == PROTO_TCP {
        tcp(p, ip, L4_V6)
    } else if next == PROTO_UDP {
        udp(p, ip, L4_V6)
    } else if next == PROTO_ICMPV6 {
        icmpv6(p, ip)
    } else {
        Payload::Other
    };
    Frame::Ip
}

/// Hop-by-hop options, routing, authentication, destination options, mobility, HIP, shim6 (RFC 7045 section 4); what is
/// encrypted (ESP) is a payload of its own.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 51 | 60 | 135 | 139 | 140)
}

#[inline(always)]
fn tcp<P: Packet>(p: &P, ip: &mut Ip, l4: usize) -> Payload {
    let Some(h) = p.read::<TcpHdr>(l4) else { return Payload::Malformed };
    // Data offset and flags: network-types gives them bit by bit, which costs too much here.
    let Some([doff, flags]) = p.read::<[u8; 2]>(l4 + 12) else { return Payload::Malformed };
    let header = u32::from(doff >> 4) * 4;
    let segment = ip.length - (l4 - L3) as u32;
    if header < TcpHdr::LEN as u32 || header > segment {
        return Payload::Malformed;
    }
    ip.key.sport = Port(h.source);
    ip.key.dport = Port(h.dest);
    ip.tcp.seq = u32::from_be_bytes(h.seq);
    ip.tcp.ack = u32::from_be_bytes(h.ack_seq);
    ip.tcp.flags = flags;
    ip.tcp.span = segment - header + u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
    Payload::Tcp
}

#[inline(always)]
fn udp<P: Packet>(p: &P, ip: &mut Ip, l4: usize) -> Payload {
    let Some(h) = p.read::<UdpHdr>(l4) else { return Payload::Malformed };
    let length = u32::from(u16::from_be_bytes(h.len));
    // An offloaded train of datagrams carries the first one's length or the whole's.
    if length < UdpHdr::LEN as u32 || length > ip.length - (l4 - L3) as u32 {
        return Payload::Malformed;
    }
    ip.key.sport = Port(h.src);
    ip.key.dport = Port(h.dst);
    Payload::Udp
}

#[inline(always)]
fn icmp<P: Packet>(p: &P) -> Payload {
    const ECHO_REQUEST: [u8; 2] = [8, 0];
    match p.read::<Icmpv4Hdr>(L4) {
        Some(h) if [h.type_, h.code] == ECHO_REQUEST => Payload::EchoRequest,
        // Destination unreachable, time exceeded, parameter problem. Source quench is no longer heeded (RFC 6633), and a
        // redirect is for the link's hosts only.
        Some(h) if matches!(h.type_, 3 | 11 | 12) => Payload::Error,
        Some(_) => Payload::Other,
        None => Payload::Malformed,
    }
}

#[inline(always)]
fn icmpv6<P: Packet>(p: &P, ip: &Ip) -> Payload {
    const ECHO_REQUEST: [u8; 2] = [128, 0];
    const SOLICITATION: [u8; 2] = [135, 0];
    /// Header, reserved word and target.
    const SOLICITATION_LEN: u32 = (Ipv6Hdr::LEN + 24) as u32;
    match p.read::<[[u8; 2]; 4]>(L4_V6) {
        Some([ECHO_REQUEST, ..]) => Payload::EchoRequest,
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        Some([[1..=4, _], ..]) => Payload::Error,
        Some([SOLICITATION, ..]) if ip.ttl == 255 && ip.length >= SOLICITATION_LEN => Payload::Solicitation,
        Some(_) => Payload::Other,
        None => Payload::Malformed,
    }
}
