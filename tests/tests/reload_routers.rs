//! Virtual routers that come, go and change by a reload: the others notice nothing, and what their election decides is what the
//! protocol says. Whole daemons, real sockets, clients that go on without a pause; and keepalived as the peer.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
    proc,
    steady::{self, Steady},
};
use lb_userspace::api::Reloaded;

/// Nobody frees flows while a daemon is loaded, which takes its time on a busy machine.
const ROOM: u32 = 1 << 15;
const A: &str = "172.18.0.201:3306";
const B: &str = "172.18.0.202:3306";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// A virtual router of this name, id and priority at an address.
fn router(name: &str, id: u8, priority: u8, address: &str) -> String {
    format!(
        "[vrrp.{name}]\ninterface = \"eth0\"\nvirtual_router_id = {id}\npriority = {priority}\nversion = 3\n\
         advert_int = \"100ms\"\nvirtual_ipaddress = [\"{address}\"]\n"
    )
}

fn a(priority: u8) -> String {
    router("a", 51, priority, "172.18.0.201")
}

fn b(priority: u8) -> String {
    router("b", 52, priority, "172.18.0.202")
}

/// A service with both databases behind it.
fn service(name: &str, listen: &str) -> String {
    format!(
        "[service.{name}]\nlisten = \"{listen}\"\nbackend = [{{ address = \"172.18.0.2\" }}, {{ address = \"172.18.0.3\" }}]\n\
         check = {{ type = \"tcp\", interval = \"200ms\", rise = 1, fall = 2 }}\n"
    )
}

fn udp() -> String {
    "[service.udp]\nlisten = \"172.18.0.201:3308\"\nprotocol = \"udp\"\nbackend = [{ address = \"172.18.0.2\" }]\n\
     check = { type = \"tcp\", port = 3306, interval = \"200ms\", rise = 1, fall = 2 }\n"
        .into()
}

fn sync(node: &str) -> String {
    let peer = if node == "n1" { "172.18.0.8" } else { "172.18.0.7" };
    format!("[sync]\npeers = [\"{peer}\"]\nkey_file = \"sync.key\"\nfailback_wait = \"20s\"\n")
}

/// Two databases, two nodes and a client.
struct Scene {
    hosts: Hosts,
    _servers: Vec<Server>,
}

impl Scene {
    fn raise(test: &str) -> Option<Self> {
        let mut hosts = Hosts::new(test)?;
        for (host, address) in [
            ("d1", "172.18.0.2"),
            ("d2", "172.18.0.3"),
            ("n1", "172.18.0.7"),
            ("n2", "172.18.0.8"),
            ("c", "172.18.0.100"),
        ] {
            hosts.plug(host, "eth0", &[&format!("{address}/16")], "x");
        }
        let servers = [("d1", 1), ("d2", 2)].map(|(host, n)| hosts.serve(host, at("0.0.0.0:3306"), n));
        steady::echo_datagrams(&hosts.host("d1"), at("172.18.0.2:3308"));
        hosts.secret("sync.key", "1 0123456789abcdef0123456789abcdef\n");
        Some(Self { hosts, _servers: servers.into() })
    }

    fn start(&self, node: &str, config: &str) -> Daemon {
        self.hosts.start_with_room(node, ROOM, config)
    }

    fn order(&self, node: &str, daemon: &Daemon, config: &str, more: &[&str]) -> Output {
        self.hosts.configure(node, ROOM, config);
        daemon.viplb(&[&["-j", "reload"], more].concat())
    }

    /// Has another configuration taken in; what has changed.
    #[track_caller]
    fn reload(&self, node: &str, daemon: &Daemon, config: &str) -> Vec<String> {
        let out = self.order(node, daemon, config, &[]);
        assert!(out.status.success(), "{}\n{}", words(&out), daemon.log());
        lines(&out)
    }

    fn connect(&self, to: &str) -> Talk {
        self.hosts.connect("c", at(to)).unwrap_or_else(|e| panic!("{to}: {e}"))
    }

