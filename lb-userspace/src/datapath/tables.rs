//! Desired state → map writes, idempotent and in an order that traffic may run through: backends and the new ring
//! first, the service last; what is no longer wanted goes at the end.

use anyhow::{Context, Result};
use lb_common::{
    addr::{Addr, Port},
    maps::{self as names, MAX_BACKENDS, MAX_SERVICES},
    occupancy::ELEMENTS,
    schedule::{self, MAX_MEMBERS, Scheduler},
    service::{Backend, Interface, Path, Service, ServiceKey, Vip},
    settings::Settings,
};

use super::{
    access::{self, Access},
    mapped::Mapped,
    maps::Maps,
    occupancy::Counts,
    pins::Pins,
    ports::Pools,
    ranges,
};

/// What the packet programs shall know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// Run-time settings.
    pub settings: Settings,
    /// Virtual addresses.
    pub vips: Vec<(Addr, Vip)>,
    /// Interfaces that programs are attached to.
    pub interfaces: Vec<(u32, Interface)>,
    /// Backends by index; an index that no backend has, or none any more, has the default.
    pub backends: Vec<Backend>,
    /// The ways to them, by the same index; of a backend without one nothing is known.
    pub paths: Vec<Path>,
    /// Connections that each may have, by the same index; 0, and of those that are missing: any number.
    pub limits: Vec<u32>,
    /// Services by index; likewise ([`DesiredService::is_vacant`]).
    pub services: Vec<DesiredService>,
    /// Who may open connections to them, by the same index; everybody to those that are missing.
    pub access: Vec<Access>,
}

/// A service and the order of its backends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredService {
    /// Virtual address.
    pub addr: Addr,
    /// Port; of a range the first.
    pub port: Port,
    /// Last port of a range.
    pub last: Option<Port>,
    /// IP protocol.
    pub proto: u8,
    /// Its virtual router; [`NO_ROUTER`](lb_common::reach::NO_ROUTER) on an address of the node's own.
    pub router: u32,
    /// Sources that backends of mode `nat` may see, those of each backend's own family; where there is none of it, this node's
    /// own address towards the backend.
    pub snat: Vec<Addr>,
    /// Indices of its backends, those that take no new connections too.
    pub backends: Vec<u32>,
    /// Backend indices in the order of new connections, or as `choice` says; empty refuses them.
    pub ring: Vec<u32>,
    /// How one is chosen.
    pub choice: Choice,
    /// Whether a new owner adopts connections that it does not know.
    pub adopts: bool,
}

/// How a service's backends are chosen. The default goes round the ring and knows no limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// What is made of the ring.
    pub scheduler: Scheduler,
    /// Each backend that takes new connections, with its weight, in the order of priorities. Beyond
    /// [`MAX_MEMBERS`] there are none: nothing compares so many.
    pub members: Vec<(u32, u16)>,
    /// Clients keep to their backend, known by so many bits of their address (of 128), for so long after their last new
    /// connection, s.
    pub persistence: Option<(u8, u32)>,
    /// Connections that the service may have; 0: any number.
    pub max_connections: u32,
}

impl DesiredService {
    /// Whether no service has this index.
    pub fn is_vacant(&self) -> bool {
        self.proto == 0
    }

    fn has_ring_of(&self, other: &Self) -> bool {
        self.ring == other.ring && self.choice.members == other.choice.members
    }
}

/// The rings of all services one after the other from slot `base` on, members behind each, and the services' elements.
pub fn lay_out(services: &[DesiredService], base: u32) -> (Vec<u64>, Vec<Service>) {
    let (mut words, mut elements) = (Vec::new(), Vec::new());
    for (id, s) in (0..).zip(services) {
        let members = if s.choice.members.len() <= MAX_MEMBERS { &s.choice.members[..] } else { &[] };
        let (prefix, persistence) = s.choice.persistence.unwrap_or_default();
        elements.push(Service {
            id,
            router: s.router,
            ring_base: base + words.len() as u32,
            ring_len: s.ring.len() as u32,
            persistence,
            scheduler: s.choice.scheduler as u8,
            members: members.len() as u8,
            prefix,
            adopts: s.adopts.into(),
        });
        words.extend(s.ring.iter().map(|id| schedule::word(*id, 1)));
        words.extend(members.iter().map(|(id, weight)| schedule::word(*id, *weight)));
    }
    (words, elements)
}

