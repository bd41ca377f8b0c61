//! A daemon that another one follows at once, on a node that is alone: clients that go on without a pause notice neither a restart nor
//! another build. And what must not be taken over is not.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, process::Output, time::Duration};

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
    steady::{self, Steady},
};
use nix::sys::signal::Signal;

/// Nobody frees flows while a daemon is loaded, which takes its time on a busy machine.
const ROOM: u32 = 1 << 15;
const CONFIG: &str = "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\nversion = 3\n\
                      advert_int = \"100ms\"\nvirtual_ipaddress = [\"172.18.0.201\"]\n\
                      [service.db]\nlisten = \"172.18.0.201:3306\"\n\
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
        Some(Self { hosts, _servers: servers.into() })
    }

    fn start(&self, node: &str, config: &str) -> Daemon {
        self.hosts.start_with_room(node, ROOM, config)
    }

    fn ready(&self) -> Daemon {
        let daemon = self.start("n1", CONFIG);
        daemon.wait_master();
        daemon.wait_up("db", 2);
        daemon.wait_up("udp", 1);
        daemon
    }

    fn clients(&self) -> (Steady, Vec<Talk>) {
        let connect = || self.hosts.connect("c", at("172.18.0.201:3306")).expect("a connection");
        let client = self.hosts.host("c");
        let steady = Steady::new((0..6).map(|_| connect()).collect())
            .with_datagrams(&client, at("172.18.0.201:3308"))
            .with_new_connections(&client, at("172.18.0.201:3306"));
        (steady, (0..6).map(|_| connect()).collect())
    }
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Nothing was lost, and those that were silent all the time answer.
#[track_caller]
fn nothing_lost(clients: Steady, silent: &mut [Talk]) {
    let before = clients.answered();
    wait_until("clients go on", LIMIT, || clients.answered() > before + 500);
    let toll = clients.toll();
    toll.is_nothing();
    for talk in silent {
        talk.exchange(3000).expect("a connection that was silent");
    }
}

#[test]
fn a_restart_of_a_node_that_is_alone_costs_nobody_a_packet() {
    let Some(scene) = Scene::raise("restart") else { return };
    let mut daemon = scene.ready();
    let stands = |d: &Daemon| -> Vec<_> {
        d.status()
            .services
            .iter()
            .flat_map(|s| s.backends.clone())
            .map(|b| (b.name, b.state, b.since))
            .collect()
    };
    assert!(daemon.viplb(&["backend", "drain", "db", "d2"]).status.success());
    wait_until("it drains", LIMIT, || stands(&daemon)[1].1 == "drain");
    let before = stands(&daemon);
    let (clients, mut silent) = scene.clients();
    for _ in 0..3 {
        daemon = daemon.restarted(&scene.hosts, "n1", ROOM, CONFIG);
        daemon.wait_master();
        let vrrp = daemon.status().vrrp.remove(0);
        assert_eq!((vrrp.state.as_str(), vrrp.reason.as_str()), ("Master", "goes on after a restart"));
        assert_eq!(stands(&daemon), before, "backends stand as before, orders hold");
        let answered = clients.answered();
        wait_until("clients go on", LIMIT, || clients.answered() > answered + 200);
    }
    nothing_lost(clients, &mut silent);
    wait_until("counts are right", LIMIT, || daemon.status().services[0].active == silent.len() as u64);
}

