//! The part of `resolve` that is about connections which a new owner does not know: where it can go on with them at all.

use super::{Resolver, or};
use crate::config::{
    file,
    model::{Mode, Protocol, Role, Scheduler, Unknown},
    reader::Field,
};

impl Resolver<'_, '_> {
    pub(super) fn unknown(&mut self, s: &file::Service, scheduler: Scheduler) -> Unknown {
        let Some(written) = s.unknown.given().filter(|w| *w.get_ref() == Unknown::Adopt) else {
            return Unknown::Reset;
        };
        let refused = |what: String, help: &str| (format!("`unknown = \"adopt\"` {what}"), help.to_owned());
        let v4 = s.listen.value().is_none_or(|l| l.first.is_ipv4());
        let backends = s.backends.value().map_or(&[][..], Vec::as_slice);
        let ways: Vec<(Mode, bool)> = backends
            .iter()
            .map(|b| {
                let mixed = b.address.value().is_some_and(|a| a.addr.is_ipv4() != v4);
                (or(&b.mode, or(&s.mode, Mode::Nat)), mixed)
            })
            .collect();
        let kept = [Scheduler::Sh, Scheduler::Dh, Scheduler::Mh, Scheduler::Fo].contains(&scheduler)
            || s.role.value() == Some(&Role::Writer);
        let persists = !s.choice.persistence_timeout.is_absent();
        let (message, help) = if s.protocol.value() == Some(&Protocol::Udp) {
            refused("has no use for UDP".into(), "remove it: any datagram opens a flow")
        } else if s.lease.value() == Some(&false) {
            refused(
                "has no use with `lease = false`".into(),
                "remove it: the node's own address does not come from another node",
            )
        } else if ways.iter().any(|(mode, _)| *mode == Mode::Local) {
            refused(
                "cannot be with `mode = \"local\"`".into(),
                "remove it: this node's stack has none of the lost owner's connections",
            )
        } else if ways.contains(&(Mode::Nat, true)) {
            refused(
                "cannot be with `mode = \"nat\"` between IPv4 and IPv6".into(),
                "such a backend knows its connections by the lost owner's own address: choose \"tunnel\"",
            )
        } else if !kept && !matches!(s.choice.scheduler, Field::Bad) {
            refused(
                format!("cannot be with `scheduler = \"{}\"`", scheduler.word()),
                "which backend has the connection must follow from its addresses: choose \"sh\", \"dh\", \"mh\" or \"fo\"",
            )
        } else if persists {
            refused(
                "cannot be with `persistence_timeout`".into(),
                "which backend a client keeps to is known to the lost owner alone: choose \"sh\" instead",
            )
        } else {
            return Unknown::Adopt;
        };
        self.error(written.span(), message, help);
        Unknown::Reset
    }
}
