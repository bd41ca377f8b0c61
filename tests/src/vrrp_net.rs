//! Two network namespaces for the election's tests: viplb's driver in one (its thread inherits the namespace it is
//! spawned in), keepalived or a second driver in the other.
//!
//! Used by the tests in `tests/tests/interop_*.rs`. Each has its own pair of namespaces, named by process id, and takes
//! them down in any case. A condition that is not met in time panics: this is for tests.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

pub use crate::expect::wait_until;

use lb_userspace::{
    config::model::{AuthPass, Garp, Preempt, Transport},
    vrrp::{
        BootTime, Driver, Event, Lease, Reason, RouterSetup, Setup, StartError, State,
        packet::{Auth, Identity, V3Checksum, Version},
    },
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);
/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 201);
/// The password of both sides.
pub const PASSWORD: &str = "123456";
/// 3 × 1 s + skew, and time for a loaded machine.
pub const TAKEOVER: Duration = Duration::from_secs(8);
/// (256 − 100) / 256 s.
pub const SKEW: Duration = Duration::from_millis(609);

/// Two namespaces, `a` (172.18.0.7) and `b` (172.18.0.8), joined by a veth pair whose ends are both `eth0`.
#[derive(Debug)]
pub struct Net {
    /// Name of the first namespace.
    pub a: String,
    /// Name of the second one.
    pub b: String,
    dir: PathBuf,
}

