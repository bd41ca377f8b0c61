//! What is wanted and what is known, without I/O: events go in, desired map contents, address changes and the static part
//! of a snapshot come out.

mod access;
mod backends;
mod choice;
mod endings;
mod notices;
mod paths;
mod reload;
mod shown;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lb_common::{
    addr::{Addr, Mac, PROTO_TCP, PROTO_UDP, Port},
    reach::NO_ROUTER,
    service::{Backend, Interface, Vip, WAYS},
    settings::{Settings, SnatPorts},
};

use crate::{
    api::snapshot,
    config::model::{Config, Protocol, Unknown, Version, VirtualRouter},
    datapath::{
        ring,
        tables::{Desired, DesiredService},
    },
    health,
    notify::{Notice, Subject},
    vrrp,
};

use super::{numbers::Numbers, tracking::Tracking};
pub use endings::ToEnd;
pub use paths::Way;
pub use reload::places_before;

/// How long an alarm is shown after its cause was last seen.
const ALARM: Duration = Duration::from_secs(60);

/// What the start found out about this machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Interfaces with programs: name, index, hardware address, first IPv4 address.
    pub interfaces: Vec<MachineInterface>,
    /// Index of each interface that addresses are put on.
    pub placements: BTreeMap<String, u32>,
    /// Interface index by which each backend is reached, services and backends in the order of the file.
    pub routes: Vec<u32>,
    /// The ways to them, likewise; nothing is known of those that are missing.
    pub ways: Vec<Way>,
    /// Ports that translated flows may use.
    pub snat_ports: SnatPorts,
    /// When the daemon started.
    pub started: Option<SystemTime>,
    /// The file of the program that runs.
    pub program: String,
}

/// An interface of this machine.
#[derive(Debug, Clone)]
pub struct MachineInterface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU in bytes; 0: unknown.
    pub mtu: u32,
    /// Hook in use and why.
    pub hook: (&'static str, String),
    /// Interfaces by which XDP may send what came in here.
    pub ways: [u32; WAYS],
}

/// An address that an interface shall gain or lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressChange {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub addr: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Whether it shall be there.
    pub present: bool,
}

#[derive(Clone)]
struct Router {
    state: vrrp::State,
    since: SystemTime,
    reason: String,
    /// Who advertises, if not this node.
    heard: Option<IpAddr>,
    /// Whether the addresses are known to be on the interface; `None` before the first reconciliation.
    addresses_present: Option<bool>,
}

#[derive(Clone)]
struct BackendState {
    since: SystemTime,
    latency: Option<Duration>,
    output: String,
    ending: endings::Ending,
}

/// What somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Alarm {
    router: usize,
    /// `two_owners`, `foreign_owner` or `lease_failed`.
    kind: &'static str,
    text: String,
}

/// The model.
pub struct Model {
    config: Config,
    machine: Machine,
    /// What services and backends are called in the maps.
    numbers: Numbers,
    /// Whether packet programs log their slow paths.
    pub datapath_log: bool,
    routers: Vec<Router>,
    backends: Vec<Vec<BackendState>>,
    pools: Vec<health::Pool>,
    alarms: BTreeMap<Alarm, SystemTime>,
    /// What moves priorities.
    pub tracking: Tracking,
    /// State of each sync group.
    groups: Vec<vrrp::State>,
    /// Changes that programs are to be told of.
    notices: Vec<Notice>,
    /// What the VRRP thread runs with, once it has said so.
    scheduling: Option<vrrp::Scheduling>,
    /// What is shown of the file.
    pub configuration: snapshot::Configuration,
    /// Addresses that a new configuration has taken away.
    lost_addresses: Vec<AddressChange>,
    /// Virtual routers that are no longer in the file, as long as packets may still come for their addresses.
    departed: Vec<reload::Departed>,
    /// Backends that are no longer in the file, and whose connections are to end some time.
    leaving: Vec<reload::Leaving>,
    changed: bool,
}

impl Model {
    /// Nothing owned, nothing checked.
    pub fn new(config: Config, machine: Machine, now: SystemTime) -> Self {
        let router = || Router {
            state: vrrp::State::Init,
            since: now,
            reason: String::new(),
            heard: None,
            addresses_present: None,
        };
        let backend = || BackendState {
            since: now,
            latency: None,
            output: String::new(),
            ending: endings::Ending::default(),
        };
        Self {
            datapath_log: config.node.datapath_log,
            routers: config.vrrp.iter().map(|_| router()).collect(),
            backends: config
                .services
                .iter()
                .map(|s| s.backends.iter().map(|_| backend()).collect())
                .collect(),
            pools: config.services.iter().map(health::Pool::new).collect(),
            alarms: BTreeMap::new(),
            tracking: Tracking::new(&config, now),
            groups: vec![vrrp::State::Init; config.groups.len()],
            notices: Vec::new(),
            scheduling: None,
            configuration: snapshot::Configuration::default(),
            lost_addresses: Vec::new(),
            departed: Vec::new(),
            leaving: Vec::new(),
            changed: true,
            numbers: Numbers::of(&config),
            config,
            machine,
        }
    }

