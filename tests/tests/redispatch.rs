//! Servers that do not take connections while their checks know nothing of it: clients reach another one, and who does so again
//! and again is ejected.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
    proc,
};
use lb_userspace::api::snapshot::{Backend, Service};

/// A client of Linux repeats its SYN after a second, and then after two more.
const FIRST_REPEAT: Duration = Duration::from_secs(1);
const SECOND_REPEAT: Duration = Duration::from_secs(3);

/// A balancer `a`, a client `c` and servers on one switch, of one family.
struct Net {
    // Goes before its host does.
    node: Daemon,
    hosts: Hosts,
    v6: bool,
}

impl Net {
    /// With so many servers that serve, all of them up. Their checks come once in 20 s, unless `more` says otherwise.
    fn new(test: &str, v6: bool, servers: u8, more: &str) -> Option<(Self, Vec<Server>)> {
        if proc::which("nft").is_none() {
            eprintln!("not run: nftables is not installed");
            return None;
        }
        let mut hosts = Hosts::new(test)?;
        let names = (1..=servers).map(|n| (format!("s{n}"), n + 1));
        for (host, last) in names.chain([("a".into(), 7), ("c".into(), 100)]) {
            let addresses = [format!("172.18.0.{last}/16"), format!("fd00::{last}/64")];
            hosts.plug(&host, "eth0", &addresses.each_ref().map(String::as_str), "sw");
        }
        let serve = |n: u8| hosts.serve(&format!("s{n}"), address(v6, n + 1), n);
        let serving = (1..=servers).map(serve).collect();
        let node = hosts.start("a", &config(v6, servers, more));
        node.wait_master();
        node.wait_up("db", servers.into());
        Some((Self { node, hosts, v6 }, serving))
    }

    fn connect(&self) -> std::io::Result<(Talk, Duration)> {
        let begun = Instant::now();
        let talk = self.hosts.connect("c", address(self.v6, 201))?;
        Ok((talk, begun.elapsed()))
    }

    fn service(&self) -> Service {
        self.node.status().services.remove(0)
    }

    fn backend(&self, n: usize) -> Backend {
        self.service().backends.remove(n - 1)
    }

    /// Has a server do this with SYNs that come by the virtual address: its checks come from elsewhere.
    fn filter(&self, server: &str, verdict: &str) {
        let from = if self.v6 { "ip6 saddr fd00::201" } else { "ip saddr 172.18.0.201" };
        self.nft(
            server,
            &format!(
                "table inet t {{ chain input {{ type filter hook input priority 0;\n\
                 {from} tcp dport 3306 tcp flags & (syn | ack) == syn counter {verdict}\n}}\n}}\n"
            ),
        );
    }

    fn nft(&self, host: &str, script: &str) {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]);
        self.hosts.host(host).place(&mut nft).expect("the namespace");
        proc::finish_with(&mut nft, script).expect("nft");
    }

    /// So many connections, one after the other, none of which may fail; how many had to wait for the first repetition.
    fn connections(&self, count: usize, server: u8) -> usize {
        let mut waited = 0;
        for _ in 0..count {
            let (mut talk, after) = self.connect().expect("no client sees an error");
            assert!(after < SECOND_REPEAT, "connected after {after:?}");
            assert_eq!(talk.server, server);
            talk.exchange(10_000).expect("an answer");
            waited += usize::from(after >= FIRST_REPEAT);
        }
        waited
    }

    /// Until the status shows this of a server: new flows, those unanswered, those refused.
    fn wait_counted(&self, n: usize, counts: [u64; 3]) {
        let shown = || {
            let b = self.backend(n);
            [b.flows, b.unanswered, b.refused]
        };
        wait_until(&format!("s{n} has {counts:?}"), LIMIT, || shown() == counts);
    }

    /// Until nothing is counted as open any more.
    fn wait_closed(&self) {
        wait_until("no connection counts any more", LIMIT, || {
            let service = self.service();
            service.active == 0 && service.backends.iter().all(|b| b.active == 0)
        });
    }
}

fn address(v6: bool, last: u8) -> SocketAddr {
    let text = if v6 { format!("[fd00::{last}]:3306") } else { format!("172.18.0.{last}:3306") };
    text.parse().expect("an address")
}

fn config(v6: bool, servers: u8, more: &str) -> String {
    let check =
        "check = { type = \"tcp\", interval = \"20s\", fast_interval = \"100ms\", fall = 1, rise = 2 }";
    let check = if more.contains("check") { "" } else { check };
    let backend = |n: u8| format!("{{ name = \"s{n}\", address = \"{}\" }}", address(v6, n + 1));
    let backends: Vec<_> = (1..=servers).map(backend).collect();
    format!(
        "[vrrp.v]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\nversion = 3\nadvert_int = \"100ms\"\n\
         virtual_ipaddress = [\"{}\"]\n\
         [service.db]\nlisten = \"{}\"\n{more}\n{check}\nbackend = [{}]\n",
        address(v6, 201).ip(),
        address(v6, 201),
        backends.join(", ")
    )
}

fn silent(test: &str, v6: bool) {
    let Some((net, _servers)) = Net::new(test, v6, 2, "passive = false") else { return };
    net.filter("s1", "drop");
    let waited = net.connections(6, 2);
    assert_eq!(waited, 3, "every other one comes to it first");
    net.wait_counted(1, [3, 3, 0]);
    net.wait_counted(2, [6, 0, 0]);
    assert_eq!(net.backend(1).state, "up", "nobody is ejected");
    assert_eq!(net.service().flows, 6);
    net.wait_closed();
}

#[test]
fn clients_of_a_server_that_is_silent_reach_another_by_their_second_syn() {
    silent("rdsilent", false);
}