impl Net {
    /// Makes both, named after `test` and this process. `None`, with the reason printed, where the test cannot run for want
    /// of root or of one of `tools`.
    pub fn new(test: &str, tools: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: network namespaces need root");
            return None;
        }
        if let Some(tool) = tools.iter().find(|tool| crate::proc::which(tool).is_none()) {
            eprintln!("not run: {tool} is not installed");
            return None;
        }
        let name = |side: &str| format!("vrrp{}{test}{side}", std::process::id());
        let net = Self { a: name("a"), b: name("b"), dir: std::env::temp_dir().join(name("")) };
        fs::create_dir_all(&net.dir).unwrap();
        for namespace in [&net.a, &net.b] {
            run("ip", &["netns", "add", namespace]);
        }
        let (a, b) = (net.a.as_str(), net.b.as_str());
        run("ip", &["link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b]);
        for (namespace, address) in [(a, "172.18.0.7/16"), (b, "172.18.0.8/16")] {
            run("ip", &["-n", namespace, "addr", "add", address, "dev", "eth0"]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
            run("ip", &["-n", namespace, "link", "set", "eth0", "up"]);
        }
        Some(net)
    }

    /// keepalived in `b`, version 2 with a password; `more` are further lines of its `vrrp_instance`.
    pub fn keepalived(&self, priority: u8, password: &str, more: &str) -> Keepalived {
        let auth =
            format!("advert_int 1\n authentication {{\n auth_type PASS\n auth_pass {password}\n }}\n {more}");
        self.keepalived_with(priority, &auth)
    }

    /// keepalived in `b`; `lines` are those of its `vrrp_instance` besides the ones all tests share.
    pub fn keepalived_with(&self, priority: u8, lines: &str) -> Keepalived {
        let file = |suffix: &str| self.dir.join(suffix).display().to_string();
        let config = format!(
            "vrrp_instance VI_1 {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority {priority}\n \
             {lines}\n virtual_ipaddress {{\n {VIP}/32 dev eth0\n }}\n}}\n"
        );
        fs::write(self.dir.join("keepalived.conf"), config).unwrap();
        let log = fs::File::create(self.dir.join("keepalived.log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.b, "keepalived", "-n", "-l", "-D", "--vrrp"])
            .args(["-f", &file("keepalived.conf"), "-p", &file("pid"), "-r", &file("vrrp.pid")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("keepalived starts");
        Keepalived { child, namespace: self.b.clone() }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A running keepalived.
#[derive(Debug)]
pub struct Keepalived {
    child: Child,
    namespace: String,
}

impl Keepalived {
    /// Whether the virtual address is on its interface.
    pub fn owns_the_address(&self) -> bool {
        let shown = output("ip", &["-n", &self.namespace, "-4", "-o", "addr", "show", "dev", "eth0"]);
        shown.contains(&format!("{VIP}/32"))
    }

    /// When it had, or had not, the virtual address.
    pub fn wait_until_owner(&self, owner: bool, limit: Duration) -> Instant {
        let what = format!("keepalived to be {}", if owner { "master" } else { "backup" });
        wait_until(&what, limit, || self.owns_the_address() == owner)
    }

    /// SIGTERM: it sends an advert of priority 0.
    pub fn terminate(&mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}

/// Every write of the lease with its time.
#[derive(Debug, Clone, Default)]
pub struct LeaseLog(Arc<Mutex<Vec<(usize, BootTime, BootTime)>>>);

impl Lease for LeaseLog {
    fn set(&mut self, router: usize, until: BootTime) -> io::Result<()> {
        self.0.lock().unwrap().push((router, now(), until));
        Ok(())
    }
}

impl LeaseLog {
    /// Whether the packet programs would act for router 0 now.
    pub fn is_held(&self) -> bool {
        self.is_held_by(0)
    }

    /// Whether the packet programs would act for this router now.
    pub fn is_held_by(&self, router: usize) -> bool {
        let log = self.0.lock().unwrap();
        log.iter().rev().find(|entry| entry.0 == router).is_some_and(|(_, _, until)| *until > now())
    }

    /// From when to when the packet programs would have acted for router 0.
    pub fn spans(&self) -> Vec<(BootTime, BootTime)> {
        let log = self.0.lock().unwrap();
        let log: Vec<_> =
            log.iter().filter(|entry| entry.0 == 0).map(|(_, at, until)| (*at, *until)).collect();
        let next = log.iter().skip(1).map(|(at, _)| *at).chain([BootTime(u64::MAX)]);
        let spans = log.iter().zip(next).map(|((at, until), next)| (*at, (*until).min(next)));
        spans.filter(|(from, to)| from < to).collect()
    }
}

/// A driver in a namespace of its own.
#[derive(Debug)]
pub struct Viplb {
    /// The driver, until [`stop`](Self::stop).
    pub driver: Option<Driver>,
    events: UnboundedReceiver<Event>,
    runtime: Runtime,
    /// What it wrote.
    pub lease: LeaseLog,
}

impl Viplb {
    /// A driver with one router.
    pub fn start(namespace: &str, setup: RouterSetup) -> Self {
        Self::try_start(namespace, vec![setup]).expect("the driver starts")
    }

    /// A driver with these routers, or why there is none.
    pub fn try_start(namespace: &str, setup: Vec<RouterSetup>) -> Result<Self, StartError> {
        let (sender, events) = unbounded_channel();
        let lease = LeaseLog::default();
        let namespace = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        let boxed = Box::new(lease.clone());
        let driver = thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            Driver::spawn(Setup { routers: setup, groups: Vec::new() }, true, boxed, sender)
        });
        let driver = Some(driver.join().unwrap()?);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        Ok(Self { driver, events, runtime, lease })
    }

    /// The first event that `pick` takes, and when it was seen.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> (T, Instant) {
        let events = &mut self.events;
        let mut seen = Vec::new();
        let search = async {
            loop {
                let event = events.recv().await.expect("the driver runs");
                if let Some(found) = pick(&event) {
                    return found;
                }
                seen.push(event);
            }
        };
        let found = self.runtime.block_on(async { timeout(limit, search).await });
        (found.unwrap_or_else(|_| panic!("no {what} within {limit:?}; seen: {seen:?}")), Instant::now())
    }

    /// Until router 0 enters the state: why, and when it was seen.
    pub fn wait_entered(&mut self, wanted: State, limit: Duration) -> (Reason, Instant) {
        self.wait_router_entered(0, wanted, limit)
    }

    /// Until this router enters the state: why, and when it was seen.
    pub fn wait_router_entered(&mut self, of: usize, wanted: State, limit: Duration) -> (Reason, Instant) {
        self.wait_for(&format!("{wanted:?}"), limit, |event| match *event {
            Event::Entered { router, state, reason, .. } if router == of && state == wanted => Some(reason),
            _ => None,
        })
    }

    /// Until an advert of this priority is heard.
    pub fn wait_heard(&mut self, wanted: u8) {
        self.wait_for(&format!("advert of priority {wanted}"), TAKEOVER, |event| match *event {
            Event::Heard { priority, .. } if priority == wanted => Some(()),
            _ => None,
        });
    }

    /// Leaves the election, and returns when that is done.
    pub fn stop(&mut self) {
        self.driver.take().unwrap().stop();
    }
}

/// The users' router: id 51, version 2, 1 s, with a password.
pub fn setup(priority: u8) -> RouterSetup {
    let mut password = [0; 8];
    password[..PASSWORD.len()].copy_from_slice(PASSWORD.as_bytes());
    RouterSetup {
        name: "vip".into(),
        interface: "eth0".into(),
        identity: Identity {
            version: Version::V2,
            vrid: 51,
            advert_int: SECOND,
            auth: Auth::Pass(AuthPass(password)),
            v3_checksum: V3Checksum::PseudoHeader,
            addresses: vec![VIP.into()],
        },
        transport: Transport::Multicast,
        source: None,
        excluded: Vec::new(),
        virtual_mac: false,
        priority,
        probe: None,
        preempt: Preempt::NOW,
        lease: Duration::from_millis(2500),
        garp: Garp { repeat: 5, delay: 5 * SECOND, refresh: None, ..Garp::default() },
    }
}

/// The same in version 3, with the default lease.
pub fn setup_v3(priority: u8, advert_int: Duration) -> RouterSetup {
    let two = setup(priority);
    let identity = Identity { version: Version::V3, advert_int, auth: Auth::None, ..two.identity };
    RouterSetup { identity, lease: advert_int * 5 / 2, ..two }
}

/// A capture of adverts in namespace `b`: the fields of the first `count` of them, a line each.
pub fn tshark(net: &Net, count: usize, fields: &[&str]) -> Child {
    Command::new("ip")
        .args(["netns", "exec", &net.b, "tshark", "-n", "-l", "-i", "eth0", "-a", "duration:20"])
        .args([
            "-c",
            &count.to_string(),
            "-Y",
            "vrrp",
            "-T",
            "fields",
            "-E",
            "separator= ",
            "-f",
            "ip proto 112",
        ])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tshark starts")
}

/// The clock of leases.
pub fn now() -> BootTime {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
    BootTime(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}

/// What a program prints.
pub fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
