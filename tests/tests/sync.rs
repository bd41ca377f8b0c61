//! Established connections live on when the address moves: two whole daemons, real sockets, and every way for the owner to go.
//!
//! Half of the connections are idle throughout. After each fault all of them answer through the other node, and after the cure
//! through the first one again, which pre-empts only once it has the flows.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server, Talk},
    proc,
};
use lb_userspace::{
    api::snapshot::Sync,
    sync::{
        auth::{Keys, Session},
        wire::Message,
    },
};
use nix::sys::signal::Signal;
use socket2::SockRef;

const CONNECTIONS: usize = 40;
const VIP: &str = "172.18.0.201:3306";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two databases, two nodes, a client, and connections through the virtual address.
struct Scene {
    hosts: Hosts,
    _servers: Vec<Server>,
    talks: Vec<Talk>,
    /// Further lines of the service.
    service: &'static str,
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
            let six = format!("fd00::{}/64", address.rsplit('.').next().expect("a number"));
            hosts.plug(host, "eth0", &[&format!("{address}/16"), &six], "x");
        }
        let servers = vec![hosts.serve("d1", at("[::]:3306"), 1), hosts.serve("d2", at("[::]:3306"), 2)];
        hosts.secret("sync.key", "1 0123456789abcdef0123456789abcdef\n");
        Some(Self { hosts, _servers: servers, talks: Vec::new(), service: "" })
    }

    fn start(&self, node: &str) -> Daemon {
        self.start_with(node, "20s")
    }

    fn start_with(&self, node: &str, failback_wait: &str) -> Daemon {
        let (priority, peer) = if node == "n1" { (200, "172.18.0.8") } else { (100, "172.18.0.7") };
        let daemon = self.hosts.start(
            node,
            &format!(
                "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = {priority}\nversion = 3\n\
                 advert_int = \"100ms\"\nvirtual_ipaddress = [\"172.18.0.201\"]\n\
                 [sync]\npeers = [\"{peer}\"]\nkey_file = \"sync.key\"\nfailback_wait = \"{failback_wait}\"\n\
                 [service.db]\nlisten = \"{VIP}\"\n{service}\n\
                 [[service.db.backend]]\naddress = \"172.18.0.2\"\n[[service.db.backend]]\naddress = \"172.18.0.3\"\n\
                 [service.db.check]\ntype = \"tcp\"\ninterval = \"200ms\"\nrise = 1\nfall = 2\n",
                service = self.service
            ),
        );
        daemon.wait_up("db", 2);
        daemon
    }

    /// From now on a node loses datagrams of replication: all, or those that `which` matches.
    fn drop_datagrams(&self, node: &str, which: &str) {
        let filter = format!(
            "table inet t {{ chain c {{ type filter hook input priority 0; udp dport 29113 {which} drop; }}; }}"
        );
        self.nft(node, &filter);
    }

    fn nft(&self, host: &str, rules: &str) {
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", self.hosts.host(host).name(), "nft", "-f", "-"]);
        proc::finish_with(&mut nft, rules).expect("nft");
    }

    /// Opens connections up to so many, and speaks on each second one.
    fn connect(&mut self, many: usize) {
        while self.talks.len() < many {
            let mut talk = self.hosts.connect("c", at(VIP)).expect("a connection");
            if self.talks.len().is_multiple_of(2) {
                talk.exchange(10_000).expect("an answer");
            }
            self.talks.push(talk);
        }
    }

    /// Every connection answers.
    fn all_answer(&mut self, when: &str) {
        for (i, talk) in self.talks.iter_mut().enumerate() {
            talk.exchange(3_000).unwrap_or_else(|e| panic!("{when}: connection {i} is lost: {e}"));
        }
    }

    /// Those that are not kept idle do.
    fn busy_ones_answer(&mut self, when: &str) {
        for (i, talk) in self.talks.iter_mut().enumerate().step_by(2) {
            talk.exchange(3_000).unwrap_or_else(|e| panic!("{when}: connection {i} is lost: {e}"));
        }
    }
}

