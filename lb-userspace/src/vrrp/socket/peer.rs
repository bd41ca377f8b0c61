//! UDP socket for what viplb nodes say to each other (`lb_common::probe`), one per interface and family.
//!
//! It only receives: probes of others are answered by the packet programs and never get here; answers to this node's own,
//! and what daemons say to each other, do. What is sent leaves by the raw socket of the adverts.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
};

use lb_common::probe::{self, LEN, Message, PORT};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};

use super::{Interface, StartError};
use crate::vrrp::packet::{Family, GROUP_V4, GROUP_V6};

/// What a read of the socket gives.
#[derive(Debug)]
pub enum Told {
    /// There is nothing more.
    Nothing,
    /// Something that is no message.
    Malformed,
    /// A message and who sent it.
    Message(IpAddr, Message),
}

/// The socket.
#[derive(Debug)]
pub struct PeerSocket(UdpSocket);

impl PeerSocket {
    /// Opens it; offers come to the VRRP group.
    pub fn open(interface: &Interface, family: Family) -> Result<Self, StartError> {
        let opened = Self::try_open(interface, family);
        opened.map_err(StartError::on(&interface.name, "open the socket for peers"))
    }

    fn try_open(interface: &Interface, family: Family) -> io::Result<Self> {
        let (domain, any): (_, IpAddr) = match family {
            Family::V4 => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            Family::V6 => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        // One for each interface of the node.
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        socket.attach_filter(&never_routed(family))?;
        match family {
            Family::V4 => {
                let on = InterfaceIndexOrAddress::Index(interface.index);
                socket.join_multicast_v4_n(&GROUP_V4, &on)?;
            }
            Family::V6 => {
                socket.set_only_v6(true)?;
                socket.join_multicast_v6(&GROUP_V6, interface.index)?;
            }
        }
        socket.bind(&SocketAddr::new(any, PORT).into())?;
        Ok(Self(socket.into()))
    }

    /// The next message.
    pub fn receive(&self) -> Told {
        let mut buffer = [0; LEN + 1];
        let Ok((length, from)) = self.0.recv_from(&mut buffer) else { return Told::Nothing };
        let message = buffer.get(..length).and_then(Message::parse);
        message.map_or(Told::Malformed, |message| Told::Message(from.ip(), message))
    }
}

impl AsRawFd for PeerSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Classic BPF: what has a TTL (hop limit) of 255.
fn never_routed(family: Family) -> [SockFilter; 4] {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NETWORK_HEADER: u32 = 0xfff0_0000; // SKF_NET_OFF
    let at = match family {
        Family::V4 => 8,
        Family::V6 => 7,
    };
    [
        SockFilter::new(LOAD_BYTE, 0, 0, NETWORK_HEADER + at),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(probe::TTL)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
