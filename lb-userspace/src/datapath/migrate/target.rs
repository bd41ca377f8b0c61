//! The maps of this release's layout that flows are brought over to.

use std::{
    sync::atomic::{AtomicU64, Ordering, fence},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result};
use aya::maps::MapError;
use lb_common::{
    addr::PROTO_TCP,
    flow::{FIN_BACKEND, FIN_CLIENT, FORWARD, Flow, FlowKey, FlowRef, REVERSE, Stage},
    half_open::{self, TAKEN, place},
    maps as names,
    opening::Opening,
};

use super::{
    super::{bytes::NOEXIST, mapped::Mapped, maps::Maps, occupancy::Counts, pins::Pins},
    flows::Moved,
};

/// The maps of this release's layout.
pub(super) struct Target {
    maps: Maps,
    flows: Mapped<Flow>,
    openings: Mapped<Opening>,
    places: Mapped<u64>,
    counts: Counts,
    next_place: u32,
}

/// A slot of theirs that nobody else has.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) slot: u32,
    /// The place that it belongs to, 0: none.
    pub(super) place: u16,
}

impl Target {
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let maps = Maps::open(pins)?;
        Ok(Self {
            flows: Mapped::open(pins, names::FLOWS, maps.flows.len())?,
            openings: Mapped::open(pins, names::OPENINGS, maps.flows.len())?,
            places: Mapped::open(pins, names::HALF_OPEN, maps.half_open.len())?,
            maps,
            counts: Counts::open(pins)?,
            next_place: 0,
        })
    }

    pub(super) fn record(&self, slot: u32) -> *mut Flow {
        self.flows.element(slot).expect("slots are below the capacity")
    }

    pub(super) fn stage(&self, slot: u32) -> Stage {
        // SAFETY: a live element; a byte.
        Stage::from_u8(unsafe { (&raw const (*self.record(slot)).stage).read_volatile() })
    }

    pub(super) fn place(&self, index: u32) -> &AtomicU64 {
        let at = self.places.element(index).expect("a place");
        // SAFETY: a live element of eight aligned bytes, which everybody accesses as an atomic.
        unsafe { AtomicU64::from_ptr(at) }
    }

    /// Room for a flow, half-open or not; none if the table is full.
    pub(super) fn room(&mut self, half_open: bool) -> Option<Room> {
        if !half_open {
            return self.maps.free_slots.pop(0).ok().map(|slot| Room { slot, place: 0 });
        }
        let places = self.places.len() - 1;
        for _ in 0..places {
            self.next_place = self.next_place % places + 1;
            let word = self.place(self.next_place);
            let held = word.load(Ordering::Acquire);
            let taken = held != TAKEN
                && word.compare_exchange(held, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if !taken {
                continue;
            }
            let slot = half_open::slot(held);
            if self.stage(slot) == Stage::Free {
                return Some(Room { slot, place: self.next_place as u16 });
            }
            word.store(held, Ordering::Release);
        }
        None
    }

    /// Fills a record that no key leads to; the stage, which makes it a flow, comes last.
    pub(super) fn fill(&self, room: Room, flow: &Flow, opening: Option<Opening>) -> Flow {
        let p = self.record(room.slot);
        // SAFETY: a live element that is the caller's.
        let generation = unsafe { (&raw const (*p).generation).read_volatile() }.wrapping_add(1);
        let flow = Flow { generation, place: room.place, ..*flow };
        // SAFETY: likewise; volatile because programs read it afterwards.
        unsafe {
            p.write_volatile(Flow { stage: Stage::Free as u8, ..flow });
            if let Some(to) = self.openings.element(room.slot) {
                to.write_volatile(opening.map_or(Opening::default(), |o| Opening { generation, ..o }));
            }
            fence(Ordering::Release);
            (&raw mut (*p).stage).write_volatile(flow.stage);
        }
        flow
    }

    /// Enters the keys; whether there was none of them yet.
    pub(super) fn enter(&mut self, room: Room, flow: &Flow) -> Result<bool> {
        let to = |direction| FlowRef { slot: room.slot, generation: flow.generation, direction, pad: 0 };
        let mut insert = |key: FlowKey, to: FlowRef| match self.maps.flow_keys.insert(key, to, NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(e) => Err(anyhow::Error::from(e).context("map FLOW_KEYS")),
        };
        if !flow.mode().is_one_way() && !insert(flow.reverse_key(), to(REVERSE))? {
            return Ok(false);
        }
        if insert(flow.forward_key(), to(FORWARD))? {
            return Ok(true);
        }
        if !flow.mode().is_one_way() {
            let _ = self.maps.flow_keys.remove(&flow.reverse_key());
        }
        Ok(false)
    }

    /// Whoever comes to the place next may have it, and the flow in it may be established.
    pub(super) fn give_place(&self, room: Room, generation: u16) {
        if room.place != 0 {
            self.place(room.place.into()).store(place(room.slot, generation), Ordering::Release);
        }
    }

    /// Takes out a flow that has ended while it came.
    pub(super) fn take_out(&mut self, room: Room, flow: &Flow) -> Result<()> {
        let _ = self.maps.flow_keys.remove(&flow.forward_key());
        if !flow.mode().is_one_way() {
            let _ = self.maps.flow_keys.remove(&flow.reverse_key());
        }
        self.give_back(room)
    }

    /// Takes a flow's mark off whom a program has taken off the counts.
    pub(super) fn unmark(&self, slot: u32) {
        // SAFETY: an aligned word of a live element, which everybody changes in one step.
        let word = unsafe { AtomicU64::from_ptr(self.record(slot).byte_add(Flow::MARKED).cast()) };
        word.fetch_and(Flow::UNMARKED, Ordering::AcqRel);
    }

    /// Frees records that no key leads to any more, or that of the backend's packets alone: a daemon has died that was bringing their
    /// flows over, or away from here. The others have them whole.
    pub(super) fn sweep(&mut self) -> Result<()> {
        for slot in 0..self.flows.len() {
            // SAFETY: a live element; volatile because programs write it.
            let flow = unsafe { self.record(slot).read_volatile() };
            if flow.stage() == Stage::Free {
                continue;
            }
            let leads = |maps: &Maps, key: FlowKey| {
                let to = maps.flow_keys.get(&key, 0);
                to.is_ok_and(|to| to.slot == slot && to.generation == flow.generation)
            };
            if leads(&self.maps, flow.forward_key()) {
                continue;
            }
            let half = !flow.mode().is_one_way() && leads(&self.maps, flow.reverse_key());
            // Half-open ones may be about to get their keys, and last for a minute anyway.
            if flow.place != 0 && !(half && self.is_abandoned(flow.place)) {
                continue;
            }
            if half {
                // Its port is not given back: the flow lives on.
                let _ = self.maps.flow_keys.remove(&flow.reverse_key());
            }
            self.give_back(Room { slot, place: flow.place })?;
        }
        Ok(())
    }

    /// Whether the daemon that died had this place in hand: programs have one for microseconds.
    fn is_abandoned(&self, place: u16) -> bool {
        let is_taken = || self.place(place.into()).load(Ordering::Acquire) == TAKEN;
        is_taken() && {
            sleep(Duration::from_millis(2));
            is_taken()
        }
    }

    /// Takes a flow that has ended off the counts.
    pub(super) fn release(&self, slot: u32) {
        // SAFETY: a live element, whose slot nobody gives to another flow: only the collector frees, and it does not run.
        unsafe { self.counts.release(self.record(slot)) };
    }

    /// Gives back what was taken for a flow that did not come.
    pub(super) fn give_back(&mut self, room: Room) -> Result<()> {
        // SAFETY: a live element that is the caller's.
        unsafe { (&raw mut (*self.record(room.slot)).stage).write_volatile(Stage::Free as u8) };
        self.give_place(room, 0);
        if room.place == 0 {
            self.maps.free_slots.push(room.slot, 0).context("map FREE_SLOTS")?;
        }
        Ok(())
    }

    /// Carries over what has happened to a flow's old record since it was read.
    pub(super) fn catch_up(&self, moved: &Moved, now: &Flow) {
        let (was, p) = (&moved.was, self.record(moved.to.slot));
        let later = |a: u32, b: u32| if b.wrapping_sub(a) < 1 << 31 { b } else { a };
        // SAFETY: a live element; each field is a word of its own, which programs write as well: whoever is last is not wrong.
        unsafe {
            if (&raw const (*p).generation).read_volatile() != moved.generation {
                return;
            }
            let seen = &raw mut (*p).seen;
            seen.write_volatile(seen.read_volatile().max(now.seen));
            for (field, was, now) in [
                (&raw mut (*p).client_next, was.client_next, now.client_next),
                (&raw mut (*p).backend_next, was.backend_next, now.backend_next),
            ] {
                if was != now {
                    let new = field.read_volatile();
                    // A half-open flow's backend has told its number just now.
                    field.write_volatile(if new == was { now } else { later(new, now) });
                }
            }
            const BOTH: u8 = FIN_CLIENT | FIN_BACKEND;
            let ends = now.flags & !was.flags & BOTH;
            let (flags, stage) = (&raw mut (*p).flags, &raw mut (*p).stage);
            if ends != 0 {
                flags.write_volatile(flags.read_volatile() | ends);
            }
            let mut new = stage.read_volatile();
            if now.stage != was.stage && new == was.stage {
                new = now.stage;
            }
            // Each set of programs has seen the end of one side.
            if new == Stage::Established as u8
                && flags.read_volatile() & BOTH == BOTH
                && now.proto == PROTO_TCP
            {
                new = Stage::Closing as u8;
            }
            if new != stage.read_volatile() {
                stage.write_volatile(new);
            }
            if Stage::from_u8(new) == Stage::Closing || Stage::from_u8(new) == Stage::Closed {
                self.release(moved.to.slot);
            }
        }
    }
}
