//! The datagram around a message between viplb nodes (`lb_common::probe`): IP and UDP headers.
//!
//! Written whole, as adverts are, so that it leaves by the same raw socket and from the same address. Called by `io`;
//! pure bytes, no allocation.

use std::net::IpAddr;

use lb_common::probe::{LEN, Message, PORT};

use super::{checksum, datagram::Family, datagram::write_header};

const UDP: u8 = 17;
const UDP_HEADER_LEN: usize = 8;
/// Room for a datagram of either family.
pub const ROOM: usize = 40 + UDP_HEADER_LEN + LEN;

/// The message from `source` to `destination`, which are of one family, with a TTL (hop limit) of 255.
pub fn datagram<'b>(
    source: IpAddr,
    destination: IpAddr,
    message: &Message,
    buffer: &'b mut [u8; ROOM],
) -> &'b [u8] {
    let header_len = Family::of(source).header_len();
    let datagram = &mut buffer[..header_len + UDP_HEADER_LEN + LEN];
    write_header(UDP, source, destination, datagram);
    let udp = &mut datagram[header_len..];
    let [[port_high, port_low], [high, low]] =
        [PORT.to_be_bytes(), u16::try_from(UDP_HEADER_LEN + LEN).unwrap_or(u16::MAX).to_be_bytes()];
    udp[..UDP_HEADER_LEN].copy_from_slice(&[port_high, port_low, port_high, port_low, high, low, 0, 0]);
    udp[UDP_HEADER_LEN..].copy_from_slice(&message.bytes());
    // 0 would mean that there is no checksum.
    let sum = match checksum::with_pseudo_header(source, destination, UDP, udp) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use lb_common::{addr::Addr, probe::Kind};

    use super::*;

    #[test]
    fn an_independent_parser_finds_the_message_in_a_datagram_of_either_family() {
        for (source, destination) in [("172.18.0.8", "172.18.0.7"), ("fe80::8", "ff02::12")] {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let message = Message::new(Kind::Probe, 51, 100, 0x1234_5678_9abc_def0, Addr::from(source));
            let mut buffer = [0xa5; ROOM];
            let bytes = datagram(source, destination, &message, &mut buffer);
            let sliced = SlicedPacket::from_ip(bytes).unwrap();
            let ttl = match sliced.net.unwrap() {
                NetSlice::Ipv4(ip) => ip.header().ttl(),
                NetSlice::Ipv6(ip) => ip.header().hop_limit(),
                other => panic!("{other:?}"),
            };
            assert_eq!(ttl, 255);
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
            assert_eq!((udp.source_port(), udp.destination_port()), (PORT, PORT));
            assert_eq!(Message::parse(udp.payload()), Some(message));
            let udp_part = &bytes[Family::of(source).header_len()..];
            assert_eq!(checksum::with_pseudo_header(source, destination, UDP, udp_part), 0);
        }
    }
}