#[test]
fn another_build_goes_on_in_the_process_of_a_daemon_without_a_packet_lost() {
    let Some(scene) = Scene::raise("upgrade") else { return };
    let daemon = scene.ready();
    let (clients, mut silent) = scene.clients();
    let before = daemon.status().node;
    let programs = |d: &Daemon| -> Vec<u64> {
        let shown: serde_json::Value =
            serde_json::from_slice(&d.viplb(&["-j", "prog", "show"]).stdout).unwrap();
        shown["programs"].as_array().unwrap().iter().map(|p| p["id"].as_u64().unwrap()).collect()
    };
    let build = |d: &Daemon| {
        let shown: serde_json::Value =
            serde_json::from_slice(&d.viplb(&["-j", "prog", "show"]).stdout).unwrap();
        (shown["build"].clone(), shown["own"].clone())
    };
    let old = programs(&daemon);
    assert!(old.len() > 3, "{old:?}");
    for _ in 0..2 {
        let out = daemon.viplb(&["upgrade"]);
        assert!(out.status.success(), "{}\n{}", words(&out), daemon.log());
        let answered = clients.answered();
        wait_until("clients go on", LIMIT, || clients.answered() > answered + 200);
    }
    nothing_lost(clients, &mut silent);
    let after = daemon.status().node;
    assert_eq!(after.pid, before.pid, "the process is the same");
    assert_ne!(after.run, before.run);
    assert!(programs(&daemon).iter().all(|id| !old.contains(id)), "the programs are others");
    let (loaded, own) = build(&daemon);
    assert_eq!(loaded, own, "what runs is what this build has");
    assert_eq!(loaded["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(serde_json::to_value(&daemon.status().node.programs).unwrap(), loaded);
    let shown = words(&daemon.viplb(&["prog", "show"]));
    assert!(shown.contains(&format!("programs {})\n", loaded["object"].as_str().unwrap())), "{shown}");
}

#[test]
fn a_build_that_does_not_work_changes_nothing() {
    let Some(scene) = Scene::raise("badbuild") else { return };
    let daemon = scene.ready();
    let mut talk = scene.hosts.connect("c", at("172.18.0.201:3306")).expect("a connection");
    let before = daemon.status().node;
    let program = std::env::temp_dir().join(format!("viplb-bad-{}", std::process::id()));
    let write = |text: &str| {
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("#!/bin/sh\necho something else 1.0\n");
    let out = daemon.viplb(&["upgrade", program.to_str().unwrap()]);
    assert!(!out.status.success() && words(&out).contains("is no viplb"), "{}", words(&out));
    write("#!/bin/sh\n[ \"$1\" = prog ] && { echo the verifier says no; exit 1; }\necho viplb 99\n");
    let out = daemon.viplb(&["upgrade", program.to_str().unwrap()]);
    assert!(!out.status.success() && words(&out).contains("the verifier says no"), "{}", words(&out));
    assert_eq!(daemon.status().node.run, before.run);
    let _ = fs::remove_file(&program);
    talk.exchange(3000).expect("nothing has changed");
}

#[test]
fn a_lease_that_ran_out_or_was_left_by_a_crash_is_not_gone_on_with() {
    let Some(scene) = Scene::raise("stale") else { return };
    let mut daemon = scene.ready();
    assert!(daemon.viplb(&["stop", "--keep", "--within", "1"]).status.success());
    daemon.ended();
    std::thread::sleep(Duration::from_millis(1200));
    let daemon = scene.start("n1", CONFIG);
    daemon.wait_master();
    assert_eq!(daemon.status().vrrp[0].reason, "no master was heard");
    daemon.wait_up("db", 2);
    let mut daemon = daemon;
    daemon.end(Signal::SIGKILL);
    let daemon = scene.start("n1", CONFIG);
    daemon.wait_master();
    assert_eq!(daemon.status().vrrp[0].reason, "no master was heard");
}

#[test]
fn with_a_peer_the_addresses_are_handed_over_as_at_any_stop() {
    let Some(scene) = Scene::raise("peer") else { return };
    let mut daemon = scene.ready();
    let peer = scene.start("n2", &CONFIG.replace("priority = 101", "priority = 100"));
    peer.wait_up("db", 2);
    wait_until("the peer watches", LIMIT, || {
        daemon.status().vrrp[0].probe.as_ref().is_some_and(|p| p.watched)
    });
    assert!(daemon.viplb(&["stop", "--keep"]).status.success());
    daemon.ended();
    peer.wait_master();
    let reason = peer.status().vrrp[0].reason.clone();
    assert!(!reason.contains("no master"), "{reason}");
    let daemon = scene.start("n1", CONFIG);
    daemon.wait_master();
    wait_until("the peer has left it", LIMIT, || peer.status().vrrp[0].state == "Backup");
}