#[test]
fn clients_by_ipv6_of_a_server_that_is_silent_reach_another_by_their_second_syn() {
    silent("rdsilent6", true);
}

fn refusing(test: &str, v6: bool) {
    let Some((net, mut servers)) = Net::new(test, v6, 2, "passive = false") else { return };
    // Its port is closed now, and its next check is seconds away.
    drop(servers.remove(0));
    let waited = net.connections(6, 2);
    assert_eq!(waited, 3, "every other one comes to it first");
    net.wait_counted(1, [3, 0, 3]);
    net.wait_counted(2, [6, 0, 0]);
    assert_eq!(net.backend(1).state, "up", "nobody is ejected");
    net.wait_closed();
}

#[test]
fn no_client_is_refused_while_the_port_of_one_server_is_closed_and_its_check_does_not_know() {
    refusing("rdclosed", false);
}

#[test]
fn no_client_by_ipv6_is_refused_while_the_port_of_one_server_is_closed() {
    refusing("rdclosed6", true);
}

fn alone(test: &str, v6: bool) {
    let Some((net, servers)) = Net::new(test, v6, 1, "") else { return };
    drop(servers);
    for _ in 0..4 {
        let begun = Instant::now();
        let Err(error) = net.connect() else { panic!("nobody serves") };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(begun.elapsed() < FIRST_REPEAT, "told after {:?}", begun.elapsed());
    }
    // The passive check has it looked at, and that finds out.
    wait_until("it is down by its check", LIMIT, || net.backend(1).cause == "connection refused");
    net.wait_closed();
}

/// What a firewall says that rejects without being told how.
#[test]
fn no_client_hears_of_a_firewall_that_rejects_the_connections_of_one_server() {
    for v6 in [false, true] {
        let Some((net, _servers)) = Net::new("rdreject", v6, 2, "passive = false") else { return };
        net.filter("s1", "reject");
        assert_eq!(net.connections(4, 2), 2);
        net.wait_counted(1, [2, 0, 2]);
        net.wait_closed();
    }
}

#[test]
fn a_client_of_the_only_server_is_refused_at_once() {
    alone("rdalone", false);
}

#[test]
fn a_client_by_ipv6_of_the_only_server_is_refused_at_once() {
    alone("rdalone6", true);
}

#[test]
fn where_every_server_refuses_a_client_waits_for_one_repetition_and_is_told() {
    let Some((net, servers)) = Net::new("rdnone", false, 2, "passive = false") else { return };
    drop(servers);
    let begun = Instant::now();
    let Err(error) = net.connect() else { panic!("nobody serves") };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let after = begun.elapsed();
    assert!((FIRST_REPEAT..SECOND_REPEAT).contains(&after), "told after {after:?}");
}

#[test]
fn where_the_file_says_no_a_client_is_refused_at_once_by_one_of_two() {
    let Some((net, mut servers)) = Net::new("rdoff", false, 2, "redispatch = false\npassive = false") else {
        return;
    };
    drop(servers.remove(0));
    let tried: Vec<_> = (0..4).map(|_| net.connect()).collect();
    let (refused, taken): (Vec<_>, Vec<_>) = tried.into_iter().partition(Result::is_err);
    assert_eq!((refused.len(), taken.len()), (2, 2));
    net.wait_counted(1, [2, 0, 2]);
}

#[test]
fn a_server_whose_check_passes_and_that_takes_no_clients_is_ejected_until_it_does() {
    let passive = "passive = { after = 2, window = \"30s\", ejection = \"2s\" }\n\
                   check = { type = \"tcp\", interval = \"200ms\", fall = 2, rise = 2 }";
    let Some((net, _servers)) = Net::new("rdeject", false, 3, passive) else { return };
    net.filter("s1", "reject with tcp reset");
    wait_until("it is ejected", LIMIT, || {
        let (talk, after) = net.connect().expect("no client sees an error");
        assert!(talk.server != 1 && after < SECOND_REPEAT, "{} after {after:?}", talk.server);
        net.backend(1).state == "down"
    });
    let ejected = net.backend(1);
    assert!(ejected.cause.starts_with("passive: "), "{}", ejected.cause);
    assert!(ejected.cause.contains(" connections refused in 30s"), "{}", ejected.cause);
    assert_eq!(net.service().up, 2);
    for _ in 0..6 {
        let (talk, after) = net.connect().expect("the others take them");
        assert!(talk.server != 1 && after < FIRST_REPEAT, "{} after {after:?}", talk.server);
    }
    net.nft("s1", "flush ruleset\n");
    net.node.wait_up("db", 3);
    let mut seen = [0; 3];
    for _ in 0..6 {
        let (talk, after) = net.connect().expect("all take them");
        assert!(after < FIRST_REPEAT, "after {after:?}");
        seen[usize::from(talk.server) - 1] += 1;
    }
    assert_eq!(seen, [2; 3]);
    net.wait_closed();
}

/// A connection that is there is nothing to a server that takes no new ones.
#[test]
fn connections_of_an_ejected_server_go_on() {
    let passive = "passive = { after = 2, window = \"30s\", ejection = \"60s\" }";
    let Some((net, _servers)) = Net::new("rdkeep", false, 2, passive) else { return };
    let mut kept = Vec::new();
    while !kept.iter().any(|talk: &Talk| talk.server == 1) {
        kept.push(net.connect().expect("the service").0);
    }
    net.filter("s1", "reject with tcp reset");
    wait_until("it is ejected", LIMIT, || {
        net.connect().expect("no client sees an error");
        net.backend(1).state == "down"
    });
    for talk in &mut kept {
        talk.exchange(10_000).expect("it goes on");
    }
}
