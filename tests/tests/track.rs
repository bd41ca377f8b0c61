//! What moves the election besides adverts, and what the election moves: trackers, programs that are told, addresses on
//! their interfaces; with the real daemon on two nodes.
//!
//! Needs root. The databases are the stand-in, because nothing here is about them. Each node has a second interface,
//! `eth1`, whose other end (`up-NODE`, on a second bridge) the tests unplug.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use lb_tests::{
    console::Console,
    daemon,
    down::{down, end},
    expect::wait_until,
    lab::{Balancer, Engine, Lab, Node, Plan, VIP},
    node::{self, Cut},
    proc,
    sql::MONITOR,
    vip,
    watch::Watch,
};
use serde_json::Value;

/// For what takes an election (1 s here) and a program's start, on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A lab whose daemons run with a test's own lines; gone when it goes out of scope.
struct Scene {
    lab: Lab,
    watch: Option<Watch>,
}

impl Scene {
    /// h1 (priority 101) owns the address; `h1` are further lines of its virtual router and sections behind it.
    fn raise(test: &str, h1: impl Fn(&Scene) -> String) -> Option<Self> {
        Self::raise_both(test, h1, "")
    }

    /// The same with further lines for h2.
    fn raise_both(test: &str, h1: impl Fn(&Scene) -> String, h2: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: a lab needs root");
            return None;
        }
        let prefix = format!("{test}{}", std::process::id());
        let (engine, viplb) = (Engine::Standin, Balancer::Viplb);
        let plan = Plan { prefix: prefix.clone(), db: 1, engine, h1: viplb, h2: viplb };
        let lab = Lab::up(plan, &Console::quiet()).or_else(|e| down(&prefix, &Console::quiet()).and(Err(e)));
        let mut scene = Scene { lab: lab.unwrap(), watch: None };
        let bridge = scene.lab.bridge();
        bridge.ip_batch("link add br1 type bridge forward_delay 0\nlink set br1 up\n").unwrap();
        for (name, last) in [("h1", 7), ("h2", 8)] {
            scene.stop(name);
            let ns = scene.lab.netns(&scene.node(name));
            let line = format!("link add up-{name} type veth peer name eth1 netns {}", ns.name());
            bridge.ip_batch(&format!("{line}\nlink set up-{name} master br1 up\n")).unwrap();
            ns.ip_batch(&format!("addr add 172.19.0.{last}/16 dev eth1\nlink set eth1 up\n")).unwrap();
        }
        scene.configure("h1", &h1(&scene));
        scene.configure("h2", h2);
        scene.start("h1");
        scene.start("h2");
        scene.watch = Some(Watch::start(&scene.lab));
        scene.owned_by("h1", "at the start");
        Some(scene)
    }

    fn node(&self, name: &str) -> Node {
        self.lab.node(name).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.node_dir(&self.node("h1")).join(name)
    }

    /// A program of h1's.
    fn program(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn configure(&self, name: &str, more: &str) {
        let node = self.node(name);
        let text = format!(
            "[node]\nname = \"{}\"\nflows = 1024\n\n[service.mysql]\nlisten = \"{VIP}:3306\"\n\
             backend = [{{ address = \"172.18.0.2\" }}]\n\
             check = {{ type = \"mysql\", user = \"{}\", password = \"{}\", interval = \"200ms\" }}\n\n\
             [vrrp.vi_1]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = {}\nversion = 3\n\
             advert_int = \"300ms\"\nvirtual_ipaddress = [\"{VIP}\"]\n{more}\n",
            self.lab.viplb_name(&node),
            MONITOR.user,
            MONITOR.password.unwrap_or_default(),
            node.priority(),
        );
        let file = self.lab.node_dir(&node).join("viplb.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn start(&self, name: &str) {
        node::start(&self.lab, &self.node(name), &Console::quiet()).unwrap();
    }

    fn stop(&self, name: &str) {
        node::stop(&self.lab, &self.node(name), &Console::quiet()).unwrap();
    }

    /// Plugs or unplugs the other end of h1's `eth1`.
    fn uplink(&self, up: bool) {
        self.lab.bridge().ip(&format!("link set up-h1 {}", if up { "up" } else { "down" })).unwrap();
    }

    /// Waits until h1's status has `value` under this JSON pointer of its first virtual router.
    fn h1_shows(&self, pointer: &str, value: impl Into<Value>) {
        self.shows("h1", &format!("/vrrp/0{pointer}"), value);
    }

    /// Waits until a node's status has `value` under this JSON pointer.
    fn shows(&self, name: &str, pointer: &str, value: impl Into<Value>) {
        let value = value.into();
        let seen = || {
            let status = daemon::status(&self.lab, &self.node(name)).unwrap_or_default();
            status.pointer(pointer).cloned().unwrap_or_default()
        };
        let deadline = Instant::now() + LIMIT;
        while seen() != value {
            assert!(Instant::now() < deadline, "{name} shows {pointer} = {}, not {value}", seen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `name` alone holds the lease and answers.
    fn owned_by(&self, name: &str, when: &str) {
        let watch = self.watch.as_ref().unwrap();
        watch.until_leased(&[name], LIMIT).unwrap_or_else(|e| panic!("{when}, the lease: {e}"));
        watch.until_answers(&[name], LIMIT).unwrap_or_else(|e| panic!("{when}, the answers: {e}"));
    }

    fn never_two_since(&self, from: Instant) {
        self.watch.as_ref().unwrap().never_two_since(from).unwrap();
    }

    /// The addresses of an interface of h1, a line each.
    fn addresses(&self, interface: &str) -> Vec<String> {
        let ns = self.lab.netns(&self.node("h1"));
        let mut ip = Command::new("ip");
        ip.args(["-n", ns.name(), "-o", "addr", "show", "dev", interface]);
        proc::finish(&mut ip).unwrap().lines().map(str::to_owned).collect()
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["h1", "h2"] {
                let log = self.lab.node_dir(&self.node(name)).join("viplb.log");
                eprintln!("the end of {name}'s log:\n{}", proc::tail(&log, 20));
            }
        }
        drop(self.watch.take());
        end(&self.lab.plan().prefix);
    }
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_lost_uplink_lowers_the_priority_so_that_the_peer_takes_over_and_gives_back() {
    let lines = "track = [{ name = \"uplink\", weight = -20 }]\n\n[track.uplink]\ntype = \"interface\"\n\
                 interface = \"eth1\"\n";
    let Some(scene) = Scene::raise("vttul", |_| lines.to_owned()) else { return };
    scene.h1_shows("/tracks/0/state", "good");
    let lost = Instant::now();
    scene.uplink(false);
    scene.owned_by("h2", "without its uplink");
    scene.h1_shows("/effective_priority", 81);
    scene.h1_shows("/priority", 101);
    scene.h1_shows("/state", "Backup");
    scene.h1_shows("/tracks/0/cause", "eth1 has no carrier");
    scene.h1_shows("/tracks/0/effect", "-20");
    scene.uplink(true);
    scene.owned_by("h1", "with its uplink again");
    scene.h1_shows("/effective_priority", 101);
    scene.never_two_since(lost);
}

#[test]
fn a_script_that_fails_takes_its_node_out_of_the_election_until_it_passes() {
    let chk = |scene: &Scene| {
        let path = scene.program("chk", &format!("test ! -e {}", scene.file("broken").display()));
        format!(
            "track = [\"chk\"]\n\n[track.chk]\ntype = \"script\"\ncommand = [\"{}\"]\ninterval = \"200ms\"\n",
            path.display()
        )
    };
    let Some(scene) = Scene::raise("vttsc", chk) else { return };
    fs::write(scene.file("broken"), "").unwrap();
    scene.owned_by("h2", "with a failed script");
    scene.h1_shows("/state", "Fault");
    scene.h1_shows("/tracks/0/effect", "fault");
    scene.h1_shows("/tracks/0/cause", "exit status 1");
    fs::remove_file(scene.file("broken")).unwrap();
    scene.owned_by("h1", "with a script that passes");
    scene.h1_shows("/reason", "pre-empted a lower priority");
}

#[test]
fn files_processes_and_backends_move_the_priority_together() {
    let lines = |scene: &Scene| {
        format!(
            "track = [\"value\", {{ name = \"sleeper\", weight = 7 }}, {{ name = \"db\", weight = -50 }}]\n\n\
             [track.value]\ntype = \"file\"\nfile = \"{}\"\ninterval = \"100ms\"\n\
             [track.sleeper]\ntype = \"process\"\nprocess = \"sleep\"\narguments = [\"86397\"]\n\
             [track.db]\ntype = \"backends\"\nservice = \"mysql\"\n",
            scene.file("value").display()
        )
    };
    let Some(scene) = Scene::raise("vttfp", lines) else { return };
    scene.h1_shows("/effective_priority", 101);
    let sleeper = Running(Command::new("sleep").arg("86397").spawn().unwrap());
    scene.h1_shows("/effective_priority", 108);
    fs::write(scene.file("value"), "-3\n").unwrap();
    scene.h1_shows("/effective_priority", 105);
    drop(sleeper);
    scene.h1_shows("/effective_priority", 98);
    scene.owned_by("h2", "h1 at 98");
    fs::write(scene.file("value"), "9").unwrap();
    scene.owned_by("h1", "h1 at 110");
    node::pause(&scene.lab, &scene.node("db1")).unwrap();
    scene.h1_shows("/tracks/2/effect", "-50");
    // Neither node reaches a backend: both have the lowest priority, and the owner stays.
    scene.h1_shows("/effective_priority", 1);
    scene.shows("h2", "/vrrp/0/effective_priority", 1);
    scene.owned_by("h1", "nobody with a backend");
    node::unpause(&scene.lab, &scene.node("db1")).unwrap();
    scene.h1_shows("/effective_priority", 110);
    scene.owned_by("h1", "h1 with its backend");
}

#[test]
fn a_peer_is_good_while_its_kernel_answers_though_its_daemon_is_frozen() {
    let lines = "track = [{ name = \"h2\", weight = 5 }]\n\n[track.h2]\ntype = \"peer\"\naddress = \"172.18.0.8\"\n\
                 interval = \"100ms\"\n";
    let Some(scene) = Scene::raise("vttpe", |_| lines.to_owned()) else { return };
    let h2 = scene.node("h2");
    scene.h1_shows("/effective_priority", 106);
    node::cut(&scene.lab, &h2, Cut::Silent).unwrap();
    scene.h1_shows("/effective_priority", 101);
    scene.h1_shows("/tracks/0/cause", "its packet programs do not answer");
    node::pause(&scene.lab, &h2).unwrap();
    node::heal(&scene.lab, &h2).unwrap();
    scene.h1_shows("/effective_priority", 106);
}

/// A second router on `eth1` of this priority, in a group with the first; `more` are lines of the group.
fn grouped(priority: u8, more: &str) -> String {
    format!(
        "\n[vrrp.vi_2]\ninterface = \"eth1\"\nvirtual_router_id = 52\npriority = {priority}\nversion = 3\n\
         advert_int = \"300ms\"\nvirtual_ipaddress = [\"172.19.0.201\"]\n\n\
         [sync_group.both]\ngroup = [\"vi_1\", \"vi_2\"]\n{more}"
    )
}

#[test]
fn members_of_a_sync_group_own_together_and_its_program_is_told() {
    let h1 = |scene: &Scene| {
        let record = format!("echo \"$*\" >> {}", scene.file("told").display());
        grouped(101, &format!("notify = [\"{}\"]\n", scene.program("any", &record).display()))
    };
    let Some(scene) = Scene::raise_both("vttgr", h1, &grouped(100, "")) else { return };
    scene.h1_shows("/sync_group", "both");
    scene.shows("h1", "/vrrp/1/state", "Master");
    let lost = Instant::now();
    scene.uplink(false);
    scene.owned_by("h2", "h1 without eth1");
    scene.shows("h2", "/vrrp/1/state", "Master");
    scene.h1_shows("/state", "Fault");
    scene.shows("h1", "/vrrp/1/state", "Fault");
    scene.uplink(true);
    scene.owned_by("h1", "h1 with eth1 again");
    scene.shows("h1", "/vrrp/1/state", "Master");
    scene.shows("h2", "/vrrp/1/state", "Backup");
    scene.never_two_since(lost);
    let states = ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"];
    let expected = states.map(|state| format!("GROUP both {state} 101"));
    wait_until("the group's program is told of the last change", LIMIT, || scene.lines("told").len() >= 5);
    assert_eq!(scene.lines("told"), expected);
}

#[test]
fn metrics_tell_a_scraper_who_owns_and_no_secret() {
    let track = "track = [\"uplink\"]\n\n[track.uplink]\ntype = \"interface\"\ninterface = \"eth1\"\n\n\
                 [http]\nlisten = \"172.18.0.7:9112\"\n";
    let Some(scene) = Scene::raise("vttme", |_| track.to_owned()) else { return };
    let scrape = || {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect("172.18.0.7:9112")?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let client = scene.lab.netns(&scene.node("client"));
        client.run(ask).unwrap().unwrap_or_default()
    };
    let has = |line: &str| {
        wait_until(&format!("{line} in\n{}", scrape()), LIMIT, || scrape().lines().any(|l| l == line));
    };
    has("viplb_vrrp_state{router=\"vi_1\",state=\"master\"} 1");
    has("viplb_vrrp_lease_valid{router=\"vi_1\"} 1");
    has("viplb_track_good{router=\"vi_1\",track=\"uplink\"} 1");
    has("viplb_backend_up{service=\"mysql\",backend=\"172.18.0.2\"} 1");
    let password = MONITOR.password.unwrap();
    assert!(!scrape().contains(password), "the password of the checks");
    scene.uplink(false);
    has("viplb_vrrp_state{router=\"vi_1\",state=\"fault\"} 1");
    has("viplb_track_fault{router=\"vi_1\",track=\"uplink\"} 1");
}

#[test]
fn programs_are_told_of_each_change_in_order_and_one_that_hangs_holds_up_nothing() {
    let lines = |scene: &Scene| {
        let out = scene.file("told");
        let record = format!(
            "echo \"$* old=$VIPLB_OLD_STATE node=$VIPLB_NODE addresses=$VIPLB_ADDRESSES\" >> {}",
            out.display()
        );
        let (any, hangs) = (scene.program("any", &record), scene.program("hangs", "exec sleep 1000"));
        format!("notify = [\"{}\", \"own\"]\nnotify_fault = [\"{}\"]\n", any.display(), hangs.display())
    };
    let Some(scene) = Scene::raise("vttno", lines) else { return };
    let rest =
        |old: &str| format!("old={old} node={} addresses={VIP}", scene.lab.viplb_name(&scene.node("h1")));
    let expected = [
        format!("own INSTANCE vi_1 BACKUP 101 {}", rest("INIT")),
        format!("own INSTANCE vi_1 MASTER 101 {}", rest("BACKUP")),
    ];
    wait_until("both changes are told", LIMIT, || scene.lines("told").len() >= 2);
    assert_eq!(scene.lines("told"), expected);
    // Without a carrier: FAULT, whose program hangs. The election goes on all the same.
    node::cut(&scene.lab, &scene.node("h1"), Cut::Carrier).unwrap();
    scene.owned_by("h2", "h1 cut off");
    node::heal(&scene.lab, &scene.node("h1")).unwrap();
    scene.owned_by("h1", "h1 healed");
    assert_eq!(scene.lines("told"), expected, "what comes after the hanging program waits for it");
    let asked = Instant::now();
    scene.stop("h1");
    assert!(asked.elapsed() < LIMIT, "the stop took {:?}", asked.elapsed());
    assert!(scene.addresses("eth0").iter().all(|line| !line.contains(&VIP.to_string())));
    scene.owned_by("h2", "h1 stopped");
}

#[test]
fn the_stop_is_told_and_waited_for() {
    let lines = |scene: &Scene| {
        let record =
            format!("sleep 0.3; echo \"$VIPLB_OLD_STATE $VIPLB_REASON\" > {}", scene.file("told").display());
        format!("notify_stop = [\"{}\"]\n", scene.program("stop", &record).display())
    };
    let Some(scene) = Scene::raise("vttst", lines) else { return };
    scene.stop("h1");
    assert_eq!(scene.lines("told"), ["MASTER stopped"]);
}

#[test]
fn addresses_go_where_the_file_says_and_leave_with_the_ownership() {
    let lines = "virtual_ipaddress_excluded = [\"fd00::201/64 dev eth1\", \"10.9.0.1/24 dev eth1\"]\n";
    let Some(scene) = Scene::raise("vttad", |_| lines.to_owned()) else { return };
    let has = |interface: &str, words: &[&str]| {
        scene.addresses(interface).iter().any(|line| words.iter().all(|word| line.contains(word)))
    };
    wait_until("h1 has its addresses", LIMIT, || {
        has("eth0", &[" 172.18.0.201/32 "]) && has("eth1", &["10.9.0.1/24"])
    });
    // The node's own connections must not start from it, and nobody is asked whether it is a duplicate.
    let v6 = &["inet6 fd00::201/64", "deprecated", "nodad", "preferred_lft 0sec"];
    wait_until(&format!("{v6:?} in {:?}", scene.addresses("eth1")), LIMIT, || has("eth1", v6));
    assert!(!has("eth1", &["tentative", "fd00::201"]));
    // A killed daemon leaves them; the next one removes them, also when it is not to assign any.
    node::kill(&scene.lab, &scene.node("h1"), &Console::quiet()).unwrap();
    assert!(has("eth1", &["fd00::201"]));
    scene.owned_by("h2", "h1 killed");
    scene.configure("h1", &format!("assign_address = false\npreempt = \"never\"\n{lines}"));
    scene.start("h1");
    let none = || ["eth0", "eth1"].iter().all(|i| !has(i, &["172.18.0.201/"]) && !has(i, &["fd00::201"]));
    wait_until("the addresses are gone", LIMIT, none);
    scene.stop("h2");
    scene.owned_by("h1", "h2 stopped");
    assert!(none(), "no interface has them");
    assert_eq!(vip::pinged(&scene.lab).unwrap(), ["h1"], "the packet programs answer");
    scene.stop("h1");
}
