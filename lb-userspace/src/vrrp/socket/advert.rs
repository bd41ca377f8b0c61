//! Raw socket for adverts of one family on one interface, shared by all its virtual routers.
//!
//! What is sent brings its own IP header, since each router may have its own source address. What is received over IPv4
//! has one too; over IPv6 the kernel strips it and tells destination and hop limit apart (RFC 3542 §6).

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, RawFd},
};

use nix::sys::socket::{setsockopt, sockopt::Ipv6RecvPacketInfo, sockopt::Priority};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};

use super::{Interface, PRIORITY_CONTROL, StartError};
use crate::vrrp::packet::{self, Datagram, Family};

/// Room for the two control messages asked for, an `in6_pktinfo` of 20 bytes and an `int`, and one more.
const CONTROL_LEN: usize = 128;
/// A `cmsghdr`: its length, which includes itself, level and type.
const CONTROL_HEADER_LEN: usize = size_of::<libc::cmsghdr>();

/// What a read of the socket gives.
#[derive(Debug)]
pub enum Received<'a> {
    /// There is nothing more.
    Nothing,
    /// Something that is not a whole datagram.
    Malformed,
    /// A datagram.
    Datagram(Datagram<'a>),
}

/// The socket.
#[derive(Debug)]
pub struct AdvertSocket {
    socket: Socket,
    family: Family,
    index: u32,
}

impl AdvertSocket {
    /// Opens it; joined to the VRRP group only if `multicast`, so that unicast routers do not hear other people's.
    pub fn open(interface: &Interface, family: Family, multicast: bool) -> Result<Self, StartError> {
        let opened = Self::try_open(interface, family, multicast);
        opened.map_err(StartError::on(&interface.name, "open the VRRP socket"))
    }

    fn try_open(interface: &Interface, family: Family, multicast: bool) -> io::Result<Self> {
        let protocol = Some(Protocol::from(i32::from(packet::PROTOCOL)));
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::RAW.nonblocking(), protocol)?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        setsockopt(&socket, Priority, &PRIORITY_CONTROL)?;
        match family {
            Family::V4 => {
                socket.set_header_included_v4(true)?;
                socket.set_multicast_loop_v4(false)?;
                if multicast {
                    let on = InterfaceIndexOrAddress::Index(interface.index);
                    socket.join_multicast_v4_n(&packet::GROUP_V4, &on)?;
                }
            }
            Family::V6 => {
                socket.set_header_included_v6(true)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_recv_hoplimit_v6(true)?;
                setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
                if multicast {
                    socket.join_multicast_v6(&packet::GROUP_V6, interface.index)?;
                }
            }
        }
        Ok(Self { socket, family, index: interface.index })
    }

    /// Takes part in another IPv6 group, as long as the socket is open.
    pub fn join(&self, group: Ipv6Addr) -> io::Result<()> {
        match self.socket.join_multicast_v6(&group, self.index) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
            joined => joined,
        }
    }

    /// Sends a whole datagram, IP header included.
    pub fn send(&self, datagram: &[u8], to: IpAddr) -> io::Result<()> {
        let to: SockAddr = match to {
            IpAddr::V4(to) => SocketAddrV4::new(to, 0).into(),
            IpAddr::V6(to) => SocketAddrV6::new(to, 0, 0, self.index).into(),
        };
        self.socket.send_to(datagram, &to).map(drop)
    }

    /// The next datagram.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> Received<'b> {
        let datagram = match self.family {
            Family::V4 => match (&self.socket).read(buffer) {
                Ok(length) => Datagram::from_ipv4(&buffer[..length]),
                Err(_) => return Received::Nothing,
            },
            Family::V6 => match receive_with_control(&self.socket, buffer) {
                Ok(message) => message.datagram(buffer),
                Err(_) => return Received::Nothing,
            },
        };
        datagram.map_or(Received::Malformed, Received::Datagram)
    }
}

