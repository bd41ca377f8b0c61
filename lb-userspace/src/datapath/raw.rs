//! Whole IP packets sent by the daemon: through this node's own stack, which finds the way, and past `viplb_egress`, which fences them if
//! the lease has gone.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// `IPPROTO_RAW`: packets come with their IP header.
const RAW: i32 = 255;

/// A socket for each family.
#[derive(Debug)]
pub(super) struct RawSockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl RawSockets {
    /// Opens them. A machine may lack IPv6.
    pub(super) fn open() -> io::Result<Self> {
        let open = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let v4 = match open(Domain::IPV4) {
            Err(e) if e.raw_os_error() != Some(libc::EAFNOSUPPORT) => return Err(e),
            opened => opened.ok(),
        };
        Ok(Self { v4, v6: open(Domain::IPV6).ok() })
    }

    /// Sends a packet to the address that it is for.
    pub(super) fn send(&self, to: IpAddr, packet: &[u8]) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        socket.send_to(packet, &SockAddr::from(SocketAddr::new(to, 0))).map(drop)
    }
}
