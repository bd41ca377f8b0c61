//! Frame → headers, copied out. Offsets are constants (IPv4 options go to the node's stack), which is what the
//! verifier likes best; nothing here judges a packet that may not be meant for a virtual address.

use lb_common::addr::{Addr, PROTO_ICMP, PROTO_TCP, Port};
use lb_common::flow::FlowKey;
use network_types::{
    arp::ArpHdr,
    eth::{EthHdr, EtherType},
    icmp::Icmpv4Hdr,
    ip::Ipv4Hdr,
    tcp::TcpHdr,
};

use crate::packet::Packet;

/// Offset of the network header.
pub const L3: usize = EthHdr::LEN;
/// Offset of the transport header.
pub const L4: usize = L3 + Ipv4Hdr::LEN;

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
pub enum Parsed {
    /// ARP for IPv4 over Ethernet.
    Arp(ArpHdr),
    /// IPv4.
    Ipv4(Ipv4),
    /// Anything else.
    Other,
}

/// An IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    /// Addresses, and ports where the payload is TCP (else 0): the key under which a flow would be known.
    pub key: FlowKey,
    /// Length of the IP packet by its header.
    pub length: u16,
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub payload: Payload,
    /// The TCP header, if that is what follows.
    pub tcp: Tcp,
}

/// What an IPv4 packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// A whole TCP segment (its data may lie beyond the frame's linear part).
    Tcp,
    /// ICMP echo request.
    EchoRequest,
    /// A fragment; headers beyond IP are not looked at.
    Fragment,
    /// An IPv4 header longer than 20 bytes.
    Options,
    /// Headers cut short or contradictory.
    Malformed,
    /// Another protocol.
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

/// Reads the headers of a frame.
#[inline(always)]
pub fn parse<P: Packet>(p: &P) -> Parsed {
    let Some(eth) = p.read::<EthHdr>(0) else { return Parsed::Other };
    let ether_type = eth.ether_type;
    if ether_type == EtherType::Ipv4 as u16 {
        match p.read::<Ipv4Hdr>(L3) {
            Some(ip) if ip.vihl >> 4 == 4 => Parsed::Ipv4(ipv4(p, &ip)),
            _ => Parsed::Other,
        }
    } else if ether_type == EtherType::Arp as u16 {
        match p.read::<ArpHdr>(L3) {
            Some(arp) if arp.htype == [0, 1] && arp.ptype == [8, 0] && arp.hlen == 6 && arp.plen == 4 => {
                Parsed::Arp(arp)
            }
            _ => Parsed::Other,
        }
    } else {
        Parsed::Other
    }
}

#[inline(always)]
fn ipv4<P: Packet>(p: &P, h: &Ipv4Hdr) -> Ipv4 {
    let length = u16::from_be_bytes(h.tot_len);
    let mut ip = Ipv4 {
        key: FlowKey {
            src: Addr::v4(h.src_addr),
            dst: Addr::v4(h.dst_addr),
            proto: h.proto,
            ..FlowKey::default()
        },
        length,
        ttl: h.ttl,
        payload: Payload::Other,
        tcp: Tcp::default(),
    };
    // More fragments, or an offset.
    let fragment = u16::from_be_bytes(h.frags) & 0x3fff != 0;
    ip.payload = if h.vihl != 0x45 {
        Payload::Options
    } else if fragment {
        Payload::Fragment
    } else if (length as u32) < Ipv4Hdr::LEN as u32 || L3 as u32 + length as u32 > p.length() {
        Payload::Malformed
    } else if h.proto == PROTO_TCP {
        tcp(p, &mut ip)
    } else if h.proto == PROTO_ICMP {
        icmp(p)
    } else {
        Payload::Other
    };
    ip
}

#[inline(always)]
fn tcp<P: Packet>(p: &P, ip: &mut Ipv4) -> Payload {
    let Some(h) = p.read::<TcpHdr>(L4) else { return Payload::Malformed };
    // Data offset and flags: network-types gives them bit by bit, which costs too much here.
    let Some([doff, flags]) = p.read::<[u8; 2]>(L4 + 12) else { return Payload::Malformed };
    let header = u32::from(doff >> 4) * 4;
    let segment = u32::from(ip.length) - Ipv4Hdr::LEN as u32;
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
fn icmp<P: Packet>(p: &P) -> Payload {
    const ECHO_REQUEST: [u8; 2] = [8, 0];
    match p.read::<Icmpv4Hdr>(L4) {
        Some(h) if [h.type_, h.code] == ECHO_REQUEST => Payload::EchoRequest,
        Some(_) => Payload::Other,
        None => Payload::Malformed,
    }
}
