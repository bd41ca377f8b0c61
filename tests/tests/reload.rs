//! A configuration that is taken in anew touches what it changes and nothing else: whole daemons, real sockets, clients that go on
//! without a pause.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::{Command, Output},
    time::Duration,
};

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
    steady::{self, Steady},
};
use lb_userspace::api::{Reloaded, snapshot::Service};
use nix::sys::signal::Signal;

const RELOADS: u16 = 100;
const ROOM: u32 = 4096;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A client, a node and three databases.
struct Scene {
    hosts: Hosts,
    _servers: Vec<Server>,
}

const VRRP: &str = "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\nversion = 3\n\
                    advert_int = \"100ms\"\nvirtual_ipaddress = [\"172.18.0.201\"]\n";
const CHECK: &str = "check = { type = \"tcp\", port = 3306, interval = \"200ms\", rise = 1, fall = 2 }\n";

/// A service on this port, with backends `dN` of these numbers and whatever else is said of each.
fn service(name: &str, port: u16, more: &str, backends: &[(u8, &str)]) -> String {
    let backend =
        |(n, more): &(u8, &str)| format!("{{ name = \"d{n}\", address = \"172.18.0.{}\"{more} }}", n + 1);
    let backends: Vec<_> = backends.iter().map(backend).collect();
    format!(
        "[service.{name}]\nlisten = \"172.18.0.201:{port}\"\n{more}\n{CHECK}backend = [{}]\n",
        backends.join(", ")
    )
}

impl Scene {
    fn raise(test: &str) -> Option<Self> {
        let mut hosts = Hosts::new(test)?;
        let addresses = [
            ("d1", "172.18.0.2"),
            ("d2", "172.18.0.3"),
            ("d3", "172.18.0.4"),
            ("n1", "172.18.0.7"),
            ("n2", "172.18.0.8"),
            ("c", "172.18.0.100"),
        ];
        for (host, address) in addresses {
            hosts.plug(host, "eth0", &[&format!("{address}/16")], "x");
        }
        let mut servers = Vec::new();
        for (host, number) in [("d1", 1), ("d2", 2), ("d3", 3)] {
            servers
                .extend([3306, 3307].map(|port| hosts.serve(host, SocketAddr::from(([0; 4], port)), number)));
        }
        Some(Self { hosts, _servers: servers })
    }

    fn start(&self, config: &str) -> Daemon {
        let daemon = self.hosts.start_with_room("n1", ROOM, config);
        daemon.wait_master();
        daemon
    }

    /// Writes another configuration, and has it taken in.
    #[track_caller]
    fn reload(&self, daemon: &Daemon, config: &str) -> Reloaded {
        self.hosts.configure("n1", ROOM, config);
        let out = daemon.viplb(&["-j", "reload"]);
        assert!(out.status.success(), "{}", words(&out));
        serde_json::from_slice(&out.stdout).expect("what has changed")
    }

