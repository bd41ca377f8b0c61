//! `viplb status`: its text as a whole, its JSON, and what it says when nobody can be asked.
//!
//! The text is compared with the fixtures in `fixtures/status`; `VIPLB_BLESS=1` writes them anew, to be read before they
//! are committed. The rest runs the real binary, where the machine has to look special in a mount namespace of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use lb_tests::{
    console::Console,
    daemon,
    down::{self, Bpffs},
    expect::wait_until,
    lab,
    netns::Netns,
    proc,
};
use lb_userspace::{
    api::snapshot::{
        Backend, Flows, Health, Interface, Node, Packets, RUNNING, Service, Snapshot, Times, Vrrp,
    },
    cli::status::render,
    datapath::build::Build,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
/// The moment of the fixtures, in unix seconds.
const NOW: u64 = 1_700_000_000;

/// A node as it should be: owner since five minutes, three backends up.
fn healthy() -> Snapshot {
    let backend = |i: u64| Backend {
        name: format!("db{i}"),
        addr: format!("172.18.0.{}:3306", i + 1),
        state: "up".into(),
        since: NOW - 300,
        check_ms: Some(1.25 * i as f64),
        weight: 1,
        flows: 40 + i,
        active: i,
        packets: 1000 * i,
        bytes: 123_456 * i,
        connect: (i < 3).then(|| Times { p50_ms: 0.064, p99_ms: 0.192, count: 41, ..Times::default() }),
        response: (i == 1).then(|| Times { p50_ms: 1.024, p99_ms: 12.288, count: 30, ..Times::default() }),
        ..Backend::default()
    };
    let packets =
        [("forwarded", "forwarded", 5000), ("returned", "forwarded", 4990), ("new-flow", "forwarded", 126)];
    let more =
        [("arp-answered", "answered", 7), ("not-virtual", "passed", 11), ("egress-passed", "passed", 400)];
    Snapshot {
        node: Node {
            name: "h1".into(),
            daemon: RUNNING.into(),
            pid: 4711,
            since: NOW - 7200,
            version: "0.1.0".into(),
            programs: Some(build()),
            program: "/usr/bin/viplb".into(),
            run: 1,
            datapath_log: false,
            vrrp_thread: None,
        },
        vrrp: vec![Vrrp {
            name: "VI_1".into(),
            interface: "eth0".into(),
            vrid: 51,
            priority: 101,
            state: "Master".into(),
            since: NOW - 300,
            reason: "no owner was heard".into(),
            owner: Some("h1".into()),
            addresses: vec!["172.18.0.201".into()],
            lease_valid: true,
            adverts_sent: 300,
            ..Vrrp::default()
        }],
        interfaces: vec![Interface {
            name: "eth0".into(),
            hook: "tcx".into(),
            why: "kernel 6.6 or later: link-based, atomic replacement".into(),
        }],
        services: vec![Service {
            name: "mysql".into(),
            listen: "172.18.0.201:3306".into(),
            protocol: "tcp".into(),
            scheduler: "rr".into(),
            mode: "nat".into(),
            up: 3,
            backends: (1..=3).map(backend).collect(),
            flows: 126,
            packets: 6000,
            bytes: 740_736,
            ..Service::default()
        }],
        flows: Flows { used: 6, capacity: 262_144 },
        packets: packets
            .iter()
            .chain(&more)
            .map(|(reason, kind, count)| Packets {
                reason: (*reason).into(),
                kind: (*kind).into(),
                count: *count,
            })
            .collect(),
        ..Snapshot::default()
    }
}

/// The same node with a backend down and a stranger on its address.
fn degraded() -> Snapshot {
    let mut s = healthy();
    s.alarms.push(
        "vrrp VI_1: 172.18.0.201 is answered for by 02:42:ac:12:00:63, which sends no adverts: remove the address there"
            .into(),
    );
    let service = &mut s.services[0];
    service.up = 2;
    service.refused = 3;
    (service.active, service.limit) = (6, 1000);
    service.backends[0].limit = 500;
    let db2 = &mut service.backends[1];
    db2.state = "down".into();
    db2.since = NOW - 42;
    db2.cause = "connection refused".into();
    s.packets.push(Packets { reason: "unknown-flow".into(), kind: "refused".into(), count: 3 });
    s.packets.push(Packets { reason: "fragment".into(), kind: "dropped".into(), count: 1 });
    s.drops.extend([("unknown-flow".to_owned(), 3), ("fragment".to_owned(), 1)]);
    s
}

/// What the pinned maps alone tell.
fn build() -> Build {
    Build { version: "0.1.0".into(), commit: "1a2b3c4d5e6f".into(), object: "00112233445566ff".into() }
}

fn dead() -> Snapshot {
    let mut s = healthy();
    s.node = Node {
        name: "h1".into(),
        daemon: "no daemon runs".into(),
        version: "0.1.0".into(),
        programs: Some(build()),
        ..Node::default()
    };
    s.vrrp = vec![Vrrp {
        name: "#0".into(),
        interface: "-".into(),
        state: "Unknown".into(),
        addresses: vec!["172.18.0.201".into()],
        ..Vrrp::default()
    }];
    s.interfaces.clear();
    let service = &mut s.services[0];
    service.name = "#0".into();
    for (i, b) in (0..).zip(&mut service.backends) {
        *b = Backend {
            name: format!("#{i}"),
            state: "unknown".into(),
            check_ms: None,
            weight: 0,
            since: 0,
            ..b.clone()
        };
    }
    s
}

fn assert_is_fixture(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/status").join(name);
    if std::env::var_os("VIPLB_BLESS").is_some() {
        fs::write(&file, text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(text == expected, "{name} differs; it is now:\n{text}\nand was:\n{expected}");
}

#[test]
fn the_text_of_a_healthy_node_is_one_screen() {
    assert_is_fixture("healthy.txt", &render(&healthy(), NOW));
    assert_eq!(healthy().health(), Health::Healthy);
}

#[test]
fn the_text_of_a_degraded_node_names_the_cause_and_the_alarm() {
    assert_is_fixture("degraded.txt", &render(&degraded(), NOW));
    assert_eq!(degraded().health(), Health::Degraded);
}

#[test]
fn the_text_of_a_dead_daemons_node_says_where_it_comes_from() {
    assert_is_fixture("dead.txt", &render(&dead(), NOW));
    assert_eq!(dead().health(), Health::Degraded);
}

#[test]
fn each_of_daemon_election_backends_and_alarms_alone_makes_a_node_degraded() {
    let changes: [fn(&mut Snapshot); 5] = [
        |s| s.node.daemon = "no daemon runs".into(),
        |s| s.vrrp[0].state = "Fault".into(),
        |s| s.services[0].backends[2].state = "unchecked".into(),
        |s| s.services[0].backends[0].state = "down".into(),
        |s| s.alarms.push("something".into()),
    ];
    for change in changes {
        let mut s = healthy();
        change(&mut s);
        assert_eq!(s.health(), Health::Degraded, "{s:?}");
    }
    let mut backup = healthy();
    backup.vrrp[0].state = "Backup".into();
    assert_eq!(backup.health(), Health::Healthy, "a backup is as it should be");
}

/// A node with a daemon, and nothing to balance to.
struct Place {
    prefix: String,
    node: Netns,
    daemon: Child,
    _cleaner: Cleaner,
    _bpffs: Bpffs,
}

impl Place {
    /// `None`, and why on standard error, where it cannot be made.
    fn new(test: &str) -> Option<Self> {
        if !can_run() {
            return None;
        }
        let prefix = format!("vtsta{test}{}", std::process::id());
        let bpffs = Bpffs::claim(&prefix).unwrap();
        let cleaner = Cleaner(prefix.clone());
        let node = Netns::create(format!("{prefix}-h1")).unwrap();
        node.ip_batch(
            "link add eth0 type veth peer name other\naddr add 172.18.0.7/16 dev eth0\nlink set eth0 up\nlink set other up\n",
        )
        .unwrap();
        let file = lab::state_dir(&prefix).join("viplb.toml");
        let config = format!(
            "[node]\nname = \"{}\"\nflows = 1024\n[vrrp.vi_1]\ninterface = \"eth0\"\nvirtual_router_id = 51\n\
             priority = 101\nvirtual_ipaddress = [\"172.18.0.201\"]\n[service.mysql]\nlisten = \"172.18.0.201:3306\"\n\
             [[service.mysql.backend]]\nname = \"own\"\naddress = \"172.18.0.9:3306\"\n[service.mysql.check]\n\
             type = \"mysql\"\nuser = \"monitor\"\n",
            lab::viplb_name(&prefix, "h1")
        );
        fs::write(&file, config).unwrap();
        let log = fs::File::create(lab::state_dir(&prefix).join("viplb.log")).unwrap();
        let mut command = Command::new(daemon::binary().unwrap());
        command.arg("run").arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        node.place(&mut command).unwrap();
        let mut place =
            Place { prefix, node, daemon: command.spawn().unwrap(), _cleaner: cleaner, _bpffs: bpffs };
        wait_until("the daemon answers", LIMIT, || {
            assert_eq!(place.daemon.try_wait().unwrap(), None, "it ended");
            // Before the daemon listens, status reads the maps, which do not hold everything yet.
            serde_json::from_slice::<Snapshot>(&place.status(&["-j"]).stdout)
                .is_ok_and(|s| s.node.daemon == RUNNING)
        });
        Some(place)
    }

    fn status(&self, more: &[&str]) -> Output {
        let mut command = Command::new(daemon::binary().unwrap());
        command.arg("-n").arg(lab::viplb_name(&self.prefix, "h1")).args(more).arg("status");
        self.node.place(&mut command).unwrap();
        command.output().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.daemon.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Takes down what the prefix names.
struct Cleaner(String);

impl Drop for Cleaner {
    fn drop(&mut self) {
        let _ = down::down(&self.0, &Console::quiet());
    }
}

fn can_run() -> bool {
    let can = nix::unistd::geteuid().is_root() && proc::which("ip").is_some();
    if !can {
        eprintln!("not run: needs root and iproute2");
    }
    can
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn json_is_one_line_pretty_json_is_indented_and_both_hold_the_whole_snapshot() {
    let Some(place) = Place::new("jsn") else { return };
    // -p wins over -j, as with bpftool.
    for (flags, one_line) in [(&["-j"][..], true), (&["-p"], false), (&["-j", "-p"], false)] {
        let out = text(&place.status(flags).stdout);
        assert_eq!(out.lines().count() == 1, one_line, "{flags:?}: {out}");
        assert!(out.ends_with("}\n") && (one_line || out.contains("\n  \"vrrp\"")), "{out}");
        let s: Snapshot = serde_json::from_str(&out).unwrap();
        assert_eq!((s.node.pid, s.vrrp[0].vrid), (place.daemon.id(), 51));
        assert_eq!((s.services[0].name.as_str(), s.flows.capacity), ("mysql", 1024));
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(serde_json::to_value(&s).unwrap(), value, "no field is lost");
    }
}

#[test]
fn a_frozen_daemon_and_a_dead_one_are_told_apart_and_the_maps_still_tell() {
    let Some(place) = Place::new("ded") else { return };
    wait_until("the election is over", LIMIT, || text(&place.status(&[]).stdout).contains("Master"));
    for (signal, words) in
        [(Signal::SIGSTOP, "does not answer (frozen?)"), (Signal::SIGKILL, "no daemon runs")]
    {
        place.signal(signal);
        let told = || {
            let out = place.status(&[]);
            let shown = text(&out.stdout);
            let first = shown.lines().next().unwrap_or_default().to_owned();
            (first.contains(words), out.status.code(), shown)
        };
        wait_until(words, LIMIT, || told().0);
        let (_, code, shown) = told();
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains("read from the pinned maps"), "{shown}");
        assert!(shown.contains("172.18.0.201:3306") && shown.contains("flows 0 of 1024"), "{shown}");
        let s: Snapshot = serde_json::from_slice(&place.status(&["-j"]).stdout).unwrap();
        assert!(s.node.daemon.contains(words) && s.node.pid == 0);
        assert_eq!(s.vrrp[0].state, "Unknown");
        wait_until("the lease runs out with nobody to renew it", LIMIT, || {
            let s: Snapshot = serde_json::from_slice(&place.status(&["-j"]).stdout).unwrap();
            !s.vrrp[0].lease_valid
        });
    }
}

/// Runs `viplb WORDS` where no node is but those whose control sockets are `sockets`: in a mount namespace of its own.
fn where_nodes_are(sockets: &[&str], words: &str) -> Option<Output> {
    if !can_run() {
        return None;
    }
    if proc::which("unshare").is_none() {
        eprintln!("not run: no `unshare` (package util-linux)");
        return None;
    }
    let binary: PathBuf = daemon::binary().unwrap();
    let made: String = sockets.iter().map(|name| format!("touch /run/viplb/{name}.sock; ")).collect();
    let script = format!(
        "mount -t tmpfs none /sys/fs && mkdir -p /sys/fs/bpf && mount -t tmpfs none /run && mkdir /run/viplb && \
         {{ {made} exec {} {words}; }}",
        binary.display()
    );
    Some(Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap())
}

#[test]
fn without_any_node_status_says_so_and_ends_with_2() {
    let Some(out) = where_nodes_are(&[], "status") else { return };
    assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0));
    let said = text(&out.stderr);
    assert!(said.contains("no viplb runs here") && said.contains("viplb run -c FILE"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn with_several_nodes_status_lists_them_and_asks_for_one() {
    let Some(out) = where_nodes_are(&["h2", "h1"], "status") else { return };
    assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0));
    let said = text(&out.stderr);
    assert!(said.contains("(h1, h2)") && said.contains("--node NAME"), "{said}");
    // A name that is not there: neither daemon nor maps can be asked.
    let out = where_nodes_are(&["h1", "h2"], "--node h3 status").unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("h3"), "{}", text(&out.stderr));
    assert_eq!(text(&out.stderr).lines().count(), 1);
}

#[test]
fn a_log_switch_that_reaches_nobody_fails_with_words() {
    let Some(out) = where_nodes_are(&["h1"], "log datapath on") else { return };
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.contains("node h1 cannot be told") && said.contains("no daemon runs"), "{said}");
}
