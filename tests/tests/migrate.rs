//! A daemon whose maps have another layout goes on where one of this layout was, and the other way round: connections that go on
//! all the time, silent ones, new ones and datagrams notice nothing. Needs `cargo xtask build --other-layout`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use aya::programs::links::{FdLink, PinnedLink};
use lb_tests::{
    daemon,
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
    steady::{self, Steady},
};
use lb_userspace::datapath::pins::Pins;

const ROOM: u32 = 65_536;
/// Silent connections.
const SILENT: usize = 300;
const CONFIG: &str = "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\nversion = 3\n\
                      advert_int = \"100ms\"\nvirtual_ipaddress = [\"172.18.0.201\"]\n\
                      [service.db]\nlisten = \"172.18.0.201:3306\"\nmax_connections = 2000\n\
                      backend = [{ name = \"d1\", address = \"172.18.0.2\" }, { name = \"d2\", address = \"172.18.0.3\" }]\n\
                      check = { type = \"tcp\", interval = \"200ms\", rise = 1, fall = 2 }\n\
                      timeouts = { closing = \"1s\", closed = \"1s\" }\n\
                      [service.udp]\nlisten = \"172.18.0.201:3308\"\nprotocol = \"udp\"\n\
                      backend = [{ name = \"d1\", address = \"172.18.0.2\" }]\n\
                      check = { type = \"tcp\", port = 3306, interval = \"200ms\", rise = 1, fall = 2 }\n";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct Scene {
    hosts: Hosts,
    other: PathBuf,
    _servers: Vec<Server>,
}

impl Scene {
    fn raise(test: &str) -> Option<Self> {
        let Some(other) = daemon::other_layout() else {
            eprintln!(
                "not run: the daemon of another layout is not built (cargo xtask build --other-layout)"
            );
            return None;
        };
        let mut hosts = Hosts::new(test)?;
        for (host, address) in
            [("d1", "172.18.0.2"), ("d2", "172.18.0.3"), ("n1", "172.18.0.7"), ("c", "172.18.0.100")]
        {
            hosts.plug(host, "eth0", &[&format!("{address}/16")], "x");
        }
        let servers = [("d1", 1), ("d2", 2)].map(|(host, n)| hosts.serve(host, at("0.0.0.0:3306"), n));
        steady::echo_datagrams(&hosts.host("d1"), at("172.18.0.2:3308"));
        Some(Self { hosts, other, _servers: servers.into() })
    }

    fn ready(&self) -> Daemon {
        let daemon = self.hosts.start_with_room("n1", ROOM, CONFIG);
        daemon.wait_master();
        daemon.wait_up("db", 2);
        daemon.wait_up("udp", 1);
        daemon
    }

    fn clients(&self) -> (Steady, Vec<Talk>) {
        let connect = || self.hosts.connect("c", at("172.18.0.201:3306")).expect("a connection");
        let client = self.hosts.host("c");
        let mut steady = Steady::new((0..6).map(|_| connect()).collect())
            .with_datagrams(&client, at("172.18.0.201:3308"))
            .with_new_datagrams(&client, at("172.18.0.201:3308"));
        for _ in 0..2 {
            steady = steady.with_new_connections(&client, at("172.18.0.201:3306"));
        }
        (steady, (0..SILENT).map(|_| connect()).collect())
    }

    /// Starts a build, and does not wait.
    fn spawn(&self, program: &Path) -> Child {
        let file = self.hosts.configure("n1", ROOM, CONFIG);
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.hosts.host("n1").spawn(command).expect("a daemon")
    }

    /// What a start of a build says that does not come to run.
    fn refused(&self, program: &Path, config: &str) -> String {
        let file = self.hosts.configure("n1", ROOM, config);
        let start = || Command::new(program).arg("run").arg("-c").arg(&file).output();
        let out = self.hosts.host("n1").run(start).unwrap().expect("viplb");
        assert!(!out.status.success(), "{}", words(&out));
        words(&out)
    }

