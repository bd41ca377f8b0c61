//! Netlink socket that hears of every interface's carrier, and of changes of its addresses.
//!
//! Spoken without a library, because the driver's thread reads it in its loop. Called by `io`.

use std::{
    io::{self, Read},
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::socket_address;

/// The socket.
#[derive(Debug)]
pub struct LinkSocket(Socket);

/// What the link socket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkNews {
    /// An interface changed: its index, and whether it is up with a carrier.
    Link {
        /// The interface.
        index: u32,
        /// Up, with a carrier.
        running: bool,
    },
    /// An interface got or lost an address, or may use one from now on.
    Address {
        /// The interface.
        index: u32,
        /// The address, where the message has one.
        address: Option<IpAddr>,
    },
    /// Messages were lost: ask each interface.
    Overrun,
}

impl LinkSocket {
    /// Subscribes.
    pub fn open() -> io::Result<Self> {
        let route = Protocol::from(libc::NETLINK_ROUTE);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW.nonblocking(), Some(route))?;
        let address = socket_address(|netlink: &mut libc::sockaddr_nl| {
            netlink.nl_family = u16::try_from(libc::AF_NETLINK).unwrap_or_default();
            let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
            netlink.nl_groups = u32::try_from(groups).unwrap_or_default();
        })?;
        socket.bind(&address)?;
        Ok(Self(socket))
    }

    /// Hands every waiting message to `news`.
    pub fn drain(&self, buffer: &mut [u8], mut news: impl FnMut(LinkNews)) {
        loop {
            match (&self.0).read(buffer) {
                Ok(length) => link_messages(&buffer[..length], &mut news),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news(LinkNews::Overrun),
                Err(_) => return,
            }
        }
    }
}

impl AsRawFd for LinkSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Walks `nlmsghdr` (16 bytes) + `ifinfomsg` (16 bytes) or `ifaddrmsg` (8 bytes) records.
fn link_messages(mut bytes: &[u8], news: &mut impl FnMut(LinkNews)) {
    const HEADER: usize = 16;
    const ADDRESS_HEADER: usize = 8;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4)?.first_chunk().map(|word: &[u8; 4]| u32::from_ne_bytes(*word))
    };
    while let Some(length) = word(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = bytes.get(..length.max(HEADER)) else { return };
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let (index, flags) = (word(message, HEADER + 4), word(message, HEADER + 8));
        let up = u32::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
        match (kind, index, flags) {
            (libc::RTM_NEWLINK, Some(index), Some(flags)) => {
                news(LinkNews::Link { index, running: flags & up == up });
            }
            (libc::RTM_DELLINK, Some(index), _) => news(LinkNews::Link { index, running: false }),
            (libc::RTM_NEWADDR | libc::RTM_DELADDR, Some(index), _) => {
                let address = message.get(HEADER + ADDRESS_HEADER..).and_then(address_of);
                news(LinkNews::Address { index, address });
            }
            _ => {}
        }
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The address among the attributes of an address message: a 4-byte header each, the data aligned to 4. Point-to-point
/// interfaces have their own address apart from the peer's.
fn address_of(mut attributes: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    while let Some(&[l0, l1, k0, k1]) = attributes.first_chunk() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
        let Some(data) = attributes.get(4..length) else { return found };
        let address = data.first_chunk::<4>().filter(|_| data.len() == 4).map(|octets| IpAddr::from(*octets));
        let address = address.or_else(|| data.first_chunk::<16>().map(|octets| IpAddr::from(*octets)));
        match kind {
            libc::IFA_LOCAL => return address,
            libc::IFA_ADDRESS => found = address,
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[0..4].copy_from_slice(&32_u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[20..24].copy_from_slice(&index.to_ne_bytes());
        bytes[24..28].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }

    #[test]
    fn link_messages_tell_each_interfaces_carrier() {
        let (up, no_carrier) = (0x1_1043, 0x1003);
        let bytes = [message(libc::RTM_NEWLINK, 7, up), message(libc::RTM_NEWLINK, 8, no_carrier)].concat();
        let gone = message(libc::RTM_DELLINK, 9, up);
        let mut seen = Vec::new();
        link_messages(&[bytes, gone].concat(), &mut |news| seen.push(news));
        let changed = |index, running| LinkNews::Link { index, running };
        assert_eq!(seen, [changed(7, true), changed(8, false), changed(9, false)]);
    }

    /// An address message with these attributes.
    fn address_message(kind: u16, index: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = message(kind, index, 0)[..24].to_vec();
        for (kind, data) in attributes {
            let length = u16::try_from(4 + data.len()).unwrap();
            bytes.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn address_messages_tell_which_address_came_or_went_and_where() {
        let (own, peer, six) = ([10, 0, 0, 1], [10, 0, 0, 2], [0xfe; 16]);
        let messages = [
            address_message(libc::RTM_NEWADDR, 4, &[(libc::IFA_ADDRESS, &peer), (libc::IFA_LOCAL, &own)]),
            address_message(
                libc::RTM_DELADDR,
                5,
                &[(libc::IFA_CACHEINFO, &[0; 16]), (libc::IFA_ADDRESS, &six)],
            ),
            address_message(libc::RTM_NEWADDR, 6, &[]),
        ];
        let mut seen = Vec::new();
        link_messages(&messages.concat(), &mut |news| seen.push(news));
        let of = |index, address| LinkNews::Address { index, address };
        assert_eq!(seen, [of(4, Some(own.into())), of(5, Some(six.into())), of(6, None)]);
    }

    proptest! {
        #[test]
        fn no_attributes_make_the_walk_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = address_of(&bytes);
            let framed = address_message(libc::RTM_NEWADDR, 1, &[(1, &bytes)]);
            link_messages(&framed, &mut |_| {});
        }

        #[test]
        fn no_netlink_bytes_make_the_walk_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            link_messages(&bytes, &mut |_| {});
        }
    }
}
