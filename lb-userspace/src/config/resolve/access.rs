//! The part of `resolve` that is about a service's clients: who may connect, and how fast. `service` calls.

use toml::Spanned;

use super::{Resolver, or};
use crate::config::{
    file,
    model::{Access, ClientLimit, DenyAction, Prefix, Rate},
    reader::Field,
};

impl Resolver<'_, '_> {
    fn client_limit(&mut self, limit: &file::access::ClientLimit) -> ClientLimit {
        if let Some(burst) = limit.burst.given()
            && limit.rate.is_absent()
        {
            self.warning(burst.span(), "`burst` has no use without `rate`", "remove it, or say how fast");
        }
        let rate = limit.rate.value().map(|&(count, seconds)| Rate {
            count,
            seconds,
            burst: or(&limit.burst, (count / seconds).max(1)),
        });
        ClientLimit {
            rate,
            connections: or(&limit.connections, 0),
            prefix_v4: or(&limit.prefix_v4, 32),
            prefix_v6: or(&limit.prefix_v6, 64),
        }
    }

    pub(super) fn access(&mut self, s: &file::Service) -> Access {
        let keys = &s.access;
        let list = |field: &Field<Vec<Spanned<Prefix>>>| field.value().cloned().unwrap_or_default();
        let (allow, deny) = (list(&keys.allow), list(&keys.deny));
        if let Some(given) = keys.allow.given().filter(|given| given.get_ref().is_empty()) {
            let message = "`allow` names nobody: nobody could connect";
            self.error(given.span(), message, "leave it out to let everybody connect");
        }
        for (i, prefix) in deny.iter().enumerate() {
            let same = |other: &Spanned<Prefix>| other.get_ref() == prefix.get_ref();
            let Prefix { addr, len } = prefix.get_ref();
            if allow.iter().any(same) {
                self.error(
                    prefix.span(),
                    format!("{addr}/{len} is allowed and denied"),
                    "remove one of the two",
                );
            } else if deny[..i].iter().any(same) {
                self.error(prefix.span(), format!("{addr}/{len} is named twice"), "remove one");
            }
        }
        if let Some(action) = keys.deny_action.given()
            && keys.allow.is_absent()
            && keys.deny.is_absent()
        {
            let message = "`deny_action` has no use without `allow` or `deny`";
            self.warning(action.span(), message, "remove it, or say who may connect");
        }
        let bare = |list: Vec<Spanned<Prefix>>| list.into_iter().map(Spanned::into_inner).collect();
        Access {
            allow: bare(allow),
            deny: bare(deny),
            deny_action: or(&keys.deny_action, DenyAction::Drop),
            client_limit: s.client_limit.value().map(|limit| self.client_limit(limit)),
        }
    }
}
