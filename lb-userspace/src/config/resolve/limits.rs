//! The part of `resolve` that is about a service's connections: sources towards backends, and time-outs.
//!
//! `service` calls. Whether the node has a source that is no virtual address is for the start to find out: it is not in the file.

use std::net::IpAddr;

use lb_common::ports::MAX_SOURCES;
use toml::Spanned;

use super::{Resolver, or, virtual_addrs};
use crate::config::{
    file,
    model::{Mode, Protocol, Timeouts},
};

impl Resolver<'_, '_> {
    /// Sources that backends of mode `nat` see: those written, or the service's own address.
    pub(super) fn snat(&mut self, s: &file::Service, router: Option<usize>) -> Vec<IpAddr> {
        let own = s.listen.value().map(|l| l.first.ip());
        let Some(written) = s.snat.given() else { return own.into_iter().collect() };
        let list = written.get_ref();
        if list.is_empty() || list.len() > MAX_SOURCES {
            let message = format!("`snat` names {} addresses, but must name 1 to {MAX_SOURCES}", list.len());
            self.error(written.span(), message, "leave it out for the service's own address");
        }
        let nat = |mode: Mode| mode == Mode::Nat;
        let default = or(&s.mode, Mode::Nat);
        let mut modes = s.backends.value().into_iter().flatten().map(|b| or(&b.mode, default));
        if !modes.any(nat) {
            let message = "`snat` has no use without a backend in `mode = \"nat\"`";
            self.warning(written.span(), message, "remove it, or choose that mode");
        }
        for (i, a) in list.iter().enumerate() {
            self.check_source(a, router);
            if list[..i].iter().any(|b| b.get_ref() == a.get_ref()) {
                self.error(a.span(), format!("{} is named twice", a.get_ref()), "remove one");
            }
        }
        list.iter().map(|a| *a.get_ref()).collect()
    }

    /// A virtual address moves with its router, and so must the service.
    fn check_source(&mut self, a: &Spanned<IpAddr>, router: Option<usize>) {
        let its = self.file.vrrp.iter().position(|v| virtual_addrs(v).any(|v| v == *a.get_ref()));
        if let Some(its) = its
            && router != Some(its)
        {
            let name = self.file.vrrp[its].name.get_ref();
            let message =
                format!("{} moves with the virtual router `{name}`, the service does not", a.get_ref());
            let help = "name an address of the service's own virtual router, or one that the node always has";
            self.error(a.span(), message, help);
        }
    }

    pub(super) fn timeouts(&mut self, s: &file::Service) -> Timeouts {
        let defaults = Timeouts::default();
        let Some(t) = s.timeouts.value() else { return defaults };
        let udp = or(&s.protocol, Protocol::Tcp) == Protocol::Udp;
        let idle = if udp {
            vec![("established", &t.established), ("closing", &t.closing), ("closed", &t.closed)]
        } else {
            vec![("udp", &t.udp)]
        };
        for (key, field) in idle {
            if let Some(given) = field.given() {
                let protocol = if udp { "UDP" } else { "TCP" };
                self.warning(
                    given.span(),
                    format!("`{key}` has no use in a {protocol} service"),
                    "remove it",
                );
            }
        }
        Timeouts {
            established: or(&t.established, defaults.established),
            half_open: or(&t.half_open, defaults.half_open),
            closing: or(&t.closing, defaults.closing),
            closed: or(&t.closed, defaults.closed),
            unanswered: if udp { or(&t.half_open, defaults.unanswered) } else { defaults.unanswered },
            udp: or(&t.udp, defaults.udp),
        }
    }
}
