//! The kernel as the election sees it: the clock, an interface, and its VRRP, ARP and link sockets.
//!
//! Only `io` calls this. Nothing here blocks: all sockets are non-blocking, the driver waits in one `ppoll`.
//! All unsafe code of `vrrp` is here and in `realtime`.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::{InterfaceFlags, if_nametoindex},
    sys::time::TimeSpec,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

use super::{
    announce::{FRAME_LEN, Mac, SENDER_ADDRESS_AT},
    packet,
};

/// Internetwork control, as RFC-conforming routers and keepalived mark their adverts.
const TOS_CONTROL: u32 = 0xc0;

/// Why the election could not be started: one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The interface of a virtual router is not there.
    #[error("interface {interface} does not exist")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Adverts need a source address that is not virtual itself.
    #[error(
        "interface {interface} has no IPv4 address of its own to send adverts from: give it one (`ip addr add`)"
    )]
    NoAddress {
        /// Its name.
        interface: String,
    },
    /// Announcements need a hardware address.
    #[error("interface {interface} has no Ethernet address to announce the virtual addresses with")]
    NoHardwareAddress {
        /// Its name.
        interface: String,
    },
    /// A version 2 advert carries IPv4 addresses, 1 to 255 of them.
    #[error("virtual router {router} needs 1 to 255 IPv4 addresses")]
    Addresses {
        /// Its name.
        router: String,
    },
    /// Raw sockets are for root.
    #[error(
        "no permission to open the VRRP and ARP sockets on {interface}: run as root or with CAP_NET_RAW and CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// The interface.
        interface: String,
    },
    /// The kernel refused something else.
    #[error("cannot {act} on {interface}: {source}")]
    Socket {
        /// The interface.
        interface: String,
        /// What was tried.
        act: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The lease could not even be cleared.
    #[error("cannot clear the lease of virtual router {router}: {source}")]
    Lease {
        /// Its name.
        router: String,
        /// What the map said.
        source: io::Error,
    },
    /// The thread or its wake-up pipe.
    #[error("cannot start the VRRP thread: {0}")]
    Thread(#[source] io::Error),
}

impl StartError {
    /// For `map_err`: what was tried on which interface.
    pub(super) fn on(interface: &str, act: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { interface: interface.to_owned() },
            _ => Self::Socket { interface: interface.to_owned(), act, source },
        }
    }
}

/// What [`wait`] waits for; made once, so that waiting allocates nothing.
pub fn readable(descriptor: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Sleeps until one of `fds` has something or `timeout` is over (`None`: for ever). A signal ends it too.
pub fn wait(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(TimeSpec::from);
    let timeout = timeout.as_ref().map_or(std::ptr::null(), |timeout| std::ptr::from_ref(timeout.as_ref()));
    let count = libc::nfds_t::try_from(fds.len()).map_err(io::Error::other)?;
    // SAFETY: `fds` and `timeout` are valid for the call, `count` is the length of `fds`; no signal mask is passed.
    if unsafe { libc::ppoll(fds.as_mut_ptr(), count, timeout, std::ptr::null()) } >= 0 {
        return Ok(());
    }
    for fd in fds {
        fd.revents = 0;
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// A network interface as it was at the start.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in this network namespace.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Its first address that is not one of the virtual ones.
    pub address: Ipv4Addr,
}

impl Interface {
    /// Looks an interface up; `foreign` are addresses that it may carry but that are not its own.
    pub fn find(name: &str, foreign: &[Ipv4Addr]) -> Result<Self, StartError> {
        let interface = name.to_owned();
        let Ok(index) = if_nametoindex(name) else {
            return Err(StartError::NoInterface { interface });
        };
        let list = addresses_of(name).map_err(StartError::on(name, "list the addresses"))?;
        let ipv4 = |a: &InterfaceAddress| a.address?.as_sockaddr_in().map(|a| a.ip());
        let mac = |a: &InterfaceAddress| a.address?.as_link_addr()?.addr();
        let address = list.iter().filter_map(ipv4).find(|address| !foreign.contains(address));
        Ok(Self {
            index,
            mac: list
                .iter()
                .find_map(mac)
                .ok_or_else(|| StartError::NoHardwareAddress { interface: interface.clone() })?,
            address: address.ok_or_else(|| StartError::NoAddress { interface: interface.clone() })?,
            name: interface,
        })
    }

    /// Whether it is up and has a carrier now.
    pub fn is_running(&self) -> bool {
        addresses_of(&self.name).is_ok_and(|list| {
            list.first()
                .is_some_and(|a| a.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING))
        })
    }
}

fn addresses_of(name: &str) -> io::Result<Vec<InterfaceAddress>> {
    Ok(getifaddrs()?.filter(|a| a.interface_name == name).collect())
}

/// Raw socket for adverts of all virtual routers on one interface.
#[derive(Debug)]
pub struct AdvertSocket {
    socket: Socket,
    group: SockAddr,
}

impl AdvertSocket {
    /// Opens it, joined to the VRRP group.
    pub fn open(interface: &Interface) -> Result<Self, StartError> {
        Self::try_open(interface).map_err(StartError::on(&interface.name, "open the VRRP socket"))
    }

    fn try_open(interface: &Interface) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(packet::PROTOCOL));
        let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(protocol))?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        // The source of multicast; binding to the address would stop multicast from being received.
        socket.set_multicast_if_v4(&interface.address)?;
        socket.set_multicast_ttl_v4(u32::from(packet::TTL))?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_tos_v4(TOS_CONTROL)?;
        socket.join_multicast_v4_n(&packet::GROUP, &InterfaceIndexOrAddress::Index(interface.index))?;
        Ok(Self { socket, group: SocketAddrV4::new(packet::GROUP, 0).into() })
    }

    /// Sends one VRRP message.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        self.socket.send_to(message, &self.group).map(drop)
    }

    /// The next datagram with its IP header; `None` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        (&self.socket).read(buffer).ok()
    }
}