    /// Takes in what the VRRP thread reports.
    pub fn on_vrrp(&mut self, event: &vrrp::Event, now: SystemTime) {
        match event {
            vrrp::Event::Entered { router, state, reason, .. } => {
                self.on_entered(*router, *state, *reason, now)
            }
            vrrp::Event::Heard { router, from, priority } => {
                let r = &mut self.routers[*router];
                tracing::info!(
                    "vrrp {}: {from} advertises priority {priority}",
                    self.config.vrrp[*router].name
                );
                r.heard = (*priority > 0).then_some(*from);
            }
            // Replication's affair.
            vrrp::Event::HandsOver { .. } | vrrp::Event::TakeIn { .. } => {}
            vrrp::Event::TwoOwners { router, from, .. } => {
                let name = &self.config.vrrp[*router].name;
                let text =
                    format!("vrrp {name}: {from} advertises as owner while this node owns the addresses");
                self.alarm(*router, "two_owners", text, now);
            }
            vrrp::Event::ForeignOwner { router, addr, mac } => {
                let name = &self.config.vrrp[*router].name;
                let mac = Mac(*mac);
                let text = format!(
                    "vrrp {name}: {addr} is answered for by {mac}, which sends no adverts: remove the address there"
                );
                self.alarm(*router, "foreign_owner", text, now);
            }
            vrrp::Event::IntervalLearnt { router, from, interval } => {
                let c = &self.config.vrrp[*router];
                tracing::warn!(
                    "vrrp {}: {from} advertises every {interval:?}, this node is set to {:?}: time-outs follow the master; set \
                     both alike",
                    c.name,
                    c.advert_int
                );
            }
            vrrp::Event::Refused { router, from, reason, count } => {
                let name = &self.config.vrrp[*router].name;
                tracing::warn!("vrrp {name}: advert of {from} refused: {reason} ({count} so far)");
            }
            vrrp::Event::NoSource { router } => {
                let c = &self.config.vrrp[*router];
                tracing::warn!(
                    "vrrp {}: waits for an address of {} that it may send adverts from: the kernel may still be checking \
                     whether another host has it (`ip addr` shows `tentative`, or `dadfailed` if one has)",
                    c.name,
                    c.interface
                );
            }
            vrrp::Event::LeaseFailed { router, error } => {
                let name = &self.config.vrrp[*router].name;
                let text = format!("vrrp {name}: the lease cannot be written: {error}");
                self.alarm(*router, "lease_failed", text, now);
            }
            vrrp::Event::NotWatched { router, error } => {
                tracing::warn!(
                    "vrrp {}: foreign owners of new addresses may go unnoticed: {error}",
                    self.config.vrrp[*router].name
                );
            }
            vrrp::Event::Scheduling(scheduling) => self.on_scheduling(scheduling),
            vrrp::Event::ThreadFailed { .. } => {}
        }
    }

    fn on_scheduling(&mut self, scheduling: &vrrp::Scheduling) {
        for why in &scheduling.missing {
            tracing::warn!("vrrp thread: {why}");
        }
        let policy = if scheduling.realtime { "real-time priority" } else { "ordinary priority" };
        let memory = if scheduling.memory_locked { "memory locked" } else { "memory not locked" };
        tracing::info!("vrrp thread: {policy}, {memory}");
        self.scheduling = Some(scheduling.clone());
    }

    fn on_entered(&mut self, router: usize, state: vrrp::State, reason: vrrp::Reason, now: SystemTime) {
        let r = &mut self.routers[router];
        let old = std::mem::replace(&mut r.state, state);
        r.since = now;
        r.reason = reason.to_string();
        let faults = self.tracking.faults(router);
        if state == vrrp::State::Fault && !faults.is_empty() {
            r.reason = format!("{reason}: {}", faults.join(", "));
        }
        if state == vrrp::State::Master {
            r.heard = None;
            self.end_as_owner(router, Instant::now());
        }
        let r = &self.routers[router];
        tracing::info!("vrrp {}: {old:?} → {state:?} ({})", self.config.vrrp[router].name, r.reason);
        let reason = r.reason.clone();
        self.notice(Subject::Router(router), old, state, &reason);
        self.judge_groups(router, &reason);
    }

    fn alarm(&mut self, router: usize, kind: &'static str, text: String, now: SystemTime) {
        if self.alarms.insert(Alarm { router, kind, text: text.clone() }, now).is_none() {
            tracing::error!("alarm: {text}");
        }
    }

    /// The virtual routers' numbers and names, in the order of the file.
    pub fn router_names(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        let names = self.config.vrrp.iter().map(|router| router.name.clone());
        self.numbers.routers().iter().map(|number| *number as usize).zip(names)
    }

