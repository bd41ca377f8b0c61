//! The part of the start that is about services on the node's own addresses and clients on the node itself.
//!
//! `start` calls, before anything is attached: an address that the node does not have is refused here.

use anyhow::{Context, Result};

use crate::{
    config::model::{Config, Service},
    datapath::preflight,
};

/// The loopback interface: what this node's own processes send to an address of its own never meets another one.
pub(super) const LOOPBACK: &str = "lo";

/// Interfaces of the node's own addresses that services are on.
pub(super) fn own_interfaces(config: &Config) -> Result<Vec<String>> {
    let (first, last) = preflight::local_ports();
    config.services.iter().filter(|s| s.router.is_none()).map(|s| own_interface(s, first..=last)).collect()
}

/// Refuses sources of translated connections that are neither virtual addresses nor this node's own: replies to them would go
/// elsewhere.
pub(in crate::control) fn check_sources(config: &Config) -> Result<()> {
    let virtual_ones: Vec<_> =
        config.vrrp.iter().flat_map(|r| r.addresses.iter().chain(&r.excluded)).map(|a| a.addr).collect();
    for service in &config.services {
        for addr in service.snat.iter().filter(|a| !virtual_ones.contains(a)) {
            preflight::interface_of(*addr)?.with_context(|| {
                format!(
                    "service {}: {addr} in `snat` is on no interface of this node, nor a virtual address: replies would not come here",
                    service.name
                )
            })?;
        }
    }
    Ok(())
}

fn own_interface(service: &Service, local_ports: std::ops::RangeInclusive<u16>) -> Result<String> {
    let (name, listen) = (&service.name, service.listen);
    let (addr, port) = (listen.first.ip(), listen.first.port());
    let interface = preflight::interface_of(addr)?.with_context(|| {
        format!("service {name}: {addr} is on no interface of this node; without `lease = false` it would need a virtual router")
    })?;
    let end = listen.last.unwrap_or(port);
    if port <= *local_ports.end() && *local_ports.start() <= end {
        tracing::warn!(
            "service {name}: {listen} lies within net.ipv4.ip_local_port_range ({}–{}), from which the node's own sockets are \
             given ports: replies to one that gets such a port may reach the service instead; reserve it by \
             `sysctl net.ipv4.ip_local_reserved_ports`",
            local_ports.start(),
            local_ports.end()
        );
    }
    Ok(interface)
}
