//! Traffic through the virtual address, as its two ends see it: whole, spread as configured, counted, and refused at
//! once where nobody can serve it.
//!
//! Each test raises a lab of its own with one real viplb (h1), three database nodes whose place small TCP servers take,
//! and a client. The servers run in this process, on sockets made inside the nodes' namespaces.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lb_common::reason::{Kind, Reason};
use lb_tests::{
    console::Console,
    daemon, down,
    expect::{tcp_counter, wait_until},
    lab::{Balancer, Engine, Lab, Node, Plan, VIP, mac_text},
    netns::Netns,
    node::{self, Cut},
    proc, vip,
};
use lb_userspace::{
    api::snapshot::{Backend, Service, Snapshot},
    datapath::{counters, maps::Maps, pins::Pins},
};

/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
/// A refusal comes at once; a lost SYN would be sent again after a second only.
const AT_ONCE: Duration = Duration::from_secs(1);
const BULK: usize = 20_000_000;
const PORT: u16 = 9000;
/// The second service of the same servers, by weight.
const WEIGHTED_PORT: u16 = 9001;

/// What a client asks of a server, one byte; the answer begins with the server's number.
const NAME: u8 = b'n';
const DOWNLOAD: u8 = b'd';
const UPLOAD: u8 = b'u';

/// A lab with viplb in h1, taken down when it goes out of scope.
struct Net {
    lab: Lab,
    servers: Vec<Server>,
}

