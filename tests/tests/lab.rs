//! The lab itself: it comes up, does what its commands say, and leaves nothing behind.
//!
//! Needs root. Uses the stand-in, so that it runs where MariaDB is not; the one test with the real cluster says so
//! when it cannot run. Each test has a prefix of its own and takes its lab down also when it fails.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use lb_tests::{
    expect::wait_until,
    lab::{self, DB_PORT, Lab, Node},
    netns::Netns,
    node, proc,
    sql::{self, APP, Server},
    tryout, vip,
    writer::{Options, Writer},
};

const LAB: &str = env!("CARGO_BIN_EXE_viplb-lab");
/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A prefix that is taken down when it goes out of scope.
struct Prefix(String);

impl Prefix {
    fn of(test: &str) -> Self {
        Prefix(format!("{test}{}", std::process::id()))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(LAB);
        command.args(["--prefix", &self.0]).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that must succeed; its standard output.
    fn ok(&self, words: &[&str]) -> String {
        let out = self.run(words);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }

    /// Runs a command that must fail; its standard error.
    fn refused(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert!(!out.status.success(), "{words:?} was not refused");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    fn up(&self, more: &[&str]) -> Lab {
        self.ok(&[&["lab", "up", "--no-viplb"], more].concat());
        Lab::open(&self.0).unwrap()
    }

    fn start(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn assert_nothing_remains(&self) {
        let names: Vec<String> = fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&format!("{}-", self.0)))
            .collect();
        assert_eq!(names, [""; 0], "namespaces");
        assert!(!lab::state_dir(&self.0).exists() && !lab::data_dir(&self.0).exists(), "directories");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&self.0), "mounts");
        let mine = |pid: &nix::unistd::Pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&self.0))
        };
        let left = || proc::all().into_iter().filter(mine).collect::<Vec<_>>();
        wait_until("the lab's processes are gone", LIMIT, || left().is_empty());
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.run(&["lab", "down"]);
    }
}

fn from_client(lab: &Lab, db: &Node) -> Server {
    let client = lab.netns(&lab.node("client").unwrap());
    Server::Tcp(client, SocketAddr::from((db.addr, DB_PORT)))
}

fn client_reaches(lab: &Lab, db: &Node) -> bool {
    let limit = Duration::from_millis(500);
    sql::query_within(limit, &from_client(lab, db), APP, &["SELECT 1"]).is_ok()
}

#[test]
fn a_lab_comes_up_and_its_client_reaches_every_database() {
    let prefix = Prefix::of("lup");
    let lab = prefix.up(&["--standin", "--db", "5"]);
    assert_eq!(lab.databases().len(), 5);
    for db in lab.databases() {
        wait_until("the client reaches the database", LIMIT, || client_reaches(&lab, &db));
    }
    let status = prefix.ok(&["lab", "status"]);
    assert!(status.contains("answered for by nobody") && status.contains("db5"), "{status}");
    prefix.ok(&["lab", "down"]);
    prefix.assert_nothing_remains();
}

#[test]
fn a_cut_node_is_unreachable_until_healed_and_only_the_silent_cut_keeps_its_carrier() {
    let prefix = Prefix::of("lcut");
    let lab = prefix.up(&["--standin", "--db", "1"]);
    let db = lab.node("db1").unwrap();
    let carrier =
        || prefix.ok(&["lab", "exec", "db1", "--", "ip", "link", "show", "eth0"]).contains("LOWER_UP");
    wait_until("reached before the cut", LIMIT, || client_reaches(&lab, &db));
    for (cut, keeps_carrier) in
        [(&["lab", "cut", "db1"][..], false), (&["lab", "cut", "--silent", "db1"], true)]
    {
        prefix.ok(cut);
        assert!(!client_reaches(&lab, &db), "{cut:?} cuts");
        wait_until("the carrier is as the cut says", LIMIT, || carrier() == keeps_carrier);
        prefix.ok(&["lab", "heal", "db1"]);
        wait_until("reached after healing", LIMIT, || client_reaches(&lab, &db));
    }
}