    /// A command of the daemon of the other layout.
    fn other(&self, daemon: &Daemon, arguments: &[&str]) -> Output {
        let mut viplb = Command::new(&self.other);
        viplb.args(["-n", daemon.name()]).args(arguments).output().expect("viplb")
    }
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn go_on(clients: &Steady) {
    let before = clients.answered();
    wait_until("clients go on", LIMIT, || clients.answered() > before + 500);
}

/// No client has lost anything, and what is left is counted right.
fn assert_nothing_is_noticed(daemon: &Daemon, clients: Steady, mut silent: Vec<Talk>) {
    clients.toll().is_nothing();
    for talk in &mut silent {
        talk.exchange(3000).expect("a connection that was silent");
    }
    let active = || daemon.status().services[0].active;
    wait_until("the others have ended", LIMIT, || active() <= silent.len() as u64);
    assert_eq!(active(), silent.len() as u64, "counts are right");
}

fn directories(node: &str) -> Vec<String> {
    let entries = fs::read_dir(&Pins::of(node).root).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The programs of a node's links.
fn attached(node: &str) -> Vec<(PathBuf, u32)> {
    let entries = fs::read_dir(Pins::of(node).links()).unwrap().map(|e| e.unwrap().path());
    let program = |path: PathBuf| {
        let link = FdLink::from(PinnedLink::from_pin(&path).ok()?);
        Some((path, link.info().ok()?.program_id()))
    };
    let mut attached: Vec<_> = entries.filter_map(program).collect();
    attached.sort();
    attached
}

#[test]
fn a_daemon_of_another_layout_takes_connections_over_and_gives_them_back_without_a_packet_lost() {
    let Some(scene) = Scene::raise("layout") else { return };
    let daemon = scene.ready();
    let (clients, silent) = scene.clients();
    go_on(&clients);
    let flows = |d: &Daemon| d.status().services[0].flows;
    let before = flows(&daemon);
    let other = scene.other.display().to_string();
    for round in 0..2 {
        let out = daemon.viplb(&["upgrade", &other]);
        assert!(out.status.success(), "{}\n{}", words(&out), daemon.log());
        go_on(&clients);
        let seen = flows(&daemon);
        assert!(seen >= before + round, "counters go on: {seen} after {before}");
        let listed = words(&scene.other(&daemon, &["flow", "list"]));
        assert!(listed.lines().count() > SILENT, "{listed}");
        let refused = words(&daemon.viplb(&["flow", "list"]));
        assert!(refused.contains("layout 1006"), "{refused}");
        assert_eq!(directories(daemon.name()), ["links", "maps"]);
        let out = daemon.viplb(&["upgrade"]);
        assert!(out.status.success(), "{}\n{}", words(&out), daemon.log());
        go_on(&clients);
        assert_eq!(directories(daemon.name()), ["links", "maps"]);
    }
    assert_nothing_is_noticed(&daemon, clients, silent);
}

#[test]
fn a_daemon_that_dies_while_it_brings_connections_over_is_followed_by_one_of_either_layout() {
    let Some(scene) = Scene::raise("died") else { return };
    let (node, own) = (format!("{}n1", scene.hosts.name()), daemon::binary().unwrap());
    let mut daemon = scene.ready();
    let (clients, silent) = scene.clients();
    go_on(&clients);
    // Of which layout the maps are, which daemon dies on the way to the other, and which one comes then.
    for (dies, follows) in
        [(&scene.other, &own), (&scene.other, &scene.other), (&own, &scene.other), (&own, &own)]
    {
        daemon.stop_for_another();
        let before = attached(&node);
        let mut child = scene.spawn(dies);
        wait_until("its programs are attached", LIMIT, || attached(&node) != before);
        child.kill().unwrap();
        child.wait().unwrap();
        println!("left: {:?}", directories(&node));
        go_on(&clients);
        daemon = scene.hosts.start_build(follows, "n1", ROOM, CONFIG);
        daemon.wait_master();
        assert_eq!(directories(&node), ["links", "maps"]);
        go_on(&clients);
    }
    assert_nothing_is_noticed(&daemon, clients, silent);
}

#[test]
fn a_start_that_fails_on_the_way_to_another_layout_leaves_everything_as_it_was() {
    let Some(mut scene) = Scene::raise("back") else { return };
    scene.hosts.plug("n1", "eth1", &["172.19.0.7/16"], "y");
    let two = "[vrrp.two]\ninterface = \"eth1\"\nvirtual_router_id = 52\npriority = 101\nversion = 3\n\
               advert_int = \"100ms\"\nvirtual_ipaddress = [\"172.19.0.201\"]\n";
    let config = CONFIG.replace("[service.db]", &format!("{two}[service.db]"));
    let node = format!("{}n1", scene.hosts.name());
    let mut daemon = scene.hosts.start_in_traffic("n1", ROOM, &config);
    daemon.wait_master();
    daemon.wait_up("db", 2);
    daemon.wait_up("udp", 1);
    let (clients, mut silent) = scene.clients();
    daemon.stop_for_another();
    // Nothing can be pinned there.
    let pin = Pins::of(&node).link("eth1", "egress");
    fs::remove_file(&pin).unwrap();
    fs::create_dir(&pin).unwrap();
    let before = attached(&node);
    let said = scene.refused(&scene.other, &config);
    assert!(said.contains("cannot attach to eth1"), "{said}");
    assert_eq!(attached(&node), before, "the same programs");
    assert_eq!(directories(&node), ["links", "maps"]);
    go_on(&clients);
    fs::remove_dir(&pin).unwrap();
    // Of a release that left no word of its layout.
    fs::remove_file(Pins::of(&node).map("LAYOUT")).unwrap();
    let said = scene.refused(&scene.other, &config);
    assert!(said.contains("have layout 6") && said.contains("stop the other version"), "{said}");
    let daemon = scene.hosts.start_in_traffic("n1", ROOM, &config);
    daemon.wait_master();
    go_on(&clients);
    clients.toll().is_nothing();
    for talk in &mut silent {
        talk.exchange(3000).expect("a connection that was silent");
    }
}