    fn clients(&self) -> Steady {
        let client = self.hosts.host("c");
        Steady::new((0..4).map(|_| self.connect(A)).collect())
            .with_datagrams(&client, at("172.18.0.201:3308"))
            .with_new_connections(&client, at(A))
    }

    fn has_address(&self, host: &str, address: &str) -> bool {
        let show = || Command::new("ip").args(["-o", "addr", "show", "dev", "eth0"]).output();
        let out = self.hosts.host(host).run(show).unwrap().expect("ip");
        String::from_utf8_lossy(&out.stdout).contains(address)
    }
}

fn lines(out: &Output) -> Vec<String> {
    let reloaded: Reloaded = serde_json::from_slice(&out.stdout).expect("what has changed");
    reloaded.changes.iter().map(ToString::to_string).collect()
}

/// What shows that a router was left alone.
fn stands(daemon: &Daemon, router: &str) -> (String, u64, String, usize) {
    let v = daemon.status().vrrp.into_iter().find(|v| v.name == router).expect("the router");
    (v.state, v.since, v.reason, daemon.changes_of(router))
}

fn go_on(clients: &Steady) {
    let answered = clients.answered();
    wait_until("clients go on", LIMIT, || clients.answered() > answered + 200);
}

#[test]
fn a_router_comes_and_goes_on_both_nodes_and_clients_of_the_other_one_lose_nothing() {
    let Some(scene) = Scene::raise("come") else { return };
    let first = |node: &str, priority| format!("{}{}{}{}", a(priority), service("db", A), udp(), sync(node));
    let (n1, n2) = (scene.start("n1", &first("n1", 200)), scene.start("n2", &first("n2", 100)));
    n1.wait_state("a", "Master");
    for daemon in [&n1, &n2] {
        daemon.wait_up("db", 2);
        daemon.wait_up("udp", 1);
    }
    let in_sync = |daemon: &Daemon, router: &str| {
        let routers = daemon.status().sync.expect("it replicates").routers;
        routers.iter().any(|r| r.name == router && r.state == "in-sync")
    };
    wait_until("n2 has the flows", LIMIT, || in_sync(&n2, "a"));
    let clients = scene.clients();
    let before = [stands(&n1, "a"), stands(&n2, "a")];
    let unharmed = || {
        go_on(&clients);
        assert_eq!([stands(&n1, "a"), stands(&n2, "a")], before);
        assert!(in_sync(&n2, "a"), "the peers go on with each other");
    };

    // Before the other one in the file; the second node is the better one for it.
    let both =
        |node: &str, priority, other| format!("{}{}{}", b(other), first(node, priority), service("other", B));
    let new = ["+ vrrp b: virtual_router_id 52 on eth0, priority 150, 172.18.0.202, begins as Backup"];
    let dry = scene.order("n2", &n2, &both("n2", 100, 150), &["--dry-run"]);
    assert_eq!(lines(&dry)[..1], new, "{}", words(&dry));
    assert_eq!(n2.status().vrrp.len(), 1, "it was a dry run");
    assert_eq!(scene.reload("n2", &n2, &both("n2", 100, 150))[..1], new);
    unharmed();
    n2.wait_state("b", "Master");
    n2.wait_up("other", 2);
    scene.reload("n1", &n1, &both("n1", 200, 50));
    n1.wait_up("other", 2);
    n1.wait_state("b", "Backup");
    unharmed();
    assert!(scene.has_address("n2", "172.18.0.202") && !scene.has_address("n1", "172.18.0.202"));
    assert_eq!(stands(&n1, "b").3, 1, "it was elected to nothing");
    let mut talks: Vec<_> = (0..6).map(|_| scene.connect(B)).collect();
    talks.iter_mut().for_each(|talk| talk.exchange(3000).expect("an answer"));
    wait_until("n1 has its flows", LIMIT, || in_sync(&n1, "b"));

    // It goes from its owner: the other node goes on with its connections.
    let gone = scene.reload("n2", &n2, &first("n2", 100));
    assert!(gone[0].starts_with("- vrrp b: gives its addresses up"), "{gone:?}");
    n1.wait_state("b", "Master");
    assert!(scene.has_address("n1", "172.18.0.202") && !scene.has_address("n2", "172.18.0.202"));
    talks.iter_mut().for_each(|talk| talk.exchange(3000).expect("through the other node"));
    unharmed();
    assert_eq!(n2.status().vrrp.len(), 1);
    wait_until("its flows are forgotten where it was", LIMIT, || {
        n2.status().leaving.iter().all(|l| l.connections == 0)
    });
    talks.iter_mut().for_each(|talk| talk.exchange(3000).expect("which is nobody's harm"));

    // It comes again, and pre-empts once it has the flows.
    scene.reload("n2", &n2, &both("n2", 100, 150));
    n2.wait_state("b", "Master");
    n1.wait_state("b", "Backup");
    talks.iter_mut().for_each(|talk| talk.exchange(3000).expect("through the first node"));
    unharmed();

    // It goes from both, and nobody answers for its address any more.
    scene.reload("n1", &n1, &first("n1", 200));
    scene.reload("n2", &n2, &first("n2", 100));
    assert!(!scene.has_address("n1", "172.18.0.202") && !scene.has_address("n2", "172.18.0.202"));
    let connect = || TcpStream::connect_timeout(&at(B), Duration::from_millis(300));
    assert!(scene.hosts.host("c").run(connect).unwrap().is_err());
    unharmed();
    clients.toll().is_nothing();
}

