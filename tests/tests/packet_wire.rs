//! The programs on a wire: connections and datagrams of real sockets through a virtual address that is on no interface, with
//! and without checksum offload; probes; a hand-over from one node to another.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use lb_common::{
    addr::{Addr, Mac},
    lease::Lease,
    probe::{self, Kind, Message, State},
    reason::Reason,
};
use lb_tests::{
    packets::{FAMILIES, Family, PORT},
    wire::{Node, Wire},
};
use lb_userspace::datapath::counters;
use nix::sys::socket::{setsockopt, sockopt};

const FOREVER: u64 = u64::MAX;
/// Long for a wire of this machine, short for a reader of failures.
const LIMIT: Duration = Duration::from_secs(10);
/// Enough for offloaded segments of all sizes.
const BULK: usize = 2 << 20;

fn owner() -> Lease {
    Lease { until: FOREVER, term: 1, ..Lease::default() }
}

/// Sends `BULK` bytes from the client through the virtual address and has the backend send them back.
fn bulk_comes_back_whole(wire: &Wire, family: Family) {
    let to = SocketAddr::new(family.backend(0), PORT);
    let listener = wire.host('s').run(|| TcpListener::bind(to)).unwrap().expect("bind");
    let backend = thread::spawn(move || {
        let (mut connection, from) = listener.accept().expect("accept");
        let mut data = vec![0; BULK];
        connection.read_exact(&mut data).expect("data of the client");
        connection.write_all(&data).expect("data for the client");
        from.ip()
    });
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(family.vip(), PORT), LIMIT);
    let mut connection = wire.host('c').run(connect).unwrap().expect("a connection");
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection.set_write_timeout(Some(LIMIT)).unwrap();
    let sent: Vec<u8> = (0..BULK).map(|i| (i * 7 + i / 251) as u8).collect();
    connection.write_all(&sent).expect("data for the backend");
    let mut back = vec![0; BULK];
    connection.read_exact(&mut back).expect("data of the backend");
    assert!(back == sent, "{family:?}: other bytes came back");
    assert_eq!(backend.join().unwrap(), family.vip(), "{family:?}: the backend sees the virtual address");
}

/// Sends datagrams of several sizes through the virtual address and has the backend answer each.
fn datagrams_come_back(wire: &Wire, family: Family) {
    let open = |host, at| {
        let socket = wire.host(host).run(|| UdpSocket::bind(at)).unwrap().expect("bind");
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    };
    let backend = open('s', SocketAddr::new(family.backend(0), PORT));
    let client = open('c', SocketAddr::new(family.client(), 0));
    client.connect(SocketAddr::new(family.vip(), PORT)).expect("connect");
    for length in [0, 1, 2, 333, 1400] {
        let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
        client.send(&data).expect("send");
        let mut buffer = [0; 2000];
        let (n, from) = backend.recv_from(&mut buffer).expect("a datagram of the client");
        assert_eq!((&buffer[..n], from.ip()), (&data[..], family.vip()));
        backend.send_to(&data, from).expect("send");
        let n = client.recv(&mut buffer).expect("a datagram of the backend");
        assert_eq!(buffer[..n], data);
    }
}

fn counted(node: &mut Node, reason: Reason) -> u64 {
    let all = counters::reasons(node.kernel().tables.maps()).expect("counters");
    all.into_iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n)
}

#[test]
fn tcp_and_udp_of_both_families_go_through_with_and_without_offload() {
    let Some(wire) = Wire::new("go") else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    // Offloaded frames carry unfinished checksums; without it on the node, they are finished and verified behind it;
    // without it everywhere, they are finished before.
    for without in [&[][..], &['a', 's'], &['c', 's', 'a']] {
        without.iter().for_each(|host| wire.without_offload(*host));
        for family in FAMILIES {
            bulk_comes_back_whole(&wire, family);
            datagrams_come_back(&wire, family);
        }
    }
    assert!(counted(&mut node, Reason::ArpAnswered) > 0 && counted(&mut node, Reason::NeighbourAnswered) > 0);
}

