//! SYN-ACKs that the packet programs have left to the daemon (`sync = "strict"`), and the way on for them.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
};

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, RingBuf};
use etherparse::{Ipv4Header, Ipv6Header, TcpHeader};
use lb_common::{held::Held, maps as names};

use super::{pins::Pins, raw::RawSockets};

/// The ring that they come by, and the sockets that they go by. A ring has one reader.
pub struct HeldPackets {
    ring: RingBuf<MapData>,
    sockets: RawSockets,
}

impl HeldPackets {
    /// Opens the ring; what was left to a former daemon is still there.
    pub fn open(pins: &Pins) -> Result<Self> {
        let data = MapData::from_pin(pins.map(names::HELD)).context("map HELD")?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).context("map HELD")?;
        Ok(Self { ring, sockets: RawSockets::open().context("the sockets for SYN-ACKs")? })
    }

    /// The next one.
    #[allow(clippy::should_implement_trait, reason = "what comes next may come later")]
    pub fn next(&mut self) -> Option<Held> {
        loop {
            let item = self.ring.next()?;
            if item.len() == size_of::<Held>() {
                // SAFETY: the programs write whole elements, plain data of any bit pattern.
                return Some(unsafe { item.as_ptr().cast::<Held>().read_unaligned() });
            }
        }
    }

    /// Sends an IP packet with a TCP segment on, whose checksum is made anew.
    pub fn send_on(&self, mut packet: Vec<u8>) -> io::Result<()> {
        let to = complete(&mut packet).ok_or_else(|| io::Error::other("no TCP segment"))?;
        self.sockets.send(to, &packet)
    }
}

impl AsRawFd for HeldPackets {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Cuts what follows the IP packet off (short frames are filled up), makes its TCP checksum, and tells whom it is for.
fn complete(packet: &mut Vec<u8>) -> Option<IpAddr> {
    /// Of the checksum in a TCP header.
    const CHECKSUM: usize = 16;
    let (start, length, to) = match packet.first()? >> 4 {
        4 => {
            let (ip, _) = Ipv4Header::from_slice(packet).ok()?;
            (ip.header_len(), usize::from(ip.total_len), IpAddr::from(ip.destination))
        }
        6 => {
            let (ip, _) = Ipv6Header::from_slice(packet).ok()?;
            let length = Ipv6Header::LEN + usize::from(ip.payload_length);
            (Ipv6Header::LEN, length, IpAddr::from(ip.destination))
        }
        _ => return None,
    };
    if length > packet.len() {
        return None;
    }
    packet.truncate(length);
    let (tcp, data) = TcpHeader::from_slice(packet.get(start..)?).ok()?;
    let checksum = match to {
        IpAddr::V4(_) => tcp.calc_checksum_ipv4(&Ipv4Header::from_slice(packet).ok()?.0, data).ok()?,
        IpAddr::V6(_) => tcp.calc_checksum_ipv6(&Ipv6Header::from_slice(packet).ok()?.0, data).ok()?,
    };
    packet[start + CHECKSUM..start + CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    Some(to)
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpOptionElement};

    use super::*;

    const OPTIONS: [TcpOptionElement; 3] = [
        TcpOptionElement::MaximumSegmentSize(1460),
        TcpOptionElement::Timestamp(7, 9),
        TcpOptionElement::WindowScale(7),
    ];

    #[test]
    fn an_unfinished_checksum_is_completed_and_what_fills_the_frame_up_is_cut_off() {
        for v6 in [false, true] {
            let ip = if v6 {
                PacketBuilder::ipv6([1; 16], [2; 16], 63)
            } else {
                PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 63)
            };
            let builder = ip.tcp(3306, 40_000, 77, 64_240).syn().ack(78).options(&OPTIONS).unwrap();
            let mut good = Vec::new();
            builder.write(&mut good, &[]).unwrap();
            let start = if v6 { 40 } else { 20 };
            let mut packet = good.clone();
            packet[start + 16..start + 18].copy_from_slice(&[0x12, 0x34]);
            packet.extend([0; 6]);
            assert_eq!(complete(&mut packet).map(|to| to.is_ipv6()), Some(v6));
            assert_eq!(packet, good);
        }
        for bad in [vec![], vec![0x45; 10], vec![0x60; 41], vec![0x45; 20]] {
            assert_eq!(complete(&mut bad.clone()), None, "{bad:?}");
        }
    }
}
