//! What the model shows of itself: the part of a snapshot that needs no map.
//!
//! The control loop fills in counters and leases, which the maps have, and publishes it.

use std::time::SystemTime;

use super::{ALARM, Model, ms, unix};
use crate::{
    api::snapshot::{self, Snapshot},
    config::model::{self as config, Protocol, Version},
    health, vrrp,
};

impl Model {
    /// A snapshot without counters and leases, which the maps have.
    pub fn snapshot(&self, now: SystemTime) -> Snapshot {
        let lasts = |seen: &SystemTime| now.duration_since(*seen).is_ok_and(|d| d < ALARM);
        let alarms: Vec<_> = self.alarms.iter().filter(|(_, seen)| lasts(seen)).map(|(a, _)| a).collect();
        Snapshot {
            node: snapshot::Node {
                name: self.config.node.name.clone(),
                daemon: snapshot::RUNNING.into(),
                pid: std::process::id(),
                since: unix(self.machine.started.unwrap_or(now)),
                version: env!("CARGO_PKG_VERSION").into(),
                programs: None,
                program: self.machine.program.clone(),
                run: self.machine.started.map_or(0, nanoseconds),
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
            alarms: alarms.iter().map(|a| a.text.clone()).collect(),
            alarm_list: alarms
                .iter()
                .map(|a| snapshot::Alarm {
                    kind: a.kind.into(),
                    router: self.config.vrrp[a.router].name.clone(),
                    text: a.text.clone(),
                })
                .collect(),
            configuration: self.configuration.clone(),
            leaving: self.leaving_shown(),
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
            effective_priority: self.tracking.of(i).priority,
            probe: c.probe.map(|probe| snapshot::VrrpProbe {
                interval: ms(probe.interval),
                lease: ms(probe.lease),
                ..snapshot::VrrpProbe::default()
            }),
            tracks: self.tracking.shown(i, unix),
            sync_group: self.config.groups.iter().find(|g| g.members.contains(&i)).map(|g| g.name.clone()),
            transport: match &c.transport {
                config::Transport::Multicast => "multicast".into(),
                config::Transport::Unicast(peers) => {
                    let peers: Vec<String> = peers.iter().map(|p| p.addr.to_string()).collect();
                    format!("unicast to {}", peers.join(", "))
                }
            },
            virtual_mac: c.virtual_mac.then(|| virtual_mac(c)),
            excluded: c.excluded.iter().map(|a| a.addr.to_string()).collect(),
            assigned: c.assign,
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
            scheduler: c.scheduler.word().into(),
            mode: modes(c),
            up: backends.iter().filter(|b| b.state == health::State::Up.as_str()).count(),
            backends,
            role: pool.role().map_or_else(String::new, |role| role.as_str().into()),
            ..snapshot::Service::default()
        }
    }
}

/// Since 1970.
fn nanoseconds(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// Those of its backends, each once.
fn modes(service: &config::Service) -> String {
    let mut words: Vec<_> = service.backends.iter().map(|b| b.mode.word()).collect();
    words.sort_unstable();
    words.dedup();
    words.join("+")
}

/// RFC 9568 §7.3; IPv6 routers have a block of their own.
fn virtual_mac(router: &config::VirtualRouter) -> String {
    let block = if router.addresses.iter().any(|a| a.addr.is_ipv6()) { 2 } else { 1 };
    format!("00:00:5e:00:{block:02x}:{:02x}", router.vrid)
}
