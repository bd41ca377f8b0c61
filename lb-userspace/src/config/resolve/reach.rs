//! The part of `resolve` that is about how a virtual router is reached: addresses, peers, probes, announcements.

use std::{fmt, net::IpAddr, time::Duration};

use toml::Spanned;

use super::{Resolver, or};
use crate::config::{
    address::Placed,
    file,
    model::{Garp, Preempt, Probe, Transport, UnicastPeer, Version, VirtualAddress},
    reader::{Field, show_duration},
};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The addresses of a list that is good or absent.
pub(super) fn placed(field: &Field<Vec<Spanned<Placed>>>) -> Vec<VirtualAddress> {
    field.value().into_iter().flatten().map(|a| a.get_ref().address.clone()).collect()
}

impl Resolver<'_, '_> {
    pub(super) fn addresses(
        &mut self,
        v: &file::Vrrp,
        version: Option<Version>,
    ) -> Option<Vec<VirtualAddress>> {
        let given = v.addresses.given()?;
        let list = placed(&v.addresses);
        // The count is one byte of the advert.
        if list.is_empty() || list.len() > 255 {
            let message = format!("`virtual_ipaddress` lists {} addresses", list.len());
            self.error(given.span(), message, "1 to 255");
            return None;
        }
        let family = Family::of(list[0].addr);
        if let Some(other) = given.get_ref().iter().find(|a| Family::of(a.get_ref().address.addr) != family) {
            let message = format!(
                "{} is not {family} as the address before it: an advert carries one family",
                other.get_ref().address.addr
            );
            let help = "move it to `virtual_ipaddress_excluded`, or to a `[vrrp.NAME]` of its own";
            self.error(other.span(), message, help);
            return None;
        }
        if family == Family::V6 && version == Some(Version::V2) {
            let message = "VRRP version 2 has no IPv6";
            self.error(given.get_ref()[0].span(), message, "write `version = 3` on every node");
            return None;
        }
        Some(list)
    }

    pub(super) fn source(&mut self, v: &file::Vrrp, family: Option<Family>) -> Option<IpAddr> {
        let given = v.source.given()?;
        self.check_host(given.span(), *given.get_ref(), family);
        Some(*given.get_ref())
    }

    pub(super) fn transport(&mut self, v: &file::Vrrp, family: Option<Family>) -> Option<Transport> {
        let given = match &v.peers {
            Field::Absent => return Some(Transport::Multicast),
            Field::Bad => return None,
            Field::Given(given) => given,
        };
        if given.get_ref().is_empty() {
            let message = "`unicast_peer` names nobody: no node would hear the adverts";
            self.error(given.span(), message, "name the other nodes, or leave it out for multicast");
        }
        let mut peers: Vec<UnicastPeer> = Vec::new();
        for peer in given.get_ref() {
            let Some(addr) = peer.get_ref().addr.value().copied() else { continue };
            let (min_ttl, max_ttl) = (or(&peer.get_ref().min_ttl, 255), or(&peer.get_ref().max_ttl, 255));
            self.check_host(peer.span(), addr, family);
            if peers.iter().any(|p| p.addr == addr) {
                self.error(peer.span(), format!("{addr} is already a peer"), "remove one");
            }
            if v.source.value() == Some(&addr) {
                self.error(peer.span(), format!("{addr} is this node: `source` says so"), "name the others");
            }
            if min_ttl > max_ttl {
                let message = format!("`min_ttl` is {min_ttl}, more than the `max_ttl` of {max_ttl}");
                self.error(peer.span(), message, "no advert would be believed");
            }
            if min_ttl < 255 && v.probe.on.value() == Some(&true) {
                let message = format!("{addr} may be behind a router, which probes do not cross");
                self.warning(peer.span(), message, "leave out `probe = true`; adverts alone watch this peer");
            }
            peers.push(UnicastPeer { addr, min_ttl, max_ttl });
        }
        Some(Transport::Unicast(peers))
    }

    /// A host adverts come from or go to: of the router's family, and no virtual address.
    fn check_host(&mut self, span: std::ops::Range<usize>, addr: IpAddr, family: Option<Family>) {
        if let Some(family) = family.filter(|family| *family != Family::of(addr)) {
            let message = format!("{addr} is not {family} as `virtual_ipaddress`");
            self.error(span, message, "adverts travel in the family of their addresses");
        } else if self.file.vrrp.iter().flat_map(super::virtual_addrs).any(|a| a == addr) {
            let message = format!("{addr} is a virtual address");
            self.error(span, message, "write the address that the node always has");
        }
    }

