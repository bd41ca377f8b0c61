//! A new configuration in the place of the old one: what both know goes on as it was, what is new begins unchecked, and what is
//! gone is remembered until its connections have ended.

use std::time::{Instant, SystemTime};

use super::{AddressChange, Machine, Model, ToEnd};
use crate::{
    api::snapshot,
    config::model::{Config, Then, VirtualRouter},
    control::{kept::Kept, numbers::Numbers},
    health::{Pool, Restored},
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

impl Model {
    /// The model of `config` on `machine`, going on from this one. Virtual routers and sync groups are the same in both, in the same
    /// order.
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
        next.routers.clone_from(&self.routers);
        next.groups.clone_from(&self.groups);
        next.alarms.clone_from(&self.alarms);
        next.notices.clone_from(&self.notices);
        next.scheduling.clone_from(&self.scheduling);
        next.configuration.clone_from(&self.configuration);
        next.lost_addresses.clone_from(&self.lost_addresses);
        next.tracking = self.tracking.follow(&self.config, &next.config, now);
        for s in 0..next.pools.len() {
            next.take_over(self, s);
        }
        next.leaving = self.leaving_in(&next, at);
        for router in 0..next.routers.len() {
            next.move_addresses(self, router);
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
                let (service, backend) = (service.name.clone(), backend.name.clone());
                leaving.push(Leaving { number, service, backend, connections: 0, due, seen: false });
            }
        }
        leaving
    }

    /// Addresses that a router has no longer go from their interfaces; which others it has is asked anew.
    fn move_addresses(&mut self, old: &Self, router: usize) {
        let (before, after) = (&old.config.vrrp[router], &self.config.vrrp[router]);
        let is_there = old.routers[router].addresses_present == Some(true);
        let placed = |m: &Model, r: &VirtualRouter| -> Vec<AddressChange> { m.placed(r, false).collect() };
        let (had, has) = (placed(old, before), placed(self, after));
        if is_there && (had != has || before.assign != after.assign) {
            let kept = |a: &AddressChange| after.assign && has.contains(a);
            self.lost_addresses.extend(had.into_iter().filter(|a| !kept(a)));
            self.routers[router].addresses_present = if after.assign { None } else { Some(false) };
        }
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
