//! Two network namespaces for the election's tests: viplb's driver in one (its thread inherits the namespace it is
//! spawned in), keepalived, FRR or a second driver in the other, and a recorder of what is on the wire.
//!
//! Used by the tests in `tests/tests/interop_*.rs`. Each has its own pair of namespaces, named by process id, and takes
//! them down in any case. A condition that is not met in time panics: this is for tests.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

mod capture;
mod frr;
mod keepalived;

pub use self::{capture::Capture, frr::Frr, keepalived::Keepalived};
pub use crate::expect::wait_until;

use lb_userspace::{
    config::model::{AuthPass, Garp, Preempt, Transport, UnicastPeer},
    vrrp::{
        BootTime, Counters, Driver, Event, Lease, Reason, RouterSetup, Setup, StartError, State,
        packet::{Auth, Identity, Refusal, V3Checksum, Version},
    },
};
use nix::{
    sched::{CloneFlags, setns},
    time::{ClockId, clock_gettime},
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
/// The virtual address of IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x201);
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

    /// The link-local address of a namespace's `eth0`, once the kernel lets it be used.
    pub fn link_local(&self, namespace: &str) -> Ipv6Addr {
        let mut found = None;
        wait_until("link-local address", TAKEOVER, || {
            let shown =
                output("ip", &["-n", namespace, "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"]);
            let usable = shown.lines().find(|line| !line.contains("tentative"));
            found = usable.and_then(|line| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok());
            found.is_some()
        });
        found.unwrap()
    }

    /// A kernel setting in a namespace: `net.ipv4.…=…`.
    pub fn sysctl(&self, namespace: &str, setting: &str) {
        run("ip", &["netns", "exec", namespace, "sysctl", "-qw", setting]);
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

    /// Room for many more writes, so that they allocate nothing.
    pub fn reserve(&self) {
        self.0.lock().unwrap().reserve(10_000);
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
            Driver::spawn(
                Setup { routers: setup.into_iter().enumerate().collect(), groups: Vec::new() },
                true,
                boxed,
                sender,
            )
        });
        let driver = Some(driver.join().unwrap()?);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        Ok(Self { driver, events, runtime, lease })
    }

    /// Adds a router with this number to those that run `before`, or says why not.
    pub fn add(
        &self,
        namespace: &str,
        before: &[RouterSetup],
        (number, new): (usize, RouterSetup),
    ) -> Result<(), StartError> {
        let namespace = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        let opened = thread::scope(|scope| {
            let open = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let before: Vec<_> = before.iter().collect();
                let all: Vec<_> = before.iter().copied().chain([&new]).collect();
                Driver::open(&before, &all, &[&new])
            });
            open.join().unwrap()
        });
        self.driver.as_ref().unwrap().add(vec![(number, new)], opened?).close();
        Ok(())
    }

    /// Has the router with this number leave, and returns when it has.
    pub fn remove(&self, number: usize) {
        let driver = self.driver.as_ref().unwrap();
        driver.remove(vec![number]).close();
        driver.tidy().close();
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

    /// The counters of router 0.
    pub fn counters(&self) -> &Counters {
        self.driver.as_ref().unwrap().counters(0).unwrap()
    }

    /// Until an advert is refused for this reason.
    pub fn wait_refused(&mut self, wanted: Refusal) {
        self.wait_for(&format!("refusal: {wanted}"), TAKEOVER, |event| match *event {
            Event::Refused { reason, .. } if reason == wanted => Some(()),
            _ => None,
        });
    }

    /// Until router 0 has sent `count` adverts.
    pub fn wait_sent(&self, count: u64) {
        wait_until("adverts to be sent", TAKEOVER, || self.counters().sent() >= count);
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

/// The IPv6 router: version 3 always.
pub fn setup_v6(priority: u8, advert_int: Duration) -> RouterSetup {
    let three = setup_v3(priority, advert_int);
    let identity = Identity { addresses: vec![VIP6.into()], ..three.identity };
    RouterSetup { name: "vip6".into(), identity, ..three }
}

/// The same router with these peers instead of everybody, on the same link.
pub fn with_peers(setup: RouterSetup, peers: &[IpAddr]) -> RouterSetup {
    let peer = |addr: &IpAddr| UnicastPeer { addr: *addr, min_ttl: 255, max_ttl: 255 };
    RouterSetup { transport: Transport::Unicast(peers.iter().map(peer).collect()), ..setup }
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