    pub(super) fn probe(
        &mut self,
        v: &file::Vrrp,
        advert_int: Option<Duration>,
        lease: Option<Duration>,
    ) -> Option<Probe> {
        let given = [("probe_interval", &v.probe.interval), ("probe_lease", &v.probe.lease)];
        if v.probe.on.value() == Some(&false) {
            for (key, field) in given {
                if let Some(given) = field.given() {
                    let message = format!("`{key}` has no use with `probe = false`");
                    self.warning(given.span(), message, "remove one of the two");
                }
            }
            return None;
        }
        let advert_int = advert_int?;
        let probe_lease = or(&v.probe.lease, advert_int * 2 / 5);
        let interval = or(&v.probe.interval, (probe_lease / 10).max(LEAST_PROBE_INTERVAL));
        let (shown, adverts) = (show_duration(probe_lease), show_duration(advert_int));
        if let Some(given) = v.probe.lease.given() {
            if probe_lease >= advert_int * 3 {
                let message = format!(
                    "`probe_lease` is {shown}, not less than 3 × advert_int ({adverts}): a peer takes over \
                     after that, and there would be two owners"
                );
                self.error(given.span(), message, "leave it out: the default is 0.4 × advert_int");
            } else if lease.is_some_and(|lease| probe_lease > lease) {
                let message = format!("`probe_lease` is {shown}, longer than `lease`: probes gain nothing");
                self.warning(given.span(), message, "leave it out: the default is 0.4 × advert_int");
            }
        }
        if interval > probe_lease / 5 {
            let at = v.probe.interval.given().or(v.probe.lease.given()).map_or(0..0, Spanned::span);
            let message = format!(
                "`probe_interval` is {}, more than a fifth of `probe_lease` ({shown}): a lost probe or two would \
                 pass for a dead owner",
                show_duration(interval)
            );
            self.error(at, message, "leave it out: the default is a tenth of `probe_lease`");
        }
        Some(Probe { interval, lease: probe_lease })
    }

    pub(super) fn garp(&mut self, v: &file::Vrrp) -> Garp {
        let (g, default) = (&v.garp, Garp::default());
        let (repeat, delay) = (or(&g.repeat, default.repeat), or(&g.delay, default.delay));
        let refresh = g.refresh.value().copied().filter(|d| !d.is_zero());
        if let (None, Some(given)) = (refresh, g.refresh_repeat.given()) {
            let message = "`garp_master_refresh_repeat` has no use without `garp_master_refresh`";
            self.warning(given.span(), message, "add `garp_master_refresh = 60`, or remove it");
        }
        let v6 = [&v.addresses, &v.excluded].into_iter().flat_map(placed).any(|a| a.addr.is_ipv6());
        if let (false, Some(given)) = (v6, g.gna_interval.given()) {
            let message = "`gna_interval` has no use without an IPv6 address";
            self.warning(given.span(), message, "gratuitous ARPs are paced by `garp_interval`");
        }
        Garp {
            repeat,
            delay,
            refresh,
            refresh_repeat: or(&g.refresh_repeat, default.refresh_repeat),
            lower_prio_repeat: or(&g.lower_prio_repeat, repeat),
            lower_prio_delay: or(&g.lower_prio_delay, delay),
            interval: or(&g.interval, default.interval),
            gna_interval: or(&g.gna_interval, default.gna_interval),
        }
    }

    /// Settings that another one takes the effect from.
    pub(super) fn warn_of_what_is_lost(&mut self, v: &file::Vrrp) {
        if v.priority.value() == Some(&255)
            && let Some(given) = v.preempt.given().filter(|p| *p.get_ref() != Preempt::NOW)
        {
            let message =
                "`preempt` has no effect at priority 255: the owner of addresses claims them at once";
            self.warning(given.span(), message, "lower the priority, or leave `preempt` out");
        }
        if v.assign.value() == Some(&false) {
            let lists = [&v.addresses, &v.excluded].into_iter().filter_map(Field::value).flatten();
            for address in lists.filter(|a| a.get_ref().has_prefix || a.get_ref().address.dev.is_some()) {
                let message = "with `assign_address = false` no interface gets this address";
                self.warning(address.span(), message, "remove the prefix and `dev`");
            }
        }
    }
}

/// A default is not shorter: a probe costs two packets and two wake-ups.
const LEAST_PROBE_INTERVAL: Duration = Duration::from_micros(500);
