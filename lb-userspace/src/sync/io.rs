//! Flow replication's socket and the ring of flow events: what the control loop waits for and turns.
//!
//! [`Driver::ready`] may be dropped at any await. [`Driver::turn`] does what there is to do without waiting, and a bounded
//! part of it: the control loop has other things to do too.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UdpSocket,
    time::sleep,
};

use super::{
    auth::MAX_DATAGRAM,
    hold::STALE,
    node::{Node, Setup},
    table::Flows,
};
use crate::{
    api::snapshot,
    config::model::Sync,
    datapath::{held::HeldPackets, replica::Events},
    vrrp::BootTime,
};

/// Datagrams read, and sent, in one turn.
const PER_TURN: usize = 512;
/// What the kernel keeps for us while the control loop is busy.
const BUFFER: usize = 4 << 20;
/// When the socket has no room, it is asked again after this.
const NO_ROOM: Duration = Duration::from_millis(1);

/// The replication of a node's flows.
pub struct Driver {
    node: Node,
    socket: UdpSocket,
    listen: SocketAddr,
    events: AsyncFd<Events>,
    held: AsyncFd<HeldPackets>,
    /// Datagrams that leave next, and the one that did not fit them.
    train: Train,
    next: Option<(SocketAddr, Vec<u8>)>,
    /// Several datagrams leave by one system call.
    trains: bool,
    /// There is more to do than a turn does.
    more: bool,
    /// Datagrams that the kernel would not send.
    unsent: u64,
}

impl Driver {
    /// Opens the socket. `setup` without peers' doings would be of no use, so there is one peer at least.
    pub fn open(config: &Sync, setup: Setup, events: Events, held: HeldPackets) -> Result<Self> {
        let socket = bind(config.listen)
            .with_context(|| format!("[sync]: cannot listen on {} (UDP)", config.listen))?;
        // SAFETY: the ring keeps its one descriptor open for as long as it lives.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) };
        let events = events.map_err(io::Error::from).context("cannot wait for flow events")?;
        // SAFETY: likewise.
        let held = unsafe { AsyncFd::register_with_interest(held, Interest::READABLE) };
        let held = held.map_err(io::Error::from).context("cannot wait for SYN-ACKs")?;
        Ok(Self {
            node: Node::new(setup, BootTime::now()),
            socket: UdpSocket::from_std(socket.into()).context("cannot wait for peers")?,
            listen: config.listen,
            events,
            held,
            train: Train::default(),
            next: None,
            trains: true,
            more: true,
            unsent: 0,
        })
    }

    /// The state behind it.
    pub fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    /// Waits until there is something to do.
    pub async fn ready(&mut self) -> io::Result<()> {
        if self.more {
            return Ok(());
        }
        let now = BootTime::now();
        let wait = if self.train.is_empty() { self.node.deadline(now).since(now) } else { NO_ROOM };
        tokio::select! {
            readable = self.socket.readable() => readable,
            // Cleared before the ring is read: what comes meanwhile wakes again.
            readable = self.events.readable() => readable.map(|mut guard| guard.clear_ready()),
            readable = self.held.readable() => readable.map(|mut guard| guard.clear_ready()),
            () = sleep(wait) => Ok(()),
        }
    }

    /// Does it.
    pub fn turn(&mut self, flows: &mut impl Flows) {
        let now = BootTime::now();
        self.node.wake(now);
        self.take_held(flows, now);
        self.take_events(flows, now);
        self.more = self.receive(flows, now);
        self.send_on(now);
        self.more |= self.transmit(flows, now);
        // Those that found nobody to wait for.
        self.send_on(now);
    }

    fn take_held(&mut self, flows: &impl Flows, now: BootTime) {
        while let Some(held) = self.held.get_mut().next() {
            if now.since(BootTime(held.at)) >= STALE {
                self.node.waiting.counts.stale += 1;
            } else {
                self.node.hold((held.slot, held.generation), held.packet(), flows, now);
            }
        }
    }

    fn send_on(&mut self, now: BootTime) {
        for packet in self.node.waiting.take(now) {
            if let Err(e) = self.held.get_ref().send_on(packet) {
                tracing::debug!("a SYN-ACK could not be sent on, its backend sends it again: {e}");
            }
        }
    }

    /// Whether the last turn left something to be done: peers have told more than it takes in, or there is more to tell.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Tells the peers what the packet programs have told until now: somebody else is about to own the addresses.
    pub fn flush(&mut self, flows: &impl Flows) {
        let now = BootTime::now();
        self.take_held(flows, now);
        self.take_events(flows, now);
        self.transmit(flows, now);
        self.send_on(now);
    }

    fn take_events(&mut self, flows: &impl Flows, now: BootTime) {
        while let Some(slot) = self.events.get_mut().next() {
            self.node.note(slot, flows, now);
        }
        self.node.flush(flows, now);
    }

