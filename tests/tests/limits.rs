//! What becomes of connections when a service has no source port or the node no room for flows left, or does not want the
//! client: whole daemons and real sockets.

use std::{io::ErrorKind, net::SocketAddr, thread};

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
};
use lb_userspace::api::snapshot::Service;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A client, a node with two virtual addresses, and a backend with a server on each of these ports.
fn cluster(test: &str, ports: &[u16]) -> Option<(Hosts, Vec<Server>)> {
    let mut hosts = Hosts::new(test)?;
    for (host, address) in [("d1", "172.18.0.2"), ("n1", "172.18.0.7"), ("c", "172.18.0.100")] {
        hosts.plug(host, "eth0", &[&format!("{address}/16")], "x");
    }
    let servers = ports.iter().map(|port| hosts.serve("d1", SocketAddr::from(([0, 0, 0, 0], *port)), 1));
    let servers = servers.collect();
    Some((hosts, servers))
}

/// `[vrrp.vip]` with two addresses and a fast election.
const VRRP: &str = "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\nversion = 3\n\
                    advert_int = \"100ms\"\nvirtual_ipaddress = [\"172.18.0.201\", \"172.18.0.202\"]\n";

/// A service on this port of the first address, with the backend's same port; `more` are further lines of it.
fn service(name: &str, port: u16, more: &str) -> String {
    format!(
        "[service.{name}]\nlisten = \"172.18.0.201:{port}\"\ntimeouts = {{ closing = \"1s\", closed = \"1s\" }}\n{more}\n\
         [[service.{name}.backend]]\naddress = \"172.18.0.2\"\n\
         [service.{name}.check]\ntype = \"tcp\"\ninterval = \"200ms\"\nrise = 1\nfall = 2\n"
    )
}

fn counted(daemon: &Daemon, service: &str) -> Service {
    daemon.status().services.into_iter().find(|s| s.name == service).unwrap()
}

/// Connects until it is refused, at most `limit` times.
#[track_caller]
fn fill(hosts: &Hosts, to: SocketAddr, limit: usize) -> Vec<Talk> {
    let mut talks = Vec::new();
    for _ in 0..limit {
        match hosts.connect("c", to) {
            Ok(talk) => talks.push(talk),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => return talks,
            Err(e) => panic!("connection {}: {e}", talks.len()),
        }
    }
    panic!("{limit} connections, and none was refused");
}

#[test]
fn a_service_without_free_source_ports_refuses_and_says_so_and_what_is_open_goes_on() {
    let Some((hosts, _servers)) = cluster("ports", &[3306, 3307, 3308]) else { return };
    let both = "snat = [\"172.18.0.201\", \"172.18.0.202\"]";
    let config = "snat_ports = \"20000-20015\"\n".to_owned()
        + VRRP
        + &service("db", 3306, "")
        + &service("two", 3307, both)
        + &service("idle", 3308, "");
    let daemon = hosts.start("n1", &config);
    daemon.wait_master();
    for name in ["db", "two", "idle"] {
        daemon.wait_up(name, 1);
    }
    let mut one = fill(&hosts, at("172.18.0.201:3306"), 100);
    assert_eq!(one.len(), 16, "every port of the range");
    // From several threads at once, so that two processors look for the last ports.
    let two: Vec<Talk> = thread::scope(|s| {
        let all: Vec<_> = (0..4).map(|_| s.spawn(|| fill(&hosts, at("172.18.0.201:3307"), 100))).collect();
        all.into_iter().flat_map(|one| one.join().expect("a client")).collect()
    });
    assert_eq!(two.len(), 32, "every port of both sources");
    let ports: std::collections::BTreeSet<_> =
        one.iter().map(|talk| talk.stream.local_addr().unwrap()).collect();
    assert_eq!(ports.len(), 16);

    wait_until("the status tells", LIMIT, || {
        counted(&daemon, "db").ports_exhausted == 1 && counted(&daemon, "two").ports_exhausted == 4
    });
    let db = counted(&daemon, "db");
    assert_eq!((db.refused, db.table_full, db.flows), (1, 0, 16));
    assert_eq!(counted(&daemon, "idle").ports_exhausted, 0);
    let log = daemon.log();
    assert!(log.contains("service db: no source port is free"), "{log}");

    for talk in &mut one {
        talk.exchange(10_000).expect("an open connection goes on");
    }
    hosts.connect("c", at("172.18.0.201:3308")).expect("another service goes on");

    one.truncate(6);
    let mut back = Vec::new();
    wait_until("closed connections give their ports back", LIMIT, || {
        back.extend(hosts.connect("c", at("172.18.0.201:3306")).ok());
        back.len() == 10
    });
    assert_eq!(
        hosts.connect("c", at("172.18.0.201:3306")).err().map(|e| e.kind()),
        Some(ErrorKind::ConnectionRefused)
    );
    for talk in one.iter_mut().chain(&mut back) {
        talk.exchange(10_000).expect("an open connection goes on");
    }
}

