//! What viplb makes of a real Galera cluster's states: each condition is set for real, and state, cause and the place
//! where new connections go are as docs/galera.md says, within bounds.
//!
//! One cluster goes through all conditions, because raising one takes longest. Two services stand in front of it, for
//! the writer and for readers; the bounds are for a busy machine, the interval is half a second.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use lb_tests::{
    console::Console,
    daemon, down,
    expect::wait_until,
    lab::{Balancer, DB_PORT, Engine, Lab, Node, Plan, VIP},
    node, proc,
    sql::{self, APP, MONITOR, ROOT, Server, tcp_options},
    vip,
};
use lb_userspace::api::snapshot::{Backend, Snapshot};
use mysql_async::{Conn, prelude::Queryable};

/// For what takes as long as the cluster likes.
const LIMIT: Duration = Duration::from_secs(120);
/// For what a node says of itself: a few intervals.
const SAID: Duration = Duration::from_secs(5);
/// Port of the service for readers.
const READ_PORT: u16 = 3307;
/// Port of the service whose file names one node and whose cluster names the others.
const FOUND_PORT: u16 = 3308;
/// How long it remembers a node that has left.
const FORGET: Duration = Duration::from_secs(4);

/// A lab with the real cluster behind h1, taken down when it goes out of scope.
struct Cluster(Lab);

