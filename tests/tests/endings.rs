//! Connections of a backend that is lost, and those that an operator ends: both ends hear of it at once, the idle ones too.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use lb_tests::{
    daemon,
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Talk},
    netns::Netns,
};

const VIP: &str = "172.18.0.201";
const INTERVAL: Duration = Duration::from_millis(500);

/// A balancer `a`, a client `c` and two servers on one switch.
struct Net {
    // Goes before its host does.
    node: Daemon,
    hosts: Hosts,
}

impl Net {
    fn new(test: &str, listen: &str, more: &str) -> Option<Self> {
        let mut hosts = Hosts::new(test)?;
        for (host, last) in [("s1", 2), ("s2", 3), ("a", 7), ("c", 100)] {
            let addresses = [format!("172.18.0.{last}/16"), format!("fd00::{last}/64")];
            hosts.plug(host, "eth0", &addresses.each_ref().map(String::as_str), "sw");
        }
        let node = hosts.start("a", &config(listen, more));
        Some(Self { node, hosts })
    }

    fn vip(&self) -> SocketAddr {
        self.node.status().services[0].listen.parse().expect("an address")
    }

    fn connect(&self) -> Talk {
        self.hosts.connect("c", self.vip()).expect("the service")
    }

    /// So many to each of the two servers.
    fn connections(&self, each: usize) -> [Vec<Talk>; 2] {
        let mut of = [Vec::new(), Vec::new()];
        while of.iter().any(|talks| talks.len() < each) {
            let talk = self.connect();
            of[usize::from(talk.server) - 1].push(talk);
        }
        of
    }