#[test]
fn a_node_without_room_for_flows_refuses_and_says_so_and_what_is_open_goes_on() {
    let Some((hosts, _servers)) = cluster("room", &[3306]) else { return };
    lb_tests::hosts::allow_files(8192);
    let config = VRRP.to_owned() + &service("db", 3306, "");
    let daemon = hosts.start_with_room("n1", 1024, &config);
    daemon.wait_master();
    daemon.wait_up("db", 1);
    let mut open = fill(&hosts, at("172.18.0.201:3306"), 2000);
    assert_eq!(open.len(), 1024);
    wait_until("the status tells", LIMIT, || counted(&daemon, "db").table_full == 1);
    assert_eq!(counted(&daemon, "db").ports_exhausted, 0);
    let log = daemon.log();
    assert!(log.contains("service db: the flow table is full"), "{log}");
    for talk in open.iter_mut().step_by(10) {
        talk.exchange(1000).expect("an open connection goes on");
    }
    open.truncate(1000);
    let mut back = Vec::new();
    wait_until("closed connections make room", LIMIT, || {
        back.extend(hosts.connect("c", at("172.18.0.201:3306")).ok());
        back.len() == 24
    });
    for talk in open.iter_mut().step_by(10).chain(&mut back) {
        talk.exchange(1000).expect("an open connection goes on");
    }
}

#[test]
fn clients_that_are_not_allowed_or_too_fast_are_refused_and_others_are_not() {
    let Some((mut hosts, _servers)) = cluster("access", &[3306, 3307, 3308, 3309]) else { return };
    hosts.plug("c2", "eth0", &["172.18.1.100/16"], "x");
    let config = VRRP.to_owned()
        + &service(
            "db",
            3306,
            "allow = [\"172.18.0.0/16\"]\ndeny = [\"172.18.1.0/24\"]\ndeny_action = \"reset\"",
        )
        + &service("slow", 3307, "client_limit = { rate = \"1/m\", burst = 2 }")
        + &service("open", 3308, "")
        + &service("few", 3309, "client_limit = { connections = 2 }");
    let daemon = hosts.start("n1", &config);
    daemon.wait_master();
    for name in ["db", "slow", "open", "few"] {
        daemon.wait_up(name, 1);
    }
    let connect = |from: &str, port: u16| {
        hosts.connect(from, SocketAddr::from(([172, 18, 0, 201], port))).map_err(|e| e.kind())
    };
    let refused = Some(ErrorKind::ConnectionRefused);
    connect("c", 3306).unwrap().exchange(10_000).expect("an allowed client");
    assert_eq!(connect("c2", 3306).err(), refused, "a denied one");
    connect("c2", 3308).expect("another service has no rules");

    let mut held = [connect("c", 3307).unwrap(), connect("c", 3307).unwrap()];
    assert_eq!(connect("c", 3307).err(), refused, "faster than it may");
    connect("c2", 3307).expect("another client");
    for talk in &mut held {
        talk.exchange(10_000).expect("an open connection goes on");
    }
    let mut held = vec![connect("c", 3309).unwrap(), connect("c", 3309).unwrap()];
    assert_eq!(connect("c", 3309).err(), refused, "more than it may have");
    connect("c2", 3309).expect("another client");
    held.pop();
    held.iter_mut().for_each(|talk| talk.exchange(10_000).expect("an open connection goes on"));
    wait_until("one that has ended makes room", LIMIT, || connect("c", 3309).is_ok());
    wait_until("the status tells", LIMIT, || {
        counted(&daemon, "db").denied == 1 && counted(&daemon, "slow").limited == 1
    });
    assert_eq!(counted(&daemon, "open").refused, 0);
}
