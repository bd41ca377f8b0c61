//! Frames about virtual addresses: announcements of this node's, probes for a foreign owner, and what others say.
//!
//! IPv4 has it in ARP (`arp`), IPv6 in neighbour discovery (`nd`). Called by `io`, which sends and receives them; pure
//! bytes.

use std::net::IpAddr;

use super::packet::Family;

mod arp;
mod nd;

pub(super) use self::{
    arp::SENDER_ADDRESS_AT as ARP_SENDER_AT,
    nd::{MARKS as NA_MARKS, TARGET_AT as NA_TARGET_AT, solicited_node},
};

/// An Ethernet hardware address.
pub type Mac = [u8; 6];

/// Length of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// As much of a frame as [`claimed`] looks at.
pub const CLAIM_LEN: usize = 128;

/// The hardware address of a virtual router (RFC 9568 §7.3), whichever node owns it. All of its addresses are there,
/// those of the other family too: two routers that share an id, one for each family, can have two owners.
pub fn virtual_mac(family: Family, vrid: u8) -> Mac {
    let family = match family {
        Family::V4 => 1,
        Family::V6 => 2,
    };
    [0x00, 0x00, 0x5e, 0x00, family, vrid]
}

/// Ethernet address of an IP multicast group (RFC 1112 §6.4, RFC 2464 §7).
pub fn multicast_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// "`address` is at `mac`", to everybody: gratuitous ARP or an unsolicited neighbour advertisement. `is_virtual` says
/// whether `mac` is a [`virtual_mac`].
pub fn announcement(mac: Mac, is_virtual: bool, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => arp::gratuitous(mac, is_virtual, v4).to_vec(),
        IpAddr::V6(v6) => nd::unsolicited(mac, v6).to_vec(),
    }
}

/// "Who has `address`?" by somebody who does not claim it himself.
pub fn probe(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => arp::probe(mac, v4).to_vec(),
        IpAddr::V6(v6) => nd::probe(mac, v6).to_vec(),
    }
}

/// Who says in a frame to have which address.
pub fn claimed(frame: &[u8]) -> Option<(Mac, IpAddr)> {
    let in_arp = arp::claimed(frame).map(|(mac, address)| (mac, address.into()));
    in_arp.or_else(|| nd::claimed(frame).map(|(mac, address)| (mac, address.into())))
}

/// Puts `parts` one behind the other; together they are as long as the result.
fn joined<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut frame = [0; N];
    for (slot, byte) in frame.iter_mut().zip(parts.iter().copied().flatten()) {
        *slot = *byte;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_routers_hardware_address_tells_its_family_and_id() {
        assert_eq!(virtual_mac(Family::V4, 51), [0x00, 0x00, 0x5e, 0x00, 0x01, 51]);
        assert_eq!(virtual_mac(Family::V6, 255), [0x00, 0x00, 0x5e, 0x00, 0x02, 255]);
    }

    #[test]
    fn groups_have_the_ethernet_addresses_that_hosts_listen_to() {
        let of = |group: &str| multicast_mac(group.parse().unwrap());
        assert_eq!(of("224.0.0.18"), [0x01, 0x00, 0x5e, 0, 0, 0x12]);
        assert_eq!(of("239.129.2.3"), [0x01, 0x00, 0x5e, 1, 2, 3]);
        assert_eq!(of("ff02::12"), [0x33, 0x33, 0, 0, 0, 0x12]);
        assert_eq!(of("ff02::1:ff00:201"), [0x33, 0x33, 0xff, 0, 2, 1]);
    }
}