#[test]
fn a_priority_moves_the_mastership_by_protocol_and_of_that_router_alone() {
    let Some(scene) = Scene::raise("prio") else { return };
    let config = |first, second| {
        let services = format!("{}{}{}", service("db", A), udp(), service("other", B));
        format!("{}{}{services}", a(first), b(second))
    };
    let (n1, n2) = (scene.start("n1", &config(200, 200)), scene.start("n2", &config(100, 100)));
    for daemon in [&n1, &n2] {
        for (service, up) in [("db", 2), ("udp", 1), ("other", 2)] {
            daemon.wait_up(service, up);
        }
    }
    for router in ["a", "b"] {
        n1.wait_state(router, "Master");
        n2.wait_state(router, "Backup");
    }
    let clients = scene.clients();
    let before = [stands(&n1, "a"), stands(&n2, "a")];
    // Still the highest: nothing happens.
    assert_eq!(
        scene.reload("n1", &n1, &config(190, 150)),
        ["~ vrrp a: priority 200 → 190", "~ vrrp b: priority 200 → 150"]
    );
    go_on(&clients);
    assert_eq!(stands(&n1, "b").3, 2, "started, and owner since");
    scene.reload("n1", &n1, &config(190, 50));
    n2.wait_state("b", "Master");
    n1.wait_state("b", "Backup");
    scene.reload("n1", &n1, &config(190, 150));
    n1.wait_state("b", "Master");
    n2.wait_state("b", "Backup");
    go_on(&clients);
    assert_eq!([stands(&n1, "a"), stands(&n2, "a")], before);
    clients.toll().is_nothing();
}

#[test]
fn a_router_joins_a_sync_group_and_leaves_it_and_owns_with_the_others() {
    let Some(scene) = Scene::raise("group") else { return };
    let third = |priority| router("c", 53, priority, "172.18.0.203");
    let alone = |priority| {
        let group = "[sync_group.g]\ngroup = [\"a\", \"c\"]\n";
        format!("{}{}{group}{}", a(priority), third(priority), service("db", A))
    };
    let both = |priority| {
        let group = "[sync_group.g]\ngroup = [\"b\", \"a\", \"c\"]\n";
        let routers = format!("{}{}{}", b(priority), a(priority), third(priority));
        format!("{routers}{group}{}{}", service("db", A), service("other", B))
    };
    let (n1, n2) = (scene.start("n1", &alone(200)), scene.start("n2", &alone(100)));
    for router in ["a", "c"] {
        n1.wait_state(router, "Master");
    }
    let before = stands(&n1, "a");
    for (node, daemon, priority) in [("n2", &n2, 100), ("n1", &n1, 200)] {
        let changes = scene.reload(node, daemon, &both(priority));
        assert!(changes.contains(&"~ sync_group g: + b".to_owned()), "{changes:?}");
    }
    n1.wait_state("b", "Master");
    n2.wait_state("b", "Backup");
    assert_eq!(stands(&n1, "a"), before);
    scene.reload("n1", &n1, &both(50));
    for router in ["a", "b", "c"] {
        n2.wait_state(router, "Master");
        n1.wait_state(router, "Backup");
    }
    let before = [stands(&n1, "a"), stands(&n2, "a")];
    scene.reload("n2", &n2, &alone(100));
    scene.reload("n1", &n1, &alone(50));
    assert_eq!([stands(&n1, "a"), stands(&n2, "a")], before, "a member that leaves takes nobody along");
    // Without the group each goes its own way.
    let free = |first, other| format!("{}{}{}", a(first), third(other), service("db", A));
    scene.reload("n2", &n2, &free(100, 100));
    scene.reload("n1", &n1, &free(50, 200));
    n1.wait_state("c", "Master");
    n2.wait_state("c", "Backup");
    assert_eq!([stands(&n1, "a"), stands(&n2, "a")], before);
}

