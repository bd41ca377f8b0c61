//! The collector: frees flows that have been silent for longer than their stage allows, a slice of the table at a time,
//! and counts those in use on the way.
//!
//! Keys are removed before the record is freed, so that no key ever leads to another flow's record; a packet that comes
//! in between opens a new flow or is refused, like any packet of a flow that has timed out.

pub mod half_open;
pub mod moving;

use std::{
    collections::BTreeSet,
    sync::atomic::{Ordering, fence},
};

use anyhow::{Context, Result};
use lb_common::{
    flow::{Flow, Stage},
    maps as names,
    opening::Opening,
    settings::SnatPorts,
};

use crate::{config::model::Timeouts, control::numbers::InUse};

use super::{
    mapped::Mapped, maps::Maps, occupancy::Counts, pins::Pins, ports::Bits, renumber, renumber::Owners,
    tables::Desired,
};

/// Who looks on while the collector goes through the table.
pub trait Witness {
    /// Whether a flow that has expired stays: another node says when it ends.
    fn keeps(&mut self, slot: u32, flow: &Flow) -> bool;
    /// The slot held this flow and is free now.
    fn freed(&mut self, slot: u32, flow: &Flow);
    /// The slot holds a flow.
    fn used(&mut self, slot: u32);
}

/// Nobody.
impl Witness for () {
    fn keeps(&mut self, _: u32, _: &Flow) -> bool {
        false
    }

    fn freed(&mut self, _: u32, _: &Flow) {}

    fn used(&mut self, _: u32) {}
}

/// Flows of a node.
pub struct Collector {
    records: Records,
    openings: Mapped<Opening>,
    places: Mapped<u64>,
    counts: Counts,
    ports: Bits,
    /// Those that may be given out.
    range: SnatPorts,
    capacity: u32,
    next: u32,
    used_in_pass: u64,
    used: u64,
    /// By service index; others have the defaults.
    timeouts: Vec<Timeouts>,
    /// Virtual routers, by number, that this node has left: no flow of theirs is its own any more.
    left: BTreeSet<u32>,
}

impl Collector {
    /// Maps the records, and the words of so many pools of ports, into memory.
    pub fn open(pins: &Pins, capacity: u32, places: u32, pools: u32) -> Result<Self> {
        Ok(Self {
            records: Records(Mapped::open(pins, names::FLOWS, capacity + places)?),
            openings: Mapped::open(pins, names::OPENINGS, capacity + places)?,
            places: Mapped::open(pins, names::HALF_OPEN, places + 1)?,
            counts: Counts::open(pins)?,
            ports: Bits::open(pins, pools)?,
            range: SnatPorts::default(),
            capacity,
            next: 0,
            used_in_pass: 0,
            used: 0,
            timeouts: Vec::new(),
            left: BTreeSet::new(),
        })
    }

    /// Says how long flows of these services, by index, may be silent; those of others as before.
    pub fn change_timeouts(&mut self, of: impl IntoIterator<Item = (u32, Timeouts)>) {
        for (service, timeouts) in of {
            let service = service as usize;
            if self.timeouts.len() <= service {
                self.timeouts.resize(service + 1, Timeouts::default());
            }
            self.timeouts[service] = timeouts;
        }
    }

    /// Flows of these virtual routers, by number, are forgotten from now on, without a word to their ends: another node may have them.
    pub fn leave(&mut self, routers: impl IntoIterator<Item = u32>) {
        self.left.extend(routers);
    }

    /// These virtual routers are this node's again, or for the first time.
    pub fn join(&mut self, routers: &[u32]) {
        self.left.retain(|router| !routers.contains(router));
    }

