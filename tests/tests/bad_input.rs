//! What `viplb run` says, and leaves behind, when it is given something it cannot work with.
//!
//! The real binary runs in a namespace of its own; where the machine itself has to look different (no bpffs, no BTF) it
//! also gets a mount namespace of its own. Each refusal is one sentence, an exit code, and nothing left in the kernel.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        net::UnixListener,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_common::settings::Settings;
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
    api::snapshot::Snapshot,
    datapath::{maps::Maps, pins, pins::Pins},
};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, setgid, setgroups, setuid},
};

/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
const VIP: &str = "172.18.0.201";
/// One virtual router, one service, no secret; the tests change single words of it.
const CONFIG: &str = r#"
[node]
name = "NODE"
flows = 1024

[vrrp.vi_1]
interface = "eth0"
virtual_router_id = 51
priority = 101
virtual_ipaddress = ["172.18.0.201"]

[service.echo]
listen = "172.18.0.201:9000"

[[service.echo.backend]]
name = "one"
address = "172.18.0.100:9000"

[service.echo.check]
type = "tcp"
"#;

/// A node (172.18.0.7) and a neighbour (172.18.0.100) on one wire; all of it goes when this goes out of scope.
struct Place {
    prefix: String,
    node: Netns,
    neighbour: Netns,
    _bpffs: Bpffs,
}

impl Place {
    /// `None`, and why on standard error, where it cannot be made.
    fn new(test: &str) -> Option<Self> {
        if !Uid::effective().is_root() || proc::which("ip").is_none() {
            eprintln!("not run: needs root and iproute2");
            return None;
        }
        let prefix = format!("vtbad{test}{}", std::process::id());
        let bpffs = Bpffs::claim(&prefix).unwrap();
        let place = Place {
            node: Netns::named(format!("{prefix}-h1")),
            neighbour: Netns::named(format!("{prefix}-client")),
            prefix,
            _bpffs: bpffs,
        };
        for ns in [&place.node, &place.neighbour] {
            Netns::create(ns.name()).unwrap();
        }
        let other = place.neighbour.name();
        place.node.ip(&format!("link add eth0 type veth peer name eth0 netns {other}")).unwrap();
        for (ns, address) in [(&place.node, "172.18.0.7"), (&place.neighbour, "172.18.0.100")] {
            ns.ip_batch(&format!("addr add {address}/16 dev eth0\nlink set eth0 up\n")).unwrap();
        }
        Some(place)
    }

    fn name(&self) -> String {
        lab::viplb_name(&self.prefix, "h1")
    }

    fn pins(&self) -> Pins {
        Pins::of(&self.name())
    }

    fn file(&self, name: &str) -> PathBuf {
        lab::state_dir(&self.prefix).join(name)
    }

    /// [`CONFIG`] with `from` changed to `to`, as a file.
    fn config(&self, from: &str, to: &str) -> PathBuf {
        assert!(CONFIG.contains(from), "{from}");
        let file = self.file("viplb.toml");
        let _ = fs::remove_file(&file);
        let mut open = fs::File::options();
        let mut out = open.create_new(true).write(true).mode(0o644).open(&file).unwrap();
        out.write_all(CONFIG.replace(from, to).replace("NODE", &self.name()).as_bytes()).unwrap();
        file
    }

    fn good_config(&self) -> PathBuf {
        self.config("flows = 1024", "flows = 1024")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(daemon::binary().unwrap());
        command.args(words).stdin(Stdio::null());
        self.node.place(&mut command).unwrap();
        command
    }

    fn run(&self, config: &Path) -> Output {
        finish(self.command(&["run", "-c", config.to_str().unwrap()]))
    }

    /// Runs with `config` on a machine that `arrange` changes first; the closure runs between fork and exec.
    fn run_where(
        &self,
        config: &Path,
        arrange: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Output {
        let mut command = self.command(&["run", "-c", config.to_str().unwrap()]);
        // SAFETY: the closures of this file make system calls only and allocate nothing.
        unsafe { command.pre_exec(arrange) };
        finish(command)
    }

    fn status(&self, more: &[&str]) -> Output {
        let name = self.name();
        finish(self.command(&[&["-n", &name], more, &["status"]].concat()))
    }

    fn snapshot(&self) -> Option<Snapshot> {
        serde_json::from_slice(&self.status(&["-j"]).stdout).ok()
    }

    /// Starts a daemon that is expected to run, and waits until it answers.
    fn start(&self, config: &Path) -> Daemon {
        let log = self.file("viplb.log");
        let out = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&["run", "-c", config.to_str().unwrap()]);
        command.stdout(Stdio::null()).stderr(out);
        let mut daemon = Daemon(command.spawn().unwrap());
        let pid = daemon.0.id();
        wait_until("the daemon answers", LIMIT, || {
            let ended = daemon.0.try_wait().unwrap();
            assert_eq!(ended, None, "{}", proc::tail(&log, 5));
            self.snapshot().is_some_and(|s| s.node.pid == pid)
        });
        daemon
    }

