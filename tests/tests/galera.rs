//! The main job: two viplb in front of a real three-node MariaDB Galera cluster.
//!
//! Rows and bulk data go in through the virtual address and are looked for on every node; a node that is killed costs
//! no acknowledged row, and health checks leave no mark on the servers.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lb_tests::{
    console::Console,
    daemon, down,
    expect::{tcp_counter, wait_until},
    lab::{Balancer, DB_PORT, Engine, Lab, Node, Plan, VIP},
    node,
    sql::{self, APP, ROOT, Server, tcp_options},
    tryout, vip,
    writer::{Options, Tally, Writer},
};
use lb_userspace::api::snapshot::Snapshot;
use mysql_async::{Conn, prelude::Queryable};

/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(120);
/// Rows of the bulk table: 20 of 1 MiB.
const PIECES: u32 = 20;
const PIECE: usize = 1 << 20;
/// How long a client waits for an answer before it connects again.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);

/// A lab with the real cluster and viplb in both balancers, taken down when it goes out of scope.
struct Cluster(Lab);

impl Cluster {
    /// `None`, and why on standard error, where it cannot be had.
    fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: needs root");
            return None;
        }
        if let (Engine::Standin, why) = lb_tests::galera::engine() {
            eprintln!("not run: {}", why.unwrap_or_default());
            return None;
        }
        let (engine, viplb) = (Engine::Galera, Balancer::Viplb);
        let prefix = format!("vtgal{test}{}", std::process::id());
        let plan = Plan { prefix, db: 3, engine, h1: viplb, h2: viplb };
        let cluster = Cluster(Lab::of(plan.clone()).unwrap());
        Lab::up(plan, &Console::quiet()).unwrap();
        wait_until("h1 owns the address", LIMIT, || vip::owners(&cluster.0).unwrap() == ["h1"]);
        cluster.wait_for_states(["up"; 3]);
        Some(cluster)
    }

    fn node(&self, name: &str) -> Node {
        self.0.node(name).unwrap()
    }

    fn snapshot(&self) -> Snapshot {
        let answer = || daemon::status(&self.0, &self.node("h1"));
        let mut seen = None;
        wait_until("viplb in h1 answers", LIMIT, || {
            seen = answer().ok();
            seen.is_some()
        });
        serde_json::from_value(seen.unwrap()).unwrap()
    }

    fn states(&self) -> Vec<String> {
        self.snapshot().services[0].backends.iter().map(|b| b.state.clone()).collect()
    }

    fn wait_for_states(&self, states: [&str; 3]) {
        wait_until(&format!("backends are {states:?}"), LIMIT, || self.states() == states);
    }

    fn writer(&self) -> Writer {
        let target = SocketAddr::from((VIP, DB_PORT));
        let options = Options { timeout: CLIENT_TIMEOUT, ..Options::to(target) };
        Writer::start(self.0.netns(&self.node("client")), options)
    }

    /// One value, asked of a database itself.
    fn value(&self, db: &Node, statement: &str) -> String {
        let server = Server::Socket(self.0.db_socket(db));
        let statements = ["SET SESSION wsrep_sync_wait = 1", statement];
        let rows = sql::query_within(LIMIT, &server, ROOT, &statements).unwrap();
        rows[0].last().unwrap().clone().unwrap()
    }

    fn global_status(&self, db: &Node, name: &str) -> u64 {
        self.value(db, &format!("SHOW GLOBAL STATUS LIKE '{name}'")).parse().unwrap()
    }

    /// What each node counts as failed before a login was complete.
    fn aborted_connects(&self) -> Vec<u64> {
        self.0.databases().iter().map(|db| self.global_status(db, "Aborted_connects")).collect()
    }

    fn assert_every_node_holds(&self, tally: &Tally) {
        assert_eq!(tally.strange_duplicates, 0);
        for db in self.0.databases() {
            assert_eq!(tryout::count(&self.0, &db, tally).unwrap(), tally.acknowledged, "{}", db.name);
        }
    }

    /// TCP segments with a wrong checksum that any node of the lab has received.
    fn checksum_errors(&self) -> BTreeMap<String, u64> {
        let errors = |node: &Node| self.0.netns(node).run(|| tcp_counter("InCsumErrors")).unwrap();
        self.0.nodes().iter().map(|node| (node.name.clone(), errors(node))).filter(|(_, n)| *n > 0).collect()
    }

    /// Runs `work` on a connection through the virtual address.
    fn through_the_address<T: Send>(&self, work: impl AsyncFnOnce(&mut Conn) -> T + Send) -> T {
        let inside = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let opts = tcp_options(SocketAddr::from((VIP, DB_PORT)), APP);
                let session = async {
                    let mut conn = Conn::new(opts).await.unwrap();
                    let done = work(&mut conn).await;
                    conn.disconnect().await.unwrap();
                    done
                };
                tokio::time::timeout(LIMIT, session).await.expect("the transfer stalls")
            })
        };
        self.0.netns(&self.node("client")).run(inside).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        down::end(&self.0.plan().prefix);
    }
}

