//! The IP datagram around an advert: what of it counts, who may have sent it, and its header on the way out.
//!
//! The header is written here and not by the kernel, because an advert from the virtual hardware address leaves through
//! a packet socket, which takes whole frames; so every way out sends the same bytes. Called by `packet` and `io`; pure
//! bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Refusal, TTL, checksum, field};
use crate::config::model::{Transport, UnicastPeer};

/// Where IPv4 adverts go.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where IPv6 adverts go.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Internetwork control, as RFC-conforming routers and keepalived mark their adverts.
const TRAFFIC_CLASS: u8 = 0xc0;

/// The version of IP that a virtual router has its addresses and sends its adverts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Length of an address in an advert.
    pub fn address_len(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Length of the IP header without options.
    pub fn header_len(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// Where adverts go to reach every router.
    pub fn group(self) -> IpAddr {
        match self {
            Self::V4 => GROUP_V4.into(),
            Self::V6 => GROUP_V6.into(),
        }
    }
}

/// A received datagram, as much of it as the checks need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender.
    pub source: IpAddr,
    /// Where it was sent; of the sender's family.
    pub destination: IpAddr,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Splits what a raw IPv4 socket hands out; `None` if it is not a whole IPv4 datagram.
    pub fn from_ipv4(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        Some(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            ttl: header[8],
            payload: bytes.get(header_len..total)?,
        })
    }

    /// Version of IP it came in.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// The virtual router id, for finding the router this is for.
    pub fn vrid(&self) -> Option<u8> {
        self.payload.get(field::VRID).copied()
    }
}

/// The way of a virtual router's adverts: from which address and to whom, and so from whom they are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// This node's address on it: the source of what is sent.
    pub local: IpAddr,
    /// To all, or to some.
    pub transport: Transport,
}

impl Path {
    /// Whether the datagram came to us by this way: by RFC 9568 §7.1 with a TTL of 255 to the group; from a peer with
    /// the TTL that it is allowed, to our own address.
    pub fn check(&self, datagram: &Datagram<'_>) -> Result<(), Refusal> {
        let (destination, limits) = match &self.transport {
            Transport::Multicast => (Family::of(self.local).group(), TTL..=TTL),
            Transport::Unicast(peers) => {
                let peer = peers.iter().find(|peer| peer.addr == datagram.source);
                (self.local, peer.ok_or(Refusal::Source).map(|peer| peer.min_ttl..=peer.max_ttl)?)
            }
        };
        if datagram.destination != destination {
            Err(Refusal::Destination)
        } else if limits.contains(&datagram.ttl) {
            Ok(())
        } else {
            Err(Refusal::Ttl)
        }
    }

    /// Where each advert goes.
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let (group, peers): (_, &[UnicastPeer]) = match &self.transport {
            Transport::Multicast => (Some(Family::of(self.local).group()), &[]),
            Transport::Unicast(peers) => (None, peers),
        };
        group.into_iter().chain(peers.iter().map(|peer| peer.addr))
    }
}

/// Writes the IP header for what follows it in `datagram`, whose first bytes it takes: with a TTL of 255, from
/// `source` to `destination`.
///
/// Addresses of two families cannot be in one header: then nothing is written.
pub(super) fn write_header(protocol: u8, source: IpAddr, destination: IpAddr, datagram: &mut [u8]) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = length(datagram);
            let header = &mut datagram[..Family::V4.header_len()];
            // No identification, may be fragmented; as keepalived's.
            header[..12].copy_from_slice(&[0x45, TRAFFIC_CLASS, high, low, 0, 0, 0, 0, TTL, protocol, 0, 0]);
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = checksum::plain(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            write_ipv6_header(TRAFFIC_CLASS, protocol, source, destination, datagram);
        }
        _ => {}
    }
}

/// The header of a datagram that never crosses a router: hop limit 255.
pub(in crate::vrrp) fn write_ipv6_header(
    traffic_class: u8,
    protocol: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    datagram: &mut [u8],
) {
    let (header, payload) = datagram.split_at_mut(Family::V6.header_len());
    let [high, low] = length(payload);
    let [version, class] = [0x60 | traffic_class >> 4, traffic_class << 4];
    header[..8].copy_from_slice(&[version, class, 0, 0, high, low, protocol, TTL]);
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&destination.octets());
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}
