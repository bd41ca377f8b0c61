//! The flow table as replication sees it: records are read where they lie, and other nodes' flows are entered beside this
//! node's own.
//!
//! The control loop alone does this and the collector's work, so that no slot is taken by one and freed by the other. Programs
//! see a flow once its keys are there, and those come after the record.

use std::{
    collections::HashMap,
    os::fd::{AsRawFd, RawFd},
};

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use lb_common::{
    addr::Addr,
    flow::{FORWARD, Flow, FlowKey, FlowRef, REPLICATED, REVERSE, TIMED},
    flow_event::FlowEvent,
    maps as names,
    mode::Mode,
    service::Path,
};

use super::{flows::Collector, maps::Maps, pins::Pins, ports::pool_of};
use crate::{
    sync::{
        directory::{self, Directory},
        table::{Flows, Unfit},
        wire::{FlowId, Record},
    },
    vrrp::BootTime,
};

/// What the packet programs tell of flows. A ring has one reader.
pub struct Events {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

impl Events {
    /// Opens the ring; what was told to a former daemon is thrown away, for the whole table is looked at then.
    pub fn open(pins: &Pins) -> Result<Self> {
        let data = MapData::from_pin(pins.map(names::FLOW_EVENTS)).context("map FLOW_EVENTS")?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).context("map FLOW_EVENTS")?;
        let data = MapData::from_pin(pins.map(names::FLOW_EVENTS_LOST)).context("map FLOW_EVENTS_LOST")?;
        let lost = PerCpuArray::try_from(Map::PerCpuArray(data)).context("map FLOW_EVENTS_LOST")?;
        let mut events = Self { ring, lost };
        while events.next().is_some() {}
        Ok(events)
    }

    /// The slot of a flow that something has happened to.
    #[allow(clippy::should_implement_trait, reason = "what comes next may come later")]
    pub fn next(&mut self) -> Option<u32> {
        loop {
            let item = self.ring.next()?;
            if item.len() == size_of::<FlowEvent>() {
                // SAFETY: the programs write whole events, plain data of any bit pattern.
                return Some(unsafe { item.as_ptr().cast::<FlowEvent>().read_unaligned() }.slot);
            }
        }
    }

    /// Events for which there was no room.
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).map_or(0, |all| all.iter().sum())
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// The kernel's flow table for one turn of the control loop.
pub struct Replica<'a> {
    /// The maps.
    pub maps: &'a mut Maps,
    /// Who frees records.
    pub collector: &'a mut Collector,
    /// This node's services.
    pub directory: &'a Directory,
    /// The time of this turn.
    pub now: BootTime,
    /// What was read of ways to backends in this turn: nobody else changes them meanwhile.
    paths: HashMap<u32, Path>,
    /// Likewise of pools, by backend and source.
    pools: HashMap<(u32, Addr), u16>,
}

const NOEXIST: u64 = 1;

impl<'a> Replica<'a> {
    /// For the turn at `now`.
    pub fn new(
        maps: &'a mut Maps,
        collector: &'a mut Collector,
        directory: &'a Directory,
        now: BootTime,
    ) -> Self {
        Self { maps, collector, directory, now, paths: HashMap::new(), pools: HashMap::new() }
    }

    fn remove_slot(&mut self, slot: u32) {
        // The queue of free slots cannot be full; should the kernel refuse all the same, one slot is lost.
        if let Err(e) = self.collector.take_out(self.maps, slot) {
            tracing::warn!("a replicated flow's slot is lost: {e:#}");
        }
    }

    /// Enters the keys of a filled record; takes them back if one is refused. What is in their way goes if there is a list for it.
    fn enter_keys(&mut self, slot: u32, flow: &Flow, mut displaced: Option<&mut Vec<u32>>) -> bool {
        let to = |direction| FlowRef { slot, generation: flow.generation, direction, pad: 0 };
        let (forward, reverse) = (flow.forward_key(), flow.reverse_key());
        let two_ways = !flow.mode().is_one_way();
        if two_ways && !self.enter_key(reverse, to(REVERSE), displaced.as_deref_mut()) {
            return false;
        }
        let entered = self.enter_key(forward, to(FORWARD), displaced);
        if !entered && two_ways {
            let _ = self.maps.flow_keys.remove(&reverse);
        }
        entered
    }