fn sync(daemon: &Daemon) -> Sync {
    daemon.status().sync.expect("it replicates")
}

fn wait_in_sync(daemon: &Daemon, flows: usize) {
    wait_until("the flows are here", LIMIT, || {
        let sync = sync(daemon);
        sync.routers[0].state == "in-sync" && sync.routers[0].flows == flows as u64
    });
}

fn wait_backup(daemon: &Daemon) {
    wait_until("it is backup", LIMIT, || daemon.status().vrrp[0].state == "Backup");
}

#[test]
fn connections_outlive_the_killing_of_their_owner_and_its_return() {
    let Some(mut scene) = Scene::raise("sykill") else { return };
    let mut first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    scene.connect(CONNECTIONS);
    wait_in_sync(&second, CONNECTIONS);

    first.end(Signal::SIGKILL);
    second.wait_master();
    scene.all_answer("the owner was killed");
    // What begins now the first node will have to learn.
    scene.connect(CONNECTIONS + 10);

    let first = scene.start("n1");
    first.wait_master();
    let sync = sync(&first);
    assert_eq!(sync.routers[0].flows, scene.talks.len() as u64, "{sync:?}");
    assert!(!sync.routers[0].waited_out, "it had the flows before it pre-empted: {sync:?}");
    wait_backup(&second);
    scene.all_answer("the first node is back");
    assert_eq!(sync.refused.len(), 0, "{sync:?}");
}

#[test]
fn connections_outlive_the_freezing_of_their_owner_and_its_awakening() {
    let Some(mut scene) = Scene::raise("syfrz") else { return };
    let first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    scene.connect(CONNECTIONS);
    wait_in_sync(&second, CONNECTIONS);

    for round in ["first", "second"] {
        first.signal(Signal::SIGSTOP);
        second.wait_master();
        scene.busy_ones_answer(&format!("the owner is frozen, {round} time"));
        scene.connect(scene.talks.len() + 5);
        first.signal(Signal::SIGCONT);
        first.wait_master();
        wait_backup(&second);
        scene.busy_ones_answer(&format!("the owner is awake, {round} time"));
    }
    scene.all_answer("after two rounds");
}

#[test]
fn connections_outlive_a_planned_stop_and_start() {
    let Some(mut scene) = Scene::raise("systop") else { return };
    let mut first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    scene.connect(CONNECTIONS);
    wait_in_sync(&second, CONNECTIONS);
    // The youngest of all.
    scene.connect(CONNECTIONS + 1);
    first.end(Signal::SIGTERM);
    second.wait_master();
    scene.all_answer("the owner was stopped");
    let first = scene.start("n1");
    first.wait_master();
    scene.all_answer("the first node is back");
}

#[test]
fn a_handshake_that_is_under_way_when_its_owner_stops_is_completed_by_the_next_one() {
    let Some(scene) = Scene::raise("syhand") else { return };
    let mut first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    wait_in_sync(&second, 0);
    // The backend's answer does not reach the client, whose own SYN leaves once.
    scene.nft(
        "c",
        "table inet answers { chain c { type filter hook input priority 0; tcp flags & (syn | ack) == syn | ack counter drop; }; }
         table inet asks { chain c { type filter hook output priority 0; tcp flags & (syn | ack) == syn limit rate over 1/hour burst 1 packets drop; }; }",
    );
    let hosts = &scene.hosts;
    std::thread::scope(|s| {
        let talk = s.spawn(|| hosts.connect("c", at(VIP)));
        let client = hosts.host("c");
        let listed = ["netns", "exec", client.name(), "nft", "list", "table", "inet", "answers"];
        wait_until("the backend has answered", LIMIT, || {
            !proc::finish(Command::new("ip").args(listed)).expect("nft").contains("packets 0 ")
        });
        first.end(Signal::SIGTERM);
        second.wait_master();
        scene.nft("c", "delete table inet answers");
        // The backend sends its answer again; refused, the connection would be reset.
        let mut talk = talk.join().expect("a thread").expect("the connection is established");
        talk.exchange(3_000).expect("an answer");
    });
    wait_until("it counts as established", LIMIT, || sync(&second).routers[0].flows == 1);
}

