//! The part of `resolve` that compares sections: what two routers or two services must not share.

use std::net::IpAddr;

use super::{Resolver, or, reach::Family};
use crate::config::{file, model::Protocol, reader::Field};

impl Resolver<'_, '_> {
    /// What two routers must not share.
    pub(super) fn compare_routers(&mut self) {
        let own = self.file.services.iter().any(|s| s.lease.value() == Some(&false));
        if self.file.vrrp.is_empty() && !own && self.report.errors() == 0 {
            self.error(0..0, "there is no virtual router", "add a `[vrrp.NAME]`; see docs/configuration.md");
        }
        for (i, router) in self.file.vrrp.iter().enumerate() {
            let (Some(vrid), Some(interface)) = (router.vrid.given(), router.interface.value()) else {
                continue;
            };
            // An id counts within its family (RFC 9568 §5.2.3).
            let family = family(router);
            let same = |other: &&file::Vrrp| {
                let alike =
                    other.vrid.value() == Some(vrid.get_ref()) && other.interface.value() == Some(interface);
                alike && self::family(other) == family
            };
            if let Some(other) = self.file.vrrp[..i].iter().find(same) {
                let (id, other) = (vrid.get_ref(), other.name.get_ref());
                let message =
                    format!("virtual_router_id {id} is also that of [vrrp.{other}] on the same interface");
                self.error(vrid.span(), message, "give each its own, 1 to 255");
            }
        }
        self.compare_virtual_addresses();
    }

    fn compare_virtual_addresses(&mut self) {
        let mut seen: Vec<(IpAddr, &str)> = Vec::new();
        for router in &self.file.vrrp {
            let lists = [&router.addresses, &router.excluded].into_iter().filter_map(Field::value);
            for address in lists.flatten() {
                let addr = address.get_ref().address.addr;
                match seen.iter().find(|(other, _)| *other == addr) {
                    None => seen.push((addr, router.name.get_ref())),
                    Some((_, owner)) => {
                        let message =
                            format!("virtual address {addr} is listed twice, first in [vrrp.{owner}]");
                        self.error(address.span(), message, "remove one");
                    }
                }
            }
        }
    }

    /// What two services must not share.
    pub(super) fn compare_services(&mut self) {
        if self.file.services.is_empty() && self.report.errors() == 0 && !self.file.vrrp.is_empty() {
            let message = "there is no service: the virtual addresses will answer, but nothing is forwarded";
            self.warning(0..0, message, "add a `[service.NAME]`");
        }
        for (i, service) in self.file.services.iter().enumerate() {
            let Some(listen) = service.listen.given() else { continue };
            let protocol = or(&service.protocol, Protocol::Tcp);
            let same = |s: &&file::Service| {
                let overlaps = s.listen.value().is_some_and(|other| other.overlaps(listen.get_ref()));
                overlaps && or(&s.protocol, Protocol::Tcp) == protocol
            };
            if let Some(other) = self.file.services[..i].iter().find(same) {
                let message = format!(
                    "{} overlaps [service.{}]: the same address and port",
                    listen.get_ref(),
                    other.name.get_ref()
                );
                self.error(listen.span(), message, "give each service its own port or virtual address");
            }
        }
    }
}

/// The family of a router's adverts, as far as it can be told.
fn family(v: &file::Vrrp) -> Option<Family> {
    let first = v.addresses.value()?.first()?;
    Some(Family::of(first.get_ref().address.addr))
}