#[test]
fn what_cannot_be_taken_in_is_refused_before_any_router_has_moved() {
    let Some(mut scene) = Scene::raise("refuse") else { return };
    let good = format!("{}{}{}{}", a(200), b(200), service("db", A), service("other", B));
    scene.hosts.plug("n1", "eth1", &["10.7.0.1/24"], "y");
    let n1 = scene.start("n1", &good);
    for router in ["a", "b"] {
        n1.wait_state(router, "Master");
    }
    let before = [stands(&n1, "a"), stands(&n1, "b")];
    // One goes, and the one that comes is on an interface without packet programs, or without an address, or on none.
    let third = router("c", 53, 200, "10.7.0.201").replace("eth0", "eth1");
    let without = format!("{}{}", a(200), service("db", A));
    for (bad, why) in [
        (format!("{without}{third}"), "eth1 has no packet programs yet"),
        (format!("{without}{}", third.replace("eth1", "eth7")), "eth7 does not exist"),
        (good.replace("virtual_router_id = 52", "virtual_router_id = 54"), "`virtual_router_id` of [vrrp.b]"),
        (good.replace("virtual_router_id = 52", "virtual_router_id = 51"), "virtual_router_id"),
    ] {
        let out = scene.order("n1", &n1, &bad, &[]);
        assert!(!out.status.success() && words(&out).contains(why), "{why}: {}", words(&out));
    }
    assert_eq!([stands(&n1, "a"), stands(&n1, "b")], before);
    assert!(scene.has_address("n1", "172.18.0.202"));
}

#[test]
fn a_following_daemon_finds_each_lease_again_whatever_was_put_before_it_by_a_reload() {
    let Some(scene) = Scene::raise("keep") else { return };
    let one = format!("{}{}{}", a(200), service("db", A), udp());
    let two = format!("{}{one}{}", b(200), service("other", B));
    let n1 = scene.start("n1", &one);
    n1.wait_up("db", 2);
    n1.wait_up("udp", 1);
    n1.wait_state("a", "Master");
    let clients = scene.clients();
    scene.reload("n1", &n1, &two);
    n1.wait_state("b", "Master");
    n1.wait_up("other", 2);
    let mut talk = scene.connect(B);
    let mut n1 = n1.restarted(&scene.hosts, "n1", ROOM, &two);
    for router in ["a", "b"] {
        n1.wait_state(router, "Master");
        assert_eq!(stands(&n1, router).2, "goes on after a restart");
    }
    go_on(&clients);
    talk.exchange(3000).expect("an answer");
    // The one that is gone leaves nothing to whoever comes after it.
    scene.reload("n1", &n1, &one);
    n1 = n1.restarted(&scene.hosts, "n1", ROOM, &one);
    n1.wait_state("a", "Master");
    assert_eq!(stands(&n1, "a").2, "goes on after a restart");
    scene.reload("n1", &n1, &two);
    n1.wait_state("b", "Master");
    go_on(&clients);
    clients.toll().is_nothing();
}