impl Net {
    /// Raises the network and the servers, but not yet viplb; `None`, and why on standard error, where it cannot be.
    fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || proc::which("ip").is_none() {
            eprintln!("not run: needs root and iproute2");
            return None;
        }
        let prefix = format!("vtbulk{test}{}", std::process::id());
        let nothing = Balancer::Nothing;
        let plan = Plan { prefix, db: 3, engine: Engine::Standin, h1: nothing, h2: nothing };
        let net = Net { lab: Lab::of(plan.clone()).unwrap(), servers: Vec::new() };
        Lab::up(plan, &Console::quiet()).unwrap();
        let mut net = net;
        net.servers = (0..3).map(|i| Server::start(&net.lab, i)).collect();
        Some(net)
    }

    /// The lab, with viplb running as `config` says and owner of the address.
    fn serve(&self, config: &str) {
        let h1 = self.node("h1");
        fs::write(self.lab.node_dir(&h1).join("viplb.toml"), config).unwrap();
        daemon::start(&self.lab, &h1, &Console::quiet()).unwrap();
        wait_until("h1 owns the address", LIMIT, || vip::owners(&self.lab).unwrap() == ["h1"]);
    }

    /// A configuration with both services; `node` and `check` are more lines of their sections.
    fn config(&self, node: &str, check: &str) -> String {
        let mut text = format!(
            "[node]\nname = \"{}\"\nflows = 4096\n{node}\n[vrrp.vi_1]\ninterface = \"eth0\"\nvirtual_router_id = 51\n\
             priority = 101\nvirtual_ipaddress = [\"{VIP}\"]\n",
            self.lab.viplb_name(&self.node("h1"))
        );
        for (name, port, scheduler) in [("even", PORT, "rr"), ("weighted", WEIGHTED_PORT, "wrr")] {
            text += &format!("[service.{name}]\nlisten = \"{VIP}:{port}\"\nscheduler = \"{scheduler}\"\n");
            for (db, weight) in self.lab.databases().iter().zip([4, 3, 1]) {
                text += &format!(
                    "[[service.{name}.backend]]\nname = \"{}\"\naddress = \"{}:{PORT}\"\nweight = {weight}\n",
                    db.name, db.addr
                );
            }
            text += &format!("[service.{name}.check]\ntype = \"tcp\"\n{check}\n");
        }
        text
    }

    fn node(&self, name: &str) -> Node {
        self.lab.node(name).unwrap()
    }

    fn netns(&self, name: &str) -> Netns {
        self.lab.netns(&self.node(name))
    }

    fn command(&self, node: &str, words: &[&str]) -> Output {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        node::command(&self.lab, &self.node(node), &words).unwrap().output().unwrap()
    }

    /// `viplb -n NAME …` in h1.
    fn viplb(&self, words: &[&str]) -> Output {
        let binary = daemon::binary().unwrap();
        let name = self.lab.viplb_name(&self.node("h1"));
        let out = self.command("h1", &[&[binary.to_str().unwrap(), "-n", &name], words].concat());
        assert!(out.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&out.stderr));
        out
    }

    fn snapshot(&self) -> Snapshot {
        serde_json::from_slice(&self.viplb(&["-j", "status"]).stdout).unwrap()
    }

    fn service(&self, name: &str) -> Service {
        self.snapshot().services.into_iter().find(|s| s.name == name).unwrap()
    }

    fn backends(&self, service: &str) -> Vec<Backend> {
        self.service(service).backends
    }

    fn wait_for_states(&self, states: [&str; 3]) {
        let seen = || self.backends("even").into_iter().map(|b| b.state).collect::<Vec<_>>();
        wait_until(&format!("backends are {states:?}"), LIMIT, || seen() == states);
    }

    fn log(&self) -> PathBuf {
        self.lab.node_dir(&self.node("h1")).join("viplb.log")
    }

    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let stream = self
            .netns("client")
            .run(|| TcpStream::connect_timeout(&SocketAddr::from((VIP, port)), LIMIT))
            .unwrap()?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// Connects and asks who answers: the connection and the number of the server.
    fn ask(&self, port: u16) -> (TcpStream, usize) {
        let mut stream = self.connect(port).unwrap();
        stream.write_all(&[NAME]).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        (stream, usize::from(answer[0]))
    }

    /// `n` connections, all held open: how many each server has.
    fn spread(&self, port: u16, n: usize) -> [usize; 3] {
        let open: Vec<(TcpStream, usize)> = (0..n).map(|_| self.ask(port)).collect();
        let mut counts = [0; 3];
        for (_, server) in &open {
            counts[*server] += 1;
        }
        counts
    }

    /// TCP segments with a wrong checksum that any node of the lab has received.
    fn checksum_errors(&self) -> BTreeMap<String, u64> {
        let errors = |node: &Node| self.lab.netns(node).run(|| tcp_counter("InCsumErrors")).unwrap();
        self.lab
            .nodes()
            .iter()
            .map(|node| (node.name.clone(), errors(node)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    /// 20 MB each way through the address, unharmed.
    fn transfer(&self) {
        let mut down = self.connect(PORT).unwrap();
        down.write_all(&[DOWNLOAD]).unwrap();
        let mut data = Vec::with_capacity(BULK + 1);
        down.read_to_end(&mut data).unwrap();
        assert_eq!(data.len(), BULK + 1, "download");
        assert_eq!(fnv(&data[1..]), fnv(&pattern()), "download");

        let mut up = self.connect(PORT).unwrap();
        up.write_all(&[UPLOAD]).unwrap();
        up.write_all(&pattern()).unwrap();
        up.shutdown(Shutdown::Write).unwrap();
        let mut answer = [0; 9];
        up.read_exact(&mut answer).unwrap();
        assert_eq!(answer[1..], fnv(&pattern()).to_be_bytes(), "upload");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.servers.clear();
        down::end(&self.lab.plan().prefix);
    }
}

/// A server in one of the database nodes: says its number, takes and gives bulk data.
struct Server {
    listener: TcpListener,
    accepted: Arc<AtomicU64>,
}

impl Server {
    fn start(lab: &Lab, number: usize) -> Self {
        let db = &lab.databases()[number];
        let listener =
            lab.netns(db).run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap().unwrap();
        let accepted = Arc::new(AtomicU64::new(0));
        let (shared, count) = (listener.try_clone().unwrap(), Arc::clone(&accepted));
        thread::spawn(move || {
            while let Ok((stream, _)) = shared.accept() {
                count.fetch_add(1, Ordering::Relaxed);
                // A check resets what it connected, and a client may go: neither matters to the server.
                thread::spawn(move || drop(answer(stream, number as u8)));
            }
        });
        Server { listener, accepted }
    }
}

impl Drop for Server {
    /// Stops listening; connections that are open go on.
    fn drop(&mut self) {
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

fn answer(mut stream: TcpStream, number: u8) -> io::Result<()> {
    let mut question = [0];
    loop {
        stream.read_exact(&mut question)?;
        match question[0] {
            DOWNLOAD => {
                stream.write_all(&[number])?;
                return stream.write_all(&pattern());
            }
            UPLOAD => {
                let mut data = Vec::with_capacity(BULK);
                stream.read_to_end(&mut data)?;
                stream.write_all(&[number])?;
                return stream.write_all(&fnv(&data).to_be_bytes());
            }
            _ => stream.write_all(&[number])?,
        }
    }
}

/// Bytes in which a lost, doubled or swapped piece shows (a multiplicative generator modulo 2^64).
fn pattern() -> Vec<u8> {
    let mut state = 1_u64;
    (0..BULK)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// FNV-1a.
fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// 20 MB both ways, with the offloads that a container has by default and with none.
fn bulk_through(hook: &str) {
    let Some(net) = Net::new(hook) else { return };
    net.serve(&net.config(&format!("hook = \"{hook}\""), "interval = \"1s\""));
    net.wait_for_states(["up"; 3]);
    let seen = net.snapshot();
    let eth0 = seen.interfaces.iter().find(|i| i.name == "eth0").expect("programs on eth0");
    assert_eq!((eth0.hook.as_str(), eth0.why.as_str()), (hook, "configured"));
    net.transfer();
    assert_eq!(net.checksum_errors(), BTreeMap::new(), "with offloads");
    let packets = net.service("even").packets;
    let segments = 2 * BULK as u64 / 1448;
    assert!(packets < segments / 2, "super-packets pass whole: {packets} packets for {segments} segments");
    if proc::which("ethtool").is_none() {
        eprintln!("not run: bulk data without offloads ({hook}): no `ethtool`");
        return;
    }
    for name in ["client", "db1", "db2", "db3"] {
        let out = net.command(name, &["ethtool", "-K", "eth0", "tx", "off", "gso", "off", "tso", "off"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    net.transfer();
    assert_eq!(net.checksum_errors(), BTreeMap::new(), "without offloads");
    // The snapshot follows the counters a quarter of a second behind.
    wait_until("every segment by itself", LIMIT, || net.service("even").packets > packets + segments);
}

#[test]
fn bulk_data_passes_unharmed_both_ways_by_tcx() {
    bulk_through("tcx");
}

#[test]
fn bulk_data_passes_unharmed_both_ways_by_clsact() {
    bulk_through("clsact");
}

#[test]
fn connections_are_spread_evenly_or_by_weight_and_counted_where_they_went() {
    let Some(net) = Net::new("spr") else { return };
    net.serve(&net.config("", "interval = \"1s\""));
    net.wait_for_states(["up"; 3]);
    let even = net.spread(PORT, 200);
    assert!(even.iter().all(|n| (66..=67).contains(n)), "{even:?}");
    let weighted = net.spread(WEIGHTED_PORT, 200);
    assert_eq!(weighted, [100, 75, 25], "weights 4, 3, 1");
    for (service, counts) in [("even", even), ("weighted", weighted)] {
        let counted = || net.backends(service).iter().map(|b| b.flows as usize).collect::<Vec<_>>();
        wait_until("status has counted the connections", LIMIT, || counted() == counts);
        let seen = net.service(service);
        assert_eq!(seen.flows, 200);
        assert_eq!(seen.packets, seen.backends.iter().map(|b| b.packets).sum::<u64>());
        assert_eq!(seen.bytes, seen.backends.iter().map(|b| b.bytes).sum::<u64>());
    }
}

#[test]
fn what_is_over_a_limit_is_refused_at_once_and_status_shows_how_many_there_are() {
    let Some(net) = Net::new("lim") else { return };
    let config = net.config("", "interval = \"1s\"");
    let config = config.replacen("scheduler = \"rr\"\n", "scheduler = \"lc\"\nmax_connections = 5\n", 1);
    net.serve(&config.replacen("weight = 4\n", "weight = 4\nmax_connections = 1\n", 1));
    net.wait_for_states(["up"; 3]);
    let mut open: Vec<_> = (0..5).map(|_| net.ask(PORT)).collect();
    let of = |server| open.iter().filter(|(_, s)| *s == server).count();
    assert_eq!([0, 1, 2].map(of), [1, 2, 2]);
    let start = Instant::now();
    let error = net.connect(PORT).expect_err("over the limit");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    let shown = || {
        let s = net.service("even");
        (s.active, s.limit, s.backends.iter().map(|b| (b.active, b.limit)).collect::<Vec<_>>())
    };
    wait_until("status shows them", LIMIT, || shown() == (5, 5, vec![(1, 1), (2, 0), (2, 0)]));
    wait_until("and why one was refused", LIMIT, || net.snapshot().drops.get("service-full") == Some(&1));
    open.pop();
    wait_until("there is room again", LIMIT, || net.connect(PORT).is_ok());
}

#[test]
fn a_backend_that_goes_down_gets_no_new_connections_until_it_is_back() {
    let Some(mut net) = Net::new("dow") else { return };
    net.serve(&net.config("", "interval = \"200ms\"\nrise = 2\nfall = 3"));
    net.wait_for_states(["up"; 3]);
    let (mut old, number) = std::iter::repeat_with(|| net.ask(PORT)).find(|(_, n)| *n == 1).unwrap();
    net.servers.remove(1);
    net.wait_for_states(["up", "down", "up"]);
    let seen = net.service("even");
    assert!(seen.backends[1].cause.contains("refused"), "{}", seen.backends[1].cause);
    assert_eq!((seen.up, net.viplb(&["status"]).status.code()), (2, Some(1)), "degraded");
    assert_eq!(net.spread(PORT, 20), [10, 0, 10]);
    // Who was connected to it, and said nothing, is told.
    let told = old.read(&mut [0]).unwrap_err();
    assert_eq!(told.kind(), io::ErrorKind::ConnectionReset, "of server {number}");

    let again = Server::start(&net.lab, 1);
    net.servers.insert(1, again);
    net.wait_for_states(["up"; 3]);
    assert_eq!(net.spread(PORT, 21), [7; 3]);
    // The last failed check is a reason to call a service degraded until the next one has passed.
    wait_until("healthy", LIMIT, || net.viplb(&["status"]).status.code() == Some(0));
}

#[test]
fn without_any_backend_a_connection_is_refused_at_once() {
    let Some(mut net) = Net::new("non") else { return };
    net.servers.clear();
    net.serve(&net.config("", "interval = \"200ms\""));
    net.wait_for_states(["down"; 3]);
    let refused_before = net.service("even").refused;
    for _ in 0..5 {
        let start = Instant::now();
        let error = net.connect(PORT).expect_err("nobody can serve it");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
    wait_until("the refusals are counted", LIMIT, || net.service("even").refused == refused_before + 5);
    assert_eq!(net.snapshot().drops.get("no-backend"), Some(&5));
}

#[test]
fn a_backend_gets_no_connection_before_its_first_passed_check() {
    let Some(net) = Net::new("unc") else { return };
    // db3's check waits for an answer for as long as db3 is cut off; its hardware address is known all the while.
    let db3 = net.node("db3");
    let known = format!("neigh replace {} lladdr {} dev eth0 nud permanent", db3.addr, mac_text(db3.mac()));
    net.netns("h1").ip(&known).unwrap();
    node::cut(&net.lab, &db3, Cut::Silent).unwrap();
    net.serve(&net.config("", "interval = \"60s\"\ntimeout = \"60s\""));
    net.wait_for_states(["up", "up", "unchecked"]);
    assert_eq!(net.spread(PORT, 20), [10, 10, 0]);
    assert_eq!(net.servers[2].accepted.load(Ordering::Relaxed), 0);
    assert_eq!(net.backends("even")[2].flows, 0);
    node::heal(&net.lab, &db3).unwrap();
    net.wait_for_states(["up"; 3]);
    assert_eq!(net.spread(PORT, 21), [7; 3]);
}

/// What eth0 of h1 has received and sent, and what became of it.
struct Account {
    received: u64,
    sent: u64,
    reasons: Vec<(Reason, u64)>,
}

impl Account {
    /// At a moment in which nothing moves.
    fn of(net: &Net) -> Self {
        let maps = Maps::open(&Pins::of(&net.lab.viplb_name(&net.node("h1")))).unwrap();
        let look = || {
            let out = net.command("h1", &["ip", "-s", "-j", "link", "show", "eth0"]).stdout;
            let links: serde_json::Value = serde_json::from_slice(&out).unwrap();
            ["rx", "tx"].map(|side| links[0]["stats64"][side]["packets"].as_u64().unwrap())
        };
        let mut account = None;
        wait_until("the interface is quiet for a moment", LIMIT, || {
            let before = look();
            let reasons = counters::reasons(&maps).unwrap();
            account = Some(Account { received: before[0], sent: before[1], reasons });
            look() == before
        });
        account.unwrap()
    }

    /// What came since `earlier`, of the reasons that `which` picks.
    fn since(&self, earlier: &Self, which: impl Fn(Reason) -> bool) -> u64 {
        let sum =
            |account: &Self| account.reasons.iter().filter(|(r, _)| which(*r)).map(|(_, n)| n).sum::<u64>();
        sum(self) - sum(earlier)
    }
}

#[test]
fn every_packet_ends_in_exactly_one_counted_reason() {
    let Some(net) = Net::new("cnt") else { return };
    net.serve(&net.config("", "interval = \"10s\""));
    net.wait_for_states(["up"; 3]);
    let before = Account::of(&net);
    net.spread(PORT, 50);
    net.transfer();
    assert!(net.command("client", &["ping", "-c", "3", "-i", "0.2", &VIP.to_string()]).status.success());
    // To the node itself and to no service: passed on to its own stack, which refuses.
    net.netns("client").run(|| TcpStream::connect((net.node("h1").addr, 1)).unwrap_err()).unwrap();
    net.connect(1).expect_err("no service");
    let after = Account::of(&net);

    let egress = |r: Reason| matches!(r, Reason::EgressPassed | Reason::EgressFenced);
    assert_eq!(after.received - before.received, after.since(&before, |r| !egress(r)), "received");
    let sent = |r: Reason| match r.kind() {
        Kind::Passed => r == Reason::EgressPassed,
        kind => kind != Kind::Dropped,
    };
    assert_eq!(after.sent - before.sent, after.since(&before, sent), "sent");
    for (reason, at_least) in [
        (Reason::NewFlow, 52),
        (Reason::Forwarded, 100),
        (Reason::Returned, 100),
        (Reason::EchoAnswered, 3),
        (Reason::NoService, 1),
        (Reason::NotVirtual, 1),
        (Reason::EgressPassed, 1),
    ] {
        let n = after.since(&before, |r| r == reason);
        assert!(n >= at_least, "{}: {n}", reason.word());
    }
    assert_eq!(after.since(&before, |r| matches!(r.kind(), Kind::Dropped)), 0, "nothing was dropped");
    wait_until("status shows the same", LIMIT, || {
        let shown = net.snapshot().packets;
        let count = |r: &Reason| shown.iter().find(|p| p.reason == r.word()).map_or(0, |p| p.count);
        after.reasons.iter().all(|(r, n)| count(r) >= *n)
    });
}

#[test]
fn the_datapath_logs_new_flows_while_it_is_asked_to_and_forwarded_packets_never() {
    let Some(net) = Net::new("log") else { return };
    net.serve(&net.config("", "interval = \"1s\""));
    net.wait_for_states(["up"; 3]);
    let lines = || {
        let text = fs::read_to_string(net.log()).unwrap();
        text.lines().filter(|l| l.contains("datapath: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let new_flows = || lines().iter().filter(|l| l.contains("datapath: new-flow ")).count();
    drop(net.ask(PORT));
    assert_eq!(lines(), [""; 0], "off by default");

    assert!(net.viplb(&["log", "datapath", "on"]).status.success());
    wait_until("status says that it is on", LIMIT, || net.snapshot().node.datapath_log);
    net.transfer();
    wait_until("both connections are in the log", LIMIT, || new_flows() == 2);
    let addresses = format!(" {VIP} > 172.18.0.");
    assert!(lines().iter().all(|l| !l.contains("new-flow") || l.contains(&addresses)), "{:?}", lines());
    assert!(net.viplb(&["log", "datapath", "off"]).status.success());
    wait_until("status says that it is off", LIMIT, || !net.snapshot().node.datapath_log);
    drop(net.ask(PORT));

    // Lines keep their order: once this connection is in the log, one made while it was off would be too.
    assert!(net.viplb(&["log", "datapath", "on"]).status.success());
    drop(net.ask(PORT));
    wait_until("the third connection is in the log", LIMIT, || new_flows() >= 3);
    assert_eq!(new_flows(), 3);
    let text = lines().join("\n");
    assert!(!text.contains("forwarded") && !text.contains("returned"), "{text}");
}
