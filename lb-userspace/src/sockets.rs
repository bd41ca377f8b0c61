//! Ends the node's own TCP connections from an address that it has lost.
//!
//! A client on the owner of a virtual address speaks from that address. When the address moves, its packets are fenced and
//! nobody answers it any more: without this it would wait for its time-out, a quarter of an hour by Linux' default. The control
//! loop calls, after the address is off the interface. Must never touch a socket that listens, or one of another address.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use lb_common::addr::{Addr, PROTO_TCP};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Of a `nlmsghdr`.
const HEADER: usize = 16;
/// Of a `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// Where it is in a `struct inet_diag_msg`, behind family, state, timer and retransmissions.
const ID_AT: usize = HEADER + 4;
/// States of a connection that has two ends (net/tcp_states.h): neither LISTEN nor what has ended.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];
/// A kernel's answer is cut into parts of at most so many bytes.
const PART: usize = 1 << 15;

/// Ends them; gives how many there were. A kernel without `CONFIG_INET_DIAG_DESTROY` refuses.
pub fn end_connections_from(addr: IpAddr) -> io::Result<usize> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkSockDiag),
    )?;
    let mut ended = 0;
    for family in FAMILIES {
        for id in connections(&socket, family as u8, addr.into())? {
            match ask(&socket, DESTROY, libc::NLM_F_ACK as u16, family as u8, &id)
                .and_then(|()| acknowledged(&socket))
            {
                Ok(()) => ended += 1,
                // It has ended by itself meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(ended)
}

/// Sends a `struct inet_diag_req_v2`.
fn ask(socket: &OwnedFd, kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> io::Result<()> {
    let mut message = Vec::with_capacity(HEADER + 8 + ID);
    message.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, PROTO_TCP, 0, 0]);
    message.extend(STATES.to_ne_bytes());
    message.extend(id);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    Ok(())
}

/// Connections of a family from this address. A socket of IPv6 may have IPv4 addresses.
fn connections(socket: &OwnedFd, family: u8, from: Addr) -> io::Result<Vec<[u8; ID]>> {
    ask(socket, BY_FAMILY, libc::NLM_F_DUMP as u16, family, &[0; ID])?;
    let mut found = Vec::new();
    let mut buffer = vec![0; PART];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for message in messages(&buffer[..length]) {
            match kind(message) {
                BY_FAMILY => found.extend(id(message).filter(|id| source(family, id) == from)),
                _ => return outcome(message).map(|()| found),
            }
        }
    }
}

fn acknowledged(socket: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 512];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    messages(&buffer[..length]).next().map_or(Ok(()), outcome)
}

/// Splits what came into messages.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        if length < HEADER {
            return None;
        }
        let (message, behind) = rest.split_at_checked(length)?;
        rest = behind.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(message)
    })
}

fn kind(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[4], message[5]])
}

fn id(message: &[u8]) -> Option<[u8; ID]> {
    message.get(ID_AT..)?.first_chunk().copied()
}

fn source(family: u8, id: &[u8; ID]) -> Addr {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&id[4..20]);
    let [a, b, c, d, ..] = bytes;
    if i32::from(family) == libc::AF_INET { Addr::v4([a, b, c, d]) } else { Addr::new(bytes) }
}

/// What a message that ends an answer says: an error's number, or that all is done.
fn outcome(message: &[u8]) -> io::Result<()> {
    let number = message.get(HEADER..).and_then(|m| m.first_chunk()).map_or(0, |n| i32::from_ne_bytes(*n));
    if kind(message) == libc::NLMSG_ERROR as u16 && number != 0 {
        return Err(Errno::from_raw(-number).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut m = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        m.extend(kind.to_ne_bytes());
        m.extend([0; 10]);
        m.extend(body);
        m
    }

    #[test]
    fn an_answer_is_read_message_by_message_and_cut_ones_are_left() {
        let body: Vec<u8> = (0..4 + ID as u8).collect();
        let whole = [message(BY_FAMILY, &body), message(libc::NLMSG_DONE as u16, &[0; 4])].concat();
        assert_eq!(messages(&whole).map(kind).collect::<Vec<_>>(), [BY_FAMILY, 3]);
        let first = id(messages(&whole).next().unwrap()).unwrap();
        assert_eq!((first[0], source(libc::AF_INET as u8, &first)), (4, Addr::v4([8, 9, 10, 11])));
        assert_eq!(messages(&whole[..whole.len() - 1]).count(), 1);
        assert_eq!(messages(&[0; 40]).count(), 0, "no length");
        let refused = message(libc::NLMSG_ERROR as u16, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(outcome(&refused).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn of_an_address_without_connections_none_is_ended() {
        assert_eq!(end_connections_from("192.0.2.1".parse().unwrap()).unwrap(), 0);
    }
}