    fn programs(&self) -> usize {
        let count = || {
            [TcAttachType::Ingress, TcAttachType::Egress]
                .map(|side| {
                    SchedClassifier::query_tcx("eth0", side).map_or(0, |(_, programs)| programs.len())
                })
                .iter()
                .sum()
        };
        self.node.run(count).unwrap()
    }

    fn has_vip(&self) -> bool {
        let vip: std::net::Ipv4Addr = VIP.parse().unwrap();
        let listed = || {
            getifaddrs()
                .unwrap()
                .any(|a| a.address.as_ref().and_then(|a| a.as_sockaddr_in()).is_some_and(|a| a.ip() == vip))
        };
        self.node.run(listed).unwrap()
    }

    fn assert_nothing_is_left(&self) {
        assert!(!self.pins().root.exists(), "pins");
        // The kernel lets a link go some time after its last pin: behind a grace period, on a worker thread.
        wait_until("no program is attached", LIMIT, || self.programs() == 0);
        assert!(!self.has_vip(), "the address");
        assert!(!pins::socket(&self.name()).exists(), "the control socket");
    }

    /// The run was refused in one sentence with all of `words`, and left nothing.
    fn assert_refused(&self, out: &Output, words: &[&str]) {
        assert_sentence(out, words);
        self.assert_nothing_is_left();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = down::down(&self.prefix, &Console::quiet());
    }
}

/// A daemon that is ended with SIGKILL if the test does not end it otherwise.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.0.wait().unwrap();
    }

    fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Runs a command to its end; one that goes on running is a failure of the test.
