//! What real sockets send through the virtual address of a wire, and what hosts and programs have counted of it.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use lb_common::{lease::Lease, reason::Reason};
use lb_userspace::datapath::counters;

use super::{Node, Wire};
use crate::packets::{Family, PORT};

/// Long for a wire of this machine, short for a reader of failures.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A lease without end.
pub fn owner() -> Lease {
    Lease { until: u64::MAX, term: 1, ..Lease::default() }
}

impl Wire {
    /// Sends `length` bytes from the client to the virtual address while the backend, which listens at `at`, sends as many
    /// back; gives whom the backend saw.
    ///
    /// # Panics
    ///
    /// As every method here: if something does not arrive, or not as it was sent.
    pub fn bulk(&self, family: Family, at: SocketAddr, length: usize) -> IpAddr {
        let listener = self.host('s').run(|| TcpListener::bind(at)).unwrap().expect("bind");
        let backend = thread::spawn(move || {
            let (connection, from) = listener.accept().expect("accept");
            exchange(connection, length, 3);
            from.ip()
        });
        let connect = || TcpStream::connect_timeout(&SocketAddr::new(family.vip(), PORT), LIMIT);
        exchange(self.host('c').run(connect).unwrap().expect("a connection"), length, 5);
        backend.join().unwrap()
    }

    /// Sends datagrams of these lengths from the client to the virtual address and has the backend at `at` send each back; gives
    /// whom the backend saw.
    ///
    /// # Panics
    ///
    /// Likewise, and if the backend saw several.
    pub fn datagrams(&self, family: Family, at: SocketAddr, lengths: &[usize]) -> IpAddr {
        let open = |host, at| {
            let socket = self.host(host).run(|| UdpSocket::bind(at)).unwrap().expect("bind");
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        };
        let (backend, client) = (open('s', at), open('c', SocketAddr::new(family.client(), 0)));
        client.connect(SocketAddr::new(family.vip(), PORT)).expect("connect");
        let mut seen = None;
        for length in lengths {
            let data: Vec<u8> = pattern(*length, 7).collect();
            client.send(&data).expect("send");
            let mut buffer = vec![0; 70_000];
            let (n, from) = backend.recv_from(&mut buffer).expect("a datagram of the client");
            assert!(buffer[..n] == data, "{family:?}: other {length} bytes came");
            assert_eq!(*seen.get_or_insert(from), from, "{family:?}: one flow");
            backend.send_to(&data, from).expect("send");
            let n = client.recv(&mut buffer).expect("a datagram of the backend");
            assert!(buffer[..n] == data, "{family:?}: other {length} bytes came back");
        }
        seen.expect("a datagram").ip()
    }

    /// Bad checksums that client, backend and node have counted, of all protocols.
    ///
    /// # Panics
    ///
    /// If the kernel shows no counters.
    pub fn checksum_errors(&self) -> u64 {
        ['c', 's', 'a'].iter().map(|host| self.host(*host).run(bad_checksums).unwrap()).sum()
    }
}

impl Node {
    /// Packets that ended in `reason`.
    ///
    /// # Panics
    ///
    /// If the counters cannot be read.
    pub fn counted(&mut self, reason: Reason) -> u64 {
        let all = counters::reasons(self.kernel().tables.maps()).expect("counters");
        all.into_iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n)
    }
}

fn pattern(length: usize, seed: usize) -> impl Iterator<Item = u8> {
    (0..length).map(move |i| (i * seed + i / 251) as u8)
}

/// Sends the pattern of `own` and reads the other side's, at the same time.
fn exchange(mut connection: TcpStream, length: usize, own: usize) {
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection.set_write_timeout(Some(LIMIT)).unwrap();
    let mut writer = connection.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(&pattern(length, own).collect::<Vec<_>>()).expect("bytes go out");
    });
    let mut seen = vec![0; length];
    connection.read_exact(&mut seen).expect("bytes come in");
    assert!(seen.iter().copied().eq(pattern(length, 8 - own)), "other bytes came");
    sender.join().unwrap();
}

/// `InCsumErrors` and their like of this thread's namespace.
fn bad_checksums() -> u64 {
    let [v4, v6] = ["snmp", "snmp6"]
        .map(|f| fs::read_to_string(format!("/proc/thread-self/net/{f}")).expect("counters"));
    let lines: Vec<_> = v4.lines().collect();
    let of_v4 = lines.chunks(2).flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')));
    let of_v6 = v6.lines().filter_map(|l| l.split_once(char::is_whitespace));
    let errors = of_v4.chain(of_v6).filter(|(name, _)| name.contains("Csum"));
    errors.map(|(_, n)| n.trim().parse::<u64>().expect("a number")).sum()
}