impl AsRawFd for AdvertSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What came beside a message.
struct Message {
    length: usize,
    source: libc::sockaddr_in6,
    control: [u8; CONTROL_LEN],
    control_len: usize,
}

impl Message {
    fn datagram<'b>(&self, buffer: &'b [u8]) -> Option<Datagram<'b>> {
        let (destination, ttl) = arrival(self.control.get(..self.control_len)?)?;
        let source = Ipv6Addr::from(self.source.sin6_addr.s6_addr).into();
        Some(Datagram { source, destination: destination.into(), ttl, payload: buffer.get(..self.length)? })
    }
}

fn receive_with_control(socket: &Socket, buffer: &mut [u8]) -> io::Result<Message> {
    let mut source = libc::sockaddr_in6 {
        sin6_family: 0,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    };
    let mut control = [0; CONTROL_LEN];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes are a valid msghdr: no buffers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut source).cast();
    header.msg_namelen = u32::try_from(size_of::<libc::sockaddr_in6>()).map_err(io::Error::other)?;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    // SAFETY: name, buffer and control point to live, exclusively borrowed memory of the lengths given.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    #[allow(clippy::unnecessary_cast, reason = "its type is another one with musl")]
    let control_len = header.msg_controllen as usize;
    Ok(Message { length, source, control, control_len })
}

/// Destination and hop limit, from the control messages of a datagram.
fn arrival(mut control: &[u8]) -> Option<(Ipv6Addr, u8)> {
    let (mut destination, mut hop_limit) = (None, None);
    while let Some(header) = control.first_chunk::<CONTROL_HEADER_LEN>() {
        let (length, rest) = header.split_first_chunk::<{ size_of::<usize>() }>()?;
        let length = usize::from_ne_bytes(*length);
        let word = |at: usize| rest.get(at..)?.first_chunk().map(|word| i32::from_ne_bytes(*word));
        let data = control.get(CONTROL_HEADER_LEN..length)?;
        match (word(0)?, word(4)?) {
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => destination = data.first_chunk::<16>().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => hop_limit = data.first_chunk().copied(),
            _ => {}
        }
        control = control.get(length.next_multiple_of(align_of::<usize>())..).unwrap_or_default();
    }
    let hop_limit = u8::try_from(i32::from_ne_bytes(hop_limit?)).ok()?;
    Some((Ipv6Addr::from(destination?), hop_limit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn control_message(kind: i32, data: &[u8]) -> Vec<u8> {
        let length = (CONTROL_HEADER_LEN + data.len()).to_ne_bytes();
        let header = [libc::IPPROTO_IPV6.to_ne_bytes(), kind.to_ne_bytes()].concat();
        let mut bytes = [&length, &header[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn destination_and_hop_limit_are_found_in_either_order() {
        let address: Ipv6Addr = "ff02::12".parse().unwrap();
        let info =
            control_message(libc::IPV6_PKTINFO, &[&address.octets()[..], &7_u32.to_ne_bytes()].concat());
        let limit = control_message(libc::IPV6_HOPLIMIT, &255_i32.to_ne_bytes());
        let other = control_message(libc::IPV6_TCLASS, &0xc0_i32.to_ne_bytes());
        for parts in [[&info, &other, &limit], [&limit, &info, &other]] {
            assert_eq!(arrival(&parts.map(Vec::as_slice).concat()), Some((address, 255)));
        }
        assert_eq!(arrival(&info), None);
        assert_eq!(arrival(&limit), None);
    }

    proptest! {
        #[test]
        fn no_control_bytes_make_the_walk_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = arrival(&bytes);
        }

        #[test]
        fn no_length_makes_the_walk_panic_or_loop(length: usize, bytes in proptest::collection::vec(any::<u8>(), 8..100)) {
            let _ = arrival(&[&length.to_ne_bytes()[..], &bytes].concat());
        }
    }
}
