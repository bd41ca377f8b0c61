//! The real thing: a MariaDB Galera cluster in the database nodes.
//!
//! All nodes start from copies of one cleanly stopped data directory (the seed), so that none needs a state
//! transfer to join. The seed is built once per server version and kept beside the build's other artefacts.
//! Durability is off throughout: these databases live for one lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::User;

use crate::{
    console::Console,
    lab::{DB_PORT, Engine, Lab, Node},
    node,
    proc::{self, MARK},
    sql::{self, ROOT, Server},
};

/// Raise when [`SEED_SQL`] or what the server files depend on in [`configuration`] changes.
const SEED_VERSION: u32 = 1;

const SEED_SQL: &[&str] = &[
    "DELETE FROM mysql.global_priv WHERE User = ''",
    "FLUSH PRIVILEGES",
    "CREATE DATABASE app",
    "CREATE USER 'app'@'%' IDENTIFIED BY 'apppw'",
    "GRANT ALL ON app.* TO 'app'@'%'",
    "CREATE USER 'monitor'@'%' IDENTIFIED BY 'monitorpw'",
    "GRANT PROCESS, REPLICA MONITOR ON *.* TO 'monitor'@'%'",
    "CREATE USER 'haproxy'@'%'",
];

/// Starting takes about 5 s, joining again up to 20 s; the limit is for a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The programs of a MariaDB with Galera on this machine.
#[derive(Debug, Clone)]
pub struct Install {
    server: PathBuf,
    install_db: PathBuf,
    provider: PathBuf,
}

impl Install {
    /// Finds them; the error names what is missing.
    pub fn find() -> Result<Self> {
        let server =
            proc::which("mariadbd").ok_or_else(|| anyhow!("no `mariadbd` (package mariadb-server)"))?;
        let install_db =
            proc::which("mariadb-install-db").ok_or_else(|| anyhow!("no `mariadb-install-db`"))?;
        let homes = ["/usr/lib/galera", "/usr/lib64/galera-4", "/usr/lib64/galera", "/usr/lib/galera-4"];
        let provider = homes.map(|dir| Path::new(dir).join("libgalera_smm.so"));
        let provider = provider.into_iter().find(|file| file.is_file());
        let provider = provider.ok_or_else(|| anyhow!("no `libgalera_smm.so` (package galera-4)"))?;
        if User::from_name("mysql")?.is_none() {
            bail!("no user `mysql`");
        }
        Ok(Install { server, install_db, provider })
    }

    /// `mariadbd  Ver 10.11.6-MariaDB …` as a file name.
    fn key(&self) -> Result<String> {
        let version = proc::finish(Command::new(&self.server).arg("--version"))?;
        let version = version.split_whitespace().skip_while(|w| *w != "Ver").nth(1).unwrap_or("unknown");
        let version: String =
            version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        Ok(format!("galera-seed-{version}-v{SEED_VERSION}.tar"))
    }
}

/// The engine that a lab can have here, and why if it is not the real one.
pub fn engine() -> (Engine, Option<String>) {
    match Install::find() {
        Ok(_) => (Engine::Galera, None),
        Err(why) => (Engine::Standin, Some(why.to_string())),
    }
}

/// Starts all database nodes and waits until each is Synced.
pub fn start_cluster(lab: &Lab, console: &Console) -> Result<()> {
    let install = Install::find()?;
    let nodes = lab.databases();
    let started = Instant::now();
    let seed = seed(lab, &install, console)?;
    for db in &nodes {
        prepare(lab, &install, db)?;
        unpack(&seed, &lab.data_dir(db).join("data"))?;
    }
    console.say(format!("Galera: {} nodes start, which takes some seconds", nodes.len()));
    for (i, db) in nodes.iter().enumerate() {
        remember_view(lab, i, nodes.len())?;
        spawn(lab, &install, db, if nodes.len() == 1 { &["--wsrep-new-cluster"] } else { &[] })?;
    }
    wait_synced(lab, &nodes, START_LIMIT, started, console)
}

/// Makes a node believe that it was in one primary view with all the others before it ended. As their data are
/// equal, they form the cluster again at once: no bootstrap, and no state transfer, which takes most of a join.
fn remember_view(lab: &Lab, index: usize, count: usize) -> Result<()> {
    let uuid = |i: usize| format!("{:08x}-0000-11f0-8000-000000000000", i + 1);
    let members: String = (0..count).map(|i| format!("member: {} 0\n", uuid(i))).collect();
    let view = format!(
        "my_uuid: {}\n#vwbeg\nview_id: 3 {} {count}\nbootstrap: 0\n{members}#vwend\n",
        uuid(index),
        uuid(0)
    );
    let file = lab.data_dir(&lab.databases()[index]).join("data/gvwstate.dat");
    fs::write(&file, view)?;
    proc::finish(Command::new("chown").arg("mysql:").arg(&file)).map(drop)
}

