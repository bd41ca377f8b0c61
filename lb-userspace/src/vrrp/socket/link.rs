//! Netlink socket that hears of every interface's carrier, and of changes of its addresses.
//!
//! Spoken without a library, because the driver's thread reads it in its loop. Called by `io`.

use std::{
    io::{self, Read},
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
            (libc::RTM_NEWADDR | libc::RTM_DELADDR, Some(index), _) => news(LinkNews::Address { index }),
            _ => {}
        }
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
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

    #[test]
    fn an_address_message_tells_whose_addresses_changed() {
        let mut seen = Vec::new();
        let short = &mut message(libc::RTM_DELADDR, 5, 0)[..24];
        short[0..4].copy_from_slice(&24_u32.to_ne_bytes());
        link_messages(&[&message(libc::RTM_NEWADDR, 4, 0), &*short].concat(), &mut |news| seen.push(news));
        assert_eq!(seen, [4, 5].map(|index| LinkNews::Address { index }));
    }

    proptest! {
        #[test]
        fn no_netlink_bytes_make_the_walk_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            link_messages(&bytes, &mut |_| {});
        }
    }
}
