//! Pools of source ports: which there are, and their words in this process's memory.
//!
//! `tables` has pools assigned before it publishes a service, the collector gives ports of ended flows back. A pool belongs to
//! its key (source, backend, port, protocol) for as long as a flow has a port of it, whatever number the backend has by now: a
//! flow's record names its pool, and a daemon that adopts the maps reads the keys out of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use anyhow::{Context, Result, bail};
use lb_common::{
    addr::{Addr, Port},
    flow::{Flow, Stage},
    maps as names,
    mode::Mode,
    ports::{self, MAX_SOURCES, PoolKey, PortBits, Sources, WORDS, Words},
    service::Backend,
    settings::SnatPorts,
};

use super::{mapped::Mapped, maps::Maps, pins::Pins, tables::Desired};

/// The words of all pools.
pub(super) struct Bits(Mapped<PortBits>);

/// Those of one.
struct PoolWords(*mut u64);

impl Words for PoolWords {
    fn load(&self, i: u32) -> u64 {
        self.word(i).load(SeqCst)
    }

    fn set(&self, i: u32, bits: u64) -> u64 {
        self.word(i).fetch_or(bits, SeqCst)
    }

    fn clear(&self, i: u32, bits: u64) -> u64 {
        self.word(i).fetch_and(!bits, SeqCst)
    }
}

impl PoolWords {
    fn word(&self, i: u32) -> &AtomicU64 {
        assert!((i as usize) < WORDS);
        // SAFETY: an aligned word of a live element, which everybody changes by atomic operations only.
        unsafe { AtomicU64::from_ptr(self.0.add(i as usize)) }
    }
}

impl Bits {
    /// Maps the pools' words into memory.
    pub(super) fn open(pins: &Pins, pools: u32) -> Result<Self> {
        Ok(Self(Mapped::open(pins, names::PORTS, pools)?))
    }

    fn pool(&self, pool: u32) -> Option<PoolWords> {
        self.0.element(pool).map(|bits| PoolWords(bits.cast()))
    }

    /// Marks the port of a flow as taken that another node has given it.
    pub(super) fn take(&self, flow: &Flow) {
        if let Some(pool) = self.pool(flow.pool.into()).filter(|_| flow.pool != 0) {
            ports::take(&pool, flow.snat_port.number());
        }
    }

    /// Takes a port of a pool, beginning where the hash says.
    pub(super) fn claim(&self, pool: u16, range: &SnatPorts, hash: u32) -> Option<u16> {
        let n = range.len();
        let words = self.pool(pool.into()).filter(|_| n != 0)?;
        ports::claim(&words, range.nth(hash % n).number())
    }

    /// Gives the port of a flow back whose reverse key the caller has removed.
    pub(super) fn release(&self, range: &SnatPorts, flow: &Flow) {
        let port = flow.snat_port.number();
        if flow.pool != 0
            && range.contains(port)
            && let Some(pool) = self.pool(flow.pool.into())
        {
            ports::release(&pool, port);
        }
    }
}

/// Assigns pools to backends.
pub(super) struct Pools {
    pins: Pins,
    records: u32,
    bits: Bits,
    /// Of each pool; the first is nobody's.
    keys: Vec<PoolKey>,
    /// What each backend's flows may take ports from.
    of: BTreeMap<u32, Vec<PoolKey>>,
    /// As `of` said before it last changed: programs that are under way may still have it so.
    before: BTreeSet<PoolKey>,
    range: Option<SnatPorts>,
}

impl Pools {
    /// Reads which pools there are.
    pub(super) fn open(pins: &Pins, maps: &Maps) -> Result<Self> {
        let keys = maps.port_pools.iter().collect::<Result<Vec<_>, _>>().context("map PORT_POOLS")?;
        Ok(Self {
            pins: pins.clone(),
            records: maps.flows.len(),
            bits: Bits::open(pins, maps.port_pools.len())?,
            keys,
            of: BTreeMap::new(),
            before: BTreeSet::new(),
            range: None,
        })
    }

    /// Pools that there may be.
    pub(super) fn room(&self) -> usize {
        self.keys.len() - 1
    }

    /// Pools that cannot be another's yet, of backends whose address `counts`.
    pub(super) fn in_use_of(&self, counts: impl Fn(Addr) -> bool) -> usize {
        let Some(range) = &self.range else { return 0 };
        let busy = |i: usize| self.bits.pool(i as u32).is_some_and(|pool| ports::free(&pool) != range.len());
        let used = |(i, k): &(usize, &PoolKey)| {
            k.proto != 0 && counts(k.backend) && (self.before.contains(k) || busy(*i))
        };
        self.keys.iter().enumerate().skip(1).filter(used).count()
    }

    /// Gives each backend that takes new flows its pools.
    pub(super) fn publish(&mut self, maps: &mut Maps, desired: &Desired) -> Result<()> {
        let range = desired.settings.snat_ports;
        if self.range != Some(range) {
            self.renew(&range)?;
            self.range = Some(range);
        }
        // Whoever is gone needs none; those that its flows have are kept by their ports.
        let gone = |id: u32| desired.backends.get(id as usize).is_none_or(|b| *b == Backend::default());
        let left: Vec<_> = self.of.extract_if(.., |id, _| gone(*id)).flat_map(|(_, keys)| keys).collect();
        let wanted = wanted(desired);
        let changed: Vec<_> = wanted.into_iter().filter(|(id, keys)| self.of.get(id) != Some(keys)).collect();
        if changed.is_empty() {
            self.before.extend(left);
            return Ok(());
        }
        self.before = self.of.values().flatten().copied().chain(left).collect();
        self.of.extend(changed.iter().cloned());
        for (id, keys) in changed {
            let mut sources = Sources { count: keys.len() as u32, ..Sources::default() };
            for (place, key) in sources.pools.iter_mut().zip(keys) {
                *place = self.pool(maps, key, &range)?;
            }
            maps.sources.set(id, sources, 0).context("map SOURCES")?;
        }
        Ok(())
    }

