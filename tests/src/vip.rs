//! Who answers for an address, asked of the network itself.
//!
//! An ARP request is sent from the bridge (the gateway's own interface) and every answer is collected: none means
//! that nobody owns the address, two mean a split. Asked from there, and not from the client, so that the question
//! does not refresh the client's neighbour entry and hide a missing gratuitous ARP. An echo request is sent to each
//! balancer's own hardware address, because a client with a stale neighbour entry goes on sending to the old owner.

use std::{
    io,
    mem::{size_of, zeroed},
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use nix::net::if_::if_nametoindex;

use crate::lab::{Lab, Role, VIP, mac_text};

/// How long answers are waited for; a node on an idle machine answers within a millisecond.
const WAIT: Duration = Duration::from_millis(100);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
pub(crate) const BRIDGE: &str = "br0";
pub(crate) const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IP: u16 = 0x0800;

/// Names of the nodes that answer ARP for the lab's virtual address; a stranger appears as its MAC.
pub fn owners(lab: &Lab) -> Result<Vec<String>> {
    let mut names = answers(lab)?;
    names.dedup();
    Ok(names)
}

/// Who sent each answer to one ARP request, sorted: a node that answers twice is there twice.
pub fn answers(lab: &Lab) -> Result<Vec<String>> {
    let ask = || -> Result<_> {
        let mac = hardware_address(BRIDGE)?;
        exchange(ETH_P_ARP, &[request(mac, GATEWAY, VIP)], |frame| answer(frame, VIP))
    };
    Ok(names(lab, &lab.bridge().run(ask)??))
}

/// Who answered a ping of the virtual address that was sent to every balancer at its own hardware address.
pub fn pinged(lab: &Lab) -> Result<Vec<String>> {
    let nodes = lab.nodes();
    let balancers = nodes.iter().filter(|node| matches!(node.role, Role::Balancer(_)));
    let ask = || -> Result<_> {
        let mac = hardware_address(BRIDGE)?;
        let frames = balancers.map(|node| echo_request(mac, node.mac())).collect::<Result<Vec<_>>>()?;
        exchange(ETH_P_IP, &frames, echo_answer)
    };
    Ok(names(lab, &lab.bridge().run(ask)??))
}

fn names(lab: &Lab, macs: &[[u8; 6]]) -> Vec<String> {
    let nodes = lab.nodes();
    let name = |mac: &[u8; 6]| {
        let node = nodes.iter().find(|node| node.mac() == *mac);
        node.map_or_else(|| mac_text(*mac), |node| node.name.clone())
    };
    let mut names: Vec<String> = macs.iter().map(name).collect();
    names.sort();
    names
}

/// Sends frames out of the bridge of the current namespace; what `answer` makes of those that come back.
fn exchange<T>(protocol: u16, frames: &[Vec<u8>], answer: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
    let socket = open(BRIDGE, protocol).with_context(|| format!("cannot ask on {BRIDGE}"))?;
    for frame in frames {
        send(&socket, frame)?;
    }
    let mut answers = Vec::new();
    let deadline = Instant::now() + WAIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(answers);
        }
        if let Some(frame) = receive(&socket, left)? {
            answers.extend(answer(&frame));
        }
    }
}

pub(crate) fn open(interface: &str, protocol: u16) -> Result<OwnedFd> {
    let index = i32::try_from(if_nametoindex(interface)?)?;
    // SAFETY: a plain system call; the descriptor is owned from here on.
    let socket = unsafe {
        let fd =
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol.to_be()));
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: sockaddr_ll is plain data for which zero is valid.
    let mut addr: libc::sockaddr_ll = unsafe { zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_protocol = protocol.to_be();
    addr.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address outlives the call and `len` is its size.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), len) } as isize)?;
    Ok(socket)
}

pub(crate) fn hardware_address(interface: &str) -> Result<[u8; 6]> {
    let all = nix::ifaddrs::getifaddrs()?;
    let mac = all
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address.and_then(|a| a.as_link_addr().and_then(|link| link.addr())));
    mac.with_context(|| format!("{interface} has no hardware address"))
}

pub(crate) fn request(mac: [u8; 6], from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETH_P_ARP.to_be_bytes());
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

/// The sender of an ARP reply for `target`.
fn answer(frame: &[u8], target: Ipv4Addr) -> Option<[u8; 6]> {
    let arp = frame.get(14..42)?;
    let is_reply = arp[6..8] == [0, 2] && arp[14..18] == target.octets();
    if is_reply { arp[8..14].try_into().ok() } else { None }
}

fn echo_request(from: [u8; 6], to: [u8; 6]) -> Result<Vec<u8>> {
    let packet = PacketBuilder::ethernet2(from, to)
        .ipv4(GATEWAY.octets(), VIP.octets(), 64)
        .icmpv4_echo_request(std::process::id() as u16, 1);
    let mut frame = Vec::with_capacity(packet.size(0));
    packet.write(&mut frame, &[])?;
    Ok(frame)
}

/// The sender of an echo reply from the virtual address.
fn echo_answer(frame: &[u8]) -> Option<[u8; 6]> {
    let (ip, icmp) = (frame.get(14..34)?, frame.get(34..42)?);
    let from_vip = ip[0] == 0x45 && ip[9] == 1 && ip[12..16] == VIP.octets();
    if from_vip && icmp[..2] == [0, 0] { frame[6..12].try_into().ok() } else { None }
}

pub(crate) fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of `frame`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    check(sent).map(drop)
}

/// One frame, or nothing within the limit.
pub(crate) fn receive(socket: &OwnedFd, limit: Duration) -> io::Result<Option<Vec<u8>>> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: one valid pollfd.
    if check(unsafe { libc::poll(&raw mut poll, 1, millis) } as isize)? == 0 {
        return Ok(None);
    }
    let mut frame = vec![0; 2048];
    // SAFETY: pointer and length are those of `frame`.
    let len = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
    frame.truncate(check(len)?);
    Ok(Some(frame))
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_for_the_asked_address_counts_as_an_answer() {
        let mac = [2, 0x42, 0xac, 0x12, 0, 7];
        let mut frame = request(mac, VIP, GATEWAY);
        assert_eq!(answer(&frame, VIP), None, "a request is no answer");
        frame[21] = 2;
        assert_eq!(answer(&frame, VIP), Some(mac));
        assert_eq!(answer(&frame, GATEWAY), None);
        assert_eq!(answer(&frame[..30], VIP), None, "a short frame is no answer");
    }

    #[test]
    fn only_an_echo_reply_from_the_virtual_address_counts_as_an_answer_to_a_ping() {
        let (us, node) = ([2, 0, 0, 0, 0, 1], [2, 0x42, 0xac, 0x12, 0, 7]);
        let reply = |from: Ipv4Addr| {
            let packet = PacketBuilder::ethernet2(node, us)
                .ipv4(from.octets(), GATEWAY.octets(), 64)
                .icmpv4_echo_reply(1, 1);
            let mut frame = Vec::new();
            packet.write(&mut frame, &[]).unwrap();
            frame
        };
        assert_eq!(echo_answer(&reply(VIP)), Some(node));
        assert_eq!(echo_answer(&reply(Ipv4Addr::new(172, 18, 0, 7))), None, "another address");
        assert_eq!(echo_answer(&echo_request(us, node).unwrap()), None, "a request is no answer");
        assert_eq!(echo_answer(&reply(VIP)[..40]), None, "a short frame is no answer");
    }
}