impl AsRawFd for AdvertSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Packet socket for announcements, and for what others say about the virtual addresses.
#[derive(Debug)]
pub struct ArpSocket(Socket);

impl ArpSocket {
    /// Opens it; it receives only ARP frames whose sender claims one of `watched`, so that a busy network's ARP does
    /// not wake the thread.
    pub fn open(interface: &Interface, watched: &[Ipv4Addr]) -> Result<Self, StartError> {
        Self::try_open(interface, watched).map_err(StartError::on(&interface.name, "open the ARP socket"))
    }

    fn try_open(interface: &Interface, watched: &[Ipv4Addr]) -> io::Result<Self> {
        // Protocol 0 receives nothing until the filter is in place and `bind` names the protocol.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        socket.attach_filter(&sender_filter(watched))?;
        socket.bind(&link_address(interface.index)?)?;
        Ok(Self(socket))
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8; FRAME_LEN]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }

    /// The next frame; `None` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        (&self.0).read(buffer).ok()
    }
}

impl AsRawFd for ArpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Classic BPF: accept a frame if its ARP sender address is one of `watched`.
fn sender_filter(watched: &[Ipv4Addr]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let (at, accept) = (u32::try_from(SENDER_ADDRESS_AT), u32::try_from(FRAME_LEN));
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, at.unwrap_or_default())];
    for address in watched {
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(*address)));
        program.push(SockFilter::new(RETURN, 0, 0, accept.unwrap_or_default()));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

/// `sockaddr_ll` for all ARP on one interface.
fn link_address(index: u32) -> io::Result<SockAddr> {
    let protocol = u16::try_from(libc::ETH_P_ARP).unwrap_or_default().to_be();
    let family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    let index = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the storage is zeroed and large enough for a sockaddr_ll, of which every value of the fields set is
    // valid; `length` is set to that type's size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = family;
            (*link).sll_protocol = protocol;
            (*link).sll_ifindex = index;
            *length = socklen::<libc::sockaddr_ll>();
            Ok(())
        })
    }?;
    Ok(address)
}

/// Netlink socket that hears of every interface's carrier.
#[derive(Debug)]
pub struct LinkSocket(Socket);

/// What the link socket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkNews {
    /// An interface changed: its index, and whether it is up with a carrier.
    Changed {
        /// The interface.
        index: u32,
        /// Up, with a carrier.
        running: bool,
    },
    /// Messages were lost: ask each interface.
    Overrun,
}

impl LinkSocket {
    /// Subscribes to link changes.
    pub fn open() -> io::Result<Self> {
        let route = Protocol::from(libc::NETLINK_ROUTE);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW.nonblocking(), Some(route))?;
        let family = u16::try_from(libc::AF_NETLINK).unwrap_or_default();
        let groups = u32::try_from(libc::RTMGRP_LINK).unwrap_or_default();
        // SAFETY: the storage is zeroed and large enough for a sockaddr_nl, of which every value of the fields set is
        // valid; `length` is set to that type's size.
        let ((), address) = unsafe {
            SockAddr::try_init(|storage, length| {
                let netlink = storage.cast::<libc::sockaddr_nl>();
                (*netlink).nl_family = family;
                (*netlink).nl_groups = groups;
                *length = socklen::<libc::sockaddr_nl>();
                Ok(())
            })
        }?;
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

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// Walks `nlmsghdr` (16 bytes) + `ifinfomsg` (16 bytes) records.
fn link_messages(mut bytes: &[u8], news: &mut impl FnMut(LinkNews)) {
    const HEADER: usize = 16;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4)?.first_chunk().map(|word: &[u8; 4]| u32::from_ne_bytes(*word))
    };
    while let Some(length) = word(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = bytes.get(..length.max(HEADER)) else { return };
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        if let (Some(index), Some(flags)) = (word(message, HEADER + 4), word(message, HEADER + 8)) {
            let up = u32::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
            match kind {
                libc::RTM_NEWLINK => news(LinkNews::Changed { index, running: flags & up == up }),
                libc::RTM_DELLINK => news(LinkNews::Changed { index, running: false }),
                _ => {}
            }
        }
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use crate::vrrp::BootTime;
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
        let changed = |index, running| LinkNews::Changed { index, running };
        assert_eq!(seen, [changed(7, true), changed(8, false), changed(9, false)]);
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Interface::find("viplb-none0", &[]).unwrap_err();
        assert_eq!(error.to_string(), "interface viplb-none0 does not exist");
    }

    #[test]
    fn the_clock_goes_on() {
        let before = BootTime::now();
        assert!(BootTime::now() >= before && before > BootTime(0));
    }

    proptest! {
        #[test]
        fn no_netlink_bytes_make_the_walk_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            link_messages(&bytes, &mut |_| {});
        }
    }
}