/// The bytes of one row, different in each (a multiplicative generator modulo 2^64).
fn piece(id: u32) -> Vec<u8> {
    let mut state = u64::from(id) + 1;
    (0..PIECE)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// CRC-32 as SQL's `CRC32()` computes it.
fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    };
    !data.iter().fold(u32::MAX, step)
}

#[test]
fn crc32_is_the_one_that_sql_has() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn rows_and_bulk_data_through_the_address_are_whole_on_every_node() {
    let Some(cluster) = Cluster::new("bul") else { return };
    let writer = cluster.writer();
    wait_until("rows are acknowledged", LIMIT, || writer.tally().acknowledged > 200);

    // Upload, while the writer goes on.
    cluster.through_the_address(async |conn| {
        conn.query_drop("CREATE TABLE app.bulk (id INT PRIMARY KEY, data MEDIUMBLOB NOT NULL)")
            .await
            .unwrap();
        for id in 0..PIECES {
            conn.exec_drop("INSERT INTO app.bulk VALUES (?, ?)", (id, piece(id))).await.unwrap();
        }
    });
    let expected: Vec<String> = (0..PIECES).map(|id| format!("{id}:{PIECE}:{}", crc32(&piece(id)))).collect();
    for db in cluster.0.databases() {
        let held = cluster.value(
            &db,
            "SELECT GROUP_CONCAT(id, ':', LENGTH(data), ':', CRC32(data) ORDER BY id SEPARATOR ' ') FROM app.bulk",
        );
        assert_eq!(held, expected.join(" "), "{}", db.name);
    }

    // One result set of 20 MB.
    let rows: Vec<(u32, Vec<u8>)> = cluster.through_the_address(async |conn| {
        conn.query_drop("SET SESSION wsrep_sync_wait = 1").await.unwrap();
        conn.query("SELECT id, data FROM app.bulk ORDER BY id").await.unwrap()
    });
    let got: Vec<String> =
        rows.iter().map(|(id, data)| format!("{id}:{}:{}", data.len(), crc32(data))).collect();
    assert_eq!(got, expected);

    let tally = writer.stop().unwrap();
    assert_eq!((tally.errors, tally.connects), (0, 1), "{:?}", tally.last_error);
    cluster.assert_every_node_holds(&tally);
    assert_eq!(cluster.checksum_errors(), BTreeMap::new());
}

#[test]
fn a_killed_database_costs_no_acknowledged_row_and_checks_leave_no_mark_on_the_others() {
    let Some(cluster) = Cluster::new("kil") else { return };
    let aborted = cluster.aborted_connects();
    let writer = cluster.writer();
    wait_until("rows are acknowledged", LIMIT, || writer.tally().acknowledged > 50);
    // The one that the writer is connected to: it has a flow in h1's table.
    let busy = cluster.0.databases().into_iter().find(|db| {
        let users = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
        cluster.value(db, users) != "0"
    });
    let busy = busy.expect("the writer is connected to one of them");
    let index: usize = busy.name.trim_start_matches("db").parse::<usize>().unwrap() - 1;
    node::kill(&cluster.0, &busy, &Console::quiet()).unwrap();
    let at_kill = writer.tally().acknowledged;
    wait_until("rows go on", LIMIT, || writer.tally().acknowledged > at_kill + 50);
    wait_until("the killed one is down", LIMIT, || cluster.states()[index] == "down");
    let cause = cluster.snapshot().services[0].backends[index].cause.clone();
    assert!(!cause.is_empty(), "status says why");
    let aborted_of_others = cluster.0.databases().into_iter().zip(aborted).filter(|(db, _)| *db != busy);
    for (db, before) in aborted_of_others {
        // Checks of both balancers, and then more of them; each look is a connection too.
        let mut own = cluster.global_status(&db, "Connections");
        wait_until("health checks go on", LIMIT, || {
            own += 1;
            cluster.global_status(&db, "Connections") >= own + 10
        });
        assert_eq!(cluster.global_status(&db, "Aborted_connects"), before, "{}", db.name);
    }

    node::start(&cluster.0, &busy, &Console::quiet()).unwrap();
    cluster.wait_for_states(["up"; 3]);
    let at_return = writer.tally().acknowledged;
    wait_until("rows go on", LIMIT, || writer.tally().acknowledged > at_return + 50);
    let tally = writer.stop().unwrap();
    assert!(tally.errors > 0 && tally.connects >= 2, "it was connected to the killed one: {tally:?}");
    cluster.assert_every_node_holds(&tally);
    assert_eq!(cluster.checksum_errors(), BTreeMap::new());
}
