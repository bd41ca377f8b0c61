//! `viplb galera restart-plan` on what is left of a real cluster: its collector runs on every node, its steps are carried
//! out as they are printed, and afterwards every node has every row.
//!
//! The cluster goes down in three ways: stopped in order, crashed, and crashed without memory of its last view.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lb_tests::{
    console::Console,
    daemon, down, galera,
    lab::{Balancer, Engine, Lab, Node, Plan},
    node, proc,
    sql::{self, ROOT, Server},
};
use serde_json::Value;

/// A lab with the real cluster alone, taken down when it goes out of scope.
struct Cluster {
    lab: Lab,
    collected: PathBuf,
    rows: u64,
}

impl Cluster {
    /// `None`, and why on standard error, where it cannot be had.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: needs root");
            return None;
        }
        if let (Engine::Standin, why) = galera::engine() {
            eprintln!("not run: {}", why.unwrap_or_default());
            return None;
        }
        let (engine, nothing) = (Engine::Galera, Balancer::Nothing);
        let plan =
            Plan { prefix: format!("vtgre{}", std::process::id()), db: 3, engine, h1: nothing, h2: nothing };
        let lab = Lab::of(plan.clone()).unwrap();
        let collected = lab.node_dir(&lab.node("client").unwrap()).join("collected");
        let cluster = Cluster { lab, collected, rows: 0 };
        Lab::up(plan, &Console::quiet()).unwrap();
        cluster.sql("db1", "CREATE TABLE app.kept (id INT PRIMARY KEY)");
        Some(cluster)
    }

    fn node(&self, name: &str) -> Node {
        self.lab.node(name).unwrap()
    }

    fn sql(&self, db: &str, statement: &str) -> sql::Rows {
        let server = Server::Socket(self.lab.db_socket(&self.node(db)));
        let statements = ["SET SESSION wsrep_sync_wait = 15", statement];
        sql::query_within(std::time::Duration::from_secs(60), &server, ROOT, &statements).unwrap()
    }

    /// Adds rows through a node.
    fn write(&mut self, db: &str) {
        // The lab's databases forget their last second when they crash; those of users do not.
        for db in self.lab.databases().iter().filter(|db| !node::daemon_pids(&self.lab, db).is_empty()) {
            self.sql(&db.name, "SET GLOBAL innodb_flush_log_at_trx_commit = 1");
        }
        for _ in 0..5 {
            self.rows += 1;
            self.sql(db, &format!("INSERT INTO app.kept VALUES ({})", self.rows));
        }
    }

    fn kill_all(&self) {
        for db in self.lab.databases() {
            node::kill(&self.lab, &db, &Console::quiet()).unwrap();
        }
    }

    /// What the collector makes of each node; the directories.
    fn collect(&self) -> Vec<PathBuf> {
        let script = self.viplb(&["galera", "restart-plan", "--collector"]);
        assert!(script.0);
        let file = self.collected.join("collect.sh");
        fs::create_dir_all(&self.collected).unwrap();
        fs::write(&file, script.1).unwrap();
        let dirs: Vec<PathBuf> =
            self.lab.databases().iter().map(|db| self.collected.join(&db.name)).collect();
        for (db, dir) in self.lab.databases().iter().zip(&dirs) {
            let home = self.lab.data_dir(db);
            let mut sh = Command::new("sh");
            sh.arg(&file).arg(dir).env("DATADIR", home.join("data"));
            sh.env("SERVER_ARGS", format!("--defaults-file={}", home.join("my.cnf").display()));
            sh.env(
                "CLIENT",
                format!("mariadb --no-defaults --user=root --socket={}", self.lab.db_socket(db).display()),
            );
            self.lab.netns(db).place(&mut sh).unwrap();
            let said = proc::finish(&mut sh).unwrap();
            println!("{}", said.trim());
        }
        dirs
    }

    /// Whether the command succeeded, and what it printed.
    fn viplb(&self, words: &[&str]) -> (bool, String) {
        let out = Command::new(daemon::binary().unwrap()).args(words).output().unwrap();
        assert!(out.stderr.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        (out.status.success(), String::from_utf8(out.stdout).unwrap())
    }

    fn plan(&self, dirs: &[PathBuf], more: &[&'static str]) -> (bool, Value) {
        let mut words = vec!["-j", "galera", "restart-plan"];
        words.extend(more);
        words.extend(dirs.iter().map(|dir| dir.to_str().unwrap()));
        let (made, json) = self.viplb(&words);
        println!("{}", self.viplb(&words[1..]).1);
        (made, serde_json::from_str(&json).unwrap())
    }

    /// Carries out the steps; what they were, as `bootstrap db1`.
    fn follow(&self, plan: &Value) -> Vec<String> {
        let mut done = Vec::new();
        for step in plan["steps"].as_array().unwrap() {
            let names: Vec<&str> =
                step["nodes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
            let nodes: Vec<Node> = names.iter().map(|name| self.node(name)).collect();
            let action = step["action"].as_str().unwrap();
            done.push(format!("{action} {}", names.join("+")));
            match action {
                "mark-safe" => {
                    mark_safe(&self.lab.data_dir(&nodes[0]).join("data/grastate.dat"));
                    continue;
                }
                "bootstrap" => galera::launch(&self.lab, &nodes[0], true).unwrap(),
                "start" => nodes.iter().for_each(|n| galera::launch(&self.lab, n, false).unwrap()),
                other => panic!("no step of a stopped cluster: {other}"),
            }
            galera::wait_until_synced(&self.lab, &nodes, &Console::quiet()).unwrap();
        }
        done
    }

    fn assert_every_row_is_everywhere(&self) {
        for db in self.lab.databases() {
            let count = self.sql(&db.name, "SELECT COUNT(*) FROM app.kept");
            assert_eq!(count[0][0].as_deref(), Some(self.rows.to_string().as_str()), "{}", db.name);
        }
    }

    /// Whole data directories that donors sent since the lab was raised. For incremental transfers they start the same
    /// script, to hand over no more than the position.
    fn full_copies(&self) -> usize {
        let log = |db: &Node| fs::read_to_string(self.lab.data_dir(db).join("error.log")).unwrap_or_default();
        let sent = |line: &&str| {
            line.contains("Running: 'wsrep_sst_") && line.contains("donor") && !line.contains("--bypass")
        };
        self.lab.databases().iter().map(|db| log(db).lines().filter(sent).count()).sum()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        down::end(&self.lab.plan().prefix);
    }
}

fn mark_safe(grastate: &Path) {
    let text = fs::read_to_string(grastate).unwrap();
    fs::write(grastate, text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1")).unwrap();
}

#[test]
fn a_stopped_and_a_crashed_cluster_come_back_in_the_printed_order_with_every_row() {
    let Some(mut cluster) = Cluster::new() else { return };

    // Stopped in order, with rows in between: the last to leave has most.
    for db in ["db2", "db3", "db1"] {
        cluster.write("db1");
        if db == "db1" {
            let (made, refusal) = cluster.plan(&cluster.collect(), &[]);
            assert!(!made && refusal["can_be_forced"] == false, "{refusal}");
            assert_eq!(
                refusal["reasons"][0],
                "db1 is in a primary component: a second one would split the cluster"
            );
        }
        node::stop(&cluster.lab, &cluster.node(db), &Console::quiet()).unwrap();
    }
    let (made, plan) = cluster.plan(&cluster.collect(), &[]);
    assert!(made, "{plan}");
    assert_eq!(cluster.follow(&plan), ["bootstrap db1", "start db3", "start db2"]);
    cluster.assert_every_row_is_everywhere();
    let copies = cluster.full_copies();
    println!("{copies} full copies; the plan said what decides");

    // Crashed: all remember the same view.
    cluster.write("db2");
    cluster.kill_all();
    let (made, plan) = cluster.plan(&cluster.collect(), &[]);
    assert!(made, "{plan}");
    assert_eq!(cluster.follow(&plan), ["start db1+db2+db3"]);
    cluster.assert_every_row_is_everywhere();
    assert_eq!(cluster.full_copies(), copies, "nothing was to be transferred");

    // Crashed, and the view forgotten: the one with the latest transaction, after it was marked.
    cluster.write("db3");
    cluster.kill_all();
    for db in cluster.lab.databases() {
        fs::remove_file(cluster.lab.data_dir(&db).join("data/gvwstate.dat")).unwrap();
    }
    let dirs = cluster.collect();
    let (made, refusal) = cluster.plan(&dirs, &[]);
    assert!(!made && refusal["can_be_forced"] == true, "nothing tells that these are all: {refusal}");
    let (made, plan) = cluster.plan(&dirs, &["--nodes", "3"]);
    assert!(made, "{plan}");
    let done = cluster.follow(&plan);
    let first = done[0].strip_prefix("mark-safe ").expect("nobody left last");
    assert_eq!(done[1], format!("bootstrap {first}"));
    let started: BTreeSet<&str> = done[1..].iter().filter_map(|step| step.split(' ').nth(1)).collect();
    assert_eq!(started.len(), 3, "{done:?}");
    cluster.assert_every_row_is_everywhere();
}
