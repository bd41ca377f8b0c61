//! The programs on a wire: connections and datagrams of real sockets through a virtual address that is on no interface, with
//! and without checksum offload; probes; a hand-over from one node to another.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use lb_common::{
    addr::{Addr, Mac},
    half_open,
    lease::Lease,
    probe::{self, Kind, Message, State},
    reason::Reason,
};
use lb_tests::{
    packets::{FAMILIES, Family, PORT, Segment},
    wire::{
        Wire,
        traffic::{LIMIT, owner},
    },
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

const FOREVER: u64 = u64::MAX;
/// Enough for offloaded segments of all sizes.
const BULK: usize = 2 << 20;

/// TCP and UDP of all sizes, which the backend sees from the virtual address.
fn everything_goes_through(wire: &Wire, family: Family) {
    let at = SocketAddr::new(family.backend(0), PORT);
    assert_eq!(wire.bulk(family, at, BULK), family.vip(), "{family:?}");
    assert_eq!(wire.datagrams(family, at, &[0, 1, 2, 333, 1400]), family.vip(), "{family:?}");
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
            everything_goes_through(&wire, family);
        }
    }
    assert!(node.counted(Reason::ArpAnswered) > 0 && node.counted(Reason::NeighbourAnswered) > 0);
}

#[test]
fn the_nodes_own_connections_from_the_virtual_address_are_answered_also_on_ports_that_flows_have() {
    /// One that flows have as their source.
    const PORT_OF_FLOWS: u16 = 5000;
    let Some(wire) = Wire::new("ow") else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    for (family, length) in [(Family::V4, "32"), (Family::V6, "128 nodad")] {
        let at = SocketAddr::new(family.backend(0), PORT);
        let listener = wire.host('s').run(|| TcpListener::bind(at)).unwrap().expect("bind");
        wire.host('a').ip(&format!("addr add {}/{length} dev eth0", family.vip())).expect("an address");
        let from = SocketAddr::new(family.vip(), PORT_OF_FLOWS);
        let connected = wire.host('a').run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.bind(from)?;
                tokio::time::timeout(LIMIT, socket.connect(at)).await?
            })
        });
        connected.unwrap().unwrap_or_else(|e| panic!("{family:?}: {e}"));
        assert_eq!(listener.accept().expect("a connection").1, from);
    }
    assert_eq!(node.counted(Reason::UnknownFlow), 0);
}

#[test]
fn a_backend_forgets_the_requests_that_were_thrown_out_and_none_besides() {
    const THROWN_OUT: u16 = 8;
    let Some(wire) = Wire::new("fo") else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    let at = SocketAddr::new(Family::V4.backend(0), PORT);
    let _listener = wire.host('s').run(|| TcpListener::bind(at)).unwrap().expect("bind");
    let client = wire.raw('c');
    for i in 0..half_open::places(64) as u16 + THROWN_OUT {
        let mut syn = Segment::syn(20_000 + i).frame();
        syn[..6].copy_from_slice(&wire.mac('a').0);
        client.send(&syn);
    }
    // When it repeats its answers, after a second.
    let until = Instant::now() + LIMIT;
    let forgotten = || wire.host('s').run(|| tcp_counter("AttemptFails")).unwrap();
    while forgotten() < u64::from(THROWN_OUT) {
        assert!(Instant::now() < until, "{} forgotten of {THROWN_OUT}", forgotten());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((forgotten(), node.counted(Reason::UnknownFlow)), (THROWN_OUT.into(), THROWN_OUT.into()));
}

/// One of the calling thread's namespace's counters of TCP (RFC 4022).
fn tcp_counter(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("counters");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("Tcp:")).collect();
    let mut counters = lines[0].split(' ').zip(lines[1].split(' '));
    let (_, value) = counters.find(|(counter, _)| *counter == name).expect("a counter");
    value.parse().expect("a number")
}

#[test]
fn an_address_at_its_virtual_hardware_address_is_served() {
    let Some(wire) = Wire::new("vm") else { return };
    let mut node = wire.node('a', true);
    node.set_lease(owner());
    for family in FAMILIES {
        everything_goes_through(&wire, family);
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
        everything_goes_through(&wire, family);
        let ping = ["-c", "1", "-W", "5", &family.vip().to_string()].map(str::to_owned);
        let mut command = std::process::Command::new("ping");
        wire.host('c').place(command.args(ping)).unwrap();
        assert!(command.output().expect("ping").status.success(), "{family:?}: no answer by the route");
    }
    assert!(old.counted(Reason::Relayed) > 0 && new.counted(Reason::NewFlow) == 4);
    assert_eq!(new.counted(Reason::EchoAnswered), 2);
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
