//! Two viplb nodes, a client that writes through the virtual address, and faults on the owner.
//!
//! For each fault: the client's rows go on through the other node; whoever has lost its daemon answers nothing; from
//! the end of the fault on there is one owner at every sample, until the first node has pre-empted and beyond; and no
//! acknowledged row is lost. Needs root. The databases are the stand-in, because nothing here is about them.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt},
        net::UnixStream,
    },
    process::Command,
    time::{Duration, Instant},
};

use lb_common::{
    flow::{FORWARD, Stage},
    maps::FLOWS,
    reason::Reason,
};
use lb_tests::{
    console::Console,
    daemon,
    down::end,
    expect::wait_until,
    lab::{Balancer, DB_PORT, Engine, Lab, Node, Plan, VIP},
    node::{self, Cut},
    proc,
    sql::{APP, tcp_options},
    tryout, vip,
    watch::Watch,
    writer::{Options, Writer},
};
use lb_userspace::datapath::{maps::Maps, pins, pins::Pins};
use mysql_async::{Conn, prelude::Queryable};
use tokio::{runtime, time::timeout};

/// For what takes an election (3.6 s), a client's time-out (1 s) and a reconnect, on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// A farewell takes (256 − 100) / 256 s; silence would take 2.6 s at least.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// A lost carrier is an event, not a time-out.
const CARRIER_LIMIT: Duration = Duration::from_secs(1);
/// The owners of the two sides of a healed partition hear each other within an advert interval, 1 s.
const HEALED_LIMIT: Duration = Duration::from_secs(4);
/// How long ownership is watched after its last change.
const BEYOND: Duration = Duration::from_secs(2);
/// Rows that make "the writes go on".
const ROWS: u64 = 50;

/// A lab with a writer and a watch; gone when it goes out of scope.
struct Scene {
    lab: Lab,
    watch: Option<Watch>,
    writer: Option<Writer>,
}

