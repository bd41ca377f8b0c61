//! Services that are reached in other ways than from a LAN through one port of a virtual address: whole daemons and real
//! sockets. Own addresses without a lease, ranges of ports, this node's own stack, clients on the node itself, and a node that
//! stands before another load balancer's virtual address (the host before Docker's network).

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use lb_tests::{
    expect::{tcp_counter, wait_until},
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
};
use lb_userspace::api::snapshot::Snapshot;
use nix::sys::signal::Signal;

/// Both ways.
const BULK: usize = 20 << 20;
/// The daemon counts as alive for so long after its last sign of life, and a loaded machine is late.
const GONE: Duration = Duration::from_secs(25);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// `[vrrp.vip]` with a fast election.
fn vrrp(interface: &str, priority: u8, vip: &str) -> String {
    format!(
        "[vrrp.vip]\ninterface = \"{interface}\"\nvirtual_router_id = 51\npriority = {priority}\nversion = 3\n\
         advert_int = \"100ms\"\nvirtual_ipaddress = [\"{vip}\"]\n"
    )
}

/// A service with a TCP check; `more` are further lines of it, before its backends.
fn service(name: &str, listen: &str, more: &str, backends: &[&str]) -> String {
    let mut text = format!("[service.{name}]\nlisten = \"{listen}\"\n{more}\n");
    for backend in backends {
        text += &format!("[[service.{name}.backend]]\naddress = \"{backend}\"\n");
    }
    text + &format!("[service.{name}.check]\ntype = \"tcp\"\ninterval = \"200ms\"\nrise = 1\nfall = 2\n")
}

/// Two databases on a switch, their servers on 3306 and 8888, and these nodes.
fn cluster(test: &str, nodes: &[(&str, &str)]) -> Option<(Hosts, Vec<Server>)> {
    let mut hosts = Hosts::new(test)?;
    let databases = [("d1", "172.18.0.2", 1), ("d2", "172.18.0.3", 2)];
    for (host, address) in databases.iter().map(|(h, a, _)| (*h, *a)).chain(nodes.iter().copied()) {
        hosts.plug(host, "eth0", &[&format!("{address}/16")], "x");
    }
    let mut servers = Vec::new();
    for (host, _, number) in databases {
        for port in [3306, 8888] {
            servers.push(hosts.serve(host, SocketAddr::from(([0, 0, 0, 0], port)), number));
        }
    }
    Some((hosts, servers))
}

#[track_caller]
fn refused(got: std::io::Result<Talk>) {
    let got = got.map(|talk| talk.server).map_err(|e| e.kind());
    assert_eq!(got, Err(ErrorKind::ConnectionRefused));
}

/// No segment with a wrong checksum came to any of these hosts.
fn no_checksum_errors(hosts: &Hosts, names: &[&str]) {
    for name in names {
        assert_eq!(hosts.host(name).run(|| tcp_counter("InCsumErrors")).unwrap(), 0, "{name}");
    }
}

/// Flows, packets and bytes of a service.
fn counted(daemon: &Daemon, service: &str) -> (u64, u64, u64) {
    let s = daemon.status().services.into_iter().find(|s| s.name == service).unwrap();
    (s.flows, s.packets, s.bytes)
}

