//! The driver: one thread of the operating system runs all virtual routers of a node.
//!
//! The control loop starts it, keeps the [`Driver`] and reads [`Event`]s; the thread itself (`thread`) waits in
//! `ppoll` for adverts, ARP, link changes and its next deadline. It is no task of the async runtime, because
//! nothing that blocks there may delay an advert. It sends an event only when something changes, and logs nothing.

use std::{
    fmt,
    io::{self, PipeWriter, Write},
    net::IpAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

use lb_common::maps::MAX_ROUTERS;
use tokio::sync::mpsc::UnboundedSender;

use self::{port::Port, thread::Thread};
use super::{
    announce::{self, Mac},
    counters::Counters,
    packet::{Identity, Refusal},
    realtime::Scheduling,
    router::{Reason, State, Tracked},
    socket::StartError,
    time::BootTime,
};
use crate::config::model::{Garp, Preempt, Probe, Transport, VirtualRouter};

mod announcing;
mod change;
mod groups;
mod hearing;
mod peers;
mod port;
mod roster;
mod thread;
mod unit;

pub(crate) use self::port::check;
pub use self::roster::{Opened, Spent};

/// Where leases are written: the map that the packet programs check. `router` is the router's number.
///
/// Called from the driver's thread on its timing path: stores and loads of mapped memory, no waiting.
pub trait Lease: Send {
    /// The packet programs may act for the router until `until`, in a new term: nothing that was promised about an
    /// earlier one holds for it.
    fn take(&mut self, router: usize, until: BootTime) -> io::Result<()> {
        self.set(router, until)
    }

    /// The current term lasts until `until`; `BootTime(0)`: it is given up.
    fn set(&mut self, router: usize, until: BootTime) -> io::Result<()>;

    /// The current term lasts until `until`, and the next daemon that runs the router with this `mark` may go on with it.
    fn keep(&mut self, _router: usize, _until: BootTime, _mark: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The end of a lease that was kept for the router with this `mark` and is valid at `now`. It is handed out once.
    fn take_kept(&mut self, _router: usize, _mark: u64, _now: BootTime) -> Option<BootTime> {
        None
    }

    /// What the packet programs have noted about the current term.
    fn noted(&self, _router: usize) -> Noted {
        Noted::default()
    }

    /// Until `until` frames for the addresses go on to `to` while the lease is not valid.
    fn relay(&mut self, _router: usize, _to: Mac, _until: BootTime) {}

    /// Until `until` frames for the addresses that come from `from` are taken as if the lease were valid.
    fn delegate(&mut self, _router: usize, _from: Mac, _until: BootTime) {}
}

/// What the packet programs have noted about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// When a peer last asked for it; zero: never.
    pub probed: BootTime,
    /// A peer was told that the current term is over: it is not valid any more, whatever its deadline says.
    pub fenced: bool,
}

/// One virtual router to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSetup {
    /// Its name, for errors.
    pub name: String,
    /// Interface for adverts and announcements.
    pub interface: String,
    /// What it shares with its peers.
    pub identity: Identity,
    /// How adverts travel.
    pub transport: Transport,
    /// Source address of adverts; default the interface's own one.
    pub source: Option<IpAddr>,
    /// Addresses that are announced but not in the advert; of either family.
    pub excluded: Vec<IpAddr>,
    /// Whether the addresses are at the virtual hardware address.
    pub virtual_mac: bool,
    /// 1–255.
    pub priority: u8,
    /// Whether a lower master is pre-empted.
    pub preempt: Preempt,
    /// What one advert buys while no peer watches.
    pub lease: Duration,
    /// Probes between viplb peers.
    pub probe: Option<Probe>,
    /// Announcements.
    pub garp: Garp,
}

impl From<&VirtualRouter> for RouterSetup {
    fn from(router: &VirtualRouter) -> Self {
        Self {
            name: router.name.clone(),
            interface: router.interface.clone(),
            identity: router.into(),
            transport: router.transport.clone(),
            source: router.source,
            excluded: router.excluded.iter().map(|address| address.addr).collect(),
            virtual_mac: router.virtual_mac,
            priority: router.priority,
            preempt: router.preempt,
            lease: router.lease,
            probe: router.probe,
            garp: router.garp,
        }
    }
}

impl RouterSetup {
    /// All virtual addresses, those that are not in the advert too.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.identity.addresses.iter().chain(&self.excluded).copied()
    }

    /// What a lease that is left to the next daemon is known by: it is for the same router on the same interface, whatever its place in
    /// the file.
    fn mark(&self) -> u64 {
        let text = format!("{} {} {:?}", self.interface, self.identity.vrid, self.identity.version);
        // FNV-1a; never 0, which no mark is.
        let start = 0xcbf2_9ce4_8422_2325;
        let eat = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        text.bytes().chain([self.identity.family() as u8]).fold(start, eat).max(1)
    }

    /// The hardware address that the addresses are at, if it is not the interface's.
    fn virtual_mac(&self) -> Option<Mac> {
        self.virtual_mac.then(|| announce::virtual_mac(self.identity.family(), self.identity.vrid))
    }
}

