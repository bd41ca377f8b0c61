//! The part of `resolve` that is about services: the router an address belongs to, backends.

use std::{net::SocketAddr, ops::Range, time::Duration};

use toml::Spanned;

use super::{Resolver, or, virtual_addrs};
use crate::config::{
    address::{Endpoint, LOOPBACK},
    file,
    model::{Admin, Backend, Listen, Mode, Protocol, Service, Sessions},
    reader::Field,
};

impl Resolver<'_, '_> {
    pub(super) fn service(&mut self, s: &file::Service) -> Option<Service> {
        let router = self.router_of(s);
        self.check_port(s);
        let backends = self.backends(s);
        let check = s.check.value().and_then(|check| self.check(s, check));
        let galera = self.galera(s);
        let scheduler = self.scheduler(s);
        let access = self.access(s);
        let snat = self.snat(s, router.flatten());
        let timeouts = self.timeouts(s);
        let (redispatch, passive) = self.missed(s);
        let move_ungreeted = check.as_ref().is_some_and(|check| self.moves(s, &check.kind));
        Some(Service {
            name: s.name.get_ref().clone(),
            listen: *s.listen.value()?,
            router: router?,
            protocol: or(&s.protocol, Protocol::Tcp),
            mode: or(&s.mode, Mode::Nat),
            path: self.path(s),
            scheduler,
            hash_table_size: self.hash_table_size(s, scheduler),
            persistence: self.persistence(s),
            max_connections: or(&s.choice.max_connections, 0),
            backends: backends?,
            check: check?,
            slow_start: or(&s.slow_start, Duration::ZERO),
            access,
            snat,
            timeouts,
            quorum: or(&s.quorum, 1),
            hysteresis: or(&s.hysteresis, 0),
            sessions: Sessions {
                lost: or(&s.on_lost, Sessions::default().lost),
                failed: or(&s.on_failed, Sessions::default().failed),
                drain: or(&s.on_drain, Sessions::default().drain),
                maint: or(&s.on_maint, Sessions::default().maint),
            },
            redispatch,
            move_ungreeted,
            passive,
            unknown: self.unknown(s, scheduler),
            strict: self.strict(s),
            galera,
            discovery: self.discovery(s),
        })
    }

    /// The router whose lease the service is under, or none if it is to be under none.
    fn router_of(&mut self, s: &file::Service) -> Option<Option<usize>> {
        if s.lease.value() == Some(&false) {
            return self.own_address(s).then_some(None);
        }
        self.router_by_address(s).map(Some)
    }

    fn router_by_address(&mut self, s: &file::Service) -> Option<usize> {
        let listen = s.listen.given()?;
        let addr = listen.get_ref().first.ip();
        if let Some(router) = self.file.vrrp.iter().position(|v| virtual_addrs(v).any(|a| a == addr)) {
            return Some(router);
        }
        // A list with a mistake in it may well have meant this address.
        if self
            .file
            .vrrp
            .iter()
            .any(|v| matches!(v.addresses, Field::Bad) || matches!(v.excluded, Field::Bad))
        {
            return None;
        }
        let mut known: Vec<_> =
            self.file.vrrp.iter().flat_map(virtual_addrs).map(|a| a.to_string()).collect();
        known.dedup();
        let help = if known.is_empty() {
            format!(
                "add {addr} to the `virtual_ipaddress` of a `[vrrp.NAME]`, or write `lease = false` if it is the node's own"
            )
        } else {
            format!(
                "virtual addresses are: {}; for an address of the node's own add `lease = false`",
                known.join(", ")
            )
        };
        self.error(listen.span(), format!("{addr} belongs to no virtual router"), help);
        None
    }

    fn backends(&mut self, s: &file::Service) -> Option<Vec<Backend>> {
        let place = s.backends.given().map_or(s.name.span(), Spanned::span);
        let written = match &s.backends {
            Field::Bad => return None,
            Field::Given(list) if !list.get_ref().is_empty() => list.get_ref(),
            Field::Given(_) | Field::Absent => {
                let name = s.name.get_ref();
                let help = format!("add `[[service.{name}.backend]]` with an `address`");
                self.error(place, format!("[service.{name}] has no backend"), help);
                return None;
            }
        };
        let mut seen: Vec<Backend> = Vec::new();
        for backend in written {
            let Some(address) = backend.address.given() else { continue };
            // Without a good `listen` there is no default port; any will do to find further mistakes.
            let port = s.listen.value().map_or(0, |l| l.first.port());
            let addr = address.get_ref().with_port(port);
            let keeps_port =
                s.listen.value().is_some_and(|l| l.last.is_some()) && address.get_ref().port.is_none();
            let name = or_else(&backend.name, || address.get_ref().addr.to_string());
            let mode = or(&backend.mode, or(&s.mode, Mode::Nat));
            self.check_mode(address, mode, s.listen.value(), addr);
            self.compare_backend(address.span(), addr, &backend.name, &name, &seen);
            seen.push(Backend {
                name,
                addr,
                keeps_port,
                weight: or(&backend.weight, 1),
                max_connections: or(&backend.max_connections, 0),
                priority: or(&backend.priority, 0),
                sorry: or(&backend.sorry, false),
                mode,
                discovered: false,
                admin: or(&backend.admin, Admin::Ready),
            });
        }
        self.warn_of_weights(place.clone(), s, &seen);
        self.check_quorum(place, s, &seen);
        Some(seen)
    }

