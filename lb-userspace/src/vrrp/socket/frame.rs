//! Packet sockets of an interface: one that sends whole frames, and one for each protocol in which neighbours say who
//! has which address (ARP, neighbour discovery).
//!
//! The listening ones have a filter, so that a busy network's neighbour traffic does not wake the thread. Both serve
//! after the TC ingress programs: what those swallow is not heard.

use std::{
    io::{self, Read},
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
};

use nix::sys::socket::{setsockopt, sockopt::Priority};
use socket2::{Domain, SockFilter, Socket, Type};

use super::{Interface, PRIORITY_CONTROL, StartError, socket_address};
use crate::vrrp::{
    announce::{self, Mac},
    packet::Family,
};

/// Sends frames, and has the interface take those for virtual hardware addresses.
#[derive(Debug)]
pub struct FrameSender {
    socket: Socket,
    index: i32,
}

impl FrameSender {
    /// Opens it.
    pub fn open(interface: &Interface) -> Result<Self, StartError> {
        Self::try_open(interface).map_err(StartError::on(&interface.name, "open the packet socket"))
    }

    fn try_open(interface: &Interface) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        setsockopt(&socket, Priority, &PRIORITY_CONTROL)?;
        // Protocol 0 receives nothing, and each sent frame counts as what its header says.
        bind(&socket, interface.index, 0)?;
        Ok(Self { socket, index: i32::try_from(interface.index).map_err(io::Error::other)? })
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// The interface takes frames for this address, too, as long as the socket is open.
    ///
    /// For the socket's life and not only while the address is owned: the call waits for a lock that all network
    /// configuration of the machine shares, which a takeover must not. Without a lease the packet programs drop what
    /// comes. A killed daemon's membership ends with it.
    pub fn take_frames_for(&self, mac: Mac) -> io::Result<()> {
        let mut address = [0; 8];
        address[..mac.len()].copy_from_slice(&mac);
        let membership = libc::packet_mreq {
            mr_ifindex: self.index,
            mr_type: u16::try_from(libc::PACKET_MR_UNICAST).map_err(io::Error::other)?,
            mr_alen: u16::try_from(mac.len()).map_err(io::Error::other)?,
            mr_address: address,
        };
        let size = libc::socklen_t::try_from(size_of_val(&membership)).map_err(io::Error::other)?;
        // SAFETY: the option takes a packet_mreq, of which pointer and size are given.
        let done = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                size,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Hears who claims a virtual address: by ARP, or by neighbour advertisement.
#[derive(Debug)]
pub struct NeighbourSocket(Socket);

impl NeighbourSocket {
    /// Opens it; it receives only frames in which somebody claims one of `watched`.
    pub fn open(interface: &Interface, family: Family, watched: &[IpAddr]) -> Result<Self, StartError> {
        let opened = Self::try_open(interface, family, watched);
        opened.map_err(StartError::on(&interface.name, "open the neighbour socket"))
    }

    fn try_open(interface: &Interface, family: Family, watched: &[IpAddr]) -> io::Result<Self> {
        // Protocol 0 receives nothing until the filter is in place and `bind` names the protocol.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        let (protocol, filter) = match family {
            Family::V4 => (libc::ETH_P_ARP, claims(announce::ARP_SENDER_AT, &[], watched)),
            Family::V6 => (libc::ETH_P_IPV6, claims(announce::NA_TARGET_AT, &announce::NA_MARKS, watched)),
        };
        socket.attach_filter(&filter)?;
        bind(&socket, interface.index, protocol)?;
        Ok(Self(socket))
    }

    /// The next frame; `None` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        (&self.0).read(buffer).ok()
    }
}

impl AsRawFd for NeighbourSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Filters longer than this are not made (the kernel's limit is 4096 steps): then all claims are heard, and most are
/// nobody's.
const MAX_FILTER: usize = 2048;

/// Classic BPF: accepts a frame that has each of `marks` (offset and byte) and at offset `at` one of `watched`.
fn claims(at: usize, marks: &[(usize, u8)], watched: &[IpAddr]) -> Vec<SockFilter> {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const WHOLE: u32 = 0xffff;
    let offset = |at: usize| u32::try_from(at).unwrap_or_default();
    let mut program = Vec::new();
    for (at, byte) in marks {
        program.push(SockFilter::new(LOAD_BYTE, 0, 0, offset(*at)));
        program.push(SockFilter::new(JUMP_IF_EQUAL, 1, 0, u32::from(*byte)));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    for address in watched {
        let words: &[u32] = &match address {
            IpAddr::V4(v4) => vec![u32::from(*v4)],
            IpAddr::V6(v6) => (0..4).map(|i| (v6.to_bits() >> (96 - 32 * i)) as u32).collect(),
        };
        for (index, word) in words.iter().enumerate() {
            // What does not match goes on behind this address's last step, its RETURN.
            let behind = u8::try_from(2 * (words.len() - index) - 1).unwrap_or_default();
            program.push(SockFilter::new(LOAD_WORD, 0, 0, offset(at + 4 * index)));
            program.push(SockFilter::new(JUMP_IF_EQUAL, 0, behind, *word));
        }
        program.push(SockFilter::new(RETURN, 0, 0, WHOLE));
    }
    let nobody = if program.len() > MAX_FILTER { WHOLE } else { 0 };
    if nobody == WHOLE {
        program.truncate(3 * marks.len());
    }
    program.push(SockFilter::new(RETURN, 0, 0, nobody));
    program
}

/// Binds a packet socket to one interface and, unless `protocol` is 0, to an Ethernet protocol.
fn bind(socket: &Socket, index: u32, protocol: libc::c_int) -> io::Result<()> {
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let address = socket_address(|link: &mut libc::sockaddr_ll| {
        link.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        link.sll_protocol = u16::try_from(protocol).unwrap_or_default().to_be();
        link.sll_ifindex = index;
    })?;
    socket.bind(&address)
}