/// What the control loop is told. `router` is the router's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A router changed its state.
    Entered {
        /// Which.
        router: usize,
        /// To which state.
        state: State,
        /// Why.
        reason: Reason,
        /// When.
        at: BootTime,
    },
    /// A router gives its addresses to another node, in a moment.
    HandsOver {
        /// Which.
        router: usize,
    },
    /// A router takes the addresses in a moment, or asks for them: what peers have told of their flows is to be taken in first
    /// ([`Driver::tell_taken_in`]).
    TakeIn {
        /// Which.
        router: usize,
    },
    /// Another router advertises than the one heard before, or with another priority.
    Heard {
        /// Our router.
        router: usize,
        /// The other's address.
        from: IpAddr,
        /// The other's priority.
        priority: u8,
    },
    /// Version 3: the master has another advertisement interval than this node; this node's time-outs follow it. Sent
    /// when it is first heard, and when it changes; at most once in 10 s a router.
    IntervalLearnt {
        /// Our router.
        router: usize,
        /// The master's address.
        from: IpAddr,
        /// Its interval.
        interval: Duration,
    },
    /// Adverts are refused; sent for the 1st, 2nd, 4th, 8th … of each reason.
    Refused {
        /// Our router.
        router: usize,
        /// Who sent the last one.
        from: IpAddr,
        /// Why.
        reason: Refusal,
        /// How many so far for this reason.
        count: u64,
    },
    /// Alarm: this node is master and another one of lower priority advertises too. At most one in 10 s a router.
    TwoOwners {
        /// Our router.
        router: usize,
        /// The other's address.
        from: IpAddr,
        /// The other's priority.
        priority: u8,
    },
    /// Alarm: a host that sends no adverts answers for a virtual address. At most one in 10 s a router.
    ForeignOwner {
        /// Our router.
        router: usize,
        /// The virtual address.
        addr: IpAddr,
        /// The host's hardware address.
        mac: Mac,
    },
    /// The link is up, but the interface has no address that adverts may be sent from: it is being checked for
    /// duplicates, was found at another host, or was removed. The router is in Fault until there is one.
    NoSource {
        /// Our router.
        router: usize,
    },
    /// The lease could not be written; the router gave up the addresses.
    LeaseFailed {
        /// Our router.
        router: usize,
        /// What the map said.
        error: String,
    },
    /// The interface could not be made to watch all addresses that a router has been given; its election goes on.
    NotWatched {
        /// Our router.
        router: usize,
        /// What the kernel said.
        error: String,
    },
    /// What the thread runs with: told once at its start, and when it changes.
    Scheduling(Scheduling),
    /// The thread ended by itself; leases are dropped, the node takes part in no election any more.
    ThreadFailed {
        /// Why.
        error: String,
    },
}

/// The running election of this node.
pub struct Driver {
    commands: mpsc::Sender<Command>,
    wake: PipeWriter,
    thread: Option<std::thread::JoinHandle<Vec<bool>>>,
    /// By number; of all there may be, for they are read without asking the thread.
    counters: Arc<[Counters]>,
}

/// What the thread is told to do, by routers' numbers.
enum Command {
    /// The trackers of a router come to this.
    Tracked(usize, Tracked),
    /// Whether a router's flows are still on their way here.
    CatchingUp(usize, bool),
    /// What peers have told is in the table.
    TakenIn(usize),
    /// A router is set to do something else.
    Change(usize, Box<RouterSetup>),
    /// Routers join.
    Add(Vec<(usize, RouterSetup)>, Vec<Port>, mpsc::Sender<Port>),
    /// Routers leave, and do not come back.
    Remove(Vec<usize>, mpsc::Sender<Port>),
    /// Sockets of interfaces without a router are of no use.
    Tidy(mpsc::Sender<Port>),
    /// The sync groups are these.
    Groups(Vec<Vec<usize>>),
    /// Leave, but keep the leases that nobody else waits for until then.
    Keep(BootTime),
    /// Leave all elections.
    Stop,
}

/// All that a node takes part in.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Its virtual routers, each with its number below [`MAX_ROUTERS`], by which leases, events, counters and orders know it.
    pub routers: Vec<(usize, RouterSetup)>,
    /// Sync groups: routers that own together or not at all, by their numbers.
    pub groups: Vec<Vec<usize>>,
}