#[test]
fn connections_outlive_their_owner_though_every_fifth_datagram_is_lost() {
    let Some(mut scene) = Scene::raise("syloss") else { return };
    for node in ["n1", "n2"] {
        scene.drop_datagrams(node, "numgen random mod 5 == 0");
    }
    let mut first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    scene.connect(3 * CONNECTIONS);
    wait_in_sync(&second, 3 * CONNECTIONS);
    first.end(Signal::SIGKILL);
    second.wait_master();
    scene.all_answer("the owner was killed");
    scene.connect(4 * CONNECTIONS);
    let first = scene.start("n1");
    first.wait_master();
    assert!(!sync(&first).routers[0].waited_out, "{:?}", sync(&first));
    scene.all_answer("the first node is back");
}

#[test]
fn connections_that_nobody_told_the_new_owner_of_live_on_where_it_adopts_them() {
    let Some(mut scene) = Scene::raise("syadopt") else { return };
    scene.service = "scheduler = \"mh\"\nunknown = \"adopt\"";
    let mut first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    scene.drop_datagrams("n2", "");
    scene.connect(CONNECTIONS);
    assert_eq!(sync(&second).routers[0].flows, 0);
    first.end(Signal::SIGKILL);
    second.wait_master();
    scene.all_answer("the owner was killed");
    wait_until("all are adopted, and replicated from then on", LIMIT, || {
        let adopted = second.status().packets.into_iter().find(|p| p.reason == "adopted");
        adopted.is_some_and(|p| p.count == CONNECTIONS as u64)
            && sync(&second).routers[0].flows == CONNECTIONS as u64
    });
}

/// A service whose clients hear of the backend once the other node has the flow: it has it when `connect` returns, and not some time later.
#[test]
fn the_youngest_connection_of_a_strict_service_outlives_its_owner_too() {
    let Some(mut scene) = Scene::raise("systr") else { return };
    scene.service = "sync = \"strict\"";
    let mut first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    wait_in_sync(&second, 0);
    for _ in 0..20 {
        scene.talks.push(scene.hosts.connect("c", at(VIP)).expect("a connection"));
    }
    wait_until("each has waited for the other node", LIMIT, || {
        sync(&first).strict.get("confirmed") == Some(&20)
    });
    scene.talks.push(scene.hosts.connect("c", at(VIP)).expect("a connection"));
    first.end(Signal::SIGKILL);
    second.wait_master();
    scene.all_answer("the owner was killed");
    scene.connect(22);
    let first = scene.start("n1");
    first.wait_master();
    scene.all_answer("the first node is back");
}

#[test]
fn a_peer_that_does_not_answer_delays_a_strict_services_connections_and_does_not_prevent_them() {
    let Some(mut scene) = Scene::raise("sylate") else { return };
    scene.service = "sync = \"strict\"";
    let first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    wait_in_sync(&second, 0);
    second.signal(Signal::SIGSTOP);
    scene.connect(3);
    wait_until("they were let go all the same", LIMIT, || {
        let counts = sync(&first).strict;
        assert_eq!(counts.get("confirmed"), None, "{counts:?}");
        counts.get("late") >= Some(&1) && counts.values().sum::<u64>() == 3
    });
    second.signal(Signal::SIGCONT);
    wait_in_sync(&second, 3);
    scene.connect(6);
    wait_in_sync(&second, 6);
    scene.all_answer("afterwards");
}

#[test]
fn what_has_ended_is_gone_from_both_tables() {
    let Some(mut scene) = Scene::raise("syend") else { return };
    let first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    scene.connect(10);
    wait_in_sync(&second, 10);
    for talk in scene.talks.drain(..8) {
        SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }
    wait_in_sync(&second, 2);
    assert_eq!(sync(&first).routers[0].flows, 2);
    scene.all_answer("the others have ended");
}