    /// Whether there may be more.
    fn receive(&mut self, flows: &mut impl Flows, now: BootTime) -> bool {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        for _ in 0..PER_TURN {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => self.node.receive(now, from.ip(), &buffer[..length], flows),
                // An ICMP error about what was sent: the peer's daemon does not run.
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether there is more.
    fn transmit(&mut self, flows: &impl Flows, now: BootTime) -> bool {
        let mut sent = 0;
        while sent < PER_TURN {
            if self.train.is_empty() {
                self.couple(flows, now);
            }
            let Some(to) = self.train.to else { return false };
            match self.send(to) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if self.train.count > 1 && is_no_trains(&e) => {
                    // A device on the way that cannot, or a smaller MTU: one by one they leave everywhere.
                    self.trains = false;
                    self.send_single(to);
                }
                Err(_) => self.unsent += self.train.count as u64,
                Ok(()) => {}
            }
            sent += self.train.count;
            self.train.clear();
        }
        true
    }

    /// Makes up the next train.
    fn couple(&mut self, flows: &impl Flows, now: BootTime) {
        while let Some((to, datagram)) = self.next.take().or_else(|| self.node.poll_transmit(now, flows)) {
            if !self.train.takes(to, &datagram) {
                self.next = Some((to, datagram));
                return;
            }
            self.train.push(to, &datagram);
            if !self.trains {
                return;
            }
        }
    }

    fn send(&self, to: SocketAddr) -> io::Result<()> {
        let (to, train) = (reachable(to, self.listen), &self.train);
        if train.count == 1 {
            return self.socket.try_send_to(&train.bytes, to).map(drop);
        }
        let length = train.length as u16;
        let segments = [ControlMessage::UdpGsoSegments(&length)];
        let (bytes, to) = ([IoSlice::new(&train.bytes)], SockaddrStorage::from(to));
        let socket = self.socket.as_raw_fd();
        self.socket.try_io(Interest::WRITABLE, || {
            sendmsg(socket, &bytes, &segments, MsgFlags::empty(), Some(&to))
                .map(drop)
                .map_err(io::Error::from)
        })
    }

    /// The datagrams of a train one by one; what finds no room is lost, and found by its sums.
    fn send_single(&mut self, to: SocketAddr) {
        for datagram in self.train.bytes.chunks(self.train.length) {
            if self.socket.try_send_to(datagram, reachable(to, self.listen)).is_err() {
                self.unsent += 1;
            }
        }
    }

    /// What is shown of it. Routers have numbers and names.
    pub fn shown(&self, routers: impl Iterator<Item = (usize, String)>) -> snapshot::Sync {
        snapshot::Sync {
            listen: self.listen.to_string(),
            unsent: self.unsent,
            events_lost: self.events.get_ref().lost(),
            ..super::shown::of(&self.node, routers, BootTime::now())
        }
    }
}

/// Datagrams for one peer that leave by one system call, and pass the kernel as one packet up to the device (`UDP_SEGMENT`, Linux 4.18): all
/// of one length, the last perhaps shorter. Parts of buckets are such ones.
#[derive(Debug, Default)]
struct Train {
    to: Option<SocketAddr>,
    length: usize,
    count: usize,
    bytes: Vec<u8>,
}

impl Train {
    /// Datagrams that Linux takes at most (`UDP_MAX_SEGMENTS`).
    const MOST: usize = 64;
    /// Bytes, with room for headers in a packet of 64 KiB.
    const BYTES: usize = 60_000;

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn takes(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        let whole = self.bytes.len() == self.count * self.length;
        self.is_empty()
            || self.to == Some(to)
                && whole
                && datagram.len() <= self.length
                && self.count < Self::MOST
                && self.bytes.len() + datagram.len() <= Self::BYTES
    }

    fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        if self.is_empty() {
            (self.to, self.length) = (Some(to), datagram.len());
        }
        self.count += 1;
        self.bytes.extend(datagram);
    }

    fn clear(&mut self) {
        (self.to, self.length, self.count) = (None, 0, 0);
        self.bytes.clear();
    }
}

/// Whether a train could not leave because it is one.
fn is_no_trains(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    )
}

/// A peer's address as a socket of the other family takes it.
fn reachable(to: SocketAddr, listen: SocketAddr) -> SocketAddr {
    match (to.ip(), listen) {
        (IpAddr::V4(ip), SocketAddr::V6(_)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
        _ => to,
    }
}

fn bind(listen: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if listen.is_ipv6() {
        // Peers of both families where every address is meant.
        socket.set_only_v6(!listen.ip().is_unspecified())?;
    }
    // Beyond the system's limit, which is for users without privileges; without them, up to it.
    if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if setsockopt(&socket, SndBufForce, &BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    socket.bind(&listen.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> SocketAddr {
        ([172, 18, 0, 8], port).into()
    }

    #[test]
    fn a_train_is_of_one_peers_datagrams_of_one_length_and_ends_with_a_shorter_one() {
        let mut train = Train::default();
        assert!(train.takes(to(1), &[0; 9]));
        train.push(to(1), &[1; 9]);
        assert!(train.takes(to(1), &[0; 9]) && train.takes(to(1), &[0; 4]));
        assert!(!train.takes(to(2), &[0; 9]), "another peer's");
        assert!(!train.takes(to(1), &[0; 10]), "a longer one");
        train.push(to(1), &[2; 4]);
        assert!(!train.takes(to(1), &[0; 4]), "behind the short one");
        assert_eq!((train.count, train.length, train.bytes.len()), (2, 9, 13));
        train.clear();
        assert!(train.is_empty() && train.takes(to(2), &[0; 99]));
    }

    #[test]
    fn a_train_is_no_longer_than_the_kernel_takes() {
        for (length, most) in [(1, Train::MOST), (1200, Train::BYTES / 1200)] {
            let mut train = Train::default();
            while train.takes(to(1), &vec![0; length]) {
                train.push(to(1), &vec![0; length]);
            }
            assert_eq!(train.count, most, "of {length} bytes");
        }
    }
}
