//! Flows that a former daemon's programs opened, whose services, backends and virtual routers may have other numbers in this daemon's
//! file.
//!
//! Numbers are places in the file. A record tells of the addresses too, and by these its flow is found its service and backend again,
//! so that it counts for those, for statistics and limits alike, and is under the lease of that service's router. `start` asks for it once, when the services are published.

use lb_common::{addr::Port, flow::Flow};

use super::tables::{Desired, DesiredService};

/// What a record says of whom its flow belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owners {
    pub(super) service: u32,
    pub(super) backend: u32,
    pub(super) router: u32,
}

/// The service, the backend and the virtual router of a flow, by its addresses.
pub(super) fn of(flow: &Flow, desired: &Desired) -> Option<Owners> {
    let of_port = |s: &DesiredService| s.last.is_none() && s.port == flow.vip_port;
    let of_range = |s: &DesiredService| {
        let number = flow.vip_port.number();
        s.last.is_some_and(|last| (s.port.number()..=last.number()).contains(&number))
    };
    let alike = |s: &&DesiredService| s.addr == flow.vip && s.proto == flow.proto;
    let find =
        |fits: &dyn Fn(&DesiredService) -> bool| desired.services.iter().position(|s| alike(&s) && fits(s));
    // A service on the very port goes before a range.
    let service = find(&of_port).or_else(|| find(&of_range))?;
    let backend = desired.services[service].backends.iter().copied().find(|id| {
        desired.backends.get(*id as usize).is_some_and(|b| {
            let port = if b.port == Port::default() { flow.vip_port } else { b.port };
            b.addr == flow.backend && port == flow.backend_port
        })
    })?;
    Some(Owners { service: service as u32, backend, router: desired.services[service].router })
}
