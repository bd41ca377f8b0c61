//! ARP: gratuitous announcements, the probe for a foreign owner, and what others say.
//!
//! Announcements are broadcast requests with sender = target = the address (RFC 5227 §3 prefers this form, and it is
//! keepalived's).

use std::net::Ipv4Addr;

use super::{Mac, joined};

/// Length of an ARP frame for IPv4 over Ethernet, without padding.
const FRAME_LEN: usize = 42;
/// Where the sender's protocol address starts in a frame.
pub const SENDER_ADDRESS_AT: usize = 28;

const BROADCAST: Mac = [0xff; 6];
/// Ethertype 0x0806; hardware Ethernet, protocol IPv4, lengths 6 and 4.
const ARP_HEADER: [u8; 8] = [0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4];
const REQUEST: [u8; 2] = [0, 1];

/// "`address` is at `mac`", to everybody. With a virtual hardware address RFC 9568 (erratum 7949) has it in the target
/// field, too; else that is keepalived's broadcast.
pub(super) fn gratuitous(mac: Mac, is_virtual: bool, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    request(mac, address, if is_virtual { mac } else { BROADCAST }, address)
}

/// RFC 5227 §2.1.1: the sender's address is 0.
pub(super) fn probe(mac: Mac, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    request(mac, Ipv4Addr::UNSPECIFIED, [0; 6], address)
}

/// Who says in an ARP frame to have which address.
pub(super) fn claimed(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let frame: &[u8; FRAME_LEN] = frame.first_chunk()?;
    if frame[12..20] != ARP_HEADER {
        return None;
    }
    let mac = *frame[22..28].first_chunk()?;
    let address: [u8; 4] = *frame[SENDER_ADDRESS_AT..].first_chunk()?;
    Some((mac, address.into()))
}

fn request(mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> [u8; FRAME_LEN] {
    let (sender, target) = (sender.octets(), target.octets());
    joined(&[&BROADCAST, &mac, &ARP_HEADER, &REQUEST, &mac, &sender, &target_mac, &target])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x96, 0x50, 0xaa, 0x19, 0x62, 0x48];
    const VIP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 201);

    fn keepaliveds_frame() -> Vec<u8> {
        include_str!("../../../../tests/fixtures/vrrp/keepalived-garp.hex")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    }

    #[test]
    fn the_announcement_is_keepaliveds_byte_for_byte() {
        assert_eq!(gratuitous(MAC, false, VIP)[..], keepaliveds_frame());
    }

    #[test]
    fn with_a_virtual_hardware_address_it_is_in_every_field_that_names_one() {
        let virtual_mac = [0x00, 0x00, 0x5e, 0x00, 0x01, 51];
        let frame = gratuitous(virtual_mac, true, VIP);
        assert_eq!([&frame[6..12], &frame[22..28], &frame[32..38]], [virtual_mac; 3]);
        assert_eq!(claimed(&frame), Some((virtual_mac, VIP)));
    }

    #[test]
    fn an_announcement_tells_who_claims_what() {
        assert_eq!(claimed(&keepaliveds_frame()), Some((MAC, VIP)));
    }

    #[test]
    fn a_probe_claims_no_address() {
        assert_eq!(claimed(&probe(MAC, VIP)), Some((MAC, Ipv4Addr::UNSPECIFIED)));
        assert_eq!(probe(MAC, VIP)[38..], VIP.octets());
    }

    #[test]
    fn other_frames_claim_nothing() {
        let frame = keepaliveds_frame();
        assert_eq!(claimed(&frame[..FRAME_LEN - 1]), None);
        for at in 12..20 {
            let mut other = frame.clone();
            other[at] ^= 0x40;
            assert_eq!(claimed(&other), None, "byte {at}");
        }
    }
}