/// Starts one node again. It bootstraps a cluster only if it was the last to leave and no other node runs.
pub fn restart_node(lab: &Lab, db: &Node, console: &Console) -> Result<()> {
    let others: Vec<Node> = lab.databases().into_iter().filter(|other| other.name != db.name).collect();
    let alone = others.iter().all(|other| node::daemon_pids(lab, other).is_empty());
    let last = grastate(lab, db).lines().any(|line| line.trim() == "safe_to_bootstrap: 1");
    launch(lab, db, alone && last)?;
    if alone && !last && !others.is_empty() {
        console.say(format!("{} waits for the members it last saw: start them too", db.name));
        return Ok(());
    }
    wait_synced(lab, std::slice::from_ref(db), START_LIMIT, Instant::now(), console)
}

/// Starts one node and waits for nothing; `first`: as the first of its cluster.
pub fn launch(lab: &Lab, db: &Node, first: bool) -> Result<()> {
    let install = Install::find()?;
    let position = match grastate(lab, db).contains("seqno:   -1") {
        true => recovered_position(lab, &install, db)?,
        false => None,
    };
    let mut args: Vec<&str> = position.iter().map(String::as_str).collect();
    args.extend(first.then_some("--wsrep-new-cluster"));
    spawn(lab, &install, db, &args)
}

/// Waits until each of these nodes is Synced.
pub fn wait_until_synced(lab: &Lab, nodes: &[Node], console: &Console) -> Result<()> {
    wait_synced(lab, nodes, START_LIMIT, Instant::now(), console)
}

fn grastate(lab: &Lab, db: &Node) -> String {
    fs::read_to_string(lab.data_dir(db).join("data/grastate.dat")).unwrap_or_default()
}

/// What a node that did not end cleanly last committed, as an option for its start: with it the node asks for what
/// it missed and not for a copy of everything. Services start mariadbd in this way too.
fn recovered_position(lab: &Lab, install: &Install, db: &Node) -> Result<Option<String>> {
    let dir = lab.data_dir(db);
    let log = dir.join("recover.log");
    let _ = fs::remove_file(&log);
    let mut recover = Command::new(&install.server);
    recover.arg(format!("--defaults-file={}", dir.join("my.cnf").display()));
    recover.arg("--wsrep-recover").arg(format!("--log-error={}", log.display()));
    lab.netns(db).place(&mut recover)?;
    proc::finish(&mut recover)?;
    let said = fs::read_to_string(&log)?;
    let position = said.lines().rev().find_map(|line| line.split_once("Recovered position: "));
    Ok(position.map(|(_, position)| format!("--wsrep-start-position={}", position.trim())))
}

/// Where a node stands: `Synced`, `Joining: …`; an error if it does not answer.
pub fn state(lab: &Lab, db: &Node) -> Result<String> {
    let server = Server::Socket(lab.db_socket(db));
    let status = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_local_state_comment', 'wsrep_ready')";
    let rows = sql::query_within(Duration::from_millis(500), &server, ROOT, &[status])?;
    let value = |name: &str| {
        let row = rows.iter().find(|row| row.first().is_some_and(|n| n.as_deref() == Some(name)));
        row.and_then(|row| row.get(1).cloned().flatten()).unwrap_or_default()
    };
    let comment = value("wsrep_local_state_comment");
    Ok(if value("wsrep_ready") == "ON" { comment } else { format!("{comment}, not ready") })
}

fn wait_synced(lab: &Lab, nodes: &[Node], limit: Duration, since: Instant, console: &Console) -> Result<()> {
    let mut waiting: Vec<&Node> = nodes.iter().collect();
    let all = console.wait_for(limit, || {
        let mut failed = None;
        waiting.retain(|db| {
            if node::daemon_pids(lab, db).is_empty() {
                failed = Some(db.name.clone());
            }
            let synced = state(lab, db).is_ok_and(|state| state == "Synced");
            if synced {
                console.say(format!("{} Synced after {:.1} s", db.name, since.elapsed().as_secs_f32()));
            }
            !synced
        });
        match failed {
            Some(name) => {
                let log = lab.data_dir(&lab.node(&name)?).join("error.log");
                bail!("the database of {name} ended:\n{}", proc::tail(&log, 8))
            }
            None => Ok(waiting.is_empty()),
        }
    })?;
    if !all {
        let names: Vec<&str> = waiting.iter().map(|db| db.name.as_str()).collect();
        let log = lab.data_dir(waiting[0]).join("error.log");
        bail!("not Synced after {} s: {}\n{}", limit.as_secs(), names.join(", "), proc::tail(&log, 8));
    }
    Ok(())
}

fn spawn(lab: &Lab, install: &Install, db: &Node, args: &[&str]) -> Result<()> {
    let dir = lab.data_dir(db);
    let log = fs::File::options().create(true).append(true).open(dir.join("out.log"))?;
    let mut command = Command::new(&install.server);
    command.arg(format!("--defaults-file={}", dir.join("my.cnf").display())).args(args);
    command.current_dir(&dir).env(MARK, &db.name);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    lab.netns(db).spawn(command).map(proc::reap)
}

