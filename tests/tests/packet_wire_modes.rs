//! The forwarding modes on a wire: real sockets, 20 MB each way and datagrams, with and without checksum offload; nothing
//! that arrives has a bad checksum.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use lb_common::{lease::Lease, mode::Mode, reason::Reason};
use lb_tests::{
    packets::{FAMILIES, Family, PORT},
    wire::{Node, Wire},
};
use lb_userspace::datapath::counters;

/// Long for a wire of this machine, short for a reader of failures.
const LIMIT: Duration = Duration::from_secs(20);
const BULK: usize = 20 << 20;

fn serving(wire: &Wire, mode: Mode) -> Node {
    let mut node = wire.node_in('a', false, mode);
    node.set_lease(Lease { until: u64::MAX, term: 1, ..Lease::default() });
    node
}

/// Sends `BULK` bytes from the client to the virtual address while the backend at `to` sends as many back.
fn bulk_goes_both_ways(wire: &Wire, family: Family, to: SocketAddr) {
    let listener = wire.host('s').run(|| TcpListener::bind(to)).unwrap().expect("bind");
    let backend = thread::spawn(move || {
        let (connection, from) = listener.accept().expect("accept");
        exchange(connection, 3);
        from.ip()
    });
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(family.vip(), PORT), LIMIT);
    exchange(wire.host('c').run(connect).unwrap().expect("a connection"), 5);
    assert_eq!(backend.join().unwrap(), family.client(), "{family:?}: the backend sees the client");
}

/// Sends a pattern of `own` and reads the other side's, at the same time.
fn exchange(mut connection: TcpStream, own: usize) {
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection.set_write_timeout(Some(LIMIT)).unwrap();
    let pattern = |seed: usize| (0..BULK).map(move |i| (i * seed + i / 251) as u8).collect::<Vec<_>>();
    let mut writer = connection.try_clone().unwrap();
    let sender = thread::spawn(move || writer.write_all(&pattern(own)).expect("bytes go out"));
    let mut seen = vec![0; BULK];
    connection.read_exact(&mut seen).expect("bytes come in");
    assert!(seen == pattern(8 - own), "other bytes came");
    sender.join().unwrap();
}

/// Sends datagrams of several sizes to the virtual address and has the backend at `to` answer each.
fn datagrams_come_back(wire: &Wire, family: Family, to: SocketAddr) {
    let open = |host, at| {
        let socket = wire.host(host).run(|| UdpSocket::bind(at)).unwrap().expect("bind");
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    };
    let (backend, client) = (open('s', to), open('c', SocketAddr::new(family.client(), 0)));
    client.connect(SocketAddr::new(family.vip(), PORT)).expect("connect");
    for length in [0, 1, 333, 1400] {
        let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
        client.send(&data).expect("send");
        let mut buffer = [0; 2000];
        let (n, from) = backend.recv_from(&mut buffer).expect("a datagram of the client");
        assert_eq!((&buffer[..n], from.ip()), (&data[..], family.client()));
        backend.send_to(&data, from).expect("send");
        let n = client.recv(&mut buffer).expect("a datagram of the backend");
        assert_eq!(buffer[..n], data);
    }
}

/// Checksum errors that a host has counted, of all protocols.
fn checksum_errors(wire: &Wire, host: char) -> u64 {
    let tables = wire.host(host).run(|| {
        ["snmp", "snmp6"].map(|f| fs::read_to_string(format!("/proc/thread-self/net/{f}")).expect("counters"))
    });
    let [v4, v6] = tables.unwrap();
    let lines: Vec<_> = v4.lines().collect();
    let of_v4 = lines.chunks(2).flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')));
    let of_v6 = v6.lines().filter_map(|l| l.split_once(char::is_whitespace));
    let errors = of_v4.chain(of_v6).filter(|(name, _)| name.contains("Csum"));
    errors.map(|(_, n)| n.trim().parse::<u64>().expect("a number")).sum()
}

fn counted(node: &mut Node, reason: Reason) -> u64 {
    let all = counters::reasons(node.kernel().tables.maps()).expect("counters");
    all.into_iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n)
}

/// All of it with a backend that listens on what `at` says.
fn everything_goes_through(wire: &Wire, at: impl Fn(Family) -> SocketAddr) {
    for without in [&[][..], &['a', 's'], &['c', 's', 'a']] {
        without.iter().for_each(|host| wire.without_offload(*host));
        for family in FAMILIES {
            bulk_goes_both_ways(wire, family, at(family));
            datagrams_come_back(wire, family, at(family));
        }
    }
    assert_eq!(['c', 's', 'a'].map(|host| checksum_errors(wire, host)), [0; 3]);
}

#[test]
fn dnat_carries_tcp_and_udp_of_both_families() {
    let Some(wire) = Wire::new("dn") else { return };
    let mut node = serving(&wire, Mode::Dnat);
    // The node as the gateway to the client, though it is on the same switch.
    wire.host('s')
        .ip_batch("route add 172.18.0.100 via 172.18.0.7\nroute add fd12::100 via fd12::7\n")
        .unwrap();
    everything_goes_through(&wire, |family| SocketAddr::new(family.backend(0), PORT));
    assert!(counted(&mut node, Reason::Returned) > 0);
}

#[test]
fn dsr_carries_tcp_and_udp_of_both_families() {
    let Some(wire) = Wire::new("ds") else { return };
    let mut node = serving(&wire, Mode::Dsr);
    let backend = wire.host('s');
    for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        backend.sysctl(&format!("net/ipv4/conf/all/{key}"), value).unwrap();
    }
    for family in FAMILIES {
        let prefix = if family == Family::V4 { 32 } else { 128 };
        backend.ip(&format!("addr add {}/{prefix} dev lo", family.vip())).unwrap();
    }
    everything_goes_through(&wire, |family| SocketAddr::new(family.vip(), PORT));
    assert_eq!(counted(&mut node, Reason::Returned), 0, "answers go directly");
    assert!(counted(&mut node, Reason::Forwarded) > 0);
}
