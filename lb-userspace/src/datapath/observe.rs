//! A snapshot from pinned maps alone: what the kernel does while the daemon is dead or frozen. Names and health are the
//! daemon's and are missing.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lb_common::{
    addr::{Addr, PROTO_UDP},
    schedule,
    service::ServiceKey,
};

use super::{build::Build, counters, maps::Maps, pins::Pins};
use crate::{
    api::snapshot::{self, Snapshot},
    vrrp::BootTime,
};

/// Reads the maps. `daemon` says why the daemon could not be asked.
pub fn snapshot(name: &str, pins: &Pins, daemon: &str) -> Result<Snapshot> {
    let maps = Maps::open(pins)?;
    let mut s = Snapshot {
        node: snapshot::Node {
            name: name.into(),
            daemon: daemon.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            programs: Build::loaded(pins),
            datapath_log: maps.settings.get(&0, 0).is_ok_and(|s| s.log != 0),
            ..snapshot::Node::default()
        },
        vrrp: routers(&maps)?,
        services: services(&maps)?,
        ..Snapshot::default()
    };
    s.flows.capacity = u64::from(maps.flows.len() - (maps.half_open.len() - 1));
    // Two keys a flow.
    s.flows.used = maps.flow_keys.keys().count() as u64 / 2;
    counters::fill_packets(&maps, &mut s)?;
    Ok(s)
}

fn routers(maps: &Maps) -> Result<Vec<snapshot::Vrrp>> {
    let mut addresses: BTreeMap<u32, Vec<Addr>> = BTreeMap::new();
    for entry in maps.vips.iter() {
        let (addr, vip) = entry.context("map VIPS")?;
        if vip.is_own() {
            continue;
        }
        addresses.entry(vip.router).or_default().push(addr);
    }
    let router = |(router, mut addrs): (u32, Vec<Addr>)| {
        addrs.sort();
        let lease = maps.leases.get(&router, 0).context("map LEASES")?;
        Ok(snapshot::Vrrp {
            name: format!("#{router}"),
            interface: "-".into(),
            state: "Unknown".into(),
            addresses: addrs.iter().map(ToString::to_string).collect(),
            lease_valid: lease.is_valid(BootTime::now().0),
            ..snapshot::Vrrp::default()
        })
    };
    addresses.into_iter().map(router).collect()
}

fn services(maps: &Maps) -> Result<Vec<snapshot::Service>> {
    let mut entries = maps.services.iter().collect::<Result<Vec<_>, _>>().context("map SERVICES")?;
    entries.sort_by_key(|(_, s)| s.id);
    entries.into_iter().map(|(key, s)| service(maps, &key, &s)).collect()
}

fn service(maps: &Maps, key: &ServiceKey, s: &lb_common::service::Service) -> Result<snapshot::Service> {
    let ports = if key.is_range() { "-…" } else { "" };
    let listen = format!("{}:{}{ports}", key.addr, key.port.number());
    let mut ids = Vec::new();
    // Its members name each backend once; there are none of a service that has more than are compared.
    let first = s.ring_base + if s.members == 0 { 0 } else { s.ring_len };
    let slots = if s.members == 0 { s.ring_len } else { s.members.into() };
    for slot in first..first + slots {
        ids.push(schedule::backend(maps.rings.get(&slot, 0).context("map RINGS")?));
    }
    ids.sort_unstable();
    ids.dedup();
    let mut v = snapshot::Service {
        name: format!("#{}", s.id),
        listen,
        protocol: if key.proto == PROTO_UDP { "udp" } else { "tcp" }.into(),
        mode: "nat".into(),
        scheduler: s.scheduler().word().into(),
        up: ids.len(),
        ..snapshot::Service::default()
    };
    for id in ids {
        let b = maps.backends.get(&id, 0).context("map BACKENDS")?;
        let mut backend = snapshot::Backend {
            name: format!("#{id}"),
            addr: format!("{}:{}", b.addr, b.port.number()),
            state: "unknown".into(),
            ..snapshot::Backend::default()
        };
        counters::fill_backend(maps, id, &mut backend)?;
        v.backends.push(backend);
    }
    counters::fill_service(maps, s.id, &mut v)?;
    Ok(v)
}
