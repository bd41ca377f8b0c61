//! A new configuration in the place of the old one: what both know goes on as it was, what is new begins unchecked, and what is
//! gone is remembered until its connections have ended, or a virtual router's peers have taken over.

use std::time::{Duration, Instant, SystemTime};

use lb_common::{addr::Addr, service::Vip};

use super::{AddressChange, Alarm, Machine, Model, ToEnd};
use crate::{
    api::snapshot,
    config::model::{Config, Then, VirtualRouter},
    control::{kept::Kept, numbers::Numbers},
    health::{Pool, Restored},
    vrrp::group::Group,
};

/// A backend that is no longer in the file. Nobody new comes to it.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    number: u32,
    service: String,
    backend: String,
    connections: u64,
    /// When those that are left are ended; none: never (`on_drain`), or it has been done.
    due: Option<Instant>,
    /// When its connections were last looked for.
    seen: bool,
}

/// For so long after its end packets for a router's addresses may come: a successor has them relayed for a second.
const RELAYED: Duration = Duration::from_secs(3);

/// A virtual router that is no longer in the file. The packet programs swallow what comes for its addresses, or relay it.
#[derive(Debug, Clone)]
pub(super) struct Departed {
    number: u32,
    pub(super) vips: Vec<(Addr, Vip)>,
    until: Instant,
}

/// For each virtual router of `new` its place in `old`, if it was there.
pub fn places_before(old: &Config, new: &Config) -> Vec<Option<usize>> {
    let before = |r: &VirtualRouter| old.vrrp.iter().position(|o| o.name == r.name);
    new.vrrp.iter().map(before).collect()
}

impl Model {
    /// The model of `config` on `machine`, going on from this one. Virtual routers and sync groups are known by their names.
    pub fn follow(
        &self,
        config: Config,
        machine: Machine,
        numbers: Numbers,
        (at, now): (Instant, SystemTime),
    ) -> Self {
        let mut next = Self::new(config, machine, now);
        next.numbers = numbers;
        if self.config.node.datapath_log == next.config.node.datapath_log {
            next.datapath_log = self.datapath_log;
        }
        let before = places_before(&self.config, &next.config);
        for (router, place) in next.routers.iter_mut().zip(&before) {
            if let Some(place) = place {
                router.clone_from(&self.routers[*place]);
            }
        }
        for (group, state) in next.config.groups.iter().zip(&mut next.groups) {
            let same = self.config.groups.iter().position(|g| g.name == group.name);
            *state = same.map_or_else(
                || Group::state(group.members.iter().map(|m| next.routers[*m].state)),
                |same| self.groups[same],
            );
        }
        for (alarm, since) in &self.alarms {
            if let Some(router) = before.iter().position(|place| *place == Some(alarm.router)) {
                next.alarms.insert(Alarm { router, ..alarm.clone() }, *since);
            }
        }
        next.scheduling.clone_from(&self.scheduling);
        next.configuration.clone_from(&self.configuration);
        next.lost_addresses.clone_from(&self.lost_addresses);
        next.tracking = self.tracking.follow(&self.config, &next.config, now);
        next.departed = self.departed_in(&next, at);
        for s in 0..next.pools.len() {
            next.take_over(self, s);
        }
        next.leaving = self.leaving_in(&next, at);
        for (router, place) in before.into_iter().enumerate() {
            if let Some(place) = place {
                next.move_addresses(self, place, router);
            }
        }
        for s in 0..next.pools.len() {
            next.with_pool(s, (at, now), |pool| pool.settle(at));
        }
        next
    }

    /// Goes on from what a former daemon has left.
    pub fn restore(&mut self, kept: &Kept, (at, now): (Instant, SystemTime)) {
        // Without them flows are counted for others by their addresses (`renumber`).
        self.numbers = kept.numbers(&self.config).unwrap_or_else(|| Numbers::of(&self.config));
        for s in 0..self.pools.len() {
            for b in 0..self.backends[s].len() {
                if let Some((restored, since)) = kept.restored(&self.config.services[s], b) {
                    self.pools[s].restore(b, restored);
                    self.backends[s][b].since = since;
                }
            }
            let since: Vec<_> = self.backends[s].iter().map(|b| b.since).collect();
            self.with_pool(s, (at, now), |pool| pool.settle(at));
            for (b, since) in self.backends[s].iter_mut().zip(since) {
                b.since = since;
            }
        }
    }

    /// What is left of a backend to the next daemon, and since when it stands so.
    pub fn restorable(&self, service: usize, backend: usize) -> (Restored, SystemTime) {
        (self.pools[service].restorable(backend), self.backends[service][backend].since)
    }

    /// What the backends of service `s` have behind them.
    fn take_over(&mut self, old: &Self, s: usize) {
        let number = self.numbers.service(s);
        let Some(before) = old.numbers.services().iter().position(|n| *n == number) else { return };
        let from = |b: usize| old.numbers.place(self.numbers.backend(s, b)).map(|(_, b)| b);
        for (b, state) in self.backends[s].iter_mut().enumerate() {
            if let Some(from) = from(b) {
                state.clone_from(&old.backends[before][from]);
            }
        }
        self.pools[s] = Pool::follow(&old.pools[before], &self.config.services[s], from);
    }