impl Cluster {
    /// `None`, and why on standard error, where it cannot be had.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: needs root");
            return None;
        }
        if let (Engine::Standin, why) = lb_tests::galera::engine() {
            eprintln!("not run: {}", why.unwrap_or_default());
            return None;
        }
        let (engine, h1, h2) = (Engine::Galera, Balancer::Viplb, Balancer::Nothing);
        let plan = Plan { prefix: format!("vtgst{}", std::process::id()), db: 3, engine, h1, h2 };
        let cluster = Cluster(Lab::of(plan.clone()).unwrap());
        Lab::up(plan, &Console::quiet()).unwrap();
        let h1 = cluster.node("h1");
        node::stop(&cluster.0, &h1, &Console::quiet()).unwrap();
        fs::write(cluster.0.node_dir(&h1).join("viplb.toml"), configuration(&cluster.0, &h1)).unwrap();
        node::start(&cluster.0, &h1, &Console::quiet()).unwrap();
        wait_until("h1 owns the address", LIMIT, || vip::owners(&cluster.0).unwrap() == ["h1"]);
        Some(cluster)
    }

    fn node(&self, name: &str) -> Node {
        self.0.node(name).unwrap()
    }

    /// Sets something at a database, as its owner.
    fn set(&self, db: &str, what: &str) {
        let server = Server::Socket(self.0.db_socket(&self.node(db)));
        sql::query_within(LIMIT, &server, ROOT, &[&format!("SET GLOBAL {what}")]).unwrap();
    }

    fn global_status(&self, db: &str, name: &str) -> u64 {
        let server = Server::Socket(self.0.db_socket(&self.node(db)));
        let rows = sql::query(&server, ROOT, &format!("SHOW GLOBAL STATUS LIKE '{name}'")).unwrap();
        rows[0][1].as_ref().unwrap().parse().unwrap()
    }

    fn backend(&self, service: &str, db: &str) -> Backend {
        let mut seen = None;
        wait_until("viplb in h1 answers", LIMIT, || {
            seen = daemon::status(&self.0, &self.node("h1")).ok();
            seen.is_some()
        });
        let snapshot: Snapshot = serde_json::from_value(seen.unwrap()).unwrap();
        let service = snapshot.services.into_iter().find(|s| s.name == service).unwrap();
        service.backends.into_iter().find(|b| b.name == db).unwrap()
    }

    /// Waits until a node stands like this in a service; its cause holds the words.
    fn wait_for(&self, service: &str, db: &str, state: &str, words: &str, limit: Duration) {
        let since = Instant::now();
        let mut last = String::new();
        let stands = |b: &Backend| {
            let serves = if b.state == "up" && !b.part.is_empty() { &b.part } else { &b.state };
            serves == state && b.cause.contains(words)
        };
        while let b = self.backend(service, db)
            && !stands(&b)
        {
            last = format!("{} {} {}", b.state, b.part, b.cause);
            assert!(since.elapsed() < limit, "{db} in {service} is not {state} ({words}), but {last}");
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("{db} in {service} is {state} ({words}) after {:.2?}; before: {last}", since.elapsed());
    }

    /// Name of the node that a new connection to this port of the address ends at.
    fn lands_at(&self, port: u16) -> String {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut conn = Conn::new(tcp_options(SocketAddr::from((VIP, port)), APP)).await.unwrap();
                let name: Option<String> = conn.query_first("SELECT @@wsrep_node_name").await.unwrap();
                conn.disconnect().await.unwrap();
                name.unwrap()
            })
        };
        self.0.netns(&self.node("client")).run(ask).unwrap()
    }

    /// Where readers' connections end at.
    fn readers_land_at(&self) -> Vec<String> {
        self.all_land_at(READ_PORT)
    }

    fn all_land_at(&self, port: u16) -> Vec<String> {
        let mut all: Vec<String> = (0..6).map(|_| self.lands_at(port)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Names of the service's backends, those that were discovered.
    fn found(&self) -> Vec<String> {
        let status = daemon::status(&self.0, &self.node("h1"));
        let snapshot: Snapshot = serde_json::from_value(status.unwrap()).unwrap();
        let service = snapshot.services.into_iter().find(|s| s.name == "found").unwrap();
        service.backends.into_iter().filter(|b| b.discovered).map(|b| b.name).collect()
    }

    /// The address of a database, which is its name as a discovered backend.
    fn address(&self, db: &str) -> String {
        self.node(db).addr.to_string()
    }

    /// Connections of the application to a database until it takes no more, kept open by the answer.
    fn fill(&self, db: &str) -> (tokio::runtime::Runtime, Vec<Conn>) {
        let addr = SocketAddr::from((self.node(db).addr, DB_PORT));
        let fill = || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let conns = runtime.block_on(async {
                let (mut conns, mut refused) = (Vec::new(), 0);
                // A check's own login may hold the last place for a moment.
                while refused < 10 {
                    match Conn::new(tcp_options(addr, APP)).await {
                        Ok(conn) => (refused, _) = (0, conns.push(conn)),
                        Err(_) => {
                            refused += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
                conns
            });
            (runtime, conns)
        };
        self.0.netns(&self.node("client")).run(fill).unwrap()
    }

    fn viplb(&self, words: &[&str]) -> String {
        let mut viplb = Command::new(daemon::binary().unwrap());
        viplb.arg("--node").arg(self.0.viplb_name(&self.node("h1"))).args(words);
        let out = viplb.output().unwrap();
        assert!(
            out.status.code().is_some_and(|c| c < 2),
            "{words:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.0.node_dir(&self.node("h1")).join("viplb.log");
            eprintln!("{}", proc::tail(&log, 60));
        }
        down::end(&self.0.plan().prefix);
    }
}

fn configuration(lab: &Lab, h1: &Node) -> String {
    let (user, password) = (MONITOR.user, MONITOR.password.unwrap());
    let check = format!(
        "check = {{ type = \"galera\", user = \"{user}\", password = \"{password}\", interval = \"500ms\", login_every = 2 }}\n"
    );
    let backends: Vec<String> = (lab.databases().iter().zip([2, 1, 0]))
        .map(|(db, priority)| {
            format!(
                "{{ name = \"{}\", address = \"{}:{DB_PORT}\", priority = {priority} }}",
                db.name, db.addr
            )
        })
        .collect();
    let (first, forget) = (&backends[0], FORGET.as_secs());
    let found = format!(
        "backend = [{first}]\n{check}discover = {{ networks = [\"172.18.0.0/16\"], forget = \"{forget}s\" }}\n"
    );
    let backends = format!("backend = [{}]\n{check}", backends.join(", "));
    let vrrp = daemon::configuration(lab, h1);
    let (vrrp, _) = vrrp.split_once("[service.").unwrap();
    format!(
        "{vrrp}[service.write]\nlisten = \"{VIP}:{DB_PORT}\"\nrole = \"writer\"\n{backends}\
         [service.read]\nlisten = \"{VIP}:{READ_PORT}\"\nrole = \"reader\"\n{backends}\
         [service.found]\nlisten = \"{VIP}:{FOUND_PORT}\"\n{found}"
    )
}

#[test]
fn every_state_of_a_node_is_seen_named_and_acted_upon() {
    let Some(cluster) = Cluster::new() else { return };
    for db in ["db1", "db2", "db3"] {
        cluster.wait_for("read", db, "up", "", LIMIT);
    }
    cluster.wait_for("write", "db1", "writer", "", LIMIT);
    cluster.wait_for("write", "db2", "standby", "", LIMIT);
    assert_eq!((cluster.lands_at(DB_PORT).as_str(), cluster.readers_land_at().len()), ("db1", 3));
    let screen = cluster.viplb(&["galera", "status"]);
    assert!(screen.contains("role writer  writer db1  3/3 up") && screen.contains("Primary"), "{screen}");
    let aborted = cluster.global_status("db1", "Aborted_connects");

    discovered(&cluster);
    desynced(&cluster);
    rejecting(&cluster);
    read_only(&cluster);
    full(&cluster);
    ordered(&cluster);
    frozen(&cluster);
    isolated(&cluster);
    stopped(&cluster);
    killed(&cluster);
    assert_eq!(cluster.global_status("db1", "Aborted_connects"), aborted, "checks leave no mark");
}

/// One node is in the file; the cluster names the others. A daemon that follows a killed one knows them at once.
fn discovered(cluster: &Cluster) {
    let others = ["db2", "db3"].map(|db| cluster.address(db));
    for db in &others {
        cluster.wait_for("found", db, "up", "", SAID);
    }
    assert_eq!(cluster.all_land_at(FOUND_PORT), ["db1", "db2", "db3"]);
    let screen = cluster.viplb(&["galera", "status"]);
    assert!(screen.contains(&format!("{} (discovered)", others[0])), "{screen}");
    let reloaded = cluster.viplb(&["reload", "--dry-run"]);
    assert!(!reloaded.contains(&others[0]), "a reload changes nothing of them: {reloaded}");
    let h1 = cluster.node("h1");
    node::kill(&cluster.0, &h1, &Console::quiet()).unwrap();
    node::start(&cluster.0, &h1, &Console::quiet()).unwrap();
    wait_until("the next daemon answers", LIMIT, || daemon::status(&cluster.0, &h1).is_ok());
    assert_eq!(cluster.found(), others, "before any check has answered");
    for db in ["db1", "db2", "db3"] {
        cluster.wait_for("read", db, "up", "", LIMIT);
    }
    cluster.wait_for("write", "db1", "writer", "", LIMIT);
}

fn desynced(cluster: &Cluster) {
    cluster.set("db2", "wsrep_desync = ON");
    cluster.wait_for("read", "db2", "drain", "wsrep_desync is ON", SAID);
    assert_eq!(cluster.readers_land_at(), ["db1", "db3"]);
    cluster.set("db2", "wsrep_desync = OFF");
    cluster.wait_for("read", "db2", "up", "", SAID);
}

fn rejecting(cluster: &Cluster) {
    cluster.set("db2", "wsrep_reject_queries = ALL");
    cluster.wait_for("read", "db2", "down", "wsrep_reject_queries is ALL", SAID);
    cluster.wait_for("write", "db2", "down", "wsrep_reject_queries is ALL", SAID);
    cluster.set("db2", "wsrep_reject_queries = NONE");
    cluster.wait_for("read", "db2", "up", "", SAID);
    cluster.wait_for("write", "db2", "standby", "", SAID);
}

fn read_only(cluster: &Cluster) {
    cluster.set("db1", "read_only = ON");
    cluster.wait_for("write", "db1", "drain", "read_only is ON", SAID);
    cluster.wait_for("write", "db2", "writer", "", SAID);
    cluster.wait_for("read", "db1", "up", "", SAID);
    assert_eq!(cluster.lands_at(DB_PORT), "db2");
    cluster.set("db1", "read_only = OFF");
    cluster.wait_for("write", "db1", "standby", "", SAID);
    assert_eq!(cluster.lands_at(DB_PORT), "db2", "failback = never");
}

fn full(cluster: &Cluster) {
    cluster.set("db3", "max_connections = 10");
    let (runtime, conns) = cluster.fill("db3");
    cluster.wait_for("read", "db3", "full", "too many connections", SAID);
    cluster.set("db3", "max_connections = 300");
    cluster.wait_for("read", "db3", "up", "", SAID);
    runtime.block_on(async {
        for mut conn in conns {
            assert!(conn.ping().await.is_ok(), "a full node keeps its connections");
            conn.disconnect().await.unwrap();
        }
    });
}

fn ordered(cluster: &Cluster) {
    cluster.viplb(&["backend", "drain", "write", "db2"]);
    cluster.wait_for("write", "db2", "drain", "by order", Duration::ZERO);
    assert_eq!(cluster.lands_at(DB_PORT), "db1");
    cluster.viplb(&["backend", "ready", "write", "db2"]);
    cluster.viplb(&["backend", "weight", "read", "db3", "0"]);
    assert_eq!(cluster.readers_land_at(), ["db1", "db2"]);
    cluster.viplb(&["backend", "weight", "read", "db3"]);
    assert_eq!(cluster.readers_land_at().len(), 3);
}

fn frozen(cluster: &Cluster) {
    let db2 = cluster.node("db2");
    node::pause(&cluster.0, &db2).unwrap();
    cluster.wait_for("read", "db2", "down", "within 500ms", SAID);
    assert_eq!(cluster.readers_land_at(), ["db1", "db3"]);
    node::unpause(&cluster.0, &db2).unwrap();
    cluster.wait_for("read", "db2", "up", "", LIMIT);
}

fn isolated(cluster: &Cluster) {
    cluster.set("db3", "wsrep_provider_options = 'gmcast.isolate=1'");
    cluster.wait_for("read", "db3", "down", "not in the primary component: non-Primary", LIMIT);
    for db in ["db1", "db2"] {
        cluster.wait_for("read", db, "up", "", SAID);
    }
    assert_eq!(cluster.readers_land_at(), ["db1", "db2"]);
    cluster.set("db3", "wsrep_provider_options = 'gmcast.isolate=0'");
    cluster.wait_for("read", "db3", "up", "", LIMIT);
}

fn stopped(cluster: &Cluster) {
    let db2 = cluster.node("db2");
    node::stop(&cluster.0, &db2, &Console::quiet()).unwrap();
    cluster.wait_for("read", "db2", "down", "", SAID);
    assert_eq!(cluster.readers_land_at(), ["db1", "db3"]);
    wait_until("who has left is forgotten", FORGET + SAID, || cluster.found() == [cluster.address("db3")]);
    node::start(&cluster.0, &db2, &Console::quiet()).unwrap();
    cluster.wait_for("read", "db2", "up", "", SAID);
    wait_until("who is back is found again", SAID, || cluster.found().len() == 2);
    cluster.wait_for("found", &cluster.address("db2"), "up", "", SAID);
}

fn killed(cluster: &Cluster) {
    let db3 = cluster.node("db3");
    node::kill(&cluster.0, &db3, &Console::quiet()).unwrap();
    cluster.wait_for("read", "db3", "down", "connection refused", SAID);
    assert_eq!(cluster.lands_at(DB_PORT), "db1");
    node::start(&cluster.0, &db3, &Console::quiet()).unwrap();
    cluster.wait_for("read", "db3", "up", "", LIMIT);
}
