//! The numbers of services, backends and virtual routers in the maps: their places in the file at the start, and from then on
//! their own for as long as the daemon runs, whatever is put before them in the file.
//!
//! Flows, counters and rings name services and backends by number. A backend is the same one as long as its service, name,
//! address, port and mode are: one with another address is another server, under another number. A virtual router is the same one
//! as long as its name is; leases, elections and replication know it by its number too. Pure.

use std::collections::BTreeSet;

use lb_common::maps::{MAX_BACKENDS, MAX_ROUTERS, MAX_SERVICES};

use serde::{Deserialize, Serialize};

use crate::config::model::{Backend, Config, Service, VirtualRouter};

/// Who has which number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    services: Vec<u32>,
    backends: Vec<Vec<u32>>,
    routers: Vec<u32>,
    /// Numbers from here on were never given to anybody.
    fresh: Fresh,
}

/// Numbers that were never given to anybody begin here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    /// Of services.
    pub services: u32,
    /// Of backends.
    pub backends: u32,
    /// Of virtual routers.
    #[serde(default)]
    pub routers: u32,
}

/// Numbers that flows still have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// Of services.
    pub services: BTreeSet<u32>,
    /// Of backends.
    pub backends: BTreeSet<u32>,
    /// Of virtual routers.
    pub routers: BTreeSet<u32>,
}

/// Why there is no number for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// All are taken.
    #[error("there is room for {MAX_SERVICES} services, those whose connections still go on counted in")]
    Services,
    /// All are taken.
    #[error("there is room for {MAX_BACKENDS} backends, those whose connections still go on counted in")]
    Backends,
    /// All are taken.
    #[error(
        "there is room for {MAX_ROUTERS} virtual routers, those whose connections still go on counted in"
    )]
    Routers,
}

/// Whether both are the same server, for flows and checks alike.
pub fn is_same(a: &Backend, b: &Backend) -> bool {
    a.name == b.name && a.addr == b.addr && a.keeps_port == b.keeps_port && a.mode == b.mode
}

impl Numbers {
    /// Places in the file.
    pub fn of(config: &Config) -> Self {
        let mut backends = 0..;
        let of = |s: &Service| (&mut backends).take(s.backends.len()).collect();
        let all: Vec<Vec<u32>> = config.services.iter().map(of).collect();
        let count = all.iter().map(|b| b.len() as u32).sum();
        let services: Vec<u32> = (0..config.services.len() as u32).collect();
        let routers: Vec<u32> = (0..config.vrrp.len() as u32).collect();
        let fresh = Fresh { services: services.len() as u32, backends: count, routers: routers.len() as u32 };
        Self { services, backends: all, routers, fresh }
    }

    /// Numbers that were never given to anybody begin here.
    pub fn fresh(&self) -> Fresh {
        self.fresh
    }

    /// Those that a former daemon has left, and new ones, from `fresh` on, for whom it did not know. None if there are not so many.
    pub fn restored(
        mut fresh: Fresh,
        config: &Config,
        service: impl Fn(&Service) -> Option<u32>,
        backend: impl Fn(&Service, usize) -> Option<u32>,
        router: impl Fn(&VirtualRouter) -> Option<u32>,
    ) -> Option<Self> {
        let known: Vec<_> = config.services.iter().map(&service).collect();
        let of = |s: &Service| (0..s.backends.len()).map(|b| backend(s, b)).collect::<Vec<_>>();
        let all: Vec<_> = config.services.iter().map(of).collect();
        let next = |fresh: &mut u32, known: Option<u32>| {
            known.unwrap_or_else(|| {
                *fresh += 1;
                *fresh - 1
            })
        };
        let services = known.into_iter().map(|known| next(&mut fresh.services, known)).collect();
        let mut backends = Vec::new();
        for all in all {
            backends.push(all.into_iter().map(|known| next(&mut fresh.backends, known)).collect());
        }
        let routers = config.vrrp.iter().map(&router).collect::<Vec<_>>();
        let routers = routers.into_iter().map(|known| next(&mut fresh.routers, known)).collect();
        let fits = fresh.services as usize <= MAX_SERVICES
            && fresh.backends as usize <= MAX_BACKENDS
            && fresh.routers as usize <= MAX_ROUTERS;
        fits.then_some(Self { services, backends, routers, fresh })
    }