#[test]
fn a_node_whose_peer_is_not_heard_pre_empts_when_its_wait_is_over_and_says_so() {
    let Some(mut scene) = Scene::raise("sywait") else { return };
    let second = scene.start("n2");
    second.wait_master();
    scene.connect(2);
    // Adverts and probes come through, and nothing of replication.
    scene.drop_datagrams("n1", "");
    let first = scene.start_with("n1", "4s");
    wait_until("it says that it waits", LIMIT, || {
        sync(&first).routers[0].waits_ms.is_some_and(|ms| ms > 0.0 && ms <= 4000.0)
            && first.status().vrrp[0].state == "Backup"
    });
    assert_eq!(sync(&first).peers[0].state, "silent");
    first.wait_master();
    assert!(sync(&first).routers[0].waited_out, "{:?}", sync(&first));
}

#[test]
fn made_up_datagrams_change_nothing_and_are_counted() {
    let Some(mut scene) = Scene::raise("syforge") else { return };
    let first = scene.start("n1");
    first.wait_master();
    let second = scene.start("n2");
    scene.connect(4);
    wait_in_sync(&second, 4);
    let before = sync(&second);
    let to = at("172.18.0.8:29113");
    let say = |host: &str, what: &[u8]| {
        let socket = scene.hosts.host(host).run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().expect("a socket");
        socket.send_to(what, to).expect("sent");
    };
    let mut session = Session::new(4711);
    let wrong = Keys::new(&[(1, vec![7; 32])]).expect("a key");
    let hello = Message::Hello { highest: 1, claims: Vec::new() };
    say("d1", b"anything");
    say("n1", b"too short");
    say("n1", &session.seal(&hello, &wrong));
    let right = b"0123456789abcdef0123456789abcdef".to_vec();
    let old_key = Keys::new(&[(9, right.clone())]).expect("a key");
    say("n1", &session.seal(&hello, &old_key));
    // Sealed as it should be, for a run that is not this one: what a recorded datagram is.
    let recorded = Keys::new(&[(1, right)]).expect("a key");
    say("n1", &session.seal(&Message::Flows(Vec::new()), &recorded));
    let expected = ["bad-tag", "malformed", "stale-session", "stranger", "unknown-key"];
    wait_until("all are counted", LIMIT, || {
        let refused = sync(&second).refused;
        expected.iter().all(|why| refused.get(*why) == Some(&1))
    });
    let after = sync(&second);
    assert_eq!((after.removed, after.routers[0].flows), (before.removed, 4));
    assert_eq!(after.routers[0].state, "in-sync");
    scene.all_answer("nothing has changed");
}

#[test]
fn connections_of_ipv6_outlive_the_killing_of_their_owner_too() {
    let Some(mut scene) = Scene::raise("sysix") else { return };
    let start = |node: &str| {
        let (priority, peer) = if node == "n1" { (200, "fd00::8") } else { (100, "fd00::7") };
        let daemon = scene.hosts.start(
            node,
            &format!(
                "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = {priority}\nversion = 3\n\
                 advert_int = \"100ms\"\nvirtual_ipaddress = [\"fe80::201\", \"fd00::201\"]\n\
                 [sync]\npeers = [\"{peer}\"]\nkey_file = \"sync.key\"\n\
                 [service.db]\nlisten = \"[fd00::201]:3306\"\n\
                 [[service.db.backend]]\naddress = \"fd00::2\"\n\
                 [service.db.check]\ntype = \"tcp\"\ninterval = \"200ms\"\nrise = 1\nfall = 2\n"
            ),
        );
        daemon.wait_up("db", 1);
        daemon
    };
    let mut first = start("n1");
    first.wait_master();
    let second = start("n2");
    for _ in 0..5 {
        scene.talks.push(scene.hosts.connect("c", at("[fd00::201]:3306")).expect("a connection"));
    }
    wait_in_sync(&second, 5);
    first.end(Signal::SIGKILL);
    second.wait_master();
    scene.all_answer("the owner was killed");
}