fn finish(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            let out = child.wait_with_output().unwrap();
            panic!("{command:?} goes on running: {}", String::from_utf8_lossy(&out.stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn assert_sentence(out: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{text}{:?}", out.status.signal());
    // A start that fails late has logged what it did before.
    let said: Vec<&str> = text.lines().filter(|line| !line.contains("  INFO ")).collect();
    assert!(said.len() == 1 && said[0].starts_with("viplb: "), "one sentence: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

/// Hides a directory of the machine from the process to be started; the mount is seen by it alone.
fn hide(dir: &'static str) -> impl FnMut() -> std::io::Result<()> + Send + Sync + 'static {
    move || {
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("none"), dir, Some("tmpfs"), MsFlags::empty(), none)?;
        Ok(())
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_refused_with_its_name() {
    let Some(place) = Place::new("cfg") else { return };
    let missing = place.run(Path::new("/nonexistent/viplb.toml"));
    place.assert_refused(&missing, &["/nonexistent/viplb.toml", "No such file", "-c FILE"]);
    let directory = place.run(Path::new("/usr"));
    place.assert_refused(&directory, &["`/usr`", "not a regular file", "-c FILE"]);
}

#[test]
fn every_mistake_of_a_configuration_is_shown_at_once_by_run_and_check() {
    let Some(place) = Place::new("mis") else { return };
    let file = place.config("priority = 101", "priority = 300\nspeed = 3\nadvert_int = \"soon\"");
    let name = file.to_str().unwrap();
    let run = place.run(&file);
    let check = finish(place.command(&["check", "-c", name]));
    assert_eq!((run.status.code(), check.status.code()), (Some(1), Some(1)));
    for out in [&run, &check] {
        let text = String::from_utf8_lossy(&out.stderr);
        for (line, word) in [(9, "300"), (10, "speed"), (11, "soon")] {
            assert!(text.contains(&format!("{name}:{line}:")) && text.contains(word), "{word}: {text}");
        }
        assert_eq!(text.matches("error: ").count(), 3, "{text}");
    }
    assert!(String::from_utf8_lossy(&run.stderr).contains("3 errors"));
    place.assert_nothing_is_left();
}

#[test]
fn a_program_that_anybody_can_change_and_a_user_that_is_not_there_are_refused_where_they_stand() {
    let Some(place) = Place::new("prg") else { return };
    let program = place.file("notify");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o757)).unwrap();
    let path = program.display();
    let lines = format!("priority = 101\nnotify = [\"{path}\"]\nnotify_user = \"no such user\"");
    let file = place.config("priority = 101", &lines);
    let out = place.run(&file);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{text}");
    for (line, words) in
        [(10, "can be changed by every user of this host"), (11, "there is no user `no such user`")]
    {
        assert!(text.contains(&format!("{}:{line}:", file.display())) && text.contains(words), "{text}");
    }
    place.assert_nothing_is_left();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let good = place.config("priority = 101", &format!("priority = 101\nnotify = [\"{path}\"]"));
    assert_eq!(finish(place.command(&["check", "-c", good.to_str().unwrap()])).status.code(), Some(0));
}

#[test]
fn an_address_for_metrics_that_is_not_this_nodes_is_named_and_nothing_is_left() {
    let Some(place) = Place::new("htp") else { return };
    let lines = "[http]\nlisten = \"192.0.2.1:9112\"\n\n[vrrp.vi_1]";
    let out = place.run(&place.config("[vrrp.vi_1]", lines));
    place.assert_refused(&out, &["cannot serve metrics on 192.0.2.1:9112", "[http]"]);
}

#[test]
fn an_address_on_an_interface_that_is_missing_names_the_interface() {
    let Some(place) = Place::new("dev") else { return };
    let out = place.run(&place.config("[\"172.18.0.201\"]", "[\"172.18.0.201 dev eth7\"]"));
    place.assert_refused(&out, &["eth7", "ip link"]);
}

#[test]
fn check_ends_with_0_for_a_good_file_1_for_a_bad_one_and_2_for_none() {
    let Some(place) = Place::new("chk") else { return };
    let code = |file: &Path| {
        let out = finish(place.command(&["check", "-c", file.to_str().unwrap()]));
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (good, text) = code(&place.good_config());
    assert_eq!(good, Some(0));
    assert!(text.contains("ok (1 virtual router, 1 service, 1 backend)"), "{text}");
    assert_eq!(code(&place.config("virtual_router_id = 51", "virtual_router_id = 0")).0, Some(1));
    assert_eq!(code(Path::new("/nonexistent")).0, Some(2));
}

#[test]
fn without_capabilities_the_missing_ones_are_named() {
    let Some(place) = Place::new("cap") else { return };
    let config = place.good_config();
    // Root of a container that was given nothing.
    let bounded = place.run_where(&config, || {
        for capability in 0..=40 {
            // SAFETY: a plain system call. Numbers that this kernel does not know are refused, which is fine.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    });
    // An ordinary user. The binary may be where such a user cannot reach it, so it is run by its descriptor.
    let binary = fs::File::open(daemon::binary().unwrap()).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&binary)));
    command.args(["run", "-c", config.to_str().unwrap()]).stdin(Stdio::null());
    place.node.place(&mut command).unwrap();
    // SAFETY: system calls only.
    unsafe {
        command.pre_exec(|| {
            setgroups(&[])?;
            setgid(Gid::from_raw(65534))?;
            Ok(setuid(Uid::from_raw(65534))?)
        });
    }
    for out in [bounded, finish(command)] {
        place.assert_refused(&out, &["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "run as root"]);
    }
    // One alone is named alone.
    let raw = place.run_where(&config, || {
        // SAFETY: a plain system call; 13 is CAP_NET_RAW.
        Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, 13, 0, 0, 0) })?;
        Ok(())
    });
    place.assert_refused(&raw, &["CAP_NET_RAW missing"]);
    assert!(!String::from_utf8_lossy(&raw.stderr).contains("CAP_BPF"));
}

#[test]
fn an_interface_that_is_missing_or_has_no_address_is_named() {
    let Some(place) = Place::new("ifc") else { return };
    let missing = place.run(&place.config("interface = \"eth0\"", "interface = \"eth7\""));
    place.assert_refused(&missing, &["eth7", "ip link"]);
    place.node.ip("addr flush dev eth0").unwrap();
    let bare = place.run(&place.good_config());
    place.assert_refused(&bare, &["eth0 has no IPv4 address", "ip addr add"]);
}

#[test]
fn a_machine_without_bpffs_or_btf_is_told_what_to_mount_or_build() {
    let Some(place) = Place::new("fs") else { return };
    let config = place.good_config();
    let no_bpffs = place.run_where(&config, hide("/sys/fs/bpf"));
    place.assert_refused(&no_bpffs, &["no bpf filesystem", "mount -t bpf bpf /sys/fs/bpf"]);
    let no_btf = place.run_where(&config, hide("/sys/kernel/btf"));
    place.assert_refused(&no_btf, &["no BTF", "CONFIG_DEBUG_INFO_BTF"]);
}

#[test]
fn a_second_daemon_of_the_same_name_is_refused_and_the_first_goes_on() {
    let Some(place) = Place::new("two") else { return };
    let config = place.good_config();
    let first = place.start(&config);
    assert_sentence(&place.run(&config), &["another viplb runs as node", &place.name(), "[node]"]);
    let seen = place.snapshot().unwrap();
    assert_eq!((seen.node.pid, place.programs()), (first.0.id(), 2));
    first.stop();
    place.assert_nothing_is_left();
}

#[test]
fn a_backend_without_a_route_is_named() {
    let Some(place) = Place::new("rou") else { return };
    let out = place.run(&place.config("172.18.0.100:9000", "10.99.0.1:9000"));
    place.assert_refused(&out, &["backend one", "no route to 10.99.0.1", "ip route"]);
}

#[test]
fn maps_of_another_release_are_refused_with_words_and_left_as_they_are() {
    let Some(place) = Place::new("sch") else { return };
    let config = place.good_config();
    place.start(&config).kill();
    let set_schema = |maps: &mut Maps, schema| {
        let settings = maps.settings.get(&0, 0).unwrap();
        maps.settings.set(0, Settings { schema, ..settings }, 0).unwrap();
        settings.schema
    };
    let mut maps = Maps::open(&place.pins()).unwrap();
    let ours = set_schema(&mut maps, 4_000_000_000);
    let out = place.run(&config);
    assert_sentence(
        &out,
        &["layout 4000000000", &place.pins().maps().display().to_string(), "stop the other"],
    );
    assert_eq!(place.programs(), 2, "what the other release left is not touched");
    assert_eq!(maps.settings.get(&0, 0).unwrap().schema, 4_000_000_000);
    set_schema(&mut maps, ours);
    drop(maps);
    place.start(&config).stop();
    place.assert_nothing_is_left();
}

#[test]
fn what_a_killed_daemon_left_is_taken_over_by_the_next() {
    let Some(place) = Place::new("sta") else { return };
    let config = place.good_config();
    place.start(&config).kill();
    assert!(pins::socket(&place.name()).exists(), "a stale control socket");
    assert_eq!(place.programs(), 2, "programs of a daemon that is no more");
    let next = place.start(&config);
    assert!(fs::read_to_string(place.file("viplb.log")).unwrap().contains("adopted"));
    assert_eq!(place.programs(), 2, "replaced, not doubled");
    next.stop();
    place.assert_nothing_is_left();
}

#[test]
fn a_start_that_fails_after_attaching_takes_everything_back() {
    let Some(place) = Place::new("lat") else { return };
    let socket = pins::socket(&place.name());
    fs::create_dir_all(&socket).unwrap();
    for hook in ["tcx", "clsact"] {
        let out = place.run(&place.config("flows = 1024", &format!("flows = 1024\nhook = \"{hook}\"")));
        assert_sentence(&out, &["cannot replace", &socket.display().to_string()]);
        assert!(!place.pins().root.exists(), "{hook}");
        wait_until("no program is attached", LIMIT, || place.programs() == 0);
        if proc::which("tc").is_some() {
            let filters = |side| {
                proc::finish(
                    Command::new("tc")
                        .args(["-n", place.node.name()])
                        .args(["filter", "show", "dev", "eth0", side]),
                )
            };
            for side in ["ingress", "egress"] {
                assert_eq!(filters(side).unwrap_or_default(), "", "{hook} {side}");
            }
        }
    }
    fs::remove_dir(&socket).unwrap();
    place.assert_nothing_is_left();
    // A socket file that nobody listens on is no obstacle.
    drop(UnixListener::bind(&socket).unwrap());
    place.start(&place.good_config()).stop();
    place.assert_nothing_is_left();
}

#[test]
fn a_silent_foreign_owner_of_the_address_is_an_alarm_with_its_mac_and_no_refusal() {
    let Some(place) = Place::new("for") else { return };
    place
        .neighbour
        .ip_batch(&format!("link set eth0 address 02:42:ac:12:00:63\naddr add {VIP}/32 dev eth0\n"))
        .unwrap();
    let daemon = place.start(&place.good_config());
    wait_until("the alarm is shown", LIMIT, || {
        String::from_utf8_lossy(&place.status(&[]).stdout)
            .lines()
            .any(|line| line.starts_with("ALARM") && line.contains(VIP) && line.contains("02:42:ac:12:00:63"))
    });
    let seen = place.snapshot().unwrap();
    assert_eq!(seen.vrrp[0].state, "Master", "it serves all the same");
    assert!(seen.vrrp[0].lease_valid);
    assert_eq!(place.status(&[]).status.code(), Some(1), "degraded");
    daemon.stop();
    place.assert_nothing_is_left();
}