impl Scene {
    /// h1 owns the address, both nodes are healthy and rows are being written; or the reason why not.
    fn raise(test: &str, h2: Balancer) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: a lab needs root");
            return None;
        }
        let prefix = format!("{test}{}", std::process::id());
        let (engine, h1) = (Engine::Standin, Balancer::Viplb);
        let lab = tryout::raise(Plan { prefix, db: 2, engine, h1, h2 }, &Console::quiet()).unwrap();
        let mut scene = Scene { lab, watch: None, writer: None };
        scene.watch = Some(Watch::start(&scene.lab));
        scene.owned_by("h1", "at the start");
        let client = scene.lab.netns(&scene.node("client"));
        scene.writer = Some(Writer::start(client, Options::to((VIP, DB_PORT).into())));
        for name in ["h1", "h2"].into_iter().filter(|name| *name == "h1" || h2 == Balancer::Viplb) {
            wait_until(&format!("{name} is healthy"), LIMIT, || scene.status(name).0 == Some(0));
        }
        scene.rows_go_on("at the start");
        Some(scene)
    }

    fn node(&self, name: &str) -> Node {
        self.lab.node(name).unwrap()
    }

    fn watch(&self) -> &Watch {
        self.watch.as_ref().unwrap()
    }

    fn pins(&self, name: &str) -> Pins {
        Pins::of(&self.lab.viplb_name(&self.node(name)))
    }

    /// Exit code and output of `viplb status` for a node.
    fn status(&self, name: &str) -> (Option<i32>, String) {
        let mut command = Command::new(daemon::binary().unwrap());
        command.args(["status", "--node", &self.lab.viplb_name(&self.node(name))]);
        let out = command.output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Packets that a node's programs dropped because it is not the owner.
    fn fenced(&self, name: &str) -> u64 {
        let maps = Maps::open(&self.pins(name)).unwrap();
        maps.reasons.get(&(Reason::NotOwner as u32), 0).unwrap().iter().sum()
    }

    /// Whether the node's interface has the virtual address.
    fn has_address(&self, name: &str) -> bool {
        let ns = self.lab.netns(&self.node(name));
        let mut ip = Command::new("ip");
        ip.args(["-n", ns.name(), "-4", "-o", "addr", "show", "dev", "eth0"]);
        proc::finish(&mut ip).unwrap().contains(&format!(" {VIP}/"))
    }

    fn rows_go_on(&self, when: &str) {
        let writer = self.writer.as_ref().unwrap();
        let before = writer.tally().acknowledged;
        let began = Instant::now();
        while writer.tally().acknowledged < before + ROWS {
            assert!(began.elapsed() < LIMIT, "{when}: no {ROWS} rows in {LIMIT:?}: {:?}", writer.tally());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `name` alone holds the lease and answers; since when.
    fn owned_by(&self, name: &str, when: &str) -> Instant {
        let leased = self.watch().until_leased(&[name], LIMIT);
        let answers = self.watch().until_answers(&[name], LIMIT);
        let at = |what, since: anyhow::Result<Instant>| {
            since.unwrap_or_else(|e| panic!("{when}, the {what} is not {name}'s: {e}"))
        };
        at("lease", leased).max(at("answer", answers))
    }

    /// The fault is on: h2 answers, the rows go through it, and nobody else answers or has answered beside it.
    fn carried_on_by_h2(&self, fault: &str, since: Instant) {
        self.owned_by("h2", fault);
        assert_eq!(vip::pinged(&self.lab).unwrap(), ["h2"], "{fault}: who answers a ping");
        self.rows_go_on(fault);
        self.watch().never_two_since(since).unwrap_or_else(|e| panic!("{fault}: {e}"));
    }

    /// The fault is over: one owner at every sample from then on until h1 has pre-empted and a while beyond.
    fn comes_back_to_h1(&self, cure: &str, since: Instant) {
        self.owned_by("h1", cure);
        self.rows_go_on(cure);
        self.one_owner_goes_on(cure, since);
    }

    fn one_owner_goes_on(&self, when: &str, since: Instant) {
        std::thread::sleep(BEYOND);
        self.watch().exactly_one_since(since).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!(vip::pinged(&self.lab).unwrap(), ["h1"], "{when}: who answers a ping");
    }

    /// Ends the writer: every database holds exactly the acknowledged rows.
    fn no_row_is_lost(&mut self) {
        let tally = self.writer.take().unwrap().stop().unwrap();
        assert_eq!(tally.strange_duplicates, 0, "{tally:?}");
        for db in self.lab.databases() {
            let rows = tryout::count(&self.lab, &db, &tally).unwrap();
            assert_eq!(rows, tally.acknowledged, "rows in {}: {tally:?}", db.name);
        }
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
        drop(self.writer.take().map(Writer::stop));
        end(&self.lab.plan().prefix);
    }
}

/// The row of `viplb status` that shows the virtual router.
fn lease_in(status: &str) -> &str {
    let row = status.lines().find(|line| line.contains(&VIP.to_string()) && !line.contains("service"));
    let row = row.unwrap_or_else(|| panic!("no row with {VIP}:\n{status}"));
    row.split_whitespace().find(|word| ["valid", "none"].contains(word)).unwrap_or("neither")
}

#[test]
fn a_frozen_owner_falls_silent_and_is_not_believed_when_it_wakes_up() {
    let Some(mut scene) = Scene::raise("vtfrz", Balancer::Viplb) else { return };
    let h1 = scene.node("h1");

    let frozen = Instant::now();
    node::pause(&scene.lab, &h1).unwrap();
    scene.owned_by("h2", "h1 frozen");
    let before = scene.fenced("h1");
    scene.carried_on_by_h2("h1 frozen", frozen);
    assert!(scene.fenced("h1") > before, "the frozen node's own programs drop what comes for the address");
    assert!(scene.has_address("h1"), "its kernel still has the address: only the programs keep it silent");
    let (code, text) = scene.status("h1");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the daemon does not answer"), "{text}");
    assert_eq!(lease_in(&text), "none", "{text}");
    assert_eq!(scene.status("h2").0, Some(0), "the node that carries on is healthy");

    let woken = Instant::now();
    node::unpause(&scene.lab, &h1).unwrap();
    wait_until("h1 says that it is Backup", LIMIT, || {
        daemon::status(&scene.lab, &h1).is_ok_and(|s| s["vrrp"][0]["state"] == "Backup")
    });
    scene.watch().until_leased(&["h2"], LIMIT).expect("h1 waits its turn");
    scene.comes_back_to_h1("h1 unpaused", woken);
    scene.no_row_is_lost();
}

#[test]
fn a_killed_owner_falls_silent_and_takes_over_again_once_it_is_started() {
    let Some(mut scene) = Scene::raise("vtkil", Balancer::Viplb) else { return };
    let h1 = scene.node("h1");

    let killed = Instant::now();
    node::kill(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.carried_on_by_h2("h1 killed", killed);
    assert!(scene.has_address("h1"), "nobody took the address off; only the programs keep the kernel silent");
    let (code, text) = scene.status("h1");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no daemon runs") && text.contains("read from the pinned maps"), "{text}");
    assert_eq!(lease_in(&text), "none", "{text}");

    let started = Instant::now();
    node::start(&scene.lab, &h1, &Console::quiet()).unwrap();
    wait_until("the address that the killed daemon left is removed", LIMIT, || !scene.has_address("h1"));
    scene.watch().until_leased(&["h2"], LIMIT).expect("h1 waits its turn");
    scene.comes_back_to_h1("h1 started", started);
    assert!(scene.has_address("h1"));
    scene.no_row_is_lost();
}

#[test]
fn a_stopped_owner_hands_over_within_the_skew_and_leaves_nothing_behind() {
    let Some(mut scene) = Scene::raise("vtstp", Balancer::Viplb) else { return };
    let h1 = scene.node("h1");

    // Somebody asks for the status and never ends the question: that must not keep the programs attached.
    let mut asking = UnixStream::connect(pins::socket(&scene.lab.viplb_name(&h1))).unwrap();
    asking.write_all(b"GET /v1/status HTTP/1.1\r\n").unwrap();

    let stopped = Instant::now();
    node::stop(&scene.lab, &h1, &Console::quiet()).unwrap();
    let taken = scene.watch().until_leased(&["h2"], LIMIT).unwrap();
    let took = taken.saturating_duration_since(stopped);
    assert!(took < FAREWELL_LIMIT, "the hand-over took {took:?}");
    scene.carried_on_by_h2("h1 stopped", stopped);
    assert!(!scene.pins("h1").root.exists(), "pins");
    assert!(!pins::socket(&scene.lab.viplb_name(&h1)).exists(), "control socket");
    assert!(!scene.has_address("h1"), "the virtual address");
    let (code, text) = scene.status("h1");
    assert_eq!(code, Some(2), "nothing is left that could tell: {text}");

    let started = Instant::now();
    node::start(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.comes_back_to_h1("h1 started", started);
    scene.no_row_is_lost();
}

#[test]
fn an_owner_that_is_cut_off_is_replaced_and_gets_the_address_back_when_healed() {
    let Some(mut scene) = Scene::raise("vtcut", Balancer::Viplb) else { return };
    let h1 = scene.node("h1");

    let cut = Instant::now();
    node::cut(&scene.lab, &h1, Cut::Carrier).unwrap();
    let dropped = scene.watch().until_leased(&[], LIMIT).unwrap().saturating_duration_since(cut);
    assert!(dropped < CARRIER_LIMIT, "without a carrier h1 kept its lease for {dropped:?}");
    scene.carried_on_by_h2("h1's carrier cut", cut);
    let healed = Instant::now();
    node::heal(&scene.lab, &h1).unwrap();
    scene.comes_back_to_h1("h1's carrier healed", healed);

    // Nobody reaches h1 and it cannot know: each side of a partition without a witness has an owner.
    node::cut(&scene.lab, &h1, Cut::Silent).unwrap();
    scene.watch().until_answers(&["h2"], LIMIT).expect("h1 cut silently: h2 answers");
    scene.rows_go_on("h1 cut silently");
    assert_eq!(vip::pinged(&scene.lab).unwrap(), ["h2"], "h1 cut silently: who answers a ping");
    node::heal(&scene.lab, &h1).unwrap();
    let healed = Instant::now();
    let one_owner = scene.owned_by("h1", "h1 healed of a silent cut");
    let took = one_owner.saturating_duration_since(healed);
    assert!(took < HEALED_LIMIT, "two owners for {took:?} after healing");
    scene.rows_go_on("h1 healed of a silent cut");
    scene.one_owner_goes_on("h1 healed of a silent cut", one_owner);
    scene.no_row_is_lost();
}

/// An idle connection of the client through the virtual address.
struct Session {
    runtime: runtime::Runtime,
    conn: Conn,
}

impl Session {
    fn open(lab: &Lab) -> Self {
        let connect = || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let target = tcp_options((VIP, DB_PORT).into(), APP);
            let conn = runtime.block_on(async { timeout(LIMIT, Conn::new(target)).await });
            Session { runtime, conn: conn.expect("no answer").unwrap() }
        };
        lab.netns(&lab.node("client").unwrap()).run(connect).unwrap()
    }

    fn ask(&mut self, when: &str) {
        let Self { runtime, conn } = self;
        let asked = runtime.block_on(async { timeout(LIMIT, conn.query_drop("SELECT 1")).await });
        asked
            .unwrap_or_else(|_| panic!("{when}: no answer"))
            .unwrap_or_else(|e| panic!("{when}: the connection is lost: {e}"));
    }
}

/// Established flows: what a record must keep to be the same flow.
fn established(maps: &Maps) -> BTreeSet<(u16, u16, u32, u32)> {
    let keys = maps.flow_keys.iter().map(Result::unwrap).filter(|(_, to)| to.direction == FORWARD);
    let flows = keys.map(|(_, to)| maps.flows.get(&to.slot, 0).unwrap());
    let open = flows.filter(|flow| flow.stage() == Stage::Established);
    open.map(|f| (f.client_port.number(), f.snat_port.number(), f.backend_id, f.born)).collect()
}

#[test]
fn a_daemon_that_is_killed_and_started_adopts_its_flows() {
    let Some(mut scene) = Scene::raise("vtado", Balancer::Nothing) else { return };
    let h1 = scene.node("h1");
    let mut session = Session::open(&scene.lab);
    session.ask("before the kill");
    drop(scene.writer.take().map(Writer::stop));
    let flows = || established(&Maps::open(&scene.pins("h1")).unwrap());
    wait_until("only the idle session is left", LIMIT, || flows().len() == 1);
    let pin = || fs::metadata(scene.pins("h1").map(FLOWS)).unwrap().ino();
    let (before, made) = (flows(), pin());

    node::kill(&scene.lab, &h1, &Console::quiet()).unwrap();
    session.ask("the daemon is dead, its lease not yet over");
    node::start(&scene.lab, &h1, &Console::quiet()).unwrap();
    assert_eq!(pin(), made, "the pins are the same");
    assert_eq!(flows(), before, "the flow is the same");
    // It is no owner for having been one.
    wait_until("the address that the killed daemon left is removed", LIMIT, || !scene.has_address("h1"));

    scene.owned_by("h1", "h1 started");
    wait_until("the owner's interface has the address", LIMIT, || scene.has_address("h1"));
    session.ask("the new daemon owns the address");
}

/// Both nodes replicate flows from now on: started anew with the same configuration and a section more.
fn replicate(scene: &Scene) {
    for (name, peer) in [("h1", "172.18.0.8"), ("h2", "172.18.0.7")] {
        let dir = scene.lab.node_dir(&scene.node(name));
        let key = fs::File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(dir.join("sync.key"));
        key.unwrap().write_all(b"1 0123456789abcdef0123456789abcdef\n").unwrap();
        let mut config = fs::File::options().append(true).open(dir.join("viplb.toml")).unwrap();
        write!(config, "\n[sync]\npeers = [\"{peer}\"]\nkey_file = \"sync.key\"\n").unwrap();
    }
    for name in ["h2", "h1"] {
        node::stop(&scene.lab, &scene.node(name), &Console::quiet()).unwrap();
        node::start(&scene.lab, &scene.node(name), &Console::quiet()).unwrap();
    }
    scene.owned_by("h1", "with replication");
    for name in ["h1", "h2"] {
        wait_until(&format!("{name} is healthy"), LIMIT, || scene.status(name).0 == Some(0));
    }
}

#[test]
fn idle_sessions_outlive_a_frozen_a_killed_and_a_stopped_owner_where_flows_are_replicated() {
    let Some(mut scene) = Scene::raise("vtrep", Balancer::Viplb) else { return };
    replicate(&scene);
    let h1 = scene.node("h1");
    let mut sessions: Vec<Session> = (0..8).map(|_| Session::open(&scene.lab)).collect();
    let mut all_answer = |when: &str| sessions.iter_mut().for_each(|session| session.ask(when));
    all_answer("at the start");
    // What is established in an owner's last moment may be lost with it.
    let ports = |node: &str| -> BTreeSet<u16> {
        established(&Maps::open(&scene.pins(node)).unwrap()).iter().map(|(port, ..)| *port).collect()
    };
    wait_until("h2 has heard of all sessions", LIMIT, || ports("h1").is_subset(&ports("h2")));

    node::pause(&scene.lab, &h1).unwrap();
    scene.owned_by("h2", "h1 frozen");
    all_answer("h1 frozen");
    node::unpause(&scene.lab, &h1).unwrap();
    scene.owned_by("h1", "h1 unpaused");
    all_answer("h1 unpaused");

    node::kill(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.owned_by("h2", "h1 killed");
    all_answer("h1 killed");
    node::start(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.owned_by("h1", "h1 started");
    all_answer("h1 started");

    node::stop(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.owned_by("h2", "h1 stopped");
    all_answer("h1 stopped");
    node::start(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.owned_by("h1", "h1 started again");
    all_answer("h1 started again");
    scene.no_row_is_lost();
}