impl Event {
    /// The same of a router that goes by another number with the reader; none if it has none.
    pub fn of(mut self, name: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        match &mut self {
            Self::Entered { router, .. }
            | Self::HandsOver { router }
            | Self::TakeIn { router }
            | Self::Heard { router, .. }
            | Self::IntervalLearnt { router, .. }
            | Self::Refused { router, .. }
            | Self::TwoOwners { router, .. }
            | Self::ForeignOwner { router, .. }
            | Self::NoSource { router }
            | Self::LeaseFailed { router, .. }
            | Self::NotWatched { router, .. } => *router = name(*router)?,
            Self::Scheduling(_) | Self::ThreadFailed { .. } => {}
        }
        Some(self)
    }
}

impl Driver {
    /// Opens all sockets and starts the thread, in the caller's network namespace. On an error nothing runs.
    /// With `realtime` the thread tries to get real-time priority and to lock the process's memory.
    pub fn spawn(
        setup: Setup,
        realtime: bool,
        lease: Box<dyn Lease>,
        events: UnboundedSender<Event>,
    ) -> Result<Self, StartError> {
        let counters: Arc<[Counters]> = (0..MAX_ROUTERS).map(|_| Counters::default()).collect();
        let (woken, wake) = io::pipe().map_err(StartError::Thread)?;
        let (commands, told) = mpsc::channel();
        let thread = Thread::open(setup, lease, events, Arc::clone(&counters), (woken, told))?;
        let thread = std::thread::Builder::new()
            .name("vrrp".to_owned())
            .spawn(move || thread.run(realtime))
            .map_err(StartError::Thread)?;
        Ok(Self { commands, wake, thread: Some(thread), counters })
    }

    /// Counters of one router, by its number.
    pub fn counters(&self, router: usize) -> Option<&Counters> {
        self.counters.get(router)
    }

    /// What the trackers of a router come to from now on.
    pub fn set_tracked(&self, router: usize, tracked: Tracked) {
        self.tell(Command::Tracked(router, tracked));
    }

    /// Whether this node lacks flows that a router's living owner has, which is not pre-empted meanwhile.
    pub fn set_catching_up(&self, router: usize, catching_up: bool) {
        self.tell(Command::CatchingUp(router, catching_up));
    }

    /// What peers had told of their flows when [`Event::TakeIn`] came is in the table.
    pub fn tell_taken_in(&self, router: usize) {
        self.tell(Command::TakenIn(router));
    }

    /// A router is set to do this from now on, and goes on in its state. Its interface, transport, source,
    /// version, id and hardware address are as they were, and whether it probes.
    pub fn change(&self, router: usize, setup: RouterSetup) {
        self.tell(Command::Change(router, Box::new(setup)));
    }

    /// Opens the sockets for routers that are to be [added](Self::add), in the caller's network namespace: `all` are those that shall run in
    /// the end, `before` those that run now, `new` those that are not among them. To be called just before that. Nothing that runs is
    /// touched.
    pub fn open(
        before: &[&RouterSetup],
        all: &[&RouterSetup],
        new: &[&RouterSetup],
    ) -> Result<Opened, StartError> {
        roster::open(before, all, new)
    }

    /// Routers with numbers that nobody has join their elections, as at a start. The others do not notice.
    pub fn add(&self, routers: Vec<(usize, RouterSetup)>, opened: Opened) -> Spent {
        let (done, spent) = mpsc::channel();
        self.tell(Command::Add(routers, opened.0, done));
        Spent(spent)
    }

    /// Routers leave their elections, as all do in [`stop`](Self::stop). [`Spent::close`] waits for that. For their sockets there may be others,
    /// until it is [tidied up](Self::tidy).
    pub fn remove(&self, routers: Vec<usize>) -> Spent {
        let (done, spent) = mpsc::channel();
        self.tell(Command::Remove(routers, done));
        Spent(spent)
    }

    /// Gives the sockets away that no router needs any more.
    pub fn tidy(&self) -> Spent {
        let (done, spent) = mpsc::channel();
        self.tell(Command::Tidy(done));
        Spent(spent)
    }

    /// The sync groups are these from now on, by the numbers of their routers; those of routers that do not run yet count once they do.
    pub fn set_groups(&self, groups: Vec<Vec<usize>>) {
        self.tell(Command::Groups(groups));
    }

    /// Leaves all elections: an owner that a viplb peer watches hands over, another one drops its lease and sends an
    /// advert of priority 0. Blocks until that is done.
    pub fn stop(mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has dropped the leases and was reported on its way.
            let _ = thread.join();
        }
    }

    /// Leaves all elections, but where no other router was heard since the start: there the leases last until `until`, for the next
    /// daemon. Whose lease is kept so, by number. Blocks until that is done.
    pub fn stop_keeping(mut self, until: BootTime) -> Vec<bool> {
        self.tell(Command::Keep(until));
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    /// A thread that has ended needs to be told nothing.
    fn tell(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            let _ = (&self.wake).write(&[1]);
        }
    }
}

impl Drop for Driver {
    /// The thread stops as in [`stop`](Self::stop), but nobody waits for it.
    fn drop(&mut self) {
        self.tell(Command::Stop);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
