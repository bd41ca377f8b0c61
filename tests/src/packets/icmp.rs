//! ICMP and ICMPv6 errors: built around a quoted packet, and judged by a parser of its own.

use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader};

use super::{Family, builder, network, octets6, source};

/// An error about a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Who says so.
    pub src: IpAddr,
    /// The source of the packet that it is about.
    pub dst: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type and code.
    pub what: [u8; 2],
    /// The rest of the header: the link's MTU, for one.
    pub rest: [u8; 4],
    /// The packet as far as it is quoted, from its IP header on.
    pub quoted: Vec<u8>,
}

impl Error {
    /// "Fragmentation needed" or "packet too big" of a link of 1280 bytes, from a router, about `frame`, of which `keep` bytes
    /// are quoted.
    pub fn too_big(family: Family, frame: &[u8], keep: usize) -> Self {
        let packet = &frame[14..];
        let quoted = packet[..keep.min(packet.len())].to_vec();
        let what = if family == Family::V4 { [3, 4] } else { [2, 0] };
        Self { src: family.backend(200), dst: source(frame), ttl: 60, what, rest: [0, 0, 5, 0], quoted }
    }

    /// The frame.
    ///
    /// # Panics
    ///
    /// If the two addresses are not of one family.
    pub fn frame(&self) -> Vec<u8> {
        let ([kind, code], mut out) = (self.what, Vec::new());
        let b = builder(self.src, self.dst, self.ttl);
        let done = if self.dst.is_ipv4() {
            b.icmpv4_raw(kind, code, self.rest).write(&mut out, &self.quoted)
        } else {
            b.icmpv6_raw(kind, code, self.rest).write(&mut out, &self.quoted)
        };
        done.expect("a frame in memory");
        out
    }

    /// Parses a frame and verifies its IP and ICMP checksums.
    ///
    /// # Panics
    ///
    /// On anything but an ICMP message that fills the frame.
    pub fn seen(frame: &[u8]) -> Self {
        let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
        let (src, dst, ttl) = network(&headers, frame.len());
        let payload = headers.payload.slice();
        let (l4, found, sum) = match (&headers.net, &headers.transport) {
            (Some(NetHeaders::Ipv4(..)), Some(TransportHeader::Icmpv4(h))) => {
                (34, h.checksum, Icmpv4Type::calc_checksum(&h.icmp_type, payload))
            }
            (Some(NetHeaders::Ipv6(..)), Some(TransportHeader::Icmpv6(h))) => {
                let sum = Icmpv6Type::calc_checksum(&h.icmp_type, octets6(src), octets6(dst), payload);
                (54, h.checksum, sum.expect("short"))
            }
            other => panic!("not ICMP: {other:?}"),
        };
        assert_eq!(found, sum, "ICMP checksum");
        let header: [u8; 8] = *frame[l4..].first_chunk().expect("a header");
        let [kind, code, _, _, rest @ ..] = header;
        Self { src, dst, ttl, what: [kind, code], rest, quoted: frame[l4 + 8..].to_vec() }
    }
}