    /// Whether the maps have to be written since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What the packet programs shall know.
    pub fn desired(&self) -> Desired {
        let virtual_ones =
            self.numbers.routers().iter().zip(&self.config.vrrp).flat_map(|(n, r)| vips(*n, r));
        let departed = self.departed.iter().flat_map(|d| d.vips.iter().copied());
        let own = self.config.services.iter().filter(|s| s.router.is_none());
        let own = own.map(|s| (s.listen.first.ip().into(), Vip::OWN));
        let mac = |i: &MachineInterface| {
            (i.ifindex, Interface { mac: i.mac, mtu: paths::short(Some(i.mtu)), ways: i.ways })
        };
        let all = self.config.services.iter().flat_map(|s| &s.backends);
        let backends = all.zip(&self.machine.routes).map(|(b, ifindex)| Backend {
            addr: b.addr.ip().into(),
            ifindex: *ifindex,
            port: if b.keeps_port { Port::default() } else { Port::new(b.addr.port()) },
            mode: b.mode as u8,
            ..Backend::default()
        });
        Desired {
            settings: Settings {
                schema: lb_common::maps::SCHEMA,
                log: u32::from(self.datapath_log),
                slots_ready: 0,
                places: 0,
                snat_ports: self.machine.snat_ports,
                sync: u32::from(self.config.sync.is_some()),
            },
            // Of two that have an address the last one counts.
            vips: departed.chain(virtual_ones).chain(own).collect::<BTreeMap<_, _>>().into_iter().collect(),
            interfaces: self.machine.interfaces.iter().map(mac).collect(),
            backends: self.numbers.by_backend(backends),
            paths: self.paths(),
            limits: self.limits(),
            services: self.desired_services(),
            access: self.numbers.by_service(self.config.services.iter().map(access::desired)),
        }
    }

    fn desired_services(&self) -> Vec<DesiredService> {
        let mut services = Vec::new();
        for (i, (s, pool)) in self.config.services.iter().zip(&self.pools).enumerate() {
            let backends = self.numbers.backends(i).to_vec();
            let (scheduler, takers) = choice::takers(s, pool, &backends);
            let addr = Addr::from(s.listen.first.ip());
            services.push(DesiredService {
                addr,
                port: Port::new(s.listen.first.port()),
                last: s.listen.last.map(Port::new),
                proto: match s.protocol {
                    Protocol::Tcp => PROTO_TCP,
                    Protocol::Udp => PROTO_UDP,
                },
                router: s.router.map_or(NO_ROUTER, |router| self.numbers.router(router)),
                snat: s.snat.iter().map(|a| Addr::from(*a)).collect(),
                backends,
                ring: ring::table(scheduler, &takers, s.hash_table_size),
                choice: choice::of(s, scheduler, &takers),
                adopts: s.unknown == Unknown::Adopt,
            });
        }
        self.numbers.by_service(services)
    }

    /// What services and backends are called in the maps.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// The numbers of the routers that own their addresses.
    pub fn owned(&self) -> Vec<usize> {
        let owns = |(_, r): &(&u32, &Router)| r.state == vrrp::State::Master;
        self.numbers.routers().iter().zip(&self.routers).filter(owns).map(|(n, _)| *n as usize).collect()
    }

    /// What runs.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The machine that it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Addresses to add or remove so that exactly the owned ones are on their interfaces.
    pub fn address_changes(&mut self) -> Vec<AddressChange> {
        let mut changes = std::mem::take(&mut self.lost_addresses);
        let mut changed = Vec::new();
        for (i, (r, c)) in self.routers.iter_mut().zip(&self.config.vrrp).enumerate() {
            let present = r.state == vrrp::State::Master && c.assign;
            // Before its first word the election may turn out to go on with what a former daemon has left.
            let unheard = r.state == vrrp::State::Init && r.addresses_present.is_none();
            if r.addresses_present == Some(present) || unheard {
                continue;
            }
            r.addresses_present = Some(present);
            changed.push((i, present));
        }
        for (i, present) in changed {
            changes.extend(self.placed(&self.config.vrrp[i], present));
        }
        changes
    }

    /// Version and effective priority of each router, in the order of the file.
    pub fn elections(&self) -> impl Iterator<Item = (Version, u8)> + '_ {
        self.config.vrrp.iter().enumerate().map(|(i, c)| (c.version, self.tracking.of(i).priority))
    }

    /// All addresses, to be removed: the daemon stops. But those of routers whose lease is `kept`, by number, stay.
    pub fn address_removals(&mut self, kept: &[bool]) -> Vec<AddressChange> {
        let stays = |number: &u32| kept.get(*number as usize).copied().unwrap_or(false);
        for (r, _) in self.routers.iter_mut().zip(self.numbers.routers()).filter(|(_, n)| !stays(n)) {
            r.state = vrrp::State::Init;
            // Or may be, after a failure.
            r.addresses_present = Some(true);
        }
        self.address_changes()
    }
}

/// A router's addresses, excluded ones too: they move along.
fn vips(router: u32, r: &VirtualRouter) -> impl Iterator<Item = (Addr, Vip)> + '_ {
    r.addresses.iter().chain(&r.excluded).map(move |a| {
        let own = r.virtual_mac.then(|| Mac::virtual_router(a.addr.is_ipv6(), r.vrid));
        (a.addr.into(), Vip { router, mac: own.unwrap_or_default(), pad: [0; 2] })
    })
}

/// Milliseconds to the microsecond.
pub fn ms(d: Duration) -> f64 {
    d.as_micros() as f64 / 1000.0
}

fn unix(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