#[test]
fn an_address_at_its_virtual_hardware_address_is_served() {
    let Some(wire) = Wire::new("vm") else { return };
    let mut node = wire.node('a', true);
    node.set_lease(owner());
    for family in FAMILIES {
        bulk_comes_back_whole(&wire, family);
        datagrams_come_back(&wire, family);
        let neighbours = wire.host('c').run(|| neighbour(family.vip())).unwrap();
        let own = Mac::virtual_router(family == Family::V6, 51).to_string();
        assert!(neighbours.contains(&own), "{neighbours}");
    }
}

/// What the calling thread's namespace knows about a neighbour.
fn neighbour(addr: IpAddr) -> String {
    let mut ip = std::process::Command::new("ip");
    ip.args(["neigh", "show", &addr.to_string()]);
    String::from_utf8(ip.output().expect("ip").stdout).expect("text")
}

#[test]
fn a_hand_over_carries_connections_from_node_to_node() {
    let Some(wire) = Wire::new("ho") else { return };
    let (mut old, mut new) = (wire.node('a', false), wire.node('b', false));
    old.set_lease(Lease { relay_until: FOREVER, relay: wire.mac('b'), term: 1, ..Lease::default() });
    new.set_lease(Lease { delegate_until: FOREVER, delegate: wire.mac('a'), ..Lease::default() });
    // Neither answers ARP meanwhile: everybody still has the old owner's address.
    for host in ['c', 's'] {
        wire.tell(host, wire.mac('a'));
    }
    for family in FAMILIES {
        bulk_comes_back_whole(&wire, family);
        datagrams_come_back(&wire, family);
        let ping = ["-c", "1", "-W", "5", &family.vip().to_string()].map(str::to_owned);
        let mut command = std::process::Command::new("ping");
        wire.host('c').place(command.args(ping)).unwrap();
        assert!(command.output().expect("ping").status.success(), "{family:?}: no answer by the route");
    }
    assert!(counted(&mut old, Reason::Relayed) > 0 && counted(&mut new, Reason::NewFlow) == 4);
    assert_eq!(counted(&mut new, Reason::EchoAnswered), 2);
}

#[test]
fn a_peers_socket_gets_the_answer_to_its_probe() {
    let Some(wire) = Wire::new("pr") else { return };
    let mut node = wire.node('a', false);
    for (lease, state) in [
        (owner(), State::Valid),
        (Lease { until: 1, ..owner() }, State::Expired),
        (Lease::default(), State::Released),
    ] {
        node.set_lease(lease);
        for family in FAMILIES {
            let (own, peer) = match family {
                Family::V4 => ([172, 18, 0, 8].into(), [172, 18, 0, 7].into()),
                Family::V6 => (ipv6(8), ipv6(7)),
            };
            let answer = wire.host('b').run(|| asked(family, own, peer)).unwrap();
            assert_eq!((answer.kind(), answer.state), (Some(Kind::Answer), state as u8), "{family:?}");
            assert_eq!((Mac(answer.mac), answer.nonce), (wire.mac('a'), 77u64.to_be_bytes()));
        }
    }
}

fn ipv6(host: u16) -> IpAddr {
    Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, host).into()
}

/// Probes `peer` from `own`, in the calling thread's namespace.
fn asked(family: Family, own: IpAddr, peer: IpAddr) -> Message {
    let socket = UdpSocket::bind((own, probe::PORT)).expect("bind");
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    if family == Family::V4 {
        setsockopt(&socket.as_fd(), sockopt::Ipv4Ttl, &255).expect("TTL");
    } else {
        setsockopt(&socket.as_fd(), sockopt::Ipv6Ttl, &255).expect("hop limit");
    }
    let message = Message::new(Kind::Probe, 51, 101, 77, Addr::from(family.vip()));
    socket.send_to(&message.bytes(), (peer, probe::PORT)).expect("send");
    let mut buffer = [0; 100];
    let (n, from) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, SocketAddr::new(peer, probe::PORT));
    Message::parse(&buffer[..n]).expect("a message")
}