#[test]
fn a_frozen_database_answers_again_when_it_goes_on_and_a_killed_one_when_it_is_started() {
    let prefix = Prefix::of("lpau");
    let lab = prefix.up(&["--standin", "--db", "1"]);
    let db = lab.node("db1").unwrap();
    prefix.ok(&["lab", "pause", "db1"]);
    assert!(!client_reaches(&lab, &db));
    assert!(prefix.ok(&["lab", "status"]).contains("frozen"));
    prefix.ok(&["lab", "unpause", "db1"]);
    wait_until("answers again", LIMIT, || client_reaches(&lab, &db));
    for end in ["kill", "stop"] {
        prefix.ok(&["lab", end, "db1"]);
        assert!(!client_reaches(&lab, &db) && node::daemon_pids(&lab, &db).is_empty());
        assert!(prefix.refused(&["lab", end, "db1"]).contains("lab start db1"));
        prefix.ok(&["lab", "start", "db1"]);
        assert!(client_reaches(&lab, &db));
    }
}

#[test]
fn a_command_inside_a_node_sees_the_hosts_sys_and_ends_with_its_own_exit_code() {
    let prefix = Prefix::of("lexe");
    prefix.up(&["--standin", "--db", "1"]);
    let code =
        prefix.run(&["lab", "exec", "h1", "--", "sh", "-c", "test -f /sys/fs/bpf/. || exit 7"]).status.code();
    assert_eq!(code, Some(7));
    let mounts = prefix.ok(&["lab", "exec", "h1", "--", "stat", "-f", "-c", "%T", "/sys/fs/bpf"]);
    assert_eq!(mounts.trim(), "bpf_fs");
    assert!(prefix.ok(&["lab", "exec", "h1", "--", "ip", "-4", "addr"]).contains("172.18.0.7/16"));
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    let prefix = Prefix::of("lerr");
    assert!(prefix.refused(&["lab", "status"]).contains("lab up"));
    prefix.up(&["--standin", "--db", "1"]);
    let names = prefix.refused(&["lab", "pause", "db9"]);
    assert!(names.contains("h1, h2, db1, client"), "{names}");
    assert!(prefix.refused(&["lab", "up", "--no-viplb"]).contains("lab down"));
    assert!(prefix.refused(&["run", "--no-viplb"]).contains("lab down"));
    assert!(prefix.refused(&["lab", "start", "db1"]).contains("already running"));
    assert!(prefix.refused(&["lab", "up", "--db", "9"]).contains("1..=5"));
    assert!(Lab::open(&prefix.0).is_ok(), "a refused command leaves the lab as it was");
}

#[test]
fn keepalived_in_h2_becomes_the_one_that_answers_for_the_virtual_address() {
    if proc::which("keepalived").is_none() {
        eprintln!("not run: keepalived is not installed");
        return;
    }
    let prefix = Prefix::of("lkee");
    let lab = prefix.up(&["--standin", "--db", "1", "--h2", "keepalived"]);
    wait_until("h2 answers for the address", LIMIT, || vip::owners(&lab).unwrap() == ["h2"]);
    prefix.ok(&["lab", "stop", "h2"]);
    wait_until("nobody answers for it", LIMIT, || vip::owners(&lab).unwrap().is_empty());
    prefix.ok(&["lab", "start", "h2"]);
    wait_until("h2 answers again", LIMIT, || vip::owners(&lab).unwrap() == ["h2"]);
}

#[test]
fn down_removes_all_that_a_killed_up_left_wherever_it_was_killed() {
    for stage in ["br", "h2", "db2", "client"] {
        let prefix = Prefix::of("lkil");
        let mut up = prefix.start(&["lab", "up", "--no-viplb", "--standin"]);
        let reached = Netns::named(format!("{}-{stage}", prefix.0));
        wait_until("the stage is reached", LIMIT, || reached.exists());
        up.kill().unwrap();
        up.wait().unwrap();
        prefix.ok(&["lab", "down"]);
        prefix.assert_nothing_remains();
        assert!(prefix.ok(&["lab", "down"]).contains("nothing to remove"));
    }
}

#[test]
fn down_removes_a_run_that_was_killed_with_frozen_and_foreign_processes_in_it() {
    let prefix = Prefix::of("lrun");
    let mut run = prefix.start(&["run", "--no-viplb", "--standin"]);
    wait_until("the lab is up", LIMIT, || {
        Lab::open(&prefix.0).is_ok_and(|lab| lab.databases().iter().all(|db| client_reaches(&lab, db)))
    });
    let mut sleeper = prefix.start(&["lab", "exec", "client", "--", "sleep", "1000"]);
    let lab = Lab::open(&prefix.0).unwrap();
    let client = lab.netns(&lab.node("client").unwrap());
    wait_until("the command runs in the client", LIMIT, || !client.pids().is_empty());
    prefix.ok(&["lab", "pause", "db2"]);
    run.kill().unwrap();
    run.wait().unwrap();
    prefix.ok(&["lab", "down"]);
    assert!(!sleeper.wait().unwrap().success(), "ended by a signal");
    prefix.assert_nothing_remains();
}