    /// Those of `new`, in which whoever was in `old` keeps his own. `in_use` tells which numbers of others are still needed; it is
    /// asked when all were given out once.
    pub fn follow(&self, old: &Config, new: &Config, in_use: impl FnOnce() -> InUse) -> Result<Self, Full> {
        let mut next = Self { fresh: self.fresh, ..Self::default() };
        let mut in_use = Lazy::Unasked(in_use);
        let mut given = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let service_of = |s: &Service| old.services.iter().position(|o| o.name == s.name);
        let backend_of = |s: Option<usize>, b: &Backend| {
            let place =
                s.and_then(|s| Some((s, old.services[s].backends.iter().position(|o| is_same(o, b))?)));
            place.map(|(s, b)| self.backends[s][b])
        };
        // Nobody is given a number that had an owner until now: packets are under way by the old tables.
        given.0.extend(self.services.iter().copied());
        given.1.extend(self.all_backends());
        given.2.extend(self.routers.iter().copied());
        for s in &new.services {
            let place = service_of(s);
            let number = match place {
                Some(place) => self.services[place],
                None => {
                    let used = |i: &mut InUse| std::mem::take(&mut i.services);
                    take(&mut next.fresh.services, MAX_SERVICES, &mut given.0, || used(in_use.ask()))
                        .ok_or(Full::Services)?
                }
            };
            next.services.push(number);
            let mut backends = Vec::new();
            for b in &s.backends {
                backends.push(match backend_of(place, b) {
                    Some(number) => number,
                    None => {
                        let used = |i: &mut InUse| std::mem::take(&mut i.backends);
                        take(&mut next.fresh.backends, MAX_BACKENDS, &mut given.1, || used(in_use.ask()))
                            .ok_or(Full::Backends)?
                    }
                });
            }
            next.backends.push(backends);
        }
        for r in &new.vrrp {
            next.routers.push(match old.vrrp.iter().position(|o| o.name == r.name) {
                Some(place) => self.routers[place],
                None => {
                    let used = |i: &mut InUse| std::mem::take(&mut i.routers);
                    take(&mut next.fresh.routers, MAX_ROUTERS, &mut given.2, || used(in_use.ask()))
                        .ok_or(Full::Routers)?
                }
            });
        }
        Ok(next)
    }

    /// The number of the virtual router in this place of the file.
    pub fn router(&self, router: usize) -> u32 {
        self.routers[router]
    }

    /// The numbers of all virtual routers, in the order of the file.
    pub fn routers(&self) -> &[u32] {
        &self.routers
    }

    /// The place in the file of the virtual router with this number.
    pub fn place_of_router(&self, number: usize) -> Option<usize> {
        self.routers.iter().position(|n| *n as usize == number)
    }

    /// The number of the service in this place of the file.
    pub fn service(&self, service: usize) -> u32 {
        self.services[service]
    }

    /// The numbers of all services, in the order of the file.
    pub fn services(&self) -> &[u32] {
        &self.services
    }

    /// The number of a service's backend in this place of the file.
    pub fn backend(&self, service: usize, backend: usize) -> u32 {
        self.backends[service][backend]
    }

    /// The numbers of a service's backends.
    pub fn backends(&self, service: usize) -> &[u32] {
        &self.backends[service]
    }

    /// The numbers of all backends.
    pub fn all_backends(&self) -> impl Iterator<Item = u32> + '_ {
        self.backends.iter().flatten().copied()
    }

    /// Numbers of services and of backends that others had at some time before `old`.
    pub fn given_again(&self, old: &Self) -> (Vec<u32>, Vec<u32>) {
        let again = |(numbers, fresh): (&mut dyn Iterator<Item = u32>, u32), had: &dyn Fn(u32) -> bool| {
            numbers.filter(|n| *n < fresh && !had(*n)).collect()
        };
        let services =
            again((&mut self.services.iter().copied(), old.fresh.services), &|n| old.services.contains(&n));
        let backends = again((&mut self.all_backends(), old.fresh.backends), &|n| old.place(n).is_some());
        (services, backends)
    }

    /// The place in the file of the backend with this number: its service's, and its own there.
    pub fn place(&self, number: u32) -> Option<(usize, usize)> {
        let find = |all: &Vec<u32>| all.iter().position(|n| *n == number);
        self.backends.iter().enumerate().find_map(|(s, all)| Some((s, find(all)?)))
    }

    /// Values of services in the order of the file, by their numbers; the default for numbers that nobody has.
    pub fn by_service<T: Default + Clone>(&self, values: impl IntoIterator<Item = T>) -> Vec<T> {
        spread(self.services.iter().copied(), values)
    }

    /// Values of all backends in the order of the file, by their numbers.
    pub fn by_backend<T: Default + Clone>(&self, values: impl IntoIterator<Item = T>) -> Vec<T> {
        spread(self.backends.iter().flatten().copied(), values)
    }
}

fn spread<T: Default + Clone>(
    numbers: impl Iterator<Item = u32> + Clone,
    values: impl IntoIterator<Item = T>,
) -> Vec<T> {
    let mut all = vec![T::default(); numbers.clone().max().map_or(0, |last| last as usize + 1)];
    for (number, value) in numbers.zip(values) {
        all[number as usize] = value;
    }
    all
}

enum Lazy<F> {
    Unasked(F),
    Known(InUse),
    Asking,
}

impl<F: FnOnce() -> InUse> Lazy<F> {
    fn ask(&mut self) -> &mut InUse {
        if let Self::Unasked(_) = self
            && let Self::Unasked(ask) = std::mem::replace(self, Self::Asking)
        {
            *self = Self::Known(ask());
        }
        match self {
            Self::Known(in_use) => in_use,
            Self::Unasked(_) | Self::Asking => unreachable!("it was asked just now"),
        }
    }
}

/// A number that was never given out, or else one that nobody needs any more.
fn take(
    fresh: &mut u32,
    room: usize,
    given: &mut BTreeSet<u32>,
    in_use: impl FnOnce() -> BTreeSet<u32>,
) -> Option<u32> {
    let number = if (*fresh as usize) < room {
        *fresh += 1;
        *fresh - 1
    } else {
        // Asked once: from then on the numbers in use count as given.
        given.extend(in_use());
        (0..room as u32).find(|n| !given.contains(n))?
    };
    given.insert(number);
    Some(number)
}

#[cfg(test)]
mod tests;
