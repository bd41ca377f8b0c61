//! The part of `resolve` that is about backends that are not in the file. `service` and `choice` call.

use toml::Spanned;

use super::{Resolver, or};
use crate::config::{
    file::{self, CheckType},
    model::{Discovery, Mode, Prefix},
};

impl Resolver<'_, '_> {
    /// How many backends a service may come to have besides those of the file.
    pub(super) fn most_discovered(&self, s: &file::Service) -> usize {
        s.discovery.value().map_or(0, |d| or(&d.most, Discovery::MOST) as usize)
    }

    /// How they are discovered.
    pub(super) fn discovery(&mut self, s: &file::Service) -> Option<Discovery> {
        let given = s.discovery.given()?;
        let (keys, place) = (given.get_ref(), given.span());
        let kind = s.check.value().and_then(|check| check.kind.value());
        if kind.is_some_and(|kind| *kind != CheckType::Galera) {
            let message = "`discover` needs to know the cluster's members";
            self.error(place.clone(), message, "write `type = \"galera\"` in the check");
        }
        let mode = or(&s.mode, Mode::Nat);
        if mode == Mode::Local {
            let message = "`discover` finds other hosts, which `mode = \"local\"` does not forward to";
            self.error(place.clone(), message, "choose another mode, or remove `discover`");
        }
        let listen = s.listen.value();
        if listen.is_some_and(|listen| listen.last.is_some()) {
            let message = "`discover` finds a port for each node, and `listen` has several";
            self.error(place.clone(), message, "listen on one port, or remove `discover`");
        }
        let networks = keys.networks.value()?;
        if networks.is_empty() {
            let place = keys.networks.given().map_or(place, Spanned::span);
            let help = "write where nodes may be, as \"172.18.0.0/16\", or remove `discover`";
            self.error(place, "`networks` names none: nobody could be discovered", help);
        }
        for network in networks {
            let Prefix { addr, len } = *network.get_ref();
            let is_other = listen.is_some_and(|listen| listen.first.is_ipv4() != addr.is_ipv4());
            if is_other && matches!(mode, Mode::Dnat | Mode::Dsr) {
                let message = format!(
                    "{addr}/{len} is of another family than `listen`, which \"{}\" keeps",
                    mode.word()
                );
                self.error(network.span(), message, "write networks of the same family, or choose \"nat\"");
            }
        }
        Some(Discovery {
            networks: networks.iter().map(|network| *network.get_ref()).collect(),
            most: or(&keys.most, Discovery::MOST),
            forget: or(&keys.forget, Discovery::FORGET),
        })
    }
}
