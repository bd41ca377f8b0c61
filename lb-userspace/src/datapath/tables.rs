//! Desired state → map writes, idempotent and in an order that traffic may run through: backends and the new ring
//! first, the service last; what is no longer wanted goes at the end.

use anyhow::{Context, Result};
use lb_common::{
    addr::{Addr, Port},
    maps::{MAX_BACKENDS, MAX_SERVICES, RING_SLOTS},
    service::{Backend, Interface, Path, Service, ServiceKey, Vip},
    settings::Settings,
};

use super::{
    access::{self, Access},
    maps::Maps,
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
    /// Backends by index.
    pub backends: Vec<Backend>,
    /// The ways to them, by the same index; of a backend without one nothing is known.
    pub paths: Vec<Path>,
    /// Services by index.
    pub services: Vec<DesiredService>,
    /// Who may open connections to them, by the same index; everybody to those that are missing.
    pub access: Vec<Access>,
}

/// A service and the order of its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Backend indices in the order of new connections; empty refuses them.
    pub ring: Vec<u32>,
}

impl DesiredService {
    /// The backends that take its new connections.
    pub fn backends(&self) -> impl Iterator<Item = u32> + '_ {
        let distinct: std::collections::BTreeSet<u32> = self.ring.iter().copied().collect();
        distinct.into_iter()
    }
}

/// Writes what differs.
pub struct Tables {
    maps: Maps,
    pools: Pools,
    written: Desired,
    /// Not so before the first time: what the maps hold is unknown.
    access_written: bool,
    /// Which of its two ring areas each service uses.
    area: Vec<bool>,
}

impl Tables {
    /// Starts from maps of unknown content: the first `publish` writes everything and clears what is left over.
    pub(super) fn new(maps: Maps, pools: Pools) -> Self {
        Self {
            maps,
            pools,
            written: Desired::default(),
            access_written: false,
            area: vec![false; MAX_SERVICES],
        }
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
        for (ifindex, interface) in &desired.interfaces {
            self.maps.interfaces.insert(ifindex, interface, 0).context("map INTERFACES")?;
        }
        for i in 0..desired.backends.len() {
            let path = desired.paths.get(i).copied().unwrap_or_default();
            if self.written.backends.get(i).is_none() || self.written.paths.get(i) != Some(&path) {
                self.maps.paths.set(i as u32, path, 0).context("map PATHS")?;
            }
        }
        for (i, b) in (0..).zip(&desired.backends) {
            if self.written.backends.get(i as usize) != Some(b) {
                self.maps.backends.set(i, b, 0).context("map BACKENDS")?;
            }
        }
        self.pools.publish(&mut self.maps, desired)?;
        if !self.access_written || self.written.access != desired.access {
            access::publish(&mut self.maps, &desired.access)?;
            self.access_written = true;
        }
        for (i, s) in desired.services.iter().enumerate() {
            if self.written.services.get(i) != Some(s) {
                self.publish_service(i, s)?;
            }
        }
        for (addr, vip) in &desired.vips {
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

    fn publish_service(&mut self, index: usize, s: &DesiredService) -> Result<()> {
        let same_ring = self.written.services.get(index).is_some_and(|w| w.ring == s.ring);
        let flip = self.area[index] ^ !same_ring;
        let ring_base = ((index * 2 + usize::from(flip)) * RING_SLOTS) as u32;
        for (slot, backend) in (ring_base..).zip(&s.ring) {
            self.maps.rings.set(slot, backend, 0).context("map RINGS")?;
        }
        let value = Service { id: index as u32, router: s.router, ring_base, ring_len: s.ring.len() as u32 };
        self.maps.services.insert(key(s), value, 0).context("map SERVICES")?;
        ranges::publish(&mut self.maps.ranges, s)?;
        self.area[index] = flip;
        Ok(())
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