    /// The numbers of services, backends and virtual routers that flows have.
    pub fn numbers_in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        for slot in 0..self.records.capacity() {
            let flow = self.records.read(slot);
            if flow.stage() != Stage::Free {
                in_use.services.insert(flow.service);
                in_use.backends.insert(flow.backend_id);
                in_use.routers.insert(flow.router);
            }
        }
        in_use
    }

    /// Says how long flows of each service may be silent.
    pub fn set_timeouts(&mut self, timeouts: Vec<Timeouts>) {
        self.timeouts = timeouts;
    }

    /// Room for established flows.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Records, those for half-open flows among them.
    pub fn records(&self) -> u32 {
        self.records.capacity()
    }

    /// Flows in use at the last whole pass.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Connections that a backend has.
    pub fn connections(&self, backend: u32) -> u64 {
        self.counts.of(backend)
    }

    /// Puts the counts of connections right that a killed daemon has left; gives how many were wrong.
    pub fn recount(&self) -> usize {
        self.counts.recount(|| self.records.all())
    }

    /// Has every flow count for the service and the backend that it belongs to in `desired`, whatever numbers they had in the file of
    /// the daemon under which it was opened; a flow whose service or backend is gone counts for nobody any more. Gives how many flows
    /// had other numbers. To be called while no service takes new connections.
    pub fn renumber(&self, desired: &Desired) -> usize {
        let mut moved = 0;
        for slot in 0..self.records.capacity() {
            let flow = self.records.read(slot);
            if flow.stage() == Stage::Free {
                continue;
            }
            let found = renumber::of(&flow, desired);
            let was = Owners { service: flow.service, backend: flow.backend_id, router: flow.router };
            if found == Some(was) {
                continue;
            }
            moved += 1;
            let record = self.records.at(slot);
            // SAFETY: records are freed by this thread alone, and without new connections no slot of a place is used again.
            let counted = unsafe { self.counts.release(record) };
            if let Some(owners) = found {
                self.records.set_owners(slot, owners);
                // SAFETY: likewise.
                unsafe { self.counts.restore(record, counted) };
            }
        }
        moved
    }

    /// Looks at the next `slots` records and frees the expired ones; gives how many it freed.
    pub fn sweep(&mut self, maps: &mut Maps, now: u64, slots: u32) -> Result<u32> {
        self.sweep_seen(maps, now, slots, &mut ())
    }

    /// Likewise, before the eyes of who wants to know.
    pub fn sweep_seen(
        &mut self,
        maps: &mut Maps,
        now: u64,
        slots: u32,
        witness: &mut impl Witness,
    ) -> Result<u32> {
        let mut freed = 0;
        self.read_range(maps)?;
        for _ in 0..slots.min(self.records.capacity()) {
            let flow = self.records.read(self.next);
            if flow.stage() != Stage::Free {
                if self.is_expired(&flow, now) && !witness.keeps(self.next, &flow) {
                    if self.free(maps, self.next, &flow)? {
                        freed += 1;
                        witness.freed(self.next, &flow);
                    }
                } else {
                    self.used_in_pass += 1;
                    witness.used(self.next);
                }
            }
            self.next += 1;
            if self.next == self.records.capacity() {
                self.finish_pass();
            }
        }
        Ok(freed)
    }

    fn is_expired(&self, flow: &Flow, now: u64) -> bool {
        if self.left.contains(&flow.router) {
            return true;
        }
        let timeouts = self.timeouts.get(flow.service as usize).copied().unwrap_or_default();
        u128::from(now.saturating_sub(flow.seen)) > timeouts.of(flow.stage()).as_nanos()
    }

    fn finish_pass(&mut self) {
        self.next = 0;
        let records = &self.records;
        self.counts.follow_limits(|| records.all());
        self.used = std::mem::take(&mut self.used_in_pass);
    }

    /// A copy of the record in a slot.
    pub fn record(&self, slot: u32) -> Flow {
        self.records.read(slot)
    }

    /// Fills the record in a slot that is the caller's: nothing leads to it yet.
    pub(super) fn fill(&mut self, slot: u32, flow: &Flow) {
        self.release(slot);
        self.records.write(slot, flow);
        // SAFETY: the slot is the caller's.
        unsafe { self.counts.restore(self.records.at(slot), flow.stage() != Stage::Free) };
    }

    /// Changes what of a record may change without its keys: see [`Records::renew`].
    pub(super) fn renew(&mut self, slot: u32, flow: &Flow) {
        self.records.renew(slot, flow);
        if flow.has_ended() {
            self.release(slot);
        }
    }

    /// The source port of a flow whose keys have just been entered is taken.
    pub(super) fn take_port(&self, flow: &Flow) {
        self.ports.take(flow);
    }

    /// Takes a flow out, expired or not.
    pub(super) fn take_out(&mut self, maps: &mut Maps, slot: u32) -> Result<()> {
        if let Some(flow) = self.flow(slot) {
            self.end(maps, slot, &flow)?;
        }
        Ok(())
    }

    fn free(&self, maps: &mut Maps, slot: u32, flow: &Flow) -> Result<bool> {
        if flow.place != 0 {
            return Ok(self.empty_place(maps, slot, flow));
        }
        // Looked at again before the keys go, not after: a record without keys would stay for as long as its stage allows.
        Ok(self.records.is_unchanged(slot, flow) && self.end_now(maps, slot, flow)?)
    }

    /// The flow in a slot, if there is one.
    pub fn flow(&self, slot: u32) -> Option<Flow> {
        (slot < self.records()).then(|| self.records.read(slot)).filter(|flow| flow.stage() != Stage::Free)
    }

    /// Ends a flow, whatever passes through it: from now on its packets belong to no flow. `false` if it has ended by itself.
    pub fn end(&mut self, maps: &mut Maps, slot: u32, flow: &Flow) -> Result<bool> {
        // There may have been no sweep yet.
        self.read_range(maps)?;
        self.end_now(maps, slot, flow)
    }

    fn read_range(&mut self, maps: &Maps) -> Result<()> {
        self.range = maps.settings.get(&0, 0).context("map SETTINGS")?.snat_ports;
        Ok(())
    }

    fn end_now(&self, maps: &mut Maps, slot: u32, flow: &Flow) -> Result<bool> {
        if flow.place != 0 {
            return Ok(self.empty_place(maps, slot, flow));
        }
        self.unlink(maps, slot, flow);
        let freed = self.records.free_if(slot, flow);
        if freed {
            self.release(slot);
            maps.free_slots.push(slot, 0).context("map FREE_SLOTS")?;
        }
        Ok(freed)
    }

    /// Takes a flow that has ended off the counts.
    fn release(&self, slot: u32) {
        // SAFETY: the slot is its flow's, its place's, which is taken, or not yet in the queue: nobody gives it to another flow.
        unsafe { self.counts.release(self.records.at(slot)) };
    }

    /// What the end of a flow undoes but for its counts, as the programs do it (`lb-ebpf/src/ending.rs`): whoever removes a key
    /// undoes what goes with it.
    fn unlink(&self, maps: &mut Maps, slot: u32, flow: &Flow) {
        let mut remove = |key| {
            // The key may lead to a newer connection of the same client port by now.
            let ours =
                maps.flow_keys.get(&key, 0).is_ok_and(|r| r.slot == slot && r.generation == flow.generation);
            ours && maps.flow_keys.remove(&key).is_ok()
        };
        remove(flow.forward_key());
        if remove(flow.reverse_key()) {
            self.ports.release(&self.range, flow);
        }
    }
}

