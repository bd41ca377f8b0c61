//! The part of `resolve` that is about services on the node's own addresses and on several ports.
//!
//! `service` calls. Whether the node has the address is for the start to find out: it is not in the file.

use lb_common::probe;

use super::{Resolver, or, virtual_addrs};
use crate::config::{
    file,
    model::{Listen, Protocol},
};

impl Resolver<'_, '_> {
    /// Whether a service may do without a lease.
    pub(super) fn own_address(&mut self, s: &file::Service) -> bool {
        let Some(given) = s.listen.given() else { return false };
        let (span, listen) = (given.span(), *given.get_ref());
        let addr = listen.first.ip();
        if self.file.vrrp.iter().flat_map(virtual_addrs).any(|a| a == addr) {
            let message = format!("{addr} is a virtual address: it needs the lease of its router");
            self.error(
                span,
                message,
                "leave out `lease = false`, or write an address that the node always has",
            );
            return false;
        }
        if listen.is_all() {
            let message =
                format!("all ports of {addr}, the node's own: nobody could reach the node any more");
            self.error(span, message, "name the ports, or use a virtual address");
            return false;
        }
        let udp = or(&s.protocol, Protocol::Tcp) == Protocol::Udp;
        if udp && holds(&listen, probe::PORT) {
            let message = format!("UDP port {} of the node's own address is for viplb peers", probe::PORT);
            self.error(span, message, "leave this port out");
            return false;
        }
        true
    }

    /// Where the check of a service on all ports goes has to be said.
    pub(super) fn check_port(&mut self, s: &file::Service) {
        let Some(listen) = s.listen.given().filter(|l| l.get_ref().is_all()) else { return };
        let without = s
            .backends
            .value()
            .into_iter()
            .flatten()
            .any(|b| b.address.value().is_some_and(|address| address.port.is_none()));
        if without && s.check.value().is_some_and(|check| check.port.is_absent()) {
            let message = format!("[service.{}] has no port to check", s.name.get_ref());
            let help = format!("add `port = …` to `[service.{}.check]`", s.name.get_ref());
            self.error(listen.span(), message, help);
        }
    }
}

/// Whether a port is among those listened on.
fn holds(listen: &Listen, port: u16) -> bool {
    (listen.first.port()..=listen.last.unwrap_or(listen.first.port())).contains(&port)
}