#[test]
fn a_router_in_the_place_of_the_only_one_hands_over_and_is_probed_like_any_other() {
    let Some(scene) = Scene::raise("swap") else { return };
    let old = |node: &str, priority| format!("{}{}{}", a(priority), service("db", A), sync(node));
    let new = |node: &str, priority| format!("{}{}{}", b(priority), service("other", B), sync(node));
    let (n1, n2) = (scene.start("n1", &old("n1", 200)), scene.start("n2", &old("n2", 100)));
    n1.wait_up("db", 2);
    n2.wait_up("db", 2);
    n1.wait_state("a", "Master");
    n2.wait_state("a", "Backup");
    let watched = |daemon: &Daemon, peer: &str| {
        let probe = daemon.status().vrrp[0].probe.clone().expect("it probes");
        probe.peer == peer
    };
    wait_until("the owner is watched", LIMIT, || watched(&n2, "alive"));
    let mut talk = scene.connect(A);
    wait_until("the flow is there", LIMIT, || n2.status().sync.unwrap().routers[0].flows == 1);
    scene.reload("n1", &n1, &new("n1", 200));
    n2.wait_state("a", "Master");
    let reason = stands(&n2, "a").2;
    assert_eq!(reason, "the master left");
    talk.exchange(3000).expect("through the other node");
    n1.wait_state("b", "Master");
    scene.reload("n2", &n2, &new("n2", 100));
    n2.wait_state("b", "Backup");
    wait_until("the owner is watched", LIMIT, || watched(&n2, "alive"));
    let is_watched = || n1.status().vrrp[0].probe.as_ref().is_some_and(|probe| probe.watched);
    wait_until("which it knows", LIMIT, is_watched);
}

/// keepalived with one virtual router, until it is dropped.
struct Keepalived(Child);

impl Drop for Keepalived {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

#[test]
fn keepalived_as_the_peer_of_a_router_that_comes_and_goes_takes_over_and_yields_by_protocol() {
    if proc::which("keepalived").is_none() {
        return eprintln!("not run: keepalived is not installed");
    }
    let Some(scene) = Scene::raise("kad") else { return };
    let first = format!("{}{}{}", a(200), service("db", A), udp());
    // As keepalived's: version 2.
    let second = "[vrrp.b]\ninterface = \"eth0\"\nvirtual_router_id = 52\npriority = 200\nadvert_int = 1\n\
                  virtual_ipaddress = [\"172.18.0.202\"]\n";
    let both = format!("{second}{first}{}", service("other", B));
    let dir = std::env::temp_dir().join(format!("vk{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let config = "vrrp_instance b {\nstate BACKUP\ninterface eth0\nvirtual_router_id 52\npriority 100\nadvert_int 1\n\
                  virtual_ipaddress {\n172.18.0.202\n}\n}\n";
    std::fs::write(dir.join("keepalived.conf"), config).unwrap();
    let mut command = Command::new("keepalived");
    command.args(["-n", "-l", "-D", "--vrrp", "-f", &file("keepalived.conf")]);
    command.args(["-p", &file("pid"), "-r", &file("vrrp.pid")]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _keepalived = Keepalived(scene.hosts.host("n2").spawn(command).expect("keepalived"));
    let n1 = scene.start("n1", &first);
    n1.wait_up("db", 2);
    n1.wait_up("udp", 1);
    n1.wait_state("a", "Master");
    wait_until("keepalived owns the address", LIMIT, || scene.has_address("n2", "172.18.0.202"));
    let clients = scene.clients();
    let before = stands(&n1, "a");

    scene.reload("n1", &n1, &both);
    n1.wait_state("b", "Master");
    n1.wait_up("other", 2);
    wait_until("keepalived yields", LIMIT, || !scene.has_address("n2", "172.18.0.202"));
    scene.connect(B).exchange(3000).expect("an answer");
    scene.reload("n1", &n1, &first);
    assert!(!scene.has_address("n1", "172.18.0.202"));
    wait_until("keepalived takes over", LIMIT, || scene.has_address("n2", "172.18.0.202"));
    go_on(&clients);
    assert_eq!(stands(&n1, "a"), before);
    clients.toll().is_nothing();
    let _ = std::fs::remove_dir_all(dir);
}