#[test]
fn both_nodes_serve_on_their_own_addresses_at_once_and_outlive_their_daemons() {
    let Some((hosts, _servers)) =
        cluster("own", &[("n1", "172.18.0.7"), ("n2", "172.18.0.8"), ("c", "172.18.0.100")])
    else {
        return;
    };
    let config = |own: &str| {
        let more = "lease = false";
        service("db", &format!("{own}:3306"), more, &["172.18.0.2", "172.18.0.3"])
            + &service("range", &format!("{own}:8880-8889"), more, &["172.18.0.2:8888"])
    };
    let mut first = hosts.start("n1", &config("172.18.0.7"));
    let second = hosts.start("n2", &config("172.18.0.8"));
    let stacks = hosts.serve("n1", at("172.18.0.7:9000"), 9);
    for (daemon, own) in [(&first, "172.18.0.7"), (&second, "172.18.0.8")] {
        daemon.wait_up("db", 2);
        daemon.wait_up("range", 1);
        let mut seen: Vec<u8> = (0..2)
            .map(|_| {
                let mut talk = hosts.connect("c", at(&format!("{own}:3306"))).unwrap();
                talk.exchange(BULK / 4).unwrap();
                talk.server
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_eq!(hosts.connect("c", at(&format!("{own}:8885"))).unwrap().server, 1);
    }
    // What is no service is the stack's.
    assert_eq!(hosts.connect("c", at("172.18.0.7:9000")).unwrap().server, 9);
    refused(hosts.connect("c", at("172.18.0.7:9001")));
    drop(stacks);

    let mut held = hosts.connect("c", at("172.18.0.7:3306")).unwrap();
    first.end(Signal::SIGKILL);
    wait_until("new connections are refused", GONE, || hosts.connect("c", at("172.18.0.7:3306")).is_err());
    refused(hosts.connect("c", at("172.18.0.7:3306")));
    held.exchange(1000).unwrap();
    assert_eq!(hosts.connect("c", at("172.18.0.8:8888")).unwrap().server, 1, "the other goes on");

    let mut back = hosts.start("n1", &config("172.18.0.7"));
    back.wait_up("db", 2);
    hosts.connect("c", at("172.18.0.7:3306")).unwrap();
    held.exchange(1000).unwrap();
    back.end(Signal::SIGTERM);
    // The kernel takes the programs off a moment after their last pin has gone.
    wait_until("the programs are off", LIMIT, || hosts.connect("c", at("172.18.0.7:3306")).is_err());
    refused(hosts.connect("c", at("172.18.0.7:3306")));
    refused(hosts.connect("c", at("172.18.0.7:8885")));
    no_checksum_errors(&hosts, &["n1", "n2", "d1", "d2", "c"]);
}

#[test]
fn clients_on_the_nodes_themselves_reach_the_address_whoever_owns_it() {
    let Some((hosts, mut servers)) =
        cluster("self", &[("n1", "172.18.0.7"), ("n2", "172.18.0.8"), ("c", "172.18.0.100")])
    else {
        return;
    };
    for (node, number) in [("n1", 11), ("n2", 12)] {
        servers.push(hosts.serve(node, at("0.0.0.0:9000"), number));
    }
    let config = |priority| {
        vrrp("eth0", priority, "172.18.0.201")
            + &service("db", "172.18.0.201:3306", "", &["172.18.0.2", "172.18.0.3"])
            + &service("rest", "172.18.0.201:*", "", &["172.18.0.2:8888"])
            + &service("page", "172.18.0.201:9000", "mode = \"local\"", &["127.0.0.1"])
    };
    let (vip, page) = (at("172.18.0.201:3306"), at("172.18.0.201:9000"));
    let mut owner = hosts.start("n1", &config(200));
    owner.wait_master();
    let standby = hosts.start("n2", &config(100));
    for daemon in [&owner, &standby] {
        daemon.wait_up("db", 2);
        daemon.wait_up("page", 1);
        daemon.wait_up("rest", 1);
    }
    for client in ["c", "n1", "n2"] {
        let before = counted(&owner, "db");
        let mut talk = hosts.connect(client, vip).unwrap();
        talk.exchange(BULK).unwrap();
        drop(talk);
        wait_until(&format!("{client}'s bytes are counted both ways by the owner"), LIMIT, || {
            counted(&owner, "db").2 > before.2 + 2 * BULK as u64
        });
        assert_eq!(counted(&owner, "db").0, before.0 + 1, "{client}");
        assert_eq!(hosts.connect(client, page).unwrap().server, 11, "{client}: the owner's own");
        assert_eq!(hosts.connect(client, at("172.18.0.201:1234")).unwrap().server, 1, "{client}: any port");
    }
    wait_until("the node's own service is counted", LIMIT, || {
        let (flows, packets, _) = counted(&owner, "page");
        flows == 3 && packets >= 6
    });

    let mut held = ["n1", "n2"].map(|client| hosts.connect(client, vip).unwrap());
    owner.end(Signal::SIGTERM);
    standby.wait_master();
    // Flows are not shared between nodes; what is over is told at once, to the old owner's own client too.
    for talk in &mut held {
        let ended = talk.exchange(1000).unwrap_err().kind();
        assert!(!matches!(ended, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{ended:?}");
    }
    for client in ["c", "n1", "n2"] {
        wait_until(&format!("{client} reaches the new owner"), LIMIT, || hosts.connect(client, vip).is_ok());
        hosts.connect(client, vip).unwrap().exchange(BULK / 4).unwrap();
        assert_eq!(hosts.connect(client, page).unwrap().server, 12, "{client}");
    }
    no_checksum_errors(&hosts, &["n1", "n2", "d1", "d2", "c"]);
}

#[test]
fn clients_on_the_owner_reach_it_by_ipv6_udp_and_ping_too() {
    let Some((hosts, _servers)) = cluster("six", &[("n1", "172.18.0.7")]) else { return };
    hosts.host("n1").ip("addr add fd12::7/64 dev eth0 nodad").unwrap();
    hosts.host("d1").ip("addr add fd12::2/64 dev eth0 nodad").unwrap();
    let six = hosts.serve("d1", at("[fd12::2]:3306"), 6);
    let udp = hosts.host("d1").run(|| UdpSocket::bind("172.18.0.2:53")).unwrap().unwrap();
    let text = vrrp("eth0", 200, "172.18.0.201")
        + &vrrp("eth0", 200, "fd12::201").replace("vrrp.vip", "vrrp.six")
        + &service("db", "[fd12::201]:3306", "", &["fd12::2"])
        + &service("dns", "172.18.0.201:53", "protocol = \"udp\"", &["172.18.0.2"])
            .replace("interval", "port = 3306\ninterval");
    let owner = hosts.start("n1", &text);
    owner.wait_master();
    owner.wait_up("db", 1);
    owner.wait_up("dns", 1);
    wait_until("both routers are masters", LIMIT, || {
        owner.status().vrrp.iter().all(|router| router.state == "Master")
    });
    let mut talk = hosts.connect("n1", at("[fd12::201]:3306")).unwrap();
    assert_eq!(talk.server, 6);
    talk.exchange(BULK).unwrap();

    let client = hosts.host("n1").run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for socket in [&client, &udp] {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
    }
    client.connect(at("172.18.0.201:53")).unwrap();
    for length in [1, 333, 1400] {
        let data = vec![7; length];
        client.send(&data).unwrap();
        let mut buffer = [0; 2000];
        let (n, from) = udp.recv_from(&mut buffer).unwrap();
        assert_eq!((n, from.ip()), (length, at("172.18.0.201:53").ip()));
        udp.send_to(&buffer[..n], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), length);
    }
    for address in ["172.18.0.201", "fd12::201"] {
        let mut ping = Command::new("ping");
        hosts.host("n1").place(ping.args(["-c", "1", "-W", "5", address])).unwrap();
        assert!(ping.output().unwrap().status.success(), "{address}");
    }
    drop(six);
    no_checksum_errors(&hosts, &["n1", "d1"]);
}

#[test]
fn a_host_before_the_virtual_address_of_its_containers_carries_connections_over_their_failover() {
    let Some((mut hosts, _servers)) = cluster("tier", &[("n1", "172.18.0.7"), ("n2", "172.18.0.8")]) else {
        return;
    };
    // The host is the containers' bridge and gateway, and has a leg in the LAN.
    hosts.plug("c", "eth0", &["192.168.1.50/24"], "lan");
    hosts.plug("x", "eth1", &["192.168.1.11/24"], "lan");
    hosts.host("x").ip("addr add 172.18.0.1/16 dev br0").unwrap();
    for container in ["n1", "n2", "d1", "d2"] {
        hosts.host(container).ip("route add default via 172.18.0.1").unwrap();
    }
    let inner = |priority| {
        vrrp("eth0", priority, "172.18.0.201")
            + &service("db", "172.18.0.201:3306", "", &["172.18.0.2", "172.18.0.3"])
            + &service("page", "172.18.0.201:8888", "", &["172.18.0.2", "172.18.0.3"])
    };
    let mut first = hosts.start("n1", &inner(200));
    first.wait_master();
    let second = hosts.start("n2", &inner(100));
    let outer = hosts.start(
        "x",
        &(vrrp("eth1", 150, "192.168.1.156")
            + &service("db", "192.168.1.156:3306", "", &["172.18.0.201"])
            + &service("page", "192.168.1.156:8888", "", &["172.18.0.201"])),
    );
    outer.wait_master();
    for daemon in [&first, &second, &outer] {
        let backends = if daemon.status().services[0].backends.len() == 1 { 1 } else { 2 };
        daemon.wait_up("db", backends);
        daemon.wait_up("page", backends);
    }
    let addresses = [at("192.168.1.156:3306"), at("192.168.1.156:8888")];
    for to in addresses {
        hosts.connect("c", to).unwrap().exchange(BULK).unwrap();
        // The outer tier's checks take their turns, too.
        let seen: BTreeSet<u8> = (0..16).map(|_| hosts.connect("c", to).unwrap().server).collect();
        assert_eq!(seen, BTreeSet::from([1, 2]), "{to}: the inner tier spreads");
    }
    balanced(&outer, "db", 17);

    first.end(Signal::SIGTERM);
    second.wait_master();
    outer.wait_up("db", 1);
    for to in addresses {
        wait_until(&format!("{to} after the failover below"), LIMIT, || hosts.connect("c", to).is_ok());
        hosts.connect("c", to).unwrap().exchange(BULK / 4).unwrap();
    }
    assert_eq!(outer.status().vrrp[0].state, "Master", "the outer tier did not move");
    no_checksum_errors(&hosts, &["n1", "n2", "d1", "d2", "c", "x"]);
}

/// What a service has counted is what its backend has, and at least these flows with their bytes.
fn balanced(daemon: &Daemon, service: &str, flows: u64) {
    let of = |s: &Snapshot| s.services.iter().find(|s| s.name == service).unwrap().clone();
    wait_until("all is counted", LIMIT, || {
        let s = of(&daemon.status());
        s.flows >= flows && s.bytes > 2 * BULK as u64
    });
    let s = of(&daemon.status());
    let b = &s.backends[0];
    assert_eq!((s.flows, s.packets, s.bytes), (b.flows, b.packets, b.bytes));
}
