//! What is wanted and what is known, without I/O: events go in, desired map contents, address changes and the static part
//! of a snapshot come out.

mod backends;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lb_common::{
    addr::{Addr, Mac, Port},
    service::{Backend, Interface},
    settings::{Settings, SnatPorts},
};

use crate::{
    api::snapshot::{self, Snapshot},
    config::model::{Config, Mode, Protocol, Scheduler, Version},
    datapath::{
        ring,
        tables::{Desired, DesiredService},
    },
    health, vrrp,
};

/// How long an alarm is shown after its cause was last seen.
const ALARM: Duration = Duration::from_secs(60);

/// What the start found out about this machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Interfaces with programs: name, index, hardware address, first IPv4 address.
    pub interfaces: Vec<MachineInterface>,
    /// Interface index by which each backend is reached, services and backends in the order of the file.
    pub routes: Vec<u32>,
    /// Ports that translated flows may use.
    pub snat_ports: SnatPorts,
    /// When the daemon started.
    pub started: Option<SystemTime>,
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
    /// Hook in use and why.
    pub hook: (&'static str, String),
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

struct Router {
    state: vrrp::State,
    since: SystemTime,
    reason: String,
    /// Who advertises, if not this node.
    heard: Option<IpAddr>,
    /// Whether the addresses are known to be on the interface; `None` before the first reconciliation.
    addresses_present: Option<bool>,
}

struct BackendState {
    since: SystemTime,
    latency: Option<Duration>,
    output: String,
}

/// The model.
pub struct Model {
    config: Config,
    machine: Machine,
    /// Whether packet programs log their slow paths.
    pub datapath_log: bool,
    routers: Vec<Router>,
    backends: Vec<Vec<BackendState>>,
    pools: Vec<health::Pool>,
    alarms: BTreeMap<String, SystemTime>,
    /// What the VRRP thread runs with, once it has said so.
    scheduling: Option<vrrp::Scheduling>,
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
        let backend = || BackendState { since: now, latency: None, output: String::new() };
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
            scheduling: None,
            changed: true,
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
            vrrp::Event::TwoOwners { router, from, .. } => {
                let name = &self.config.vrrp[*router].name;
                self.alarm(
                    format!("vrrp {name}: {from} advertises as owner while this node owns the addresses"),
                    now,
                );
            }
            vrrp::Event::ForeignOwner { router, addr, mac } => {
                let name = &self.config.vrrp[*router].name;
                self.alarm(
                    format!("vrrp {name}: {addr} is answered for by {}, which sends no adverts: remove the address there", Mac(*mac)),
                    now,
                );
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
            vrrp::Event::LeaseFailed { router, error } => {
                let name = &self.config.vrrp[*router].name;
                self.alarm(format!("vrrp {name}: the lease cannot be written: {error}"), now);
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
        let name = &self.config.vrrp[router].name;
        let r = &mut self.routers[router];
        tracing::info!("vrrp {name}: {:?} → {state:?} ({reason})", r.state);
        r.state = state;
        r.since = now;
        r.reason = reason.to_string();
        if state == vrrp::State::Master {
            r.heard = None;
        }
    }

    fn alarm(&mut self, text: String, now: SystemTime) {
        if self.alarms.insert(text.clone(), now).is_none() {
            tracing::error!("alarm: {text}");
        }
    }

    /// Whether the maps have to be written since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What the packet programs shall know.
    pub fn desired(&self) -> Desired {
        let vips = (0..)
            .zip(&self.config.vrrp)
            .flat_map(|(i, r)| r.addresses.iter().map(move |a| (a.addr.into(), i)));
        let mac = |i: &MachineInterface| (i.ifindex, Interface { mac: i.mac, pad: [0; 2] });
        let all = self.config.services.iter().flat_map(|s| &s.backends);
        let backends = all.zip(&self.machine.routes).map(|(b, ifindex)| Backend {
            addr: b.addr.ip().into(),
            ifindex: *ifindex,
            port: Port::new(b.addr.port()),
            pad: [0; 2],
        });
        Desired {
            settings: Settings {
                schema: lb_common::maps::SCHEMA,
                log: u32::from(self.datapath_log),
                slots_ready: 0,
                snat_ports: self.machine.snat_ports,
            },
            vips: vips.collect(),
            interfaces: self.machine.interfaces.iter().map(mac).collect(),
            backends: backends.collect(),
            services: self.desired_services(),
        }
    }

    fn desired_services(&self) -> Vec<DesiredService> {
        let mut first = 0;
        let mut services = Vec::new();
        for (s, pool) in self.config.services.iter().zip(&self.pools) {
            let (scheduler, takers) = pool.ring();
            let up: Vec<_> = takers.into_iter().map(|(b, weight)| (first + b as u32, weight)).collect();
            first += s.backends.len() as u32;
            let addr = Addr::from(s.listen.ip());
            services.push(DesiredService {
                addr,
                port: Port::new(s.listen.port()),
                router: s.router as u32,
                snat: addr,
                ring: ring::build(scheduler, &up),
            });
        }
        services
    }

    /// Addresses to add or remove so that exactly the owned ones are on their interfaces.
    pub fn address_changes(&mut self) -> Vec<AddressChange> {
        let mut changes = Vec::new();
        for (r, c) in self.routers.iter_mut().zip(&self.config.vrrp) {
            let present = r.state == vrrp::State::Master;
            if r.addresses_present == Some(present) {
                continue;
            }
            r.addresses_present = Some(present);
            let Some(i) = self.machine.interfaces.iter().find(|i| i.name == c.interface) else { continue };
            changes.extend(c.addresses.iter().map(|a| AddressChange {
                ifindex: i.ifindex,
                addr: a.addr,
                prefix_len: a.prefix_len,
                present,
            }));
        }
        changes
    }

    /// Version and priority of each router, in the order of the file.
    pub fn elections(&self) -> impl Iterator<Item = (Version, u8)> + '_ {
        self.config.vrrp.iter().map(|c| (c.version, c.priority))
    }

    /// All addresses, to be removed: the daemon stops.
    pub fn address_removals(&mut self) -> Vec<AddressChange> {
        for r in &mut self.routers {
            r.state = vrrp::State::Init;
            r.addresses_present = None;
        }
        self.address_changes()
    }

    /// A snapshot without counters and leases, which the maps have.
    pub fn snapshot(&self, now: SystemTime) -> Snapshot {
        let shown = |seen: &SystemTime| now.duration_since(*seen).is_ok_and(|d| d < ALARM);
        Snapshot {
            node: snapshot::Node {
                name: self.config.node.name.clone(),
                daemon: snapshot::RUNNING.into(),
                pid: std::process::id(),
                since: unix(self.machine.started.unwrap_or(now)),
                version: env!("CARGO_PKG_VERSION").into(),
                datapath_log: self.datapath_log,
                vrrp_thread: self.scheduling.as_ref().map(|s| snapshot::VrrpThread {
                    realtime: s.realtime,
                    memory_locked: s.memory_locked,
                    missing: s.missing.clone(),
                }),
            },
            vrrp: (0..self.routers.len()).map(|i| self.vrrp_snapshot(i)).collect(),
            interfaces: self
                .machine
                .interfaces
                .iter()
                .map(|i| snapshot::Interface {
                    name: i.name.clone(),
                    hook: i.hook.0.into(),
                    why: i.hook.1.clone(),
                })
                .collect(),
            services: (0..self.config.services.len()).map(|i| self.service_snapshot(i)).collect(),
            alarms: self
                .alarms
                .iter()
                .filter(|(_, seen)| shown(seen))
                .map(|(text, _)| text.clone())
                .collect(),
            ..Snapshot::default()
        }
    }

    fn vrrp_snapshot(&self, i: usize) -> snapshot::Vrrp {
        let (c, r) = (&self.config.vrrp[i], &self.routers[i]);
        snapshot::Vrrp {
            name: c.name.clone(),
            interface: c.interface.clone(),
            vrid: c.vrid,
            priority: c.priority,
            state: format!("{:?}", r.state),
            since: unix(r.since),
            reason: r.reason.clone(),
            owner: match r.state {
                vrrp::State::Master => Some(self.config.node.name.clone()),
                _ => r.heard.map(|a| a.to_string()),
            },
            addresses: c.addresses.iter().map(|a| a.addr.to_string()).collect(),
            version: match c.version {
                Version::V2 => 2,
                Version::V3 => 3,
            },
            timers: snapshot::VrrpTimers {
                advert_int: ms(c.advert_int),
                lease: ms(c.lease),
                ..snapshot::VrrpTimers::default()
            },
            ..snapshot::Vrrp::default()
        }
    }

    fn service_snapshot(&self, i: usize) -> snapshot::Service {
        let (c, pool) = (&self.config.services[i], &self.pools[i]);
        let backends: Vec<_> = (0..c.backends.len()).map(|b| self.backend_snapshot(i, b)).collect();
        snapshot::Service {
            name: c.name.clone(),
            listen: c.listen.to_string(),
            protocol: match c.protocol {
                Protocol::Tcp => "tcp".into(),
                Protocol::Udp => "udp".into(),
            },
            scheduler: match c.scheduler {
                Scheduler::Rr => "rr".into(),
                Scheduler::Wrr => "wrr".into(),
            },
            mode: match c.mode {
                Mode::Nat => "nat".into(),
            },
            up: backends.iter().filter(|b| b.state == health::State::Up.as_str()).count(),
            backends,
            role: pool.role().map_or_else(String::new, |role| role.as_str().into()),
            ..snapshot::Service::default()
        }
    }
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
