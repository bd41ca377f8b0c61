//! Neighbour discovery (RFC 4861): unsolicited advertisements, the probe for a foreign owner, and what others say.
//!
//! An advertisement has the virtual address as its source. So the lease fences it like everything else that this node
//! says in the address's name.

use std::net::Ipv6Addr;

use super::{ETHERNET_LEN, Mac, joined, multicast_mac};
use crate::vrrp::packet::{Family, checksum, write_ipv6_header};

/// Where the address stands in the frame of an advertisement or a solicitation.
pub const TARGET_AT: usize = ICMP_AT + 8;
/// What makes a frame with the Ethernet type of IPv6 an advertisement: offset and byte.
pub const MARKS: [(usize, u8); 2] = [(ETHERNET_LEN + 6, ICMP_V6), (ICMP_AT, ADVERTISEMENT)];

const ICMP_AT: usize = ETHERNET_LEN + 40;
const OPTIONS_AT: usize = TARGET_AT + 16;
/// With the option that tells the hardware address.
const ADVERTISEMENT_LEN: usize = OPTIONS_AT + 8;
const SOLICITATION_LEN: usize = OPTIONS_AT;

const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
const ICMP_V6: u8 = 58;
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Target link-layer address: type 2, of one unit of 8 bytes.
const LINK_LAYER_OPTION: [u8; 2] = [2, 1];
/// R and O are set, S is not (RFC 9568 §6.4.1, §6.4.2).
const ROUTER_AND_OVERRIDE: u8 = 0x80 | 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The group to which solicitations for an address are sent (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// "`address` is at `mac`", to everybody.
pub(super) fn unsolicited(mac: Mac, address: Ipv6Addr) -> [u8; ADVERTISEMENT_LEN] {
    let message = [ADVERTISEMENT, 0, 0, 0, ROUTER_AND_OVERRIDE, 0, 0, 0];
    let mut frame = joined(&[
        &multicast_mac(ALL_NODES.into()),
        &mac,
        &ETHERTYPE,
        &[0; 40],
        &message,
        &address.octets(),
        &LINK_LAYER_OPTION,
        &mac,
    ]);
    complete(&mut frame, address, ALL_NODES);
    frame
}

/// From the unspecified address, as one asks before one takes an address (RFC 4862 §5.4.2): the answer goes to all.
pub(super) fn probe(mac: Mac, address: Ipv6Addr) -> [u8; SOLICITATION_LEN] {
    let group = solicited_node(address);
    let message = [SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    let to = multicast_mac(group.into());
    let mut frame = joined(&[&to, &mac, &ETHERTYPE, &[0; 40], &message, &address.octets()]);
    complete(&mut frame, Ipv6Addr::UNSPECIFIED, group);
    frame
}

/// Who says in an advertisement to have which address. It must be valid by RFC 4861 §7.1.2, as far as an alarm needs.
pub(super) fn claimed(frame: &[u8]) -> Option<(Mac, Ipv6Addr)> {
    let header: &[u8; OPTIONS_AT] = frame.first_chunk()?;
    let is_advertisement = MARKS.iter().all(|(at, byte)| header[*at] == *byte);
    if header[12..14] != ETHERTYPE || header[ETHERNET_LEN + 7] != HOP_LIMIT || !is_advertisement {
        return None;
    }
    let address: [u8; 16] = *header[TARGET_AT..].first_chunk()?;
    let sender = *header[6..].first_chunk()?;
    Some((link_layer_address(&frame[OPTIONS_AT..]).unwrap_or(sender), address.into()))
}

fn link_layer_address(mut options: &[u8]) -> Option<Mac> {
    loop {
        let [kind, units] = *options.first_chunk()?;
        if [kind, units] == LINK_LAYER_OPTION {
            return options.get(2..)?.first_chunk().copied();
        }
        // A length of 0 ends the walk, as it makes the message invalid.
        options = options.get(usize::from(units) * 8..).filter(|_| units > 0)?;
    }
}

/// Header and checksum.
fn complete(frame: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    let datagram = &mut frame[ETHERNET_LEN..];
    write_ipv6_header(0, ICMP_V6, source, destination, datagram);
    let message = &mut datagram[Family::V6.header_len()..];
    let sum = checksum::with_pseudo_header(source.into(), destination.into(), ICMP_V6, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = [0x00, 0x00, 0x5e, 0x00, 0x02, 51];
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);

    fn keepaliveds_frame() -> Vec<u8> {
        include_str!("../../../../tests/fixtures/vrrp/keepalived-unsolicited-na.hex")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    }

    #[test]
    fn the_announcement_is_keepaliveds_but_for_the_router_flag() {
        let mut expected = keepaliveds_frame();
        let (mac, address) = claimed(&expected).unwrap();
        assert_eq!(address, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x201));
        expected[ICMP_AT + 4] |= 0x80;
        let ours = unsolicited(mac, address);
        expected[ICMP_AT + 2..ICMP_AT + 4].copy_from_slice(&ours[ICMP_AT + 2..ICMP_AT + 4]);
        assert_eq!(ours[..], expected);
    }

    #[test]
    fn an_advertisement_goes_to_all_nodes_with_override_and_router_and_without_solicited() {
        let frame = unsolicited(MAC, VIP);
        assert_eq!([&frame[..6], &frame[6..12]], [[0x33, 0x33, 0, 0, 0, 1], MAC]);
        assert_eq!(frame[ICMP_AT..ICMP_AT + 2], [136, 0]);
        assert_eq!(frame[ICMP_AT + 4], 0xa0);
        assert_eq!((frame[ETHERNET_LEN + 7], frame[ETHERNET_LEN + 5]), (255, 32));
        assert_eq!(claimed(&frame), Some((MAC, VIP)));
    }

    #[test]
    fn a_probe_asks_the_group_of_the_address_and_claims_nothing() {
        let frame = probe(MAC, VIP);
        assert_eq!(solicited_node(VIP).to_string(), "ff02::1:ff12:3456");
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[ETHERNET_LEN + 8..][..16], [0; 16]);
        assert_eq!(claimed(&frame), None);
    }

    #[test]
    fn without_the_option_the_sender_of_the_frame_is_the_owner() {
        let mut frame = unsolicited(MAC, VIP);
        frame[6..12].copy_from_slice(&[2; 6]);
        assert_eq!(claimed(&frame), Some((MAC, VIP)));
        assert_eq!(claimed(&frame[..OPTIONS_AT]), Some(([2; 6], VIP)));
        frame[OPTIONS_AT] = 1;
        assert_eq!(claimed(&frame), Some(([2; 6], VIP)));
        frame[OPTIONS_AT + 1] = 0;
        assert_eq!(claimed(&frame), Some(([2; 6], VIP)));
    }

    #[test]
    fn an_advertisement_that_crossed_a_router_claims_nothing() {
        let mut frame = unsolicited(MAC, VIP);
        frame[ETHERNET_LEN + 7] = 254;
        assert_eq!(claimed(&frame), None);
    }

    #[test]
    fn the_checksum_covers_the_pseudo_header() {
        for (frame, from, to) in [
            (&unsolicited(MAC, VIP)[..], VIP, ALL_NODES),
            (&probe(MAC, VIP)[..], Ipv6Addr::UNSPECIFIED, solicited_node(VIP)),
        ] {
            assert_eq!(checksum::with_pseudo_header(from.into(), to.into(), ICMP_V6, &frame[ICMP_AT..]), 0);
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_the_reader_panic_or_loop(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), shaped: bool,
        ) {
            if shaped && bytes.len() >= OPTIONS_AT {
                bytes[..OPTIONS_AT].copy_from_slice(&unsolicited(MAC, VIP)[..OPTIONS_AT]);
            }
            let _ = claimed(&bytes);
        }
    }
}
