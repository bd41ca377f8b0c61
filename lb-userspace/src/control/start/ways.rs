//! The part of the start that asks the machine where addresses are put and how backends are reached. A reload asks the same of what
//! is new.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result};

use super::reach;
use crate::{
    config::model::{Backend, Config, Mode, Service, VirtualRouter},
    control::model::Way,
    datapath::preflight,
    netlink::Netlink,
};

/// Index of each interface that addresses are put on: those of the virtual routers, and those named by `dev`.
pub(in crate::control) fn placements(config: &Config) -> Result<BTreeMap<String, u32>> {
    let devs = |r: &VirtualRouter| {
        let addresses = r.addresses.iter().chain(&r.excluded);
        addresses.filter_map(|a| a.dev.clone()).chain([r.interface.clone()]).collect::<Vec<_>>()
    };
    let names = config.vrrp.iter().flat_map(devs);
    names.map(|name| Ok((name.clone(), preflight::ifindex(&name)?))).collect()
}

/// Interfaces to attach to, each once: those of the virtual routers and of their addresses, where clients come in, and
/// those that backends are reached by, where replies come in; and the loopback, where this node's own clients come in.
pub(in crate::control) fn interfaces(
    config: &Config,
    placements: &BTreeMap<String, u32>,
    routes: &[u32],
) -> Result<Vec<String>> {
    let mut names: Vec<String> = placements.keys().filter(|name| *name != reach::LOOPBACK).cloned().collect();
    names.extend(reach::own_interfaces(config)?);
    names.extend(config.node.local_clients.then(|| reach::LOOPBACK.to_owned()));
    for ifindex in routes.iter().filter(|ifindex| **ifindex != NO_INTERFACE) {
        names.push(preflight::ifname(*ifindex)?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Instead of an interface: the backend is this node's own stack.
const NO_INTERFACE: u32 = 0;

pub(super) async fn routes(config: &Config, netlink: &Netlink) -> Result<Vec<u32>> {
    let mut routes = Vec::new();
    for backend in config.services.iter().flat_map(|s| &s.backends) {
        routes.push(route(backend, netlink).await?);
    }
    Ok(routes)
}

/// Interfaces that nodes may be reached by which are still to be discovered, each by one of the first addresses of its network (the
/// other may be this node's); where there is no way to a network, none.
pub(super) async fn of_discovery(config: &Config, netlink: &Netlink) -> Vec<u32> {
    let mut all = Vec::new();
    for network in config.services.iter().filter_map(|s| s.discovery.as_ref()).flat_map(|d| &d.networks) {
        let nth = |n: u8| match network.addr {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits().saturating_add(n.into())).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits().saturating_add(n.into())).into(),
        };
        for addr in [0, 1, 2].map(nth).into_iter().filter(|addr| network.contains(*addr)) {
            if let Ok(ifindex) = netlink.route_ifindex(addr).await
                && preflight::ifname(ifindex).is_ok_and(|name| name != reach::LOOPBACK)
            {
                all.push(ifindex);
            }
        }
    }
    all
}

/// Index of the interface that a backend is reached by.
pub(in crate::control) async fn route(backend: &Backend, netlink: &Netlink) -> Result<u32> {
    if backend.mode == Mode::Local {
        return Ok(NO_INTERFACE);
    }
    let to = backend.addr.ip();
    let ifindex = netlink.route_ifindex(to).await.with_context(|| format!("backend {}", backend.name))?;
    anyhow::ensure!(
        preflight::ifname(ifindex)? != "lo",
        "backend {}: {to} is this node itself, to which nothing is forwarded: name another host's address, or write `mode = \"local\"` \
         to leave its connections to this node's own stack",
        backend.name
    );
    Ok(ifindex)
}

/// The ways to all backends.
pub(super) async fn ways(config: &Config, netlink: &Netlink) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    for who in config.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b))) {
        ways.push(way(config, who, netlink).await?);
    }
    Ok(ways)
}

/// The way to a backend. A tunnel, and a connection to a backend of the other family, starts from an address of this node's own.
pub(in crate::control) async fn way(
    config: &Config,
    (service, backend): (&Service, &Backend),
    netlink: &Netlink,
) -> Result<Way> {
    let to = backend.addr.ip();
    let (source, mtu) = netlink.way(to).await.with_context(|| format!("backend {}", backend.name))?;
    let chosen = service.path.tunnel_source.filter(|a| a.is_ipv4() == to.is_ipv4());
    let mixed = backend.mode == Mode::Nat && service.listen.first.is_ipv4() != to.is_ipv4();
    let own = if mixed { source } else { chosen.or(source) };
    let virtual_one = config.vrrp.iter().flat_map(|r| r.addresses.iter().chain(&r.excluded));
    let is_virtual = virtual_one.map(|a| a.addr).any(|a| Some(a) == own);
    anyhow::ensure!(
        !(mixed || backend.mode == Mode::Tunnel) || own.is_some() && !is_virtual,
        "backend {}: this node has no address of its own towards {to}, which the packets would come from: give it one",
        backend.name
    );
    Ok(Way { source, mtu })
}