/// The record array, mapped into memory: a pass reads it without a system call per record.
struct Records(Mapped<Flow>);

impl Records {
    fn capacity(&self) -> u32 {
        self.0.len()
    }

    fn all(&self) -> Vec<Flow> {
        (0..self.capacity()).map(|slot| self.read(slot)).collect()
    }

    fn at(&self, slot: u32) -> *mut Flow {
        self.0.element(slot).expect("slots are walked up to the capacity")
    }

    fn read(&self, slot: u32) -> Flow {
        // SAFETY: a live element; volatile because programs write it. It may be torn, which `free_if` tolerates.
        unsafe { self.at(slot).read_volatile() }
    }

    /// The stage is what makes it a flow, so it comes last.
    fn write(&self, slot: u32, flow: &Flow) {
        let p = self.at(slot);
        // SAFETY: a live element that no key leads to; volatile because programs read it afterwards.
        unsafe {
            p.write_volatile(Flow { stage: Stage::Free as u8, ..*flow });
            fence(Ordering::Release);
            (&raw mut (*p).stage).write_volatile(flow.stage);
        }
    }

    /// Stage, ends, times and sequence numbers; each is a word of its own.
    fn renew(&self, slot: u32, flow: &Flow) {
        let p = self.at(slot);
        // SAFETY: a live element; programs may write the same words, and whoever is last is not wrong.
        unsafe {
            (&raw mut (*p).seen).write_volatile(flow.seen);
            (&raw mut (*p).client_next).write_volatile(flow.client_next);
            (&raw mut (*p).backend_next).write_volatile(flow.backend_next);
            (&raw mut (*p).flags).write_volatile(flow.flags);
            (&raw mut (*p).stage).write_volatile(flow.stage);
        }
    }

    /// Whether no packet has come since.
    fn is_unchanged(&self, slot: u32, was: &Flow) -> bool {
        // SAFETY: a live element; `seen` is a single word.
        unsafe { (&raw const (*self.at(slot)).seen).read_volatile() == was.seen }
    }

    /// Who a flow's backend is, and how it is reached. Programs read none of it while the flow is held.
    fn give(&self, slot: u32, flow: &Flow) {
        let p = self.at(slot);
        // SAFETY: a live element; each is a field of its own.
        unsafe {
            (&raw mut (*p).backend).write_volatile(flow.backend);
            (&raw mut (*p).snat).write_volatile(flow.snat);
            (&raw mut (*p).backend_port).write_volatile(flow.backend_port);
            (&raw mut (*p).snat_port).write_volatile(flow.snat_port);
            (&raw mut (*p).pool).write_volatile(flow.pool);
            (&raw mut (*p).backend_id).write_volatile(flow.backend_id);
            (&raw mut (*p).backend_if).write_volatile(flow.backend_if);
            (&raw mut (*p).addr_delta).write_volatile(flow.addr_delta);
            (&raw mut (*p).port_delta).write_volatile(flow.port_delta);
        }
    }

    fn set_owners(&self, slot: u32, Owners { service, backend, router }: Owners) {
        let p = self.at(slot);
        // SAFETY: a live element; each is a single word, which programs only read.
        unsafe {
            (&raw mut (*p).service).write_volatile(service);
            (&raw mut (*p).backend_id).write_volatile(backend);
            (&raw mut (*p).router).write_volatile(router);
        }
    }

    /// Marks the slot free unless another flow has it by now.
    fn free_if(&self, slot: u32, was: &Flow) -> bool {
        let p = self.at(slot);
        // SAFETY: a live element; `stage` and `generation` are single words.
        unsafe {
            let generation = (&raw const (*p).generation).read_volatile();
            let stage = (&raw const (*p).stage).read_volatile();
            if generation != was.generation || stage == Stage::Free as u8 {
                return false;
            }
            (&raw mut (*p).stage).write_volatile(Stage::Free as u8);
        }
        true
    }
}
