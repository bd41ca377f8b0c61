//! A server that is frozen: its kernel takes connections, and nobody greets them. Clients that wait for the greeting get it from
//! another server, before the checks have found out; who has spoken is told that the connection is over.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Talk},
};
use lb_userspace::api::snapshot::Backend;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A wait of more than 1.2 s is a failure to users; a machine that runs other tests has a little more.
const BOUND: Duration = Duration::from_millis(2500);
/// Where a server process is told what it is.
const ADDRESS: &str = "VIPLB_TEST_SERVER";

/// A server in a process of its own, so that it can be frozen: it greets with its number and sends everything back, and answers
/// checks by HTTP on the next port.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn a_server() {
    let Ok(what) = std::env::var(ADDRESS) else { return };
    let (number, at) = what.split_once(' ').expect("number and address");
    let (number, at): (u8, SocketAddr) = (number.parse().expect("a number"), at.parse().expect("an address"));
    let checks = TcpListener::bind(SocketAddr::new(at.ip(), at.port() + 1)).expect("bind");
    thread::spawn(move || {
        for stream in checks.incoming() {
            let mut stream = stream.expect("a check");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    for stream in TcpListener::bind(at).expect("bind").incoming() {
        let mut stream = stream.expect("a client");
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            let mut send = stream.write_all(&[number]);
            while send.is_ok() {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(n) => send = stream.write_all(&buffer[..n]),
                }
            }
        });
    }
}

struct Server(Child);

impl Server {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("a signal");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A balancer `a`, a client `c` and two servers on one switch.
struct Net {
    // Goes before its host does.
    node: Daemon,
    servers: Vec<Server>,
    hosts: Hosts,
    v6: bool,
}

impl Net {
    /// `sysctls` are of a host each.
    fn new(test: &str, v6: bool, more: &str, sysctls: &[(&str, &str, &str)]) -> Option<Self> {
        let mut hosts = Hosts::new(test)?;
        for (host, last) in [("s1", 2), ("s2", 3), ("a", 7), ("c", 100)] {
            let addresses = [format!("172.18.0.{last}/16"), format!("fd00::{last}/64")];
            hosts.plug(host, "eth0", &addresses.each_ref().map(String::as_str), "sw");
        }
        for (host, key, value) in sysctls {
            hosts.host(host).sysctl(key, value).expect("a setting");
        }
        let serve = |n: u8| {
            let mut server = Command::new(std::env::current_exe().expect("this test"));
            server.args(["--exact", "a_server", "--ignored", "--nocapture"]);
            server.env(ADDRESS, format!("{n} {}", address(v6, n + 1)));
            server.stdin(Stdio::null()).stdout(Stdio::null());
            Server(hosts.host(&format!("s{n}")).spawn(server).expect("a server"))
        };
        let servers = vec![serve(1), serve(2)];
        let node = hosts.start("a", &config(v6, more));
        node.wait_master();
        node.wait_up("db", 2);
        Some(Self { node, servers, hosts, v6 })
    }

    fn backend(&self, n: usize) -> Backend {
        self.node.status().services.remove(0).backends.remove(n - 1)
    }

    /// Connects so often at once and waits for the greetings; how long each took.
    fn connect(&self, count: usize) -> Vec<std::io::Result<(Talk, Duration)>> {
        let connect = || {
            let begun = Instant::now();
            let talk = self.hosts.connect("c", address(self.v6, 201))?;
            Ok((talk, begun.elapsed()))
        };
        thread::scope(|scope| {
            let all: Vec<_> = (0..count).map(|_| scope.spawn(connect)).collect();
            all.into_iter().map(|one| one.join().expect("a client")).collect()
        })
    }