    /// Who leaves, and who has been leaving.
    fn leaving_in(&self, next: &Self, at: Instant) -> Vec<Leaving> {
        let mut leaving = self.leaving.clone();
        for (s, service) in self.config.services.iter().enumerate() {
            for (b, backend) in service.backends.iter().enumerate() {
                let number = self.numbers.backend(s, b);
                if next.numbers.place(number).is_some() {
                    continue;
                }
                let drained = match service.sessions.drain {
                    Then::Keep => None,
                    Then::Reset(after) => Some(at + after),
                };
                let due = [drained, self.backends[s][b].ending.due()].into_iter().flatten().min();
                // Of a router that has left another node may have them.
                let stays = service.router.is_none_or(|r| next.has_router(&self.config.vrrp[r].name));
                let due = due.filter(|_| stays);
                let (service, backend) = (service.name.clone(), backend.name.clone());
                leaving.push(Leaving { number, service, backend, connections: 0, due, seen: false });
            }
        }
        leaving
    }

    /// Addresses that a router has no longer go from their interfaces; which others it has is asked anew.
    fn move_addresses(&mut self, old: &Self, place: usize, router: usize) {
        let (before, after) = (&old.config.vrrp[place], &self.config.vrrp[router]);
        let is_there = old.routers[place].addresses_present == Some(true);
        let placed = |m: &Model, r: &VirtualRouter| -> Vec<AddressChange> { m.placed(r, false).collect() };
        let (had, has) = (placed(old, before), placed(self, after));
        if is_there && (had != has || before.assign != after.assign) {
            let kept = |a: &AddressChange| after.assign && has.contains(a);
            self.lost_addresses.extend(had.into_iter().filter(|a| !kept(a)));
            self.routers[router].addresses_present = if after.assign { None } else { Some(false) };
        }
    }

    fn has_router(&self, name: &str) -> bool {
        self.config.vrrp.iter().any(|r| r.name == name)
    }

    /// The numbers and places of the virtual routers that are not in `new`.
    pub fn routers_gone_in(&self, new: &Config) -> Vec<(u32, usize)> {
        let gone = |(_, r): &(usize, &VirtualRouter)| new.vrrp.iter().all(|n| n.name != r.name);
        let all = self.config.vrrp.iter().enumerate();
        all.filter(gone).map(|(place, _)| (self.numbers.router(place), place)).collect()
    }

    /// Those that depart, and those that have done so lately.
    fn departed_in(&self, next: &Self, at: Instant) -> Vec<Departed> {
        let mut departed = self.departed.clone();
        departed.retain(|d| !next.numbers.routers().contains(&d.number));
        for (number, place) in self.routers_gone_in(&next.config) {
            let vips = super::vips(number, &self.config.vrrp[place]).collect();
            departed.push(Departed { number, vips, until: at + RELAYED });
        }
        departed
    }

    /// Nobody asks any more for those that departed a while ago.
    pub(super) fn forget_departed(&mut self, now: Instant) {
        let before = self.departed.len();
        self.departed.retain(|d| now < d.until);
        self.changed |= self.departed.len() != before;
    }

    /// The numbers of virtual routers that have departed lately.
    pub fn departed(&self) -> impl Iterator<Item = u32> + '_ {
        self.departed.iter().map(|d| d.number)
    }

    /// The addresses of the router in this place, which are to go from their interfaces.
    pub fn addresses_of(&self, place: usize) -> Vec<AddressChange> {
        let assigned = self.config.vrrp[place].assign;
        self.placed(&self.config.vrrp[place], false).filter(|_| assigned).collect()
    }

    /// The placed addresses of a router, to be added or removed.
    pub(super) fn placed<'a>(
        &'a self,
        router: &'a VirtualRouter,
        present: bool,
    ) -> impl Iterator<Item = AddressChange> + 'a {
        router.addresses.iter().chain(&router.excluded).filter_map(move |a| {
            let ifindex = *self.machine.placements.get(a.dev.as_ref().unwrap_or(&router.interface))?;
            Some(AddressChange { ifindex, addr: a.addr, prefix_len: a.prefix_len, present })
        })
    }

    /// How many connections those have that leave; those without are forgotten.
    pub(super) fn look_at_leaving(&mut self, connections: impl Fn(u32) -> u64) {
        for l in &mut self.leaving {
            (l.connections, l.seen) = (connections(l.number), true);
        }
        self.leaving.retain(|l| l.connections > 0);
    }

    /// Those whose connections are to end now, each once.
    pub(super) fn take_leaving(&mut self, now: Instant) -> Vec<ToEnd> {
        let due = self.leaving.iter_mut().filter_map(|l| {
            l.due.take_if(|due| *due <= now)?;
            let why = format!("service {}: backend {} has been removed", l.service, l.backend);
            Some(ToEnd { backend: l.number, why })
        });
        due.collect()
    }

    /// As they are shown.
    pub(super) fn leaving_shown(&self) -> Vec<snapshot::Leaving> {
        let shown = |l: &Leaving| snapshot::Leaving {
            service: l.service.clone(),
            backend: l.backend.clone(),
            connections: l.connections,
        };
        self.leaving.iter().filter(|l| l.seen).map(shown).collect()
    }
}