    fn kill(&self, words: &[&str]) -> String {
        let mut viplb = Command::new(daemon::binary().expect("viplb is built"));
        let out = viplb.args(["-n", self.node.name(), "flow", "kill"]).args(words).output().expect("viplb");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

fn config(listen: &str, more: &str) -> String {
    let backend = |number: u8| match listen.contains('[') {
        true => format!("[fd00::{number}]:3306"),
        false => format!("172.18.0.{number}:3306"),
    };
    format!(
        "[vrrp.v]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\nversion = 3\nadvert_int = \"100ms\"\n\
         virtual_ipaddress = [\"{}\"]\n\
         [service.db]\nlisten = \"{listen}\"\n{more}\n\
         check = {{ type = \"tcp\", interval = \"{}ms\", timeout = \"400ms\", fall = 2, rise = 1 }}\n\
         backend = [{{ name = \"s1\", address = \"{}\" }}, {{ name = \"s2\", address = \"{}\" }}]\n",
        if listen.contains('[') { "fd00::201" } else { VIP },
        INTERVAL.as_millis(),
        backend(2),
        backend(3),
    )
}

fn serve(net: &Net, v6: bool) -> [lb_tests::hosts::Server; 2] {
    let at = |last: u8| -> SocketAddr {
        let text = if v6 { format!("[fd00::{last}]:3306") } else { format!("172.18.0.{last}:3306") };
        text.parse().expect("an address")
    };
    let servers = [net.hosts.serve("s1", at(2), 1), net.hosts.serve("s2", at(3), 2)];
    net.node.wait_master();
    net.node.wait_up("db", 2);
    servers
}

/// When the connection is told that it is over; it must be by a reset.
fn reset_at(stream: &mut TcpStream) -> Instant {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Instant::now(),
        other => panic!("no reset, but {other:?}"),
    }
}

fn lost_backend(test: &str, v6: bool) {
    let listen = if v6 { "[fd00::201]:3306" } else { "172.18.0.201:3306" };
    let Some(net) = Net::new(test, listen, "") else { return };
    let _servers = serve(&net, v6);
    let [mut lost, mut kept] = net.connections(20);
    // Half of them are idle from the start; the others have spoken.
    for talk in lost.iter_mut().step_by(2) {
        talk.exchange(10_000).expect("an answer");
    }
    let cut = Instant::now();
    net.hosts.host("sw").ip("link set to-s1 nomaster").expect("cut off");
    for talk in &mut lost {
        let after = reset_at(&mut talk.stream) - cut;
        assert!(after < LIMIT / 3, "told after {after:?}");
    }
    for talk in &mut kept {
        talk.exchange(1000).expect("the other server's go on");
    }
    for _ in 0..10 {
        assert_eq!(net.connect().server, 2);
    }
}

#[test]
fn who_is_connected_to_a_server_that_is_cut_off_is_told_by_a_reset_busy_or_idle() {
    lost_backend("endcut", false);
}

#[test]
fn who_is_connected_by_ipv6_to_a_server_that_is_cut_off_is_told_too() {
    lost_backend("endcut6", true);
}

/// The client has not seen all that the server has sent, and so waits for another number than the record's: it asks back.
#[test]
fn an_end_that_waits_for_another_number_asks_back_and_is_told_exactly() {
    let Some(net) = Net::new("endexact", "172.18.0.201:3306", "") else { return };
    let _servers = serve(&net, false);
    let [mut lost, _kept] = net.connections(1);
    let challenges = || challenge_acks(&net.hosts.host("c"));
    let bytes = || net.node.status().services[0].backends[0].bytes;
    let before = (challenges(), bytes());
    // The server's answer passes the balancer and goes to nobody behind it.
    let balancer = net.hosts.host("a");
    balancer.ip("neigh replace 172.18.0.100 lladdr 02:00:00:00:00:99 dev eth0 nud permanent").expect("lost");
    lost[0].stream.write_all(&[7; 100]).expect("a request");
    wait_until("the answer has passed", LIMIT, || bytes() >= before.1 + 280);
    net.hosts.host("sw").ip("link set to-s1 nomaster").expect("cut off");
    balancer.ip("neigh del 172.18.0.100 dev eth0").expect("found again");
    let mut answer = vec![0; 200];
    let told = loop {
        match lost[0].stream.read(&mut answer) {
            Ok(0) => panic!("closed without a word"),
            Ok(_) => {}
            Err(e) => break e.kind(),
        }
    };
    assert_eq!(told, ErrorKind::ConnectionReset);
    assert!(challenges() > before.0, "it did not have to ask");
}

/// How often a host has asked back for a reset's number.
fn challenge_acks(host: &Netns) -> u64 {
    let text =
        host.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap().expect("counters");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found =
        names.split_whitespace().zip(values.split_whitespace()).find(|(n, _)| *n == "TCPChallengeACK");
    found.expect("the counter").1.parse().expect("a number")
}

#[test]
fn an_operator_ends_connections_by_service_backend_client_and_silence_and_is_told_how_many() {
    let Some(net) = Net::new("endkill", "172.18.0.201:3306", "") else { return };
    let servers = serve(&net, false);
    let [mut of1, mut of2] = net.connections(3);
    let (n1, n2) = (of1.len(), of2.len());
    assert_eq!(net.kill(&["--client", "172.18.0.99"]), "0 connections ended");
    assert_eq!(net.kill(&["--idle", "60m"]), "0 connections ended");
    assert_eq!(net.kill(&["--service", "db", "--backend", "s1"]), format!("{n1} connections ended"));
    for talk in &mut of1 {
        reset_at(&mut talk.stream);
    }
    of2[0].exchange(1000).expect("the other backend's go on");
    assert_eq!(net.kill(&["--client", "172.18.0.0/16"]), format!("{n2} connections ended"));
    for talk in &mut of2 {
        reset_at(&mut talk.stream);
    }
    // The servers were told as well: their threads have ended, and nothing hangs.
    for server in &servers {
        server.wait_idle(LIMIT);
    }
    net.connect().exchange(1000).expect("a new connection");
}

#[test]
fn where_the_file_says_keep_nobody_is_told_and_a_drained_server_has_its_time() {
    let Some(net) = Net::new("endkeep", "172.18.0.201:3306", "on_lost = \"keep\"\non_drain = \"1s\"") else {
        return;
    };
    let _servers = serve(&net, false);
    let [mut of1, mut of2] = net.connections(2);
    net.hosts.host("sw").ip("link set to-s1 nomaster").expect("cut off");
    net.node.wait_up("db", 1);
    net.hosts.host("sw").ip("link set to-s1 master br0").expect("healed");
    net.node.wait_up("db", 2);
    for talk in &mut of1 {
        talk.exchange(1000).expect("it goes on");
    }
    let ordered = Instant::now();
    let mut viplb = Command::new(daemon::binary().expect("viplb is built"));
    assert!(viplb.args(["-n", net.node.name(), "backend", "drain", "db", "s2"]).status().unwrap().success());
    of2[0].exchange(1000).expect("it goes on for a while");
    let after = reset_at(&mut of2[1].stream) - ordered;
    assert!(after >= Duration::from_secs(1), "reset after {after:?}");
    reset_at(&mut of2[0].stream);
}
