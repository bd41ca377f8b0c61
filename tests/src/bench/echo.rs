//! A small echo server, TCP and UDP on one port: the service behind the balancers, or the one on keepalived's nodes.
//!
//! One thread, no allocation per request beyond the connection's entry. On the backends it runs in the bench's own
//! process with sockets of their namespaces; on keepalived's nodes it is a process there (`viplb-bench echo`), so that it
//! is frozen and killed with them.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, Socket, Type};

use super::punctual;
use crate::netns::Netns;

/// Port of the service, and of the echo servers.
pub const PORT: u16 = 7007;
/// A connection that its client has forgotten (its flow was lost in a failover) is closed after this.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// How soon a stop is noticed.
const LOOK_MS: u8 = 100;
const BACKLOG: i32 = 1024;

/// An echo server on a thread of this process; ends when dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Serves an address of a namespace.
    pub fn start(netns: &Netns, address: Ipv4Addr) -> Result<Self> {
        let mut server = netns.run(|| Server::bind(SocketAddrV4::new(address, PORT)))??;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let _ = punctual::keep_time();
            while !asked.load(Ordering::Relaxed) && server.turn().is_ok() {}
        });
        Ok(Echo { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Serves in the calling thread's namespace until the process ends.
pub fn serve_forever(address: SocketAddrV4) -> Result<()> {
    let mut server = Server::bind(address)?;
    let _ = punctual::keep_time();
    loop {
        server.turn()?;
    }
}

struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
    connections: Vec<(TcpStream, Instant)>,
}

impl Server {
    /// The address need not be there (yet): a virtual one comes and goes.
    fn bind(address: SocketAddrV4) -> Result<Self> {
        let open = |kind: Type| -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, kind, None)?;
            socket.set_freebind_v4(true)?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            Ok(socket)
        };
        let tcp = open(Type::STREAM).and_then(|tcp| {
            tcp.listen(BACKLOG)?;
            Ok(tcp)
        });
        let tcp = tcp.with_context(|| format!("cannot listen on {address}/tcp"))?;
        let udp = open(Type::DGRAM).with_context(|| format!("cannot listen on {address}/udp"))?;
        Ok(Server { tcp: tcp.into(), udp: udp.into(), connections: Vec::new() })
    }

    /// Waits for something to do and does it.
    fn turn(&mut self) -> io::Result<()> {
        let mut fds = vec![
            PollFd::new(self.tcp.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.udp.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.connections.iter().map(|(c, _)| PollFd::new(c.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::from(LOOK_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut buffer = [0; 64];
        while let Ok((len, from)) = self.udp.recv_from(&mut buffer) {
            let _ = self.udp.send_to(&buffer[..len], from);
        }
        while let Ok((connection, _)) = self.tcp.accept() {
            let ready = connection.set_nonblocking(true).and_then(|()| connection.set_nodelay(true));
            self.connections.extend(ready.is_ok().then(|| (connection, Instant::now())));
        }
        self.connections
            .retain_mut(|(connection, since)| echo(connection, &mut buffer) && since.elapsed() < IDLE_LIMIT);
        Ok(())
    }
}

/// Sends back what has come; whether the connection goes on.
fn echo(connection: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match connection.read(buffer) {
        Ok(0) => false,
        Ok(len) => connection.write_all(&buffer[..len]).is_ok(),
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_by_tcp_and_by_udp_comes_back() {
        let mut server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = TcpStream::connect(server.tcp.local_addr().unwrap()).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.connect(server.udp.local_addr().unwrap()).unwrap();
        client.write_all(b"over tcp").unwrap();
        datagrams.send(b"over udp").unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    server.turn().unwrap();
                }
            });
            let mut answer = [0; 8];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"over tcp");
            assert_eq!(datagrams.recv(&mut answer).unwrap(), 8);
            assert_eq!(&answer, b"over udp");
            stop.store(true, Ordering::Relaxed);
        });
    }
}
