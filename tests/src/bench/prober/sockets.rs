//! The prober's sockets. None of them ever waits: what cannot be sent is a probe without an answer.
//!
//! ICMP and UDP have one socket each. TCP has one per attempt, given up with a reset after [`ANSWER_LIMIT`], before the
//! kernel would retransmit anything: each attempt is its own SYN, and an answer is one to just that. A refused
//! connection and an ICMP error are no service, so they are not answers.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Protocol;
use crate::bench::blackout::ANSWER_LIMIT;

/// Reads and drops whatever else may come on a raw socket.
const LARGEST: usize = 256;

/// Everything open.
pub(super) struct Sockets {
    target: SocketAddrV4,
    icmp: Socket,
    udp: UdpSocket,
    tcp: VecDeque<Attempt>,
}

/// One TCP probe under way.
struct Attempt {
    number: u64,
    socket: Socket,
    sent: Instant,
    asked: bool,
}

impl Sockets {
    /// In the calling thread's namespace.
    pub(super) fn open(target: SocketAddrV4) -> io::Result<Self> {
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::ICMPV4))?;
        icmp.set_nonblocking(true)?;
        // Connected, so that it gets what comes from the virtual address only.
        icmp.connect(&SockAddr::from(SocketAddrV4::new(*target.ip(), 0)))?;
        Ok(Self { target, icmp, udp: udp_socket(target)?, tcp: VecDeque::new() })
    }

    /// Sends a probe; one that the kernel refuses (no route, no neighbour) stays without an answer.
    pub(super) fn send(&mut self, protocol: Protocol, number: u64) {
        match protocol {
            Protocol::Icmp => drop(self.icmp.send(&echo_request(number))),
            Protocol::Udp => {
                // An error here may be an earlier datagram's; it is gone once reported, so the datagram gets its chance.
                if self.udp.send(&number.to_be_bytes()).is_err() {
                    let _ = self.udp.send(&number.to_be_bytes());
                }
            }
            Protocol::Tcp => self.tcp.extend(Attempt::start(self.target, number)),
        }
    }

    /// Sleeps until something can be read or written, or until `next`.
    pub(super) fn wait(&self, next: Instant) -> io::Result<()> {
        let mut fds = vec![
            PollFd::new(self.icmp.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.udp.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.tcp.iter().map(|attempt| PollFd::new(attempt.socket.as_fd(), attempt.waits_for())));
        let left = TimeSpec::from_duration(next.saturating_duration_since(Instant::now()));
        match ppoll(&mut fds, Some(left), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Hands out the numbers that were answered since the last call, and gives up what is too old.
    pub(super) fn collect(&mut self, mut answered: impl FnMut(Protocol, u64)) {
        let mut buffer = [0; LARGEST];
        // An error is an earlier packet's, reported once; what is behind it is read in the next round.
        while let Ok(len) = (&self.icmp).read(&mut buffer) {
            if let Some(number) = echo_reply(&buffer[..len], *self.target.ip()) {
                answered(Protocol::Icmp, number);
            }
        }
        while let Ok(len) = self.udp.recv(&mut buffer) {
            if let Ok(number) = buffer[..len].try_into() {
                answered(Protocol::Udp, u64::from_be_bytes(number));
            }
        }
        self.tcp.retain_mut(|attempt| match attempt.go_on() {
            Progress::Answered => {
                answered(Protocol::Tcp, attempt.number);
                false
            }
            Progress::Failed => false,
            Progress::UnderWay => attempt.sent.elapsed() <= ANSWER_LIMIT,
        });
    }
}

enum Progress {
    UnderWay,
    Answered,
    Failed,
}

impl Attempt {
    /// Sends the SYN; nothing if the kernel cannot.
    fn start(target: SocketAddrV4, number: u64) -> Option<Self> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            // Closed with a reset: no TIME_WAIT holds a port, and the balancer forgets the flow.
            socket.set_linger(Some(Duration::ZERO))?;
            match socket.connect(&target.into()) {
                Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
                _ => Ok(socket),
            }
        };
        Some(Attempt { number, socket: open().ok()?, sent: Instant::now(), asked: false })
    }

    fn waits_for(&self) -> PollFlags {
        if self.asked { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    fn go_on(&mut self) -> Progress {
        let question = [self.number as u8];
        if !self.asked {
            match (&self.socket).write(&question) {
                Ok(_) => self.asked = true,
                // Not connected yet: EAGAIN.
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Progress::UnderWay,
                Err(_) => return Progress::Failed,
            }
        }
        let mut answer = [0; 1];
        match (&self.socket).read(&mut answer) {
            Ok(1) if answer == question => Progress::Answered,
            Err(e) if e.kind() == ErrorKind::WouldBlock => Progress::UnderWay,
            _ => Progress::Failed,
        }
    }
}

fn udp_socket(target: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}

/// Tells this process's echoes from others'.
fn identifier() -> u16 {
    std::process::id() as u16
}

fn echo_request(number: u64) -> Vec<u8> {
    let payload = number.to_be_bytes();
    let echo = IcmpEchoHeader { id: identifier(), seq: number as u16 };
    let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &payload);
    let mut packet = header.to_bytes().to_vec();
    packet.extend_from_slice(&payload);
    packet
}

/// The number in an echo reply from `from`, as a raw socket gives it: with the IP header.
fn echo_reply(packet: &[u8], from: Ipv4Addr) -> Option<u64> {
    let header_len = usize::from(packet.first()? & 0xf) * 4;
    let (ip, icmp) = (packet.get(..20)?, packet.get(header_len..)?);
    let ours = ip[12..16] == from.octets() && icmp.get(..2)? == [0, 0];
    let number = icmp.get(8..16)?.try_into().ok()?;
    (ours && icmp[4..6] == identifier().to_be_bytes()).then(|| u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn reply(number: u64, from: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0x45; 12];
        packet.extend_from_slice(&from.octets());
        packet.extend_from_slice(&[172, 18, 0, 100]);
        packet.extend_from_slice(&echo_request(number));
        packet[20] = 0;
        packet
    }

    #[test]
    fn an_echo_reply_of_the_address_carries_the_number_and_nothing_else_does() {
        let vip = Ipv4Addr::new(172, 18, 0, 201);
        let good = reply(70_000, vip);
        assert_eq!(echo_reply(&good, vip), Some(70_000), "more than the sequence number holds");
        assert_eq!(echo_reply(&reply(1, Ipv4Addr::new(172, 18, 0, 7)), vip), None, "another address");
        for (at, what) in [(20, "a request"), (24, "another's identifier")] {
            let mut other = good.clone();
            other[at] ^= 8;
            assert_eq!(echo_reply(&other, vip), None, "{what}");
        }
        for len in 0..good.len() {
            assert_eq!(echo_reply(&good[..len], vip), None, "{len} bytes");
        }
    }

    fn progress(of: &mut Attempt) -> Progress {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            match of.go_on() {
                Progress::UnderWay if Instant::now() < limit => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    #[test]
    fn a_refused_connection_is_no_answer_and_neither_is_an_accepted_one_without_a_word() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(target) = listener.local_addr().unwrap() else { panic!("IPv4") };
        let mut silent = Attempt::start(target, 5).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert!(matches!(silent.go_on(), Progress::UnderWay));
        let mut question = [0; 1];
        server.read_exact(&mut question).unwrap();
        server.write_all(&question).unwrap();
        assert!(matches!(progress(&mut silent), Progress::Answered));
        drop(listener);
        let refused = Attempt::start(target, 6).map(|mut attempt| progress(&mut attempt));
        assert!(matches!(refused, None | Some(Progress::Failed)));
    }
}