    #[track_caller]
    fn connect(&self, port: u16) -> Talk {
        self.hosts.connect("c", SocketAddr::from(([172, 18, 0, 201], port))).expect("a connection")
    }
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn lines(reloaded: &Reloaded) -> Vec<String> {
    reloaded.changes.iter().map(ToString::to_string).collect()
}

fn shown(daemon: &Daemon, service: &str) -> Service {
    daemon.status().services.into_iter().find(|s| s.name == service).expect("the service")
}

#[test]
fn a_hundred_reloads_in_a_row_cost_nobody_a_packet_and_no_backend_its_history() {
    let Some(scene) = Scene::raise("hundred") else { return };
    steady::echo_datagrams(&scene.hosts.host("d1"), at("172.18.0.2:3308"));
    let config = |weight: u16, third: bool| {
        let weight = format!(", weight = {weight}");
        let mut backends = vec![(1, ""), (2, weight.as_str())];
        backends.extend(third.then_some((3, "")));
        let others = service("idle", 3307, "", &[(1, ""), (2, ""), (3, "")])
            + &service("udp", 3308, "protocol = \"udp\"", &[(1, "")]);
        format!("{VRRP}{}{others}", service("db", 3306, "scheduler = \"wrr\"", &backends))
    };
    let daemon = scene.start(&config(1, true));
    for (name, up) in [("db", 3), ("idle", 3), ("udp", 1)] {
        daemon.wait_up(name, up);
    }
    let client = scene.hosts.host("c");
    let talks: Vec<_> =
        (0..6).map(|_| scene.connect(3306)).chain((0..3).map(|_| scene.connect(3307))).collect();
    assert!((1..=3).all(|n| talks.iter().any(|talk| talk.server == n)), "every backend has some");
    let mut silent: Vec<_> = (0..6).map(|_| scene.connect(3306)).collect();
    let before = (shown(&daemon, "db"), shown(&daemon, "idle"));
    let clients = Steady::new(talks)
        .with_datagrams(&client, at("172.18.0.201:3308"))
        .with_new_connections(&client, at("172.18.0.201:3306"));
    for i in 0..RELOADS {
        // The second's weight changes, or the third goes or comes.
        let (weight, third) = (1 + i / 2 % 5, i % 4 < 2);
        let reloaded = scene.reload(&daemon, &config(weight, third));
        assert!(reloaded.applied, "{}", reloaded.warnings);
        let answered = clients.answered();
        wait_until("clients go on", LIMIT, || clients.answered() > answered + 20);
    }
    let toll = clients.toll();
    toll.is_nothing();
    for talk in &mut silent {
        talk.exchange(3000).expect("a connection that was silent all the time");
    }
    let after = (shown(&daemon, "db"), shown(&daemon, "idle"));
    let history = |s: &Service| -> Vec<_> {
        s.backends.iter().take(2).map(|b| (b.name.clone(), b.state.clone(), b.since)).collect()
    };
    assert_eq!(history(&after.0), history(&before.0), "the checked ones stay as they were");
    assert_eq!(history(&after.1), history(&before.1));
    assert!(after.1.packets > before.1.packets, "counters go on: {} {}", after.1.packets, before.1.packets);
    assert!(after.0.packets > before.0.packets);
    assert_eq!(daemon.status().configuration.reloads, u64::from(RELOADS));
}

#[test]
fn a_file_with_a_mistake_or_for_a_restart_changes_nothing_and_says_where_it_is() {
    let Some(scene) = Scene::raise("refused") else { return };
    let good = VRRP.to_owned() + &service("db", 3306, "", &[(1, ""), (2, "")]);
    let daemon = scene.start(&good);
    daemon.wait_up("db", 2);
    let mut talk = scene.connect(3306);
    let before = daemon.status();
    let file = before.configuration.file.clone();

    let bad =
        good.replace("name = \"d2\"", "name = \"d2\", wieght = 7").replace("priority = 101", "priority = 7");
    scene.hosts.configure("n1", ROOM, &bad);
    let out = daemon.viplb(&["reload"]);
    assert_eq!(out.status.code(), Some(1), "{}", words(&out));
    let line = 1 + fs::read_to_string(&file).unwrap().lines().position(|l| l.contains("wieght")).unwrap();
    assert!(words(&out).contains(&format!("{file}:{line}:")), "{}", words(&out));
    let status = daemon.status();
    let refused = status.configuration.refused.expect("the refusal is shown");
    assert!(refused.why.contains("wieght") && refused.at >= before.configuration.since);
    assert_eq!((status.vrrp[0].priority, shown(&daemon, "db").backends.len()), (101, 2));
    let text = words(&daemon.viplb(&["status"]));
    assert!(text.contains("configuration refused"), "{text}");

    // By signal it is the same, in the log.
    daemon.signal(Signal::SIGHUP);
    wait_until("the log says it", LIMIT, || daemon.log().contains("the configuration that runs goes on"));
    assert!(daemon.log().contains(&format!(":{line}:")), "{}", daemon.log());

    scene.hosts.configure("n1", 2 * ROOM, &good.replace("priority = 101", "priority = 7"));
    let out = daemon.viplb(&["reload"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(words(&out).contains("restart") && words(&out).contains("`flows` of [node]"), "{}", words(&out));
    // Neither does the machine take it: nobody leads there.
    let away = good.replace("172.18.0.3\"", "10.99.0.3\"");
    scene.hosts.configure("n1", ROOM, &away);
    let out = daemon.viplb(&["reload"]);
    assert!(!out.status.success() && words(&out).contains("backend d2"), "{}", words(&out));

    assert_eq!(daemon.status().vrrp[0].priority, 101);
    talk.exchange(3000).expect("nothing has changed");
    assert_eq!(lines(&scene.reload(&daemon, &good)), Vec::<String>::new());
    assert_eq!(daemon.status().configuration.refused, None);
}

#[test]
fn each_kind_of_change_takes_effect_and_a_dry_run_only_tells_of_it() {
    let Some(scene) = Scene::raise("kinds") else { return };
    let db = service("db", 3306, "", &[(1, ""), (2, "")]);
    let other = service("other", 3307, "", &[(1, "")]);
    let daemon = scene.start(&format!("{VRRP}{db}{other}"));
    daemon.wait_up("db", 2);
    daemon.wait_up("other", 1);
    let mut kept = scene.connect(3307);

    // A service that is put before the others.
    let new = service("new", 3309, "scheduler = \"lc\"", &[(3, "")]).replace("0.4\"", "0.4:3306\"");
    scene.hosts.configure("n1", ROOM, &format!("{VRRP}{new}{db}{other}"));
    let told = daemon.viplb(&["reload", "--dry-run"]);
    assert!(
        told.status.success() && words(&told).contains("+ service new: listens on 172.18.0.201:3309"),
        "{}",
        words(&told)
    );
    assert_eq!(daemon.status().services.len(), 2, "it was a dry run");
    scene.reload(&daemon, &format!("{VRRP}{new}{db}{other}"));
    daemon.wait_up("new", 1);
    assert_eq!(scene.connect(3309).server, 3);
    kept.exchange(3000).expect("another service goes on");
    assert_eq!(shown(&daemon, "other").flows, 1, "its connections still count for it");

    // Scheduler, limits, checks and the order of services.
    let db =
        service("db", 3306, "scheduler = \"fo\"\nmax_connections = 100", &[(1, ""), (2, ", priority = 5")]);
    let db = db.replace("\"200ms\"", "\"300ms\"");
    let changes = lines(&scene.reload(&daemon, &format!("{VRRP}{db}{other}{new}")));
    assert_eq!(
        changes,
        [
            "~ service db: scheduler rr → fo, max_connections 0 → 100, check",
            "~ service db: backend d2: priority 0 → 5"
        ]
    );
    assert_eq!((scene.connect(3306).server, scene.connect(3306).server), (2, 2), "the first available");
    assert!(
        shown(&daemon, "db").backends.iter().all(|b| b.state == "up"),
        "a changed check goes on from what was found"
    );

    // A service that goes: nobody new, and who is there stays.
    scene.reload(&daemon, &format!("{VRRP}{db}{new}"));
    assert!(scene.hosts.connect("c", at("172.18.0.201:3307")).is_err());
    kept.exchange(3000).expect("its connection goes on");
    wait_until("it is told of", LIMIT, || {
        daemon.status().leaving.iter().any(|l| (l.service.as_str(), l.connections) == ("other", 1))
    });
    drop(kept);

    // An address more, and one less; another priority.
    let two =
        VRRP.replace("[\"172.18.0.201\"]", "[\"172.18.0.201\", \"172.18.0.202\"]").replace("= 101", "= 110");
    let more = db.replace("[service.db]", "[service.second]").replace("201:3306", "202:3306");
    scene.reload(&daemon, &format!("{two}{db}{new}{more}"));
    daemon.wait_up("second", 2);
    let mut second = scene.hosts.connect("c", at("172.18.0.202:3306")).expect("the new address");
    second.exchange(3000).expect("an answer");
    let on_interface = || {
        let show = || Command::new("ip").args(["-o", "addr", "show", "dev", "eth0"]).output();
        let out = scene.hosts.host("n1").run(show).unwrap().expect("ip");
        String::from_utf8_lossy(&out.stdout).contains("172.18.0.202")
    };
    assert!(on_interface());
    let vrrp = &daemon.status().vrrp[0];
    assert_eq!((vrrp.priority, vrrp.effective_priority, vrrp.state.as_str()), (110, 110, "Master"));
    scene.reload(&daemon, &format!("{VRRP}{db}{new}"));
    assert!(!on_interface());
    wait_until("nobody answers for it", LIMIT, || {
        let connect = || TcpStream::connect_timeout(&at("172.18.0.202:3306"), Duration::from_millis(300));
        scene.hosts.host("c").run(connect).unwrap().is_err()
    });
}

#[test]
fn a_removed_backends_connections_go_on_or_are_ended_as_its_service_says() {
    let Some(scene) = Scene::raise("drain") else { return };
    let config = |backends: &[(u8, &str)]| {
        let ended = service("ended", 3306, "on_drain = \"500ms\"", backends);
        let kept = service("kept", 3307, "", backends);
        format!("{VRRP}{ended}{kept}")
    };
    let daemon = scene.start(&config(&[(1, ""), (2, "")]));
    daemon.wait_up("ended", 2);
    daemon.wait_up("kept", 2);
    let open = |port| -> Vec<Talk> { (0..4).map(|_| scene.connect(port)).collect() };
    let (ended, kept) = (open(3306), open(3307));
    scene.reload(&daemon, &config(&[(1, "")]));
    for mut talk in ended {
        if talk.server == 2 {
            talk.stream.set_read_timeout(Some(LIMIT)).unwrap();
            let end = std::io::Read::read(&mut talk.stream, &mut [0]);
            assert!(matches!(end, Ok(0) | Err(_)), "it is ended");
        } else {
            talk.exchange(3000).expect("of another backend");
        }
    }
    for mut talk in kept {
        talk.exchange(3000).unwrap_or_else(|e| panic!("of backend {}: {e}", talk.server));
    }
    // It comes back as a new one, and not before its first check.
    scene.reload(&daemon, &config(&[(1, ""), (2, "")]));
    daemon.wait_up("kept", 2);
    assert!((0..4).map(|_| scene.connect(3307)).any(|talk| talk.server == 2));
}

#[test]
fn a_watched_file_is_taken_in_when_it_changes() {
    let Some(scene) = Scene::raise("watched") else { return };
    let config =
        |backends: &[(u8, &str)]| format!("watch_config = true\n{VRRP}{}", service("db", 3306, "", backends));
    let daemon = scene.start(&config(&[(1, "")]));
    daemon.wait_up("db", 1);
    scene.hosts.configure("n1", ROOM, &config(&[(1, ""), (3, "")]));
    daemon.wait_up("db", 2);
    assert_eq!(daemon.status().configuration.reloads, 1);
}

#[test]
fn services_come_and_go_by_order_and_into_the_file_only_on_request() {
    let Some(scene) = Scene::raise("order") else { return };
    let good = format!("# ours\n{VRRP}{}", service("db", 3306, "", &[(1, ""), (2, "")]));
    let daemon = scene.start(&good);
    daemon.wait_up("db", 2);
    let file = daemon.status().configuration.file;
    let before = fs::read_to_string(&file).unwrap();
    let mut talk = scene.connect(3306);
    let add = |more: &[&str]| {
        let new = [
            "service",
            "add",
            "web",
            "--listen",
            "172.18.0.201:3309",
            "--backend",
            "172.18.0.4:3306,weight=5",
        ];
        let check = ["--check", "tcp,interval=200ms", "--set", "scheduler=wlc"];
        daemon.viplb(&[&new[..], &check, more].concat())
    };
    assert!(words(&add(&["--dry-run"])).contains("+ service web"));
    assert_eq!(daemon.status().services.len(), 1);
    let out = add(&[]);
    assert!(out.status.success(), "{}", words(&out));
    daemon.wait_up("web", 1);
    assert_eq!(scene.connect(3309).server, 3);
    assert!(daemon.status().configuration.unwritten);
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert!(!add(&[]).status.success(), "it is there already");
    let out = daemon.viplb(&["service", "del", "db", "--write"]);
    assert!(words(&out).contains("reload"), "the file lacks what runs: {}", words(&out));
    assert!(daemon.viplb(&["reload"]).status.success());
    assert_eq!(daemon.status().services.len(), 1, "the file says so");

    assert!(add(&["--write"]).status.success());
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.starts_with(&before) && written.contains("[service.web]"), "{written}");
    assert!(daemon.viplb(&["service", "del", "web", "--write"]).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert_eq!(lines(&scene.reload(&daemon, &good)), Vec::<String>::new());
    let out = daemon.viplb(&["service", "add", "bad", "-l", "10.9.9.9:1", "-b", "172.18.0.4"]);
    assert!(!out.status.success() && words(&out).contains("10.9.9.9"), "{}", words(&out));
    talk.exchange(3000).expect("another service");
}

#[test]
fn an_order_about_a_backend_holds_for_later_daemons_once_it_is_written() {
    let Some(scene) = Scene::raise("written") else { return };
    let good = format!("# ours\n{VRRP}{}", service("db", 3306, "scheduler = \"wrr\"", &[(1, ""), (2, "")]));
    let daemon = scene.start(&good);
    daemon.wait_up("db", 2);
    let file = daemon.status().configuration.file;
    let before = fs::read_to_string(&file).unwrap();
    let order = |daemon: &Daemon, arguments: &[&str]| {
        let out = daemon.viplb(&[&["backend"], arguments].concat());
        assert!(out.status.success(), "{arguments:?}: {}", words(&out));
    };
    let stands = |daemon: &Daemon| -> Vec<_> {
        shown(daemon, "db").backends.into_iter().map(|b| (b.state, b.weight)).collect()
    };
    let up = |weight: u16| ("up".to_owned(), weight);
    order(&daemon, &["weight", "db", "d1", "5"]);
    order(&daemon, &["drain", "db", "d2"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), before, "only on request");
    assert_eq!(stands(&daemon), [up(5), ("drain".into(), 1)]);

    // The file's word stands in place of what was ordered about the same, and of nothing else.
    order(&daemon, &["weight", "db", "d1", "1", "--write"]);
    assert_eq!(stands(&daemon), [up(1), ("drain".into(), 1)]);
    order(&daemon, &["weight", "db", "d1", "7", "--write"]);
    order(&daemon, &["maint", "db", "d2", "--write"]);
    let written = fs::read_to_string(&file).unwrap();
    let expected = before
        .replace("\"172.18.0.2\"", "\"172.18.0.2\", weight = 7")
        .replace("\"172.18.0.3\"", "\"172.18.0.3\", state = \"maint\"");
    assert_eq!(written, expected);
    assert_eq!(stands(&daemon), [up(7), ("maint".into(), 1)]);
    assert_eq!(
        lines(&scene.reload(&daemon, &written[written.find("# ours").unwrap()..])),
        Vec::<String>::new()
    );
    let mut daemon = daemon;
    daemon.end(Signal::SIGTERM);
    drop(daemon);
    let daemon = scene.start(&written[written.find("# ours").unwrap()..]);
    daemon.wait_up("db", 1);
    assert_eq!(stands(&daemon), [up(7), ("maint".into(), 1)]);

    // By order alone it is brought back; the next reload of the same file does not change that, one that says something else does.
    order(&daemon, &["ready", "db", "d2"]);
    daemon.wait_up("db", 2);
    let draining = good.replace("\"172.18.0.3\"", "\"172.18.0.3\", state = \"drain\"");
    scene.reload(&daemon, &draining);
    assert_eq!(stands(&daemon)[1].0, "drain");
    order(&daemon, &["ready", "db", "d2", "-w"]);
    wait_until("it is up again", LIMIT, || stands(&daemon) == [up(1), up(1)]);
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}

#[test]
fn replication_follows_a_reload_and_connections_of_new_backends_outlive_their_owner() {
    let Some(scene) = Scene::raise("sync") else { return };
    scene.hosts.secret("sync.key", "1 0123456789abcdef0123456789abcdef\n");
    let config = |node: &str, wait: &str, backends: &[(u8, &str)]| {
        let (priority, peer) = if node == "n1" { (200, "172.18.0.8") } else { (100, "172.18.0.7") };
        let sync =
            format!("[sync]\npeers = [\"{peer}\"]\nkey_file = \"sync.key\"\nfailback_wait = \"{wait}\"\n");
        let vrrp = VRRP.replace("= 101", &format!("= {priority}"));
        format!("{vrrp}{sync}{}", service("db", 3306, "", backends))
    };
    let start = |node: &str| scene.hosts.start_with_room(node, ROOM, &config(node, "20s", &[(1, "")]));
    let (mut first, second) = (start("n1"), start("n2"));
    first.wait_master();
    first.wait_up("db", 1);
    let mut talks = vec![scene.connect(3306)];
    // New sessions on one side, and a service with another backend before the one that there was.
    for (node, daemon, wait) in [("n2", &second, "10s"), ("n1", &first, "20s")] {
        scene.hosts.configure(node, ROOM, &config(node, wait, &[(2, ""), (1, "")]));
        let out = daemon.viplb(&["reload"]);
        assert!(out.status.success(), "{}", words(&out));
        daemon.wait_up("db", 2);
    }
    talks.extend((0..4).map(|_| scene.connect(3306)));
    assert!((1..=2).all(|n| talks.iter().any(|talk| talk.server == n)));
    wait_until("the flows are there", LIMIT, || {
        let sync = second.status().sync.expect("it replicates");
        sync.routers[0].state == "in-sync" && sync.routers[0].flows == 5
    });
    first.end(Signal::SIGKILL);
    second.wait_master();
    for (i, talk) in talks.iter_mut().enumerate() {
        talk.exchange(3000).unwrap_or_else(|e| panic!("connection {i} of backend {}: {e}", talk.server));
    }
    let of = |name: &str| shown(&second, "db").backends.iter().find(|b| b.name == name).expect("it").active;
    let count = |n: u8| talks.iter().filter(|talk| talk.server == n).count() as u64;
    assert_eq!((of("d1"), of("d2")), (count(1), count(2)), "they count for whom they belong to");
}
