//! The five-minute try-out with real balancers: it adds up, and however it ends nothing of it is left, their pins least
//! of all.
//!
//! The stand-in takes the databases' place, as in `lab.rs`, which has the commands of the lab and runs without viplb.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use lb_tests::{
    daemon,
    expect::wait_until,
    lab::{self, Lab},
    proc,
};
use lb_userspace::datapath::{pins, pins::Pins};
use nix::{sys::signal::Signal, unistd::Pid};

const LAB: &str = env!("CARGO_BIN_EXE_viplb-lab");
/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A prefix that is taken down when it goes out of scope.
struct Prefix(String);

impl Prefix {
    /// `None`, and why on standard error, where no lab can be raised.
    fn of(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || proc::which("ip").is_none() {
            eprintln!("not run: needs root and iproute2");
            return None;
        }
        Some(Prefix(format!("vttry{test}{}", std::process::id())))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(LAB);
        command.args(["--prefix", &self.0]).args(words).stdin(Stdio::null());
        command.env("VIPLB_BIN", daemon::binary().unwrap());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// A run without an end of its own, and its standard output from the first acknowledged row on.
    fn start(&self) -> (Child, BufReader<ChildStdout>) {
        let mut command = self.command(&["run", "--standin"]);
        let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(run.stdout.take().unwrap());
        let rows = |line: &String| line.contains(" rows=") && !line.contains(" rows=0 ");
        let reached = out.by_ref().lines().map_while(Result::ok).any(|line| rows(&line));
        assert!(reached, "it ends before a row is written");
        (run, out)
    }

    /// The balancers' pins, sockets and locks.
    fn pins(&self) -> Vec<Pins> {
        ["h1", "h2"].map(|node| Pins::of(&lab::viplb_name(&self.0, node))).into()
    }

    fn is_pinned(&self) -> bool {
        self.pins().iter().all(|p| p.maps().is_dir() && p.link("eth0", "ingress").exists())
    }

    fn assert_nothing_remains(&self) {
        let with_prefix = |dir: &str| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            names.filter(|name| name.starts_with(&self.0)).collect()
        };
        for dir in ["/run/netns", pins::ROOT, pins::RUN] {
            assert_eq!(with_prefix(dir), [""; 0], "{dir}");
        }
        assert!(!lab::state_dir(&self.0).exists() && !lab::data_dir(&self.0).exists(), "directories");
        assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(&self.0), "mounts");
        let mine = |pid: &Pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&self.0))
        };
        wait_until("the lab's processes are gone", LIMIT, || !proc::all().iter().any(mine));
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.run(&["lab", "down"]);
    }
}

fn signal(run: &Child, signal: Signal) {
    proc::signal(&[Pid::from_raw(i32::try_from(run.id()).unwrap())], signal);
}

/// What the summary says: rows acknowledged, and rows at each database.
fn counts(text: &str) -> (u64, Vec<u64>) {
    let number =
        |words: &str| words.trim().parse().unwrap_or_else(|_| panic!("no number in {words:?}: {text}"));
    let acknowledged =
        text.lines().find_map(|line| line.split_once(" rows acknowledged")?.0.rsplit(' ').next());
    let held = text.lines().filter_map(|line| line.split_once("COUNT(*) = ")?.1.strip_suffix(", equal"));
    (number(acknowledged.unwrap_or_default()), held.map(number).collect())
}

#[test]
fn a_short_run_ends_by_itself_with_equal_counts_at_every_database_and_nothing_left() {
    let Some(prefix) = Prefix::of("sec") else { return };
    let out = prefix.run(&["run", "--standin", "--seconds", "5"]);
    let text = String::from_utf8_lossy(&out.stdout);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}{said}");
    let (acknowledged, held) = counts(&text);
    assert!(acknowledged > 50, "{text}");
    assert_eq!(held, [acknowledged; 3], "{text}");
    assert!(said.contains(" owns the virtual IP"), "{said}");
    prefix.assert_nothing_remains();
}

#[test]
fn ctrl_c_takes_the_balancers_and_their_pins_down() {
    let Some(prefix) = Prefix::of("int") else { return };
    let (run, out) = prefix.start();
    assert!(prefix.is_pinned(), "both balancers have pinned what they loaded");
    signal(&run, Signal::SIGINT);
    let text: String = out.lines().map_while(Result::ok).map(|line| line + "\n").collect();
    let ended = run.wait_with_output().unwrap();
    assert!(ended.status.success(), "{text}{}", String::from_utf8_lossy(&ended.stderr));
    let (acknowledged, held) = counts(&text);
    assert_eq!(held, [acknowledged; 3], "{text}");
    prefix.assert_nothing_remains();
}

#[test]
fn down_removes_what_a_killed_run_and_its_killed_and_frozen_balancers_left() {
    let Some(prefix) = Prefix::of("kil") else { return };
    let (mut run, out) = prefix.start();
    signal(&run, Signal::SIGKILL);
    run.wait().unwrap();
    drop(out);
    let lab = Lab::open(&prefix.0).unwrap();
    let answers = |node| daemon::status(&lab, &lab.node(node).unwrap()).is_ok();
    assert!(answers("h1") && answers("h2"), "the balancers outlive the run");
    assert!(prefix.run(&["lab", "kill", "h1"]).status.success());
    assert!(prefix.run(&["lab", "pause", "h2"]).status.success());
    assert!(prefix.is_pinned(), "a killed balancer leaves its pins");
    let down = prefix.run(&["lab", "down"]);
    let text = String::from_utf8_lossy(&down.stdout);
    assert!(down.status.success() && text.contains("removed:"), "{text}");
    prefix.assert_nothing_remains();
    let again = prefix.run(&["lab", "down"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to remove"));
    assert!(Path::new("/sys/fs/bpf").is_dir());
}