    /// Enters a key. Only if the kernel says that it is there already, what has it is looked for, and goes: a system call each is
    /// most of what a flow costs here, and of hundreds of thousands few are in another's way.
    fn enter_key(&mut self, key: FlowKey, to: FlowRef, displaced: Option<&mut Vec<u32>>) -> bool {
        if self.maps.flow_keys.insert(key, to, NOEXIST).is_ok() {
            return true;
        }
        let Some(displaced) = displaced else { return false };
        if let Ok(there) = self.maps.flow_keys.get(&key, 0)
            && self.read(there.slot).generation == there.generation
        {
            self.remove_slot(there.slot);
            displaced.push(there.slot);
        }
        let _ = self.maps.flow_keys.remove(&key);
        self.maps.flow_keys.insert(key, to, NOEXIST).is_ok()
    }

    /// The way to a backend.
    fn path(&mut self, backend: u32) -> Path {
        let maps = &self.maps;
        *self.paths.entry(backend).or_insert_with(|| maps.paths.get(&backend, 0).unwrap_or_default())
    }

    /// The pool of a backend's flow with this source.
    fn pool(&mut self, backend: u32, source: Addr) -> u16 {
        let maps = &self.maps;
        *self.pools.entry((backend, source)).or_insert_with(|| pool_of(maps, backend, source))
    }

    /// Enters a flow; what is in its way goes if there is a list for it, else that is [`Unfit::Failed`].
    fn enter(&mut self, record: &Record, displaced: Option<&mut Vec<u32>>) -> Result<u32, Unfit> {
        let place = self.directory.place(record)?;
        let path = self.path(place.backend);
        let half_open = record.is_half_open();
        let (slot, index) = if half_open {
            self.collector.take_place(self.maps).ok_or(Unfit::Full)?
        } else {
            (self.maps.free_slots.pop(0).map_err(|_| Unfit::Full)?, 0)
        };
        let generation = self.read(slot).generation.wrapping_add(1);
        let mut flow = directory::fill(record, &place, &path, generation, self.now.0);
        if flow.mode() == Mode::Nat {
            flow.pool = self.pool(place.backend, flow.snat);
        }
        flow.place = index;
        self.collector.fill(slot, &flow);
        let entered = self.enter_keys(slot, &flow, displaced);
        if entered {
            // Whoever claims it meanwhile finds the key, and passes on.
            self.collector.take_port(&flow);
        } else {
            self.collector.fill(slot, &Flow { generation, ..Flow::default() });
        }
        if half_open {
            self.collector.give_place_back(index, slot, generation);
        }
        if entered {
            return Ok(slot);
        }
        if !half_open && self.maps.free_slots.push(slot, 0).is_err() {
            tracing::warn!("the queue of free slots takes none back: one is lost");
        }
        Err(Unfit::Failed)
    }
}

impl Flows for Replica<'_> {
    fn read(&self, slot: u32) -> Flow {
        if slot < self.collector.records() { self.collector.record(slot) } else { Flow::default() }
    }

    fn find(&self, id: &FlowId) -> Option<u32> {
        let key = FlowKey {
            src: id.client,
            dst: id.vip,
            sport: id.client_port,
            dport: id.vip_port,
            proto: id.proto,
            pad: [0; 3],
        };
        let to = self.maps.flow_keys.get(&key, 0).ok()?;
        (self.read(to.slot).generation == to.generation).then_some(to.slot)
    }

    fn has_way(&self, record: &Record) -> bool {
        let Ok(place) = self.directory.place(record) else { return false };
        let flow = directory::fill(record, &place, &Path::default(), 0, self.now.0);
        let free = |key: FlowKey| self.maps.flow_keys.get(&key, 0).is_err();
        free(flow.forward_key()) && (flow.mode().is_one_way() || free(flow.reverse_key()))
    }

    fn insert(&mut self, record: &Record, displaced: &mut Vec<u32>) -> Result<u32, Unfit> {
        self.enter(record, Some(displaced))
    }

    fn insert_unknown(&mut self, record: &Record) -> Option<Result<u32, Unfit>> {
        match self.enter(record, None) {
            Err(Unfit::Failed) => None,
            entered => Some(entered),
        }
    }

    fn update(&mut self, slot: u32, record: &Record) {
        let old = self.read(slot);
        self.collector.renew(
            slot,
            &Flow {
                seen: directory::seen(record, self.now.0),
                client_next: record.client_next,
                backend_next: record.backend_next,
                flags: record.fins | TIMED | REPLICATED,
                stage: record.stage as u8,
                ..old
            },
        );
    }

    fn promote(&mut self, slot: u32) -> Result<(), Unfit> {
        self.collector.promote(self.maps, slot).ok_or(Unfit::Full)
    }

    fn remove(&mut self, slot: u32) {
        self.remove_slot(slot);
    }
}