    /// Clients connect all the time while the first server is frozen; each is greeted in time, and goes on.
    fn freeze(&self) {
        self.servers[0].signal(Signal::SIGSTOP);
        let frozen = Instant::now();
        let mut longest = Duration::ZERO;
        let (mut talks, mut rounds) = (Vec::new(), 0);
        while rounds < 3 || self.backend(1).state == "up" && frozen.elapsed() < LIMIT {
            rounds += 1;
            for greeted in self.connect(6) {
                let (talk, after) = greeted.expect("nobody fails");
                assert_eq!(talk.server, 2, "the other one is frozen");
                longest = longest.max(after);
                talks.push(talk);
            }
        }
        println!("{} connections, the longest waited {longest:?}", talks.len());
        assert!(longest < BOUND, "{longest:?}");
        assert!(self.backend(1).moved > 0, "some came to the frozen one first");
        for talk in &mut talks {
            talk.exchange(1 << 20).expect("it goes on with the other server");
        }
    }
}

fn address(v6: bool, last: u8) -> SocketAddr {
    let text = if v6 { format!("[fd00::{last}]:3306") } else { format!("172.18.0.{last}:3306") };
    text.parse().expect("an address")
}

fn config(v6: bool, more: &str) -> String {
    format!(
        "[vrrp.v]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\nversion = 3\nadvert_int = \"100ms\"\n\
         virtual_ipaddress = [\"{}\"]\n\
         [service.db]\nlisten = \"{}\"\nmove_ungreeted = true\n{more}\n\
         check = {{ type = \"http\", port = 3307, interval = \"500ms\", timeout = \"400ms\", fall = 2, rise = 1 }}\n\
         backend = [{{ name = \"s1\", address = \"{}\" }}, {{ name = \"s2\", address = \"{}\" }}]\n",
        address(v6, 201).ip(),
        address(v6, 201),
        address(v6, 2),
        address(v6, 3),
    )
}

#[test]
fn clients_of_a_frozen_server_are_greeted_by_another() {
    let Some(net) = Net::new("mv4", false, "", &[]) else { return };
    net.freeze();
}

#[test]
fn clients_by_ipv6_of_a_frozen_server_are_greeted_by_another() {
    let Some(net) = Net::new("mv6", true, "", &[]) else { return };
    net.freeze();
}

#[test]
fn clients_without_timestamps_and_selective_acknowledgements_are_greeted_by_another() {
    let settings = [("c", "net/ipv4/tcp_timestamps", "0"), ("c", "net/ipv4/tcp_sack", "0")];
    let Some(net) = Net::new("mvplain", false, "", &settings) else { return };
    net.freeze();
}

#[test]
fn clients_of_a_server_that_has_this_node_as_gateway_are_greeted_by_another() {
    let Some(net) = Net::new("mvdnat", false, "mode = \"dnat\"", &[]) else { return };
    for server in ["s1", "s2"] {
        net.hosts.host(server).ip("route add 172.18.0.100/32 via 172.18.0.7").expect("a route");
    }
    net.freeze();
}

#[test]
fn who_is_moved_has_another_server_for_good_when_the_first_one_wakes_up() {
    let Some(net) = Net::new("mvwake", false, "", &[]) else { return };
    net.servers[0].signal(Signal::SIGSTOP);
    let mut talks: Vec<_> =
        net.connect(4).into_iter().map(|greeted| greeted.expect("nobody fails").0).collect();
    net.servers[0].signal(Signal::SIGCONT);
    net.node.wait_up("db", 2);
    for talk in &mut talks {
        assert_eq!(talk.server, 2);
        talk.exchange(100_000).expect("it goes on");
    }
    let new: Vec<_> =
        net.connect(4).into_iter().map(|greeted| greeted.expect("both serve").0.server).collect();
    assert!(new.contains(&1) && new.contains(&2), "{new:?}");
}

/// It would be told other options than its client was: the client is told that it is over rather than something that is not true.
#[test]
fn a_client_that_no_server_can_take_as_the_first_one_did_is_reset() {
    let other = [("s2", "net/ipv4/tcp_window_scaling", "0")];
    let Some(net) = Net::new("mvother", false, "", &other) else { return };
    net.servers[0].signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let (greeted, reset): (Vec<_>, Vec<_>) = net.connect(4).into_iter().partition(Result::is_ok);
    assert_eq!((greeted.len(), reset.len()), (2, 2));
    for error in reset.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(begun.elapsed() < LIMIT / 3, "told after {:?}", begun.elapsed());
    assert_eq!(net.backend(1).moved, 0);
}

#[test]
fn a_client_that_has_spoken_to_the_frozen_server_is_reset_when_that_is_down() {
    let Some(net) = Net::new("mvspoke", false, "", &[]) else { return };
    net.servers[0].signal(Signal::SIGSTOP);
    let speak = || {
        let to = address(false, 201);
        let mut stream =
            net.hosts.host("c").run(|| TcpStream::connect_timeout(&to, LIMIT)).expect("c").expect("connects");
        stream.write_all(b"first").expect("said");
        stream
    };
    let mut all = [speak(), speak()];
    let mut heard = 0;
    for stream in &mut all {
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        match stream.read(&mut [0; 64]) {
            Ok(n) if n > 0 => heard += 1,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("neither greeted nor reset: {other:?}"),
        }
    }
    assert_eq!(heard, 1, "one came to each");
    wait_until("it is down", LIMIT, || net.backend(1).state == "down");
    assert_eq!(net.backend(1).moved, 0);
}