impl DesiredService {
    /// The backends that take its new connections: those of the ring, and those that the scheduler compares.
    pub fn takers(&self) -> impl Iterator<Item = u32> + '_ {
        let members = self.choice.members.iter().map(|(id, _)| *id);
        let distinct: std::collections::BTreeSet<u32> = self.ring.iter().copied().chain(members).collect();
        distinct.into_iter()
    }
}

/// Writes what differs.
pub struct Tables {
    maps: Maps,
    pools: Pools,
    rings: Mapped<u64>,
    counts: Counts,
    written: Desired,
    /// Not so before the first time: what the maps hold is unknown.
    access_written: bool,
    /// Elements of the service map, as written.
    services: Vec<(ServiceKey, Service)>,
    /// Whether services use the upper half of the rings.
    upper: bool,
}

impl Tables {
    /// Starts from maps of unknown content: the first `publish` writes everything and clears what is left over.
    pub(super) fn open(maps: Maps, pools: Pools, pins: &Pins) -> Result<Self> {
        let rings: Mapped<u64> = Mapped::open(pins, names::RINGS, maps.rings.len())?;
        // The half that services of a former daemon use is left alone by the first set of rings.
        let upper = |entry: &Result<(ServiceKey, Service), _>| {
            entry.as_ref().is_ok_and(|(_, s)| s.ring_len > 0 && s.ring_base >= rings.len() / 2)
        };
        let upper = maps.services.iter().any(|entry| upper(&entry));
        let counts = Counts::open(pins)?;
        Ok(Self {
            maps,
            pools,
            rings,
            counts,
            written: Desired::default(),
            access_written: false,
            services: Vec::new(),
            upper,
        })
    }

    /// Slots of all rings.
    pub fn ring_slots(&self) -> u32 {
        self.rings.len()
    }

    /// How many pools of source ports there are room for.
    pub fn pools(&self) -> usize {
        self.pools.room()
    }