/// Directories and configuration of a node.
fn prepare(lab: &Lab, install: &Install, db: &Node) -> Result<()> {
    let dir = lab.data_dir(db);
    fs::create_dir_all(dir.join("data"))?;
    fs::create_dir_all(dir.join("tmp"))?;
    fs::write(dir.join("my.cnf"), configuration(lab, install, db))?;
    let mut chown = Command::new("chown");
    proc::finish(chown.args(["-R", "mysql:"]).arg(&dir)).map(drop)
}

fn configuration(lab: &Lab, install: &Install, db: &Node) -> String {
    let dir = lab.data_dir(db).display().to_string();
    let provider = install.provider.display();
    let peers: Vec<String> = lab.databases().iter().map(|peer| peer.addr.to_string()).collect();
    let (addr, name, peers) = (db.addr, &db.name, peers.join(","));
    format!(
        "[mysqld]
user=mysql
datadir={dir}/data
tmpdir={dir}/tmp
socket={dir}/mysqld.sock
pid-file={dir}/mysqld.pid
log-error={dir}/error.log
bind-address=0.0.0.0
port={DB_PORT}
skip_name_resolve=ON
server-id={id}
binlog_format=ROW
default_storage_engine=InnoDB
innodb_autoinc_lock_mode=2
innodb_buffer_pool_size=64M
innodb_log_file_size=32M
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
innodb_flush_method=fsync
innodb_use_native_aio=0
performance_schema=OFF
key_buffer_size=1M
aria_pagecache_buffer_size=1M
query_cache_size=0
query_cache_type=0
table_open_cache=200
max_connections=300
max_allowed_packet=64M
thread_cache_size=64
wsrep_on=ON
wsrep_provider={provider}
wsrep_provider_options=\"gcache.size=32M;gcache.page_size=32M;gmcast.listen_addr=tcp://{addr}:4567;ist.recv_addr={addr}:4568;pc.recovery=true\"
wsrep_cluster_name=viplb-lab
wsrep_cluster_address=gcomm://{peers}
wsrep_node_address={addr}
wsrep_node_incoming_address={addr}:{DB_PORT}
wsrep_node_name={name}
wsrep_slave_threads=2
wsrep_sst_method=rsync
",
        id = addr.octets()[3],
    )
}

/// The seed's archive, built first if this server version has none yet.
fn seed(lab: &Lab, install: &Install, console: &Console) -> Result<PathBuf> {
    let dir = cache_dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Labs that start at the same moment build it once.
    let lock = fs::File::create(dir.join("seed.lock"))?;
    lock.lock()?;
    let seed = dir.join(install.key()?);
    if !seed.is_file() {
        let started = Instant::now();
        console.say("Galera: building the seed data directory (once per server version)");
        build_seed(lab, install, &seed, console)?;
        console.say(format!("Galera: seed built in {:.1} s", started.elapsed().as_secs_f32()));
    }
    Ok(seed)
}

/// Builds the seed in the first node: install, start as a cluster of one, make the accounts, stop cleanly.
fn build_seed(lab: &Lab, install: &Install, seed: &Path, console: &Console) -> Result<()> {
    let db = &lab.databases()[0];
    let dir = lab.data_dir(db);
    let data = dir.join("data");
    prepare(lab, install, db)?;
    let mut setup = Command::new(&install.install_db);
    setup.args(["--no-defaults", "--user=mysql", "--auth-root-authentication-method=normal"]);
    setup.args(["--skip-test-db", "--innodb-log-file-size=32M", "--innodb-buffer-pool-size=64M"]);
    setup.arg(format!("--datadir={}", data.display()));
    lab.netns(db).place(&mut setup)?;
    proc::finish(&mut setup)?;
    spawn(lab, install, db, &["--wsrep-new-cluster"])?;
    wait_synced(lab, std::slice::from_ref(db), START_LIMIT, Instant::now(), &Console::quiet())?;
    let server = Server::Socket(lab.db_socket(db));
    sql::query_within(START_LIMIT, &server, ROOT, SEED_SQL).context("cannot make the lab's accounts")?;
    node::stop(lab, db, console)?;
    for file in ["gvwstate.dat", "galera.cache"] {
        let _ = fs::remove_file(data.join(file));
    }
    let part = seed.with_extension("part");
    let mut tar = Command::new("tar");
    tar.args(["-S", "--numeric-owner", "-C"]).arg(&data).arg("-cf").arg(&part).arg(".");
    proc::finish(&mut tar)?;
    fs::rename(&part, seed)?;
    fs::remove_dir_all(&dir)
        .with_context(|| format!("cannot clear {}", dir.display()))
        .and_then(|()| prepare(lab, install, db))
}

fn unpack(seed: &Path, to: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    proc::finish(tar.arg("-C").arg(to).args(["--same-owner", "-xpf"]).arg(seed)).map(drop)
}

/// A directory that outlives labs: below cargo's target directory, else /var/cache.
fn cache_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    target.unwrap_or(Path::new("/var/cache")).join("viplb-lab")
}