    /// It must be possible to meet, and to meet again.
    fn check_quorum(&mut self, place: Range<usize>, s: &file::Service, backends: &[Backend]) {
        let mut ordinary = backends.iter().filter(|b| !b.sorry).count() as u32;
        if ordinary == 0 && !backends.is_empty() {
            let message = format!("every backend of [service.{}] is a sorry server", s.name.get_ref());
            return self.error(place, message, "one at least must be ordinary: remove a `sorry = true`");
        }
        ordinary += self.most_discovered(s) as u32;
        let (quorum, hysteresis) = (or(&s.quorum, 1), or(&s.hysteresis, 0));
        if let Some(written) = s.hysteresis.given().filter(|_| hysteresis >= quorum) {
            let message = format!("`hysteresis` is {hysteresis}, but must be less than `quorum` ({quorum})");
            return self.error(written.span(), message, "the quorum would never be lost");
        }
        let place = s.hysteresis.given().or(s.quorum.given()).map(Spanned::span);
        if let Some(place) = place.filter(|_| quorum + hysteresis > ordinary) {
            let message = format!("{} of {ordinary} backends would have to be up", quorum + hysteresis);
            self.error(
                place,
                message,
                "`quorum` and `hysteresis` together are at most the number of backends",
            );
        }
    }

    fn warn_of_weights(&mut self, place: Range<usize>, s: &file::Service, backends: &[Backend]) {
        if !backends.is_empty() && backends.iter().all(|b| b.weight == 0) {
            let message = format!(
                "every backend of [service.{}] has weight 0: new connections are refused",
                s.name.get_ref()
            );
            self.warning(place, message, "give one a weight of 1 or more");
        }
    }

    /// What a mode asks of a backend.
    fn check_mode(&mut self, at: &Spanned<Endpoint>, mode: Mode, listen: Option<&Listen>, addr: SocketAddr) {
        if mode != Mode::Local && addr.ip().is_loopback() {
            let help = "write the server's own address; `mode = \"local\"` is for what runs on this node";
            return self.error(at.span(), format!("`{}` {LOOPBACK}", addr.ip()), help);
        }
        let Some(listen) = listen else { return };
        if matches!(mode, Mode::Dnat | Mode::Dsr | Mode::Local) && listen.first.is_ipv4() != addr.is_ipv4() {
            let message =
                format!("{} is of another family than `listen`, which \"{}\" keeps", addr.ip(), mode.word());
            let help = "choose \"nat\" or \"tunnel\", or write an address of the same family";
            return self.error(at.span(), message, help);
        }
        if !mode.is_one_way() {
            return;
        }
        let untranslated = format!("with `mode = \"{}\"` packets reach the backend as they are", mode.word());
        if listen.last.is_some() {
            if at.get_ref().port.is_some() {
                let help = format!("leave the port out: \"{}\"", addr.ip());
                self.error(at.span(), format!("{addr} is one port for several: {untranslated}"), help);
            }
        } else if listen.first.port() != addr.port() {
            let port = listen.first.port();
            let right = SocketAddr::new(addr.ip(), port);
            let help = format!("write \"{right}\", or choose \"nat\" or \"dnat\"");
            self.error(at.span(), format!("{addr} is not on port {port}: {untranslated}"), help);
        }
    }

    fn compare_backend(
        &mut self,
        span: Range<usize>,
        addr: SocketAddr,
        written_name: &Field<String>,
        name: &str,
        seen: &[Backend],
    ) {
        if self.file.vrrp.iter().flat_map(virtual_addrs).any(|a| a == addr.ip()) {
            let message = format!("{} is a virtual address: connections would come back for ever", addr.ip());
            self.error(span, message, "write the address of the server itself");
        } else if let Some(other) = seen.iter().find(|b| b.addr == addr) {
            self.error(span, format!("{addr} is already the backend `{}`", other.name), "remove one");
        } else if seen.iter().any(|b| b.name == name) {
            let span = written_name.given().map_or(span, Spanned::span);
            self.error(span, format!("there is already a backend `{name}`"), "give each its own `name`");
        }
    }
}

fn or_else<T: Clone>(field: &Field<T>, default: impl FnOnce() -> T) -> T {
    field.value().cloned().unwrap_or_else(default)
}