    /// How many pools flows have ports of, whose backends' addresses `counts`.
    pub fn pools_in_use(&self, counts: impl Fn(Addr) -> bool) -> usize {
        self.pools.in_use_of(counts)
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Makes the maps say `desired`.
    pub fn publish(&mut self, desired: &Desired) -> Result<()> {
        anyhow::ensure!(desired.services.len() <= MAX_SERVICES, "more than {MAX_SERVICES} services");
        anyhow::ensure!(desired.backends.len() <= MAX_BACKENDS, "more than {MAX_BACKENDS} backends");
        self.publish_settings(&desired.settings)?;
        for (ifindex, interface) in desired.interfaces.iter().filter(|i| !self.written.interfaces.contains(i))
        {
            self.maps.interfaces.insert(ifindex, interface, 0).context("map INTERFACES")?;
        }
        for i in 0..desired.backends.len() {
            let path = desired.paths.get(i).copied().unwrap_or_default();
            if self.written.backends.get(i).is_none() || self.written.paths.get(i) != Some(&path) {
                self.maps.paths.set(i as u32, path, 0).context("map PATHS")?;
            }
        }
        for (i, b) in (0..).zip(&desired.backends) {
            // Of one that is gone flows may still be under way.
            if *b != Backend::default() && self.written.backends.get(i as usize) != Some(b) {
                self.maps.backends.set(i, b, 0).context("map BACKENDS")?;
            }
        }
        self.pools.publish(&mut self.maps, desired)?;
        if !self.access_written || self.written.access != desired.access {
            access::publish(&mut self.maps, &desired.access)?;
            self.access_written = true;
        }
        self.publish_limits(desired);
        self.publish_services(&desired.services)?;
        for (addr, vip) in desired.vips.iter().filter(|v| !self.written.vips.contains(v)) {
            self.maps.vips.insert(addr, vip, 0).context("map VIPS")?;
        }
        self.remove_others(desired)?;
        self.written = desired.clone();
        Ok(())
    }

    fn publish_settings(&mut self, wanted: &Settings) -> Result<()> {
        // These belong to the loader, which filled the queue.
        let Settings { slots_ready, places, .. } = self.maps.settings.get(&0, 0).context("map SETTINGS")?;
        let settings = Settings { slots_ready, places, ..*wanted };
        self.maps.settings.set(0, settings, 0).context("map SETTINGS")
    }

    /// Rings are written all together, into the half of the map that no service uses, before any service turns to its new one: no
    /// packet ever finds half a ring, or another service's, whatever a former daemon has left.
    fn publish_services(&mut self, desired: &[DesiredService]) -> Result<()> {
        let half = self.rings.len() / 2;
        let same = self.services.len() == desired.len()
            && desired.iter().zip(&self.written.services).all(|(a, b)| a.has_ring_of(b));
        let upper = self.upper ^ !same;
        let (words, elements) = lay_out(desired, if upper { half } else { 0 });
        anyhow::ensure!(
            words.len() <= half as usize,
            "the rings of all services take {} slots, and the map has {half}",
            words.len()
        );
        if !same {
            for (slot, word) in (elements.first().map_or(0, |s| s.ring_base)..).zip(words) {
                let at = self.rings.element(slot).context("map RINGS")?;
                // SAFETY: a live element; volatile because programs read it.
                unsafe { at.write_volatile(word) };
            }
            // Programs read the services, by system call, after this.
            std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        }
        for (i, (s, element)) in
            desired.iter().zip(&elements).enumerate().filter(|(_, (s, _))| !s.is_vacant())
        {
            if self.services.get(i) != Some(&(key(s), *element)) {
                self.maps.services.insert(key(s), element, 0).context("map SERVICES")?;
            }
            if self.written.services.get(i) != Some(s) {
                ranges::publish(&mut self.maps.ranges, s)?;
            }
        }
        self.services = desired.iter().map(key).zip(elements).collect();
        self.upper = upper;
        Ok(())
    }

    fn publish_limits(&self, desired: &Desired) {
        let backends = desired.limits.iter().copied().chain(std::iter::repeat(0)).take(MAX_BACKENDS);
        let services = desired.services.iter().map(|s| s.choice.max_connections);
        let all = backends.chain(services).chain(std::iter::repeat(0)).take(ELEMENTS);
        (0..).zip(all).for_each(|(element, limit)| self.counts.set_limit(element, limit.into()));
    }

    fn remove_others(&mut self, desired: &Desired) -> Result<()> {
        ranges::remove_others(&mut self.maps.ranges, &desired.services)?;
        let services: Vec<_> = self.maps.services.keys().collect::<Result<_, _>>().context("map SERVICES")?;
        for k in services {
            if !desired.services.iter().any(|s| key(s) == k) {
                self.maps.services.remove(&k).context("map SERVICES")?;
            }
        }
        let vips: Vec<_> = self.maps.vips.keys().collect::<Result<_, _>>().context("map VIPS")?;
        for a in vips {
            if !desired.vips.iter().any(|(addr, _)| *addr == a) {
                self.maps.vips.remove(&a).context("map VIPS")?;
            }
        }
        Ok(())
    }
}

/// Where the service is in the map.
pub fn key(s: &DesiredService) -> ServiceKey {
    match s.last {
        None => ServiceKey::port(s.addr, s.proto, s.port),
        Some(_) => ServiceKey::range(s.addr, s.proto, s.port),
    }
}