    /// The pool of a key, a new one if it has none.
    fn pool(&mut self, maps: &mut Maps, key: PoolKey, range: &SnatPorts) -> Result<u16> {
        if let Some(i) = self.keys.iter().position(|k| *k == key) {
            return Ok(i as u16);
        }
        let needed: BTreeSet<_> = self.of.values().flatten().chain(&self.before).copied().collect();
        let unused = |i: usize| {
            let k = self.keys[i];
            k.proto == 0
                || !needed.contains(&k)
                    && self.bits.pool(i as u32).is_some_and(|pool| ports::free(&pool) == range.len())
        };
        let Some(i) = (1..self.keys.len()).find(|i| unused(*i)) else {
            bail!(
                "all {} pools of source ports are in use, and there are more sources and backends now: stop viplb properly \
                 (SIGTERM) and start it again",
                self.keys.len() - 1
            );
        };
        let pool = self.bits.pool(i as u32).context("map PORTS")?;
        ports::renew(&pool, range, &[0; 1024]);
        maps.port_pools.set(i as u32, key, 0).context("map PORT_POOLS")?;
        self.keys[i] = key;
        Ok(i as u16)
    }

    /// Makes the pools agree with the range and with the flows that there are: another daemon may have had another range, or died
    /// before it gave a port back.
    fn renew(&self, range: &SnatPorts) -> Result<()> {
        let in_use = self.in_use()?;
        for (i, _) in self.keys.iter().enumerate().filter(|(_, k)| k.proto != 0) {
            let pool = self.bits.pool(i as u32).context("map PORTS")?;
            ports::renew(&pool, range, in_use.get(&(i as u16)).map_or(&[0; 1024], |used| used));
        }
        Ok(())
    }

    /// The ports of each pool that flows have.
    fn in_use(&self) -> Result<HashMap<u16, Box<[u64; 1024]>>> {
        let mut in_use = HashMap::new();
        if self.keys.iter().all(|k| k.proto == 0) {
            return Ok(in_use);
        }
        let records = Mapped::<Flow>::open(&self.pins, names::FLOWS, self.records)?;
        for slot in 0..records.len() {
            let p = records.element(slot).expect("slots are walked up to their number");
            // SAFETY: a live element; volatile because programs write it.
            let flow = unsafe { p.read_volatile() };
            if flow.pool != 0 && flow.stage() != Stage::Free {
                let port = flow.snat_port.number();
                let bits = in_use.entry(flow.pool).or_insert_with(|| Box::new([0; 1024]));
                bits[usize::from(port >> 6)] |= 1 << (port & 63);
            }
        }
        Ok(in_use)
    }
}

/// Whose ports each backend that takes new flows needs. Where a backend is reached at any of its ports, ports of its own would
/// not keep apart what meets at one of them: all its services take from the same pool then.
fn wanted(desired: &Desired) -> BTreeMap<u32, Vec<PoolKey>> {
    let mut wanted: BTreeMap<u32, Vec<PoolKey>> = BTreeMap::new();
    for s in &desired.services {
        for id in s.takers() {
            let Some(b) = desired.backends.get(id as usize).filter(|b| b.mode() == Mode::Nat) else {
                continue;
            };
            let key = |source| PoolKey { source, backend: b.addr, port: b.port, proto: s.proto, pad: [0; 5] };
            let own = desired.paths.get(id as usize).map(|path| path.source);
            let fits = |a: &Addr| *a != Addr::default() && a.is_v4() == b.addr.is_v4();
            let mut sources: Vec<_> = s.snat.iter().copied().filter(fits).collect();
            if sources.is_empty() {
                sources.extend(own.filter(fits));
            }
            wanted.entry(id).or_default().extend(sources.into_iter().map(key));
        }
    }
    let all_ports = |k: &PoolKey| PoolKey { port: Port::default(), ..*k };
    let anywhere: BTreeSet<_> =
        wanted.values().flatten().filter(|k| k.port == Port::default()).copied().collect();
    for keys in wanted.values_mut() {
        for key in keys.iter_mut().filter(|k| anywhere.contains(&all_ports(k))) {
            *key = all_ports(key);
        }
        let mut seen = BTreeSet::new();
        keys.retain(|k| seen.insert(*k));
        keys.truncate(MAX_SOURCES);
    }
    wanted
}

/// The pool that a backend's flow with this source has its port of; 0: none.
pub(super) fn pool_of(maps: &Maps, backend: u32, source: Addr) -> u16 {
    let Ok(sources) = maps.sources.get(&backend, 0) else { return 0 };
    let has = |pool: &u16| maps.port_pools.get(&u32::from(*pool), 0).is_ok_and(|key| key.source == source);
    sources.pools.into_iter().take(sources.count as usize).find(has).unwrap_or(0)
}

/// Free ports of a backend's sources, added up; none of a backend that has no pool.
pub fn free_ports(maps: &Maps, backend: u32) -> Result<u64> {
    let sources = maps.sources.get(&backend, 0).context("map SOURCES")?;
    let mut sum = 0;
    for pool in sources.pools.iter().take(sources.count as usize) {
        let bits = maps.ports.get(&u32::from(*pool), 0).context("map PORTS")?;
        sum += bits.words[WORDS - 1024..].iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
    }
    Ok(sum)
}