#[test]
fn ctrl_c_ends_a_run_with_the_count_of_every_database_and_nothing_left() {
    let prefix = Prefix::of("lint");
    let mut command = prefix.command(&["run", "--no-viplb", "--standin"]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    let rows = |line: &String| line.contains(" rows=") && !line.contains(" rows=0 ");
    assert!(lines.by_ref().map_while(Result::ok).any(|line| rows(&line)), "it ends before a row is written");
    proc::signal(&[nix::unistd::Pid::from_raw(run.id() as i32)], nix::sys::signal::Signal::SIGINT);
    let out = run.wait_with_output().unwrap();
    let text: String = lines.map_while(Result::ok).map(|line| line + "\n").collect();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(text.matches(", equal").count(), 3, "{text}");
    prefix.assert_nothing_remains();
}

#[test]
fn a_writer_whose_database_is_frozen_and_killed_loses_no_acknowledged_row() {
    let prefix = Prefix::of("lwri");
    let lab = prefix.up(&["--standin", "--db", "2"]);
    let dbs = lab.databases();
    let client = lab.netns(&lab.node("client").unwrap());
    let options =
        Options { timeout: Duration::from_millis(200), ..Options::to((dbs[0].addr, DB_PORT).into()) };
    let writer = Writer::start(client, options);
    let more_rows = |than: u64| wait_until("rows go on", LIMIT, || writer.tally().acknowledged > than + 20);
    more_rows(0);
    prefix.ok(&["lab", "pause", "db1"]);
    wait_until("the client notices", LIMIT, || writer.tally().errors > 0);
    prefix.ok(&["lab", "unpause", "db1"]);
    more_rows(writer.tally().acknowledged);
    prefix.ok(&["lab", "kill", "db1"]);
    prefix.ok(&["lab", "start", "db1"]);
    more_rows(writer.tally().acknowledged);
    let tally = writer.stop().unwrap();
    assert_eq!(tally.strange_duplicates, 0);
    assert!(tally.longest_closed_gap >= Duration::from_millis(200), "{tally:?}");
    for db in dbs {
        assert_eq!(tryout::count(&lab, &db, &tally).unwrap(), tally.acknowledged, "{}", db.name);
    }
}

#[test]
fn two_labs_with_different_prefixes_do_not_meet() {
    let (one, two) = (Prefix::of("lone"), Prefix::of("ltwo"));
    one.up(&["--standin", "--db", "1"]);
    let lab = two.up(&["--standin", "--db", "1"]);
    one.ok(&["lab", "down"]);
    one.assert_nothing_remains();
    assert!(client_reaches(&lab, &lab.node("db1").unwrap()));
    assert!(
        Path::new("/sys/fs/bpf").is_dir()
            && two.ok(&["lab", "exec", "h1", "--", "stat", "-f", "-c", "%T", "/sys/fs/bpf"]).contains("bpf")
    );
}

#[test]
fn rows_written_to_one_node_of_the_real_cluster_are_counted_at_every_node() {
    if let (lab::Engine::Standin, Some(why)) = lb_tests::galera::engine() {
        eprintln!("not run: {why}");
        return;
    }
    let prefix = Prefix::of("lgal");
    let lab = prefix.up(&[]);
    let dbs = lab.databases();
    let client = lab.netns(&lab.node("client").unwrap());
    let writer = Writer::start(client, Options::to((dbs[0].addr, DB_PORT).into()));
    wait_until("rows are acknowledged", LIMIT, || writer.tally().acknowledged > 100);
    let tally = writer.stop().unwrap();
    for db in dbs {
        assert_eq!(lb_tests::galera::state(&lab, &db).unwrap(), "Synced");
        assert_eq!(tryout::count(&lab, &db, &tally).unwrap(), tally.acknowledged, "{}", db.name);
        for account in [sql::MONITOR, sql::HAPROXY] {
            sql::query(&from_client(&lab, &db), account, "SELECT 1").unwrap();
        }
    }
}
