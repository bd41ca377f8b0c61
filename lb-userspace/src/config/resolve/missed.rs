//! The part of `resolve` that is about connections that a backend does not take. `service` calls.

use super::{Resolver, or};
use crate::config::{
    file::{self, missed},
    model::{CheckKind, Mode, Passive, Protocol},
};

impl Resolver<'_, '_> {
    /// Whether connections that a backend has accepted, and not greeted, are moved to another: where the server speaks first, which a
    /// check that logs in to MySQL tells, and where this node sees both sides' numbers.
    pub(super) fn moves(&mut self, s: &file::Service, check: &CheckKind) -> bool {
        let key = &s.missed.move_ungreeted;
        if let Some(why) = unseen(s) {
            if let Some(given) = key.given().filter(|given| *given.get_ref()) {
                self.warning(given.span(), format!("`move_ungreeted` has no use {why}"), "remove it");
            }
            return false;
        }
        or(key, matches!(check, CheckKind::Galera(_) | CheckKind::Mysql(_)))
    }

    /// Whether they go to another, and when the backend is ejected.
    pub(super) fn missed(&mut self, s: &file::Service) -> (bool, Option<Passive>) {
        let keys = &s.missed;
        if let Some(why) = unseen(s) {
            let switched_on = keys
                .redispatch
                .given()
                .filter(|given| *given.get_ref())
                .map(|given| ("redispatch", given.span()));
            let ejects =
                keys.passive.given().filter(|given| matches!(given.get_ref(), missed::Passive::By(_)));
            let ejects = ejects.map(|given| ("passive", given.span()));
            for (key, place) in [switched_on, ejects].into_iter().flatten() {
                self.warning(place, format!("`{key}` has no use {why}"), "remove it");
            }
            return (false, None);
        }
        let defaults = Passive::default();
        let passive = match keys.passive.value() {
            None => Some(defaults),
            Some(missed::Passive::Off) => None,
            Some(missed::Passive::By(rules)) => Some(Passive {
                after: or(&rules.after, defaults.after),
                share: or(&rules.share, defaults.share),
                window: or(&rules.window, defaults.window),
                ejection: or(&rules.ejection, defaults.ejection),
                most: or(&rules.most, defaults.most),
            }),
        };
        (or(&keys.redispatch, true), passive)
    }
}

/// Why this node does not see what backends say to a new connection, if so.
fn unseen(s: &file::Service) -> Option<&'static str> {
    if or(&s.protocol, Protocol::Tcp) == Protocol::Udp {
        return Some(
            "in a UDP service: nothing tells a datagram that is refused from one that needs no answer",
        );
    }
    let default = or(&s.mode, Mode::Nat);
    let one_way = s.backends.value()?.iter().all(|b| or(&b.mode, default).is_one_way());
    one_way
        .then_some("without a backend in mode \"nat\" or \"dnat\": this node does not see what others answer")
}
